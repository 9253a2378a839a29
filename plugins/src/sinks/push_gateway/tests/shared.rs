//! Groups of several targets, groups from before our time, and gateways that are restarted or spoilt.

use super::*;

fn by_publisher() -> Value {
    json!({ "group_by": ["publisher"] })
}

fn spawn(sink: &Arc<dyn Sink>, event: Event) -> tokio::task::JoinHandle<Result<(), SendError>> {
    let sink = Arc::clone(sink);
    tokio::spawn(async move { sink.send(event).await })
}

const GROUP: &str = "PUT /metrics/job/node/publisher/p";

#[tokio::test]
async fn what_comes_while_a_push_is_under_way_goes_together_into_the_next() {
    let fake = FakeGateway::holding().await;
    let (sink, _) = sink(&fake, by_publisher());
    let first = spawn(&sink, event("a", "p", 1));
    until("the first push is there", || async { fake.requests().len() == 1 }).await;
    let others =
        [("b", 1), ("c", 1), ("a", 2)].map(|(name, seconds)| spawn(&sink, event(name, "p", seconds)));
    let other = spawn(&sink, event("a", "q", 1));
    until("another group is pushed", || async { fake.requests().len() == 2 }).await;
    fake.inner.leave.add_permits(2);
    first.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
    until("the second push is there", || async { fake.requests().len() == 3 }).await;
    assert!(others.iter().all(|sent| !sent.is_finished()), "nothing is confirmed yet");
    fake.inner.leave.add_permits(1);
    for sent in others {
        sent.await.unwrap().unwrap();
    }
    assert_eq!(fake.lines(), [GROUP, "PUT /metrics/job/node/publisher/q", GROUP]);
    let body = fake.body(2);
    for line in [
        "x{instance=\"a\"} 1\n",
        "x{instance=\"b\"} 1\n",
        "x{instance=\"c\"} 1\n",
        "scrape_timestamp_seconds{instance=\"a\"} 2\n",
    ] {
        assert!(body.contains(line), "{line} is not in {body}");
    }
}

#[tokio::test]
async fn a_push_outlives_an_attempt_while_others_wait_for_it() {
    let fake = FakeGateway::holding().await;
    let (sink, _) = sink(&fake, by_publisher());
    let patient = spawn(&sink, event("a", "p", 1));
    until("the push is there", || async { fake.requests().len() == 1 }).await;
    let impatient = tokio::time::timeout(Duration::from_millis(20), sink.send(event("a", "p", 1)));
    assert!(impatient.await.is_err());
    fake.inner.leave.add_permits(1);
    patient.await.unwrap().unwrap();
    assert_eq!(fake.requests().len(), 1);
}

#[tokio::test]
async fn a_failed_push_fails_all_that_were_in_it_at_once() {
    let fake = FakeGateway::holding().await;
    let (sink, _) = sink(&fake, by_publisher());
    let first = spawn(&sink, event("a", "p", 1));
    until("the first push is there", || async { fake.requests().len() == 1 }).await;
    let others = ["b", "c", "d"].map(|name| spawn(&sink, event(name, "p", 1)));
    fake.then(200, "");
    fake.then(503, "");
    fake.inner.leave.add_permits(2);
    first.await.unwrap().unwrap();
    for sent in others {
        assert!(sent.await.unwrap().unwrap_err().is_transient());
    }
    assert_eq!(fake.requests().len(), 2);
}

#[tokio::test]
async fn members_go_one_by_one_and_the_group_with_the_last() {
    let fake = FakeGateway::start().await;
    let (sink, _) = sink(&fake, by_publisher());
    let gone = |name: &str| {
        let mut gone = Event { body: Bytes::new(), ..event(name, "p", 2) };
        gone.attributes.insert(scrape::TOMBSTONE, "true");
        gone
    };
    sink.send(event("a", "p", 1)).await.unwrap();
    sink.send(event("b", "p", 1)).await.unwrap();
    sink.send(gone("a")).await.unwrap();
    assert!(!fake.body(2).contains("instance=\"a\"") && fake.body(2).contains("x{instance=\"b\"} 1"));
    sink.send(gone("b")).await.unwrap();
    assert_eq!(fake.lines(), [GROUP, GROUP, GROUP, "DELETE /metrics/job/node/publisher/p"]);
}

#[tokio::test]
async fn what_cannot_be_read_of_one_member_leaves_the_others_alone() {
    let fake = FakeGateway::start().await;
    let (sink, _) = sink(&fake, by_publisher());
    sink.send(event("a", "p", 1)).await.unwrap();
    let garbage = Event { body: "x {\n".into(), ..event("b", "p", 1) };
    assert!(!sink.send(garbage).await.unwrap_err().is_transient());
    let other_type = Event { body: "# TYPE x counter\nx 1\ny 1\n".into(), ..event("c", "p", 1) };
    sink.send(other_type).await.unwrap();
    let body = fake.body(2);
    for line in ["x{instance=\"a\"} 1\n", "up{instance=\"b\"} 0\n", "y{instance=\"c\"} 1\n"] {
        assert!(body.contains(line), "{line} is not in {body}");
    }
    assert!(!body.contains("x{instance=\"c\"}") && body.contains("# TYPE x untyped"), "{body}");
}

#[tokio::test]
async fn further_targets_are_rejected_when_the_memory_is_full() {
    let fake = FakeGateway::start().await;
    let (sink, _) = sink(&fake, json!({ "group_by": ["publisher"], "max_memory": "1KiB" }));
    sink.send(event("a", "p", 1)).await.unwrap();
    let mut last = Ok(());
    for name in ["b", "c", "d"] {
        last = sink.send(event(name, "p", 1)).await;
    }
    let error = last.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("max_memory"), "{error}");
    sink.send(event("a", "p", 2)).await.unwrap();
}

const HELD: &str = "# TYPE push_time_seconds gauge\npush_time_seconds{instance=\"\",job=\"node\",publisher=\"p\"} 1\n\
    # TYPE scrape_timestamp_seconds gauge\n\
    scrape_timestamp_seconds{instance=\"a\",job=\"node\",publisher=\"p\"} 5\n\
    scrape_timestamp_seconds{instance=\"b\",job=\"node\",publisher=\"p\"} 5\n\
    # TYPE x untyped\nx{instance=\"a\",job=\"node\",publisher=\"p\"} 7\nx{instance=\"b\",job=\"node\",publisher=\"p\"} 8\n";

#[tokio::test]
async fn a_shared_group_keeps_what_it_held_before_our_time() {
    let fake = FakeGateway::start().await;
    fake.holds(HELD);
    let (sink, _) = sink(&fake, by_publisher());
    sink.send(event("a", "p", 4)).await.unwrap();
    assert_eq!(fake.lines(), [""; 0], "an older one");
    sink.send(event("a", "p", 6)).await.unwrap();
    let body = fake.body(0);
    assert!(body.contains("x{instance=\"a\"} 1\n") && body.contains("x{instance=\"b\"} 8\n"), "{body}");
    assert!(!body.contains("push_time_seconds") && !body.contains("job="), "{body}");
}

#[tokio::test]
async fn a_group_with_another_grouping_goes_when_its_target_comes() {
    let fake = FakeGateway::start().await;
    fake.holds(HELD);
    let (sink, _) = sink(&fake, json!({}));
    sink.send(event("a", "p", 6)).await.unwrap();
    sink.send(event("a", "p", 7)).await.unwrap();
    let own = "PUT /metrics/job/node/instance/a/publisher/p";
    assert_eq!(fake.lines(), ["DELETE /metrics/job/node/publisher/p", own, own]);
}

#[tokio::test]
async fn a_gateway_before_1_6_is_pushed_protobuf() {
    let fake = FakeGateway::start().await;
    fake.is("1.5.1", "T");
    let (sink, _) = sink(&fake, json!({}));
    sink.send(event("i", "p", 1)).await.unwrap();
    let request = fake.requests().pop().unwrap();
    let protobuf =
        "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
    assert_eq!(request.headers["content-type"], protobuf);
    assert_eq!(request.headers["content-encoding"], "gzip");
}

#[tokio::test]
async fn a_gateway_that_was_restarted_gets_everything_back() {
    let fake = FakeGateway::start().await;
    fake.is("1.6.0", "T1");
    let (sink, _) = sink(&fake, json!({ "compression": "none", "expire_after": "1s" }));
    sink.send(event("a", "p", 1)).await.unwrap();
    sink.send(event("b", "p", 1)).await.unwrap();
    fake.is("1.6.0", "T2");
    let (end, upkeep) = (CancellationToken::new(), Arc::clone(&sink));
    let token = end.clone();
    let upkeep = tokio::spawn(async move { upkeep.run(token).await });
    until("both are pushed again", || async { fake.requests().len() >= 4 }).await;
    let mut lines = fake.lines()[2..4].to_vec();
    lines.sort();
    let put = |name| format!("PUT /metrics/job/node/instance/{name}/publisher/p");
    assert_eq!(lines, [put("a"), put("b")]);
    assert!(fake.body(2).contains("\nx 1\n"), "{}", fake.body(2));
    // Nothing more is heard of them, so they go.
    until("both are deleted", || async {
        fake.lines().iter().filter(|line| line.starts_with("DELETE ")).count() == 2
    })
    .await;
    end.cancel();
    upkeep.await.unwrap().unwrap();
}

/// The page of a gateway that one of our groups spoils.
const SPOILT: &str = "An error has occurred while serving metrics:\n\n* collected metric \"x\" { \
    label:<name:\"instance\" value:\"i\" > label:<name:\"job\" value:\"node\" > label:<name:\"publisher\" value:\"p\" > \
    untyped:<value:1 > } was collected before with the same name and label values";

#[tokio::test]
async fn a_group_of_ours_that_spoils_the_gateway_is_deleted_once_and_then_kept_away() {
    let fake = FakeGateway::start().await;
    let (sink, board) = sink(&fake, json!({}));
    let answers =
        [(400, INCONSISTENT), (500, SPOILT), (202, ""), (400, INCONSISTENT), (500, SPOILT), (202, "")];
    answers.iter().for_each(|(status, words)| fake.then(*status, words));
    let error = sink.send(event("i", "p", 1)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    let path = "/metrics/job/node/instance/i/publisher/p";
    let (put, get, delete) = (format!("PUT {path}"), "GET /metrics".to_owned(), format!("DELETE {path}"));
    let lines = [&put, &get, &delete, &put, &get, &delete].map(Clone::clone);
    assert_eq!(fake.lines(), lines, "it ends with the gateway in order");
    assert!(degraded(&board).contains(r#"instance="i""#), "{}", degraded(&board));
    sink.send(event("i", "p", 2)).await.unwrap_err();
    assert_eq!(fake.lines(), lines, "it is not spoilt again at once");
}
