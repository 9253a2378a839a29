//! More scrapes than a gateway can take: the newest of every target lands, and no target waits for another's turn.

use std::time::Duration;

use prometheus_streams_core::delivery::Outcome;
use prometheus_streams_core::middleware::DeliveryConfig;
use prometheus_streams_core::testing::SinkRig;

use super::*;
use crate::support::proxy::{Fault, Proxy};

const TARGETS: usize = 24;
const ROUNDS: u64 = 40;

fn scrape(target: usize, round: u64) -> Event {
    let name = format!("i{target}");
    let body = format!("# TYPE probe_seq gauge\nprobe_seq {round}\n");
    let labels = [("job", "j"), ("instance", name.as_str()), ("publisher", "p")];
    Event { timestamp: UNIX_EPOCH + Duration::from_secs(round), ..event(&labels, &body) }
}

#[tokio::test]
async fn every_target_gets_its_turn_and_the_newest_wins() {
    let gateway = PushGateway::start().await;
    let proxy = Proxy::start(gateway.url()).await;
    proxy.set("/metrics/job", Fault::Slow(Duration::from_millis(30)));
    let settings = json!({ "url": proxy.url(), "encoding": "text", "compression": "none" });
    let config: PushGatewayConfig = serde_json::from_value(settings).unwrap();
    let delivery =
        DeliveryConfig { max_in_flight: Some(4), newest_only: Some(true), ..DeliveryConfig::default() };
    let rig = SinkRig::start(config.build(&context("push_gateway")).unwrap(), &delivery);
    let mut receipts = Vec::new();
    let mut rounds = tokio::time::interval(Duration::from_millis(30));
    for round in 1..=ROUNDS {
        rounds.tick().await;
        receipts.extend((0..TARGETS).map(|target| rig.send(scrape(target, round))));
    }
    let mut superseded = 0;
    for receipt in receipts {
        match receipt.await {
            Outcome::Delivered => {}
            Outcome::Filtered => superseded += 1,
            other => panic!("{other:?}"),
        }
    }
    let mut pushes = BTreeMap::<String, Vec<u64>>::new();
    for push in proxy.pushes().into_iter().filter(|push| push.method == Method::PUT) {
        pushes.entry(push.group).or_default().push(push.seq.unwrap());
    }
    assert_eq!(pushes.len(), TARGETS);
    assert!(pushes.values().all(|rounds| rounds.is_sorted() && rounds.last() == Some(&ROUNDS)), "{pushes:?}");
    let counts = || pushes.values().map(Vec::len);
    let (fewest, most) = (counts().min().unwrap(), counts().max().unwrap());
    assert!(most - fewest <= 2, "from {fewest} to {most} pushes: {pushes:?}");
    let landed: usize = counts().sum();
    assert_eq!(landed + superseded, TARGETS * ROUNDS as usize, "each scrape landed or was superseded");
    assert!(superseded > landed, "the gateway could take {landed} scrapes, which is no overload");
    rig.finish().await.unwrap();
}
