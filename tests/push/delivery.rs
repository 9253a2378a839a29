//! When a push is answered, with what, and what its group holds then.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use prometheus_streams_core::delivery::{Delivery, Outcome};
use prometheus_streams_core::event::{Event, Labels};
use prometheus_streams_core::testing::Inlet;
use prometheus_streams_plugins::support::scrape;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::{Answer, Site, ask, is_of_push, series};
use crate::support::wait::{secs, wait_until};

/// A push that is under way.
fn pushing(site: &Site, method: &'static str, group: &'static str, body: &'static str) -> JoinHandle<Answer> {
    let (address, path) = (site.address(), format!("/metrics/{group}"));
    tokio::spawn(async move { ask(address, method, &path, &[], body).await })
}

async fn next(inlet: &mut Inlet) -> Delivery {
    inlet.next().await.expect("an event")
}

fn body(event: &Event) -> String {
    String::from_utf8(event.body.to_vec()).unwrap()
}

#[tokio::test]
async fn a_push_is_answered_when_its_event_is_delivered() {
    let (site, mut inlet) = Site::start(json!({})).await;
    let push =
        pushing(&site, "PUT", "job/backup/instance/db1", "# TYPE x gauge\nx{job=\"own\",a=\"\"} 1\nup 1\n");
    let Delivery { event, acker } = next(&mut inlet).await;
    assert!(!push.is_finished());
    assert!(!site.metrics().await.contains("x{"), "shown before it was delivered");

    let labels = [("job", "backup"), ("instance", "db1"), ("publisher", "tester")];
    assert_eq!(event.labels, labels.into_iter().collect::<Labels>());
    assert!(is_of_push(&event), "{:?}", event.attributes);
    assert_eq!(event.attributes.get(scrape::SLOT), None, "the id of its message would not be its own");
    let said = body(&event);
    assert!(said.contains("\nx{a=\"\"} 1\n") && said.contains("\nup 1\n"), "{said}");
    let pushed = event.timestamp.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as f64 / 1e9;
    assert_eq!(series(said.as_bytes())["push_time_seconds{}"], pushed.to_string());
    assert_eq!(series(said.as_bytes())["push_failure_time_seconds{}"], "0");

    acker.finish(Outcome::Delivered);
    assert_eq!(push.await.unwrap().status, 200);
    assert!(site.metrics().await.contains("x{a=\"\",instance=\"db1\",job=\"backup\"} 1\n"));
    site.end().await;
}

#[tokio::test]
async fn what_was_not_delivered_changes_nothing_and_may_come_again() {
    let (site, mut inlet) = Site::start(json!({})).await;
    let push = pushing(&site, "PUT", "job/a", "x 1\n");
    next(&mut inlet).await.acker.finish(Outcome::Delivered);
    assert_eq!(push.await.unwrap().status, 200);
    for (outcome, status, words) in [
        (Outcome::failed("no broker"), 503, "cannot deliver: no broker"),
        (Outcome::rejected("too odd"), 400, "too odd"),
    ] {
        for (method, body) in [("PUT", "y 2\n"), ("POST", "x 3\n"), ("DELETE", "")] {
            let push = pushing(&site, method, "job/a", body);
            next(&mut inlet).await.acker.finish(outcome.clone());
            let answer = push.await.unwrap();
            assert_eq!((answer.status, answer.text.trim()), (status, words), "{method}");
            assert_eq!(answer.header("retry-after").is_some(), status == 503, "{answer:?}");
            assert!(site.metrics().await.contains("x{instance=\"\",job=\"a\"} 1\n"), "{method}");
        }
    }
    let push = pushing(&site, "POST", "job/a", "y 2\n");
    let Delivery { event, acker } = next(&mut inlet).await;
    assert!(body(&event).contains("\nx 1\n") && body(&event).contains("\ny 2\n"), "{}", body(&event));
    acker.finish(Outcome::Filtered);
    assert_eq!(push.await.unwrap().status, 200);
    let delete = pushing(&site, "DELETE", "job/a", "");
    let Delivery { event, acker } = next(&mut inlet).await;
    assert!(scrape::is_tombstone(&event) && event.body.is_empty());
    acker.finish(Outcome::Delivered);
    assert_eq!(delete.await.unwrap().status, 202);
    assert_eq!(site.metrics().await, "");
}

#[tokio::test]
async fn a_pipeline_that_is_full_or_paused_asks_to_come_again() {
    let (site, mut inlet) = Site::with_capacity(1, json!({})).await;
    let first = pushing(&site, "PUT", "job/a", "x 1\n");
    let held = next(&mut inlet).await;
    for (method, body) in [("PUT", "x 1\n"), ("POST", "x 1\n"), ("DELETE", "")] {
        let answer = site.push(method, "job/b", body).await;
        assert_eq!((answer.status, answer.text.trim()), (503, "the pipeline is full"));
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    held.acker.finish(Outcome::Delivered);
    assert_eq!(first.await.unwrap().status, 200);
    inlet.pause();
    let answer = site.push("PUT", "job/b", "x 1\n").await;
    assert_eq!((answer.status, answer.text.trim()), (503, "the pipeline is paused"));
    inlet.resume();
    let push = pushing(&site, "PUT", "job/b", "x 1\n");
    next(&mut inlet).await.acker.finish(Outcome::Delivered);
    assert_eq!(push.await.unwrap().status, 200);
}

#[tokio::test]
async fn pushes_into_one_group_come_one_after_the_other_and_build_on_each_other() {
    let (site, mut inlet) = Site::start(json!({})).await;
    let first = pushing(&site, "POST", "job/a", "x 1\n");
    let held = next(&mut inlet).await;
    let second = pushing(&site, "POST", "job/a", "y 2\n");
    // One into another group overtakes it, and shows that the second has been waiting.
    let other = pushing(&site, "PUT", "job/b", "z 3\n");
    let overtaken = next(&mut inlet).await;
    assert_eq!(overtaken.event.labels.get("job"), Some("b"));
    overtaken.acker.finish(Outcome::Delivered);
    assert_eq!(other.await.unwrap().status, 200);
    assert!(inlet.try_next().is_none());
    held.acker.finish(Outcome::Delivered);
    let Delivery { event, acker } = next(&mut inlet).await;
    assert!(body(&event).contains("\nx 1\n") && body(&event).contains("\ny 2\n"), "{}", body(&event));
    acker.finish(Outcome::Delivered);
    assert_eq!((first.await.unwrap().status, second.await.unwrap().status), (200, 200));
}

#[tokio::test]
async fn a_push_that_does_not_go_together_with_one_under_way_is_refused() {
    let (site, mut inlet) = Site::start(json!({})).await;
    let first = pushing(&site, "PUT", "job/a", "# TYPE x gauge\nx 1\n");
    let held = next(&mut inlet).await;
    let second = pushing(&site, "PUT", "job/b", "# TYPE x counter\nx 1\n");
    let failure = next(&mut inlet).await;
    assert_eq!(
        series(&failure.event.body).keys().collect::<Vec<_>>(),
        ["push_failure_time_seconds{}", "push_time_seconds{}"]
    );
    failure.acker.finish(Outcome::Delivered);
    assert_eq!(second.await.unwrap().status, 400);
    held.acker.finish(Outcome::failed("never mind"));
    assert_eq!(first.await.unwrap().status, 503);
    // What the first had claimed is free again.
    let second = pushing(&site, "PUT", "job/b", "# TYPE x counter\nx 1\n");
    next(&mut inlet).await.acker.finish(Outcome::Delivered);
    assert_eq!(second.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_client_that_hangs_up_or_is_out_of_patience_leaves_its_push_behind() {
    let (site, mut inlet) = Site::start(json!({ "timeout": "200ms" })).await;
    let hung_up = pushing(&site, "PUT", "job/a", "x 1\n");
    let held = next(&mut inlet).await;
    hung_up.abort();
    let impatient = site.push("PUT", "job/a", "x 2\n").await;
    assert_eq!((impatient.status, impatient.text.trim()), (503, "not delivered in time; it may still be"));
    assert!(inlet.try_next().is_none(), "it never had its turn");
    held.acker.finish(Outcome::Delivered);
    wait_until("the first push to be taken", secs(10), async || {
        site.metrics().await.contains("job=\"a\"} 1\n")
    })
    .await;
}

#[tokio::test]
async fn a_body_that_is_cut_anywhere_changes_nothing() {
    let (site, mut inlet) = Site::start(json!({})).await;
    let body = "x 1\ny 2\nz 3\n";
    let plain =
        format!("PUT /metrics/job/a HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let chunked = "PUT /metrics/job/a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n\
                   4\r\nx 1\n\r\n8\r\ny 2\nz 3\n\r\n0\r\n\r\n";
    for request in [plain.as_str(), chunked] {
        for length in 1..request.len() {
            let mut stream = TcpStream::connect(site.address()).await.unwrap();
            stream.write_all(&request.as_bytes()[..length]).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer).await;
            assert!(!answer.starts_with("HTTP/1.1 2"), "{length}: {answer}");
            assert!(inlet.try_next().is_none(), "{length} bytes of {request:?} became an event");
        }
    }
    assert_eq!(site.metrics().await, "");
}

/// Events that a task has gathered.
type Events = Arc<Mutex<Vec<Event>>>;

async fn wait_for_events(events: &Events, most: usize) -> Vec<Event> {
    wait_until("so many events", secs(20), async || events.lock().unwrap().len() >= most).await;
    events.lock().unwrap().clone()
}

#[tokio::test]
async fn a_group_is_repeated_as_it_is_until_it_is_deleted() {
    let (site, events) = Site::delivering(json!({ "interval": "50ms" })).await;
    assert_eq!(site.push("PUT", "job/a", "x 1\n").await.status, 200);
    let first = wait_for_events(&events, 6).await;
    assert!(first.iter().all(|event| event.body == first[0].body && event.labels == first[0].labels));
    assert_eq!(site.push("PUT", "job/a", "x 2\n").await.status, 200);
    let length = events.lock().unwrap().len();
    wait_for_events(&events, length + 3).await;
    assert_eq!(site.push("DELETE", "job/a", "").await.status, 202);
    // Slots go by, as another group shows.
    let length = events.lock().unwrap().len();
    assert_eq!(site.push("PUT", "job/b", "x 1\n").await.status, 200);
    let events = wait_for_events(&events, length + 5).await;

    assert!(events.windows(2).all(|pair| pair[0].timestamp < pair[1].timestamp), "two events of one time");
    let of_a: Vec<_> = events.iter().filter(|event| event.labels.get("job") == Some("a")).collect();
    let values: Vec<_> = of_a.iter().map(|event| body(event).contains("\nx 1\n")).collect();
    assert!(values.is_sorted_by(|one, other| one >= other), "an old state came after a newer one");
    let (last, before) = of_a.split_last().unwrap();
    assert!(scrape::is_tombstone(last));
    assert!(!before.iter().any(|event| scrape::is_tombstone(event)));
    site.end().await;
}
