//! What becomes of groups: gateways that are killed, targets that fall silent, receivers that begin again.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;

/// A sink that runs, as it does in a pipeline, until dropped.
pub(super) struct Running {
    pub(super) sink: Arc<dyn Sink>,
    _end: DropGuard,
}

pub(super) fn running(gateway: &PushGateway, more: Value) -> Running {
    let sink: Arc<dyn Sink> = sink_with(gateway, more).into();
    let end = CancellationToken::new();
    let (companion, token) = (Arc::clone(&sink), end.clone());
    tokio::spawn(async move { companion.run(token).await });
    Running { sink, _end: end.drop_guard() }
}

fn instance(name: &str) -> [(&str, &str); 3] {
    [("job", "j"), ("instance", name), ("publisher", "p")]
}

/// The instances of which the gateway has a series `x`.
pub(super) async fn instances(gateway: &PushGateway) -> BTreeSet<String> {
    let page = gateway.metrics().await;
    let samples = page.lines().filter(|line| line.starts_with("x{"));
    let after = samples.map(|line| line.split("instance=\"").nth(1).unwrap());
    after.map(|instance| instance.split('"').next().unwrap().to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn a_gateway_killed_twenty_times_has_all_groups_back_each_time() {
    for (kills, settings) in [(20, json!({})), (5, json!({ "group_by": ["publisher"] }))] {
        let mut gateway = PushGateway::start().await;
        let running = running(&gateway, settings);
        let names: Vec<_> = (0..30).map(|n| format!("i{n}")).collect();
        let sends = names.iter().map(|name| running.sink.send(event(&instance(name), "x 1\n")));
        for sent in futures_util::future::join_all(sends).await {
            sent.unwrap();
        }
        let all: BTreeSet<_> = names.iter().cloned().collect();
        for kill in 0..kills {
            gateway.kill9();
            gateway.restart().await;
            let what = format!("all groups to be back after kill {kill}");
            wait_until(&what, secs(10), async || instances(&gateway).await == all).await;
        }
    }
}

#[tokio::test]
async fn what_nobody_feeds_goes_also_after_a_restart_of_ours_and_what_somebody_feeds_stays() {
    let gateway = PushGateway::start().await;
    let before = sink(&gateway);
    for name in ["orphan", "ours"] {
        before.send(event(&instance(name), "x 1\n")).await.unwrap();
    }
    drop(before);
    let foreign = || async {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let body = format!("# TYPE scrape_timestamp_seconds gauge\nscrape_timestamp_seconds {now}\nx 1\n");
        gateway.put("job/j/instance/theirs/publisher/p", &body).await;
    };
    foreign().await;
    gateway.put("job/batch", "x{instance=\"batch\"} 1\n").await;
    let running = running(&gateway, json!({ "expire_after": "2s" }));
    wait_until("the orphan to be gone", secs(20), async || {
        running.sink.send(event(&instance("ours"), "x 1\n")).await.unwrap();
        foreign().await;
        !instances(&gateway).await.contains("orphan")
    })
    .await;
    assert_eq!(instances(&gateway).await, set(&["batch", "ours", "theirs"]), "what is no scrape is not ours");
    wait_until("the others to be gone", secs(20), async || instances(&gateway).await == set(&["batch"]))
        .await;
    running.sink.send(event(&instance("ours"), "x 1\n")).await.unwrap();
    assert_eq!(instances(&gateway).await, set(&["batch", "ours"]), "it comes back with its next scrape");
}

#[tokio::test]
async fn a_shared_group_keeps_its_members_through_a_restart_of_ours_and_loses_them_one_by_one() {
    let gateway = PushGateway::start().await;
    let settings = json!({ "group_by": ["publisher"], "expire_after": "3s" });
    let before = sink_with(&gateway, settings.clone());
    for name in ["a", "b", "c"] {
        before.send(event(&instance(name), "x 1\n")).await.unwrap();
    }
    drop(before);
    let running = running(&gateway, settings);
    running.sink.send(event(&instance("a"), "x 2\n")).await.unwrap();
    assert_eq!(instances(&gateway).await, set(&["a", "b", "c"]));
    assert_eq!(gateway.groups().await.len(), 1);
    assert_eq!(gateway.value(r#"x{instance="a",job="j",publisher="p"}"#).await, Some(2.0));
    wait_until("the silent ones to be gone", secs(20), async || {
        for name in ["a", "b"] {
            running.sink.send(event(&instance(name), "x 3\n")).await.unwrap();
        }
        !instances(&gateway).await.contains("c")
    })
    .await;
    assert_eq!(instances(&gateway).await, set(&["a", "b"]));
    wait_until("the group to be gone", secs(20), async || gateway.groups().await.is_empty()).await;
}

#[tokio::test]
async fn a_change_of_the_grouping_leaves_nothing_behind() {
    let gateway = PushGateway::start().await;
    for settings in
        [json!({}), json!({ "group_by": ["publisher"] }), json!({}), json!({ "grouping": ["instance"] })]
    {
        let sink = sink_with(&gateway, settings.clone());
        for name in ["a", "b"] {
            sink.send(event(&instance(name), "x 1\n")).await.unwrap();
        }
        assert_eq!(instances(&gateway).await, set(&["a", "b"]), "{settings}");
        let groups = if settings.get("group_by").is_some() { 1 } else { 2 };
        assert_eq!(gateway.groups().await.len(), groups, "{settings}");
        let page = series(&gateway.metrics().await);
        assert_eq!(page[r#"x{instance="a", job="j", publisher="p"}"#], 1.0);
    }
}

#[tokio::test]
async fn a_gateway_that_stands_still_and_goes_on_has_the_newest_of_every_target() {
    let gateway = PushGateway::start().await;
    let running = running(&gateway, json!({ "group_by": ["publisher"] }));
    let names: Vec<_> = (0..20).map(|n| format!("i{n}")).collect();
    let all = |value: u32| {
        let body = format!("x {value}\n");
        let sends = names.iter().map(|name| {
            let (sink, event) = (Arc::clone(&running.sink), event(&instance(name), &body));
            async move { tokio::time::timeout(Duration::from_millis(300), sink.send(event)).await }
        });
        futures_util::future::join_all(sends.collect::<Vec<_>>())
    };
    let _ = all(1).await;
    gateway.pause();
    for value in 2..6 {
        assert!(all(value).await.iter().all(Result::is_err), "a gateway that stands still has answered");
    }
    gateway.resume();
    let name = r#"x{instance="i7",job="j",publisher="p"}"#;
    wait_until("the newest to land", secs(20), async || gateway.value(name).await == Some(5.0)).await;
}
