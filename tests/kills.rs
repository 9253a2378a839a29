//! Ten kills of the receiver in the middle of its work, under 200 scrapes a second: what the broker has
//! acknowledged lands, or is superseded by a newer scrape of its group.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde_json::json;

use crate::support::agent::Agent;
use crate::support::configs::{poller, probes, receiver};
use crate::support::nats::NatsServer;
use crate::support::oracle::{Seqs, acknowledged, probe, wait_until_all_landed};
use crate::support::prometheus::PushGateway;
use crate::support::proxy::{Proxy, Push};
use crate::support::targets::{Served, Targets};
use crate::support::wait::{secs, wait_until};

const TARGETS: usize = 200;
const KILLS: usize = 10;
/// Pushes between two kills.
const PUSHES: usize = 150;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_of_the_receiver_lose_nothing() {
    let (nats, gateway) = tokio::join!(NatsServer::start(), PushGateway::start());
    let (targets, proxy) = tokio::join!(Targets::start(), Proxy::start(gateway.url()));
    let names: Vec<_> = (0..TARGETS).map(|number| format!("t{number}")).collect();
    let jobs = probes(names.iter().map(|name| (name.as_str(), targets.url(name))));
    let mut poller = Agent::start(poller(&nats.url(), jobs));
    let mut config = receiver(&nats.url(), &proxy.url());
    config["pipelines"]["receiver"]["source"]["ack_wait"] = json!("3s");
    let mut receiver = Agent::start(config);

    let mut slowest_start = secs(0);
    for _ in 0..KILLS {
        let before = proxy.count();
        wait_until("pushes to flow", secs(30), async || proxy.count() >= before + PUSHES).await;
        receiver.kill9();
        let (killed, at_kill) = (Instant::now(), proxy.count());
        receiver.restart();
        wait_until("the first push after a kill", secs(30), async || proxy.count() > at_kill).await;
        slowest_start = slowest_start.max(killed.elapsed());
    }
    assert!(poller.terminate().await.success());

    let newest = wait_until_all_landed(&nats, &gateway, secs(60)).await;
    assert_eq!(newest.len(), TARGETS, "every target has landed");
    assert_published(
        &targets.served(),
        &acknowledged(&nats).await.iter().filter_map(probe).collect::<Vec<_>>(),
    );
    let (repeated, stale) = order(&proxy.pushes());
    println!(
        "{} pushes, {repeated} of them repeated, {stale} older than the one before; {slowest_start:?} from the \
         slowest kill to the next push",
        proxy.count()
    );
    assert_eq!(stale, 0, "an older scrape was pushed over a newer one");
}

/// Every scrape that a target served was published, but for its last, which the poller's end may have cut.
fn assert_published(served: &[Served], published: &[(String, u64)]) {
    let published: BTreeSet<_> = published.iter().map(|(_, seq)| *seq).collect();
    let mut by_target = BTreeMap::<&str, Vec<u64>>::new();
    for served in served {
        by_target.entry(&served.target).or_default().push(served.seq);
    }
    for (target, seqs) in by_target {
        let lost: Vec<_> = seqs.iter().rev().skip(1).filter(|seq| !published.contains(seq)).collect();
        assert!(lost.is_empty(), "scrapes of {target} were served and not published: {lost:?}");
    }
}

/// How many pushes repeated the one before of their group, and how many were older.
fn order(pushes: &[Push]) -> (usize, usize) {
    let (mut newest, mut repeated, mut stale) = (Seqs::new(), 0, 0);
    for push in pushes {
        let Some(seq) = push.seq else { continue };
        let known = newest.entry(push.group.clone()).or_default();
        match seq.cmp(known) {
            std::cmp::Ordering::Less => stale += 1,
            std::cmp::Ordering::Equal => repeated += 1,
            std::cmp::Ordering::Greater => *known = seq,
        }
    }
    (repeated, stale)
}
