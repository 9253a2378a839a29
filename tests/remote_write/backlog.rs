//! After an outage of the receiver: with `order: fresh_first` what is new is stored before what the outage has left,
//! and in the end everything is.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::support::agent::Agent;
use crate::support::configs::{STREAM, poller, probes};
use crate::support::dump::{Dump, dump};
use crate::support::nats::NatsServer;
use crate::support::oracle::{acknowledged, probe};
use crate::support::prometheus::Prometheus;
use crate::support::targets::Targets;
use crate::support::wait::{secs, wait_until};

const TARGETS: [&str; 3] = ["a", "b", "c"];

/// The numbers that the stream holds of each target.
async fn published(nats: &NatsServer) -> BTreeMap<String, BTreeSet<u64>> {
    let mut numbers: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for (target, number) in acknowledged(nats).await.iter().filter_map(probe) {
        numbers.entry(target).or_default().insert(number);
    }
    numbers
}

/// The numbers that are stored of each target.
fn stored(dump: &Dump) -> BTreeMap<String, BTreeSet<u64>> {
    let series = dump.iter().filter(|(series, _)| series.starts_with("{__name__=\"probe_seq\""));
    series
        .filter_map(|(series, samples)| {
            let (_, rest) = series.split_once(" instance=\"")?;
            let numbers = samples.iter().filter_map(|(_, value)| value.parse::<f64>().ok());
            Some((
                rest.split_once('"')?.0.to_owned(),
                numbers.filter(|n| !n.is_nan()).map(|n| n as u64).collect(),
            ))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fresh_first_stores_the_new_at_once_and_the_past_beside_it() {
    let (targets, nats) = tokio::join!(Targets::start(), NatsServer::start());
    let config = json!({ "storage": { "tsdb": { "out_of_order_time_window": "10m" } } });
    let mut centre = Prometheus::receiving(config).await;
    let urls = TARGETS.map(|name| (name, targets.url(name)));
    let mut poller = Agent::start(poller(&nats.url(), probes(urls)));
    let jetstream = nats.jetstream().await;
    wait_until("the stream", secs(30), async || jetstream.get_stream(STREAM).await.is_ok()).await;
    // The centre has no receiver yet: a backlog of half a minute at the rate at which it will come.
    wait_until("a backlog", secs(60), async || {
        published(&nats).await.values().map(BTreeSet::len).sum::<usize>() >= 36
    })
    .await;
    let backlog = published(&nats).await;
    let mut receiver = Agent::start(json!({ "pipelines": { "receiver": {
        "source": { "type": "nats", "urls": [nats.url()], "stream": STREAM, "durable": "receiver" },
        "sinks": [{
            "type": "remote_write", "url": centre.write_url(), "order": "fresh_first",
            "backfill": { "after": "2s", "rate": 2 },
        }],
    } } }));

    let newest = |target: &str| format!("timestamp(probe_seq{{instance=\"{target}\"}})");
    let behind = "count_over_time(probe_seq{instance=\"a\"}[10m])";
    wait_until("something new", secs(30), async || {
        let found = centre.query(&format!("time() - {} < 3", newest("a"))).await;
        !found.is_empty()
    })
    .await;
    let there = centre.value(behind).await;
    assert!((there as usize) < backlog["a"].len(), "{there} of {} are there already", backlog["a"].len());

    wait_until("the past", secs(90), async || {
        let found = centre.query(behind).await;
        found.first().and_then(|found| found["value"][1].as_str()?.parse::<f64>().ok()).unwrap_or(0.0)
            as usize
            > backlog["a"].len()
    })
    .await;
    assert!(poller.terminate().await.success());
    let all = published(&nats).await;
    let letters = receiver.metric("prometheus_streams_receiver_dead_letters_total").await;
    wait_until("all to be stored", secs(60), async || {
        let counted = centre.query("sum(count_over_time(probe_seq[10m]))").await;
        let counted = counted.first().and_then(|found| found["value"][1].as_str()?.parse::<f64>().ok());
        counted.unwrap_or(0.0) as usize >= all.values().map(BTreeSet::len).sum()
    })
    .await;
    assert!(receiver.terminate().await.success());
    centre.stop().await;
    assert_eq!(stored(&dump(&centre.dir().join("data"))), all);
    assert_eq!(letters, 0.0);
}
