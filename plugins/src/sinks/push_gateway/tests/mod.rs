//! The sink before a gateway that does what the test says.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body_util::BodyExt;
use hyper::header::{HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::{Response, StatusCode};
use prometheus_streams_core::health::HealthBoard;
use prometheus_streams_core::testing::{context, until};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::support::server::{Body, Listen, Server};

mod shared;

#[derive(Clone, Debug)]
struct Request {
    line: String,
    headers: HeaderMap,
    body: Bytes,
}

/// A gateway that remembers what it was asked, and answers from a list; 200 when that is at its end. When it
/// is asked what it is, and for the first time what it holds, it answers at once and notes nothing.
struct FakeGateway {
    address: String,
    inner: Arc<Inner>,
    _end: DropGuard,
}

struct Inner {
    requests: Mutex<Vec<Request>>,
    answers: Mutex<VecDeque<Response<Body>>>,
    /// One permit for each answer that may go out.
    leave: Semaphore,
    status: Mutex<Option<String>>,
    /// What it holds before it is pushed anything.
    held: Mutex<Option<&'static str>>,
}

impl FakeGateway {
    async fn start() -> Self {
        let fake = Self::holding().await;
        fake.inner.leave.add_permits(1_000);
        fake
    }

    /// A gateway that gives no answer until `leave` has a permit for it.
    async fn holding() -> Self {
        let server = Server::bind(Listen("127.0.0.1:0".parse().unwrap())).await.unwrap();
        let inner = Arc::new(Inner {
            requests: Mutex::default(),
            answers: Mutex::default(),
            leave: Semaphore::new(0),
            status: Mutex::default(),
            held: Mutex::new(Some("")),
        });
        let end = CancellationToken::new();
        let address = server.address().to_string();
        let handler = {
            let inner = Arc::clone(&inner);
            move |request| handle(Arc::clone(&inner), request)
        };
        let token = end.clone();
        tokio::spawn(async move { server.serve("a fake gateway", handler, token).await });
        Self { address, inner, _end: end.drop_guard() }
    }

    /// It says that it is of this version, and when it was started.
    fn is(&self, version: &str, start: &str) {
        let data = json!({ "build_information": { "version": version }, "start_time": start });
        *self.inner.status.lock().unwrap() = Some(json!({ "status": "success", "data": data }).to_string());
    }

    /// It holds this page before it is pushed anything.
    fn holds(&self, page: &'static str) {
        *self.inner.held.lock().unwrap() = Some(page);
    }

    fn body(&self, index: usize) -> String {
        String::from_utf8(self.requests()[index].body.to_vec()).unwrap()
    }

    fn then(&self, status: u16, words: &str) {
        self.then_with(status, words, &[]);
    }

    fn then_with(&self, status: u16, words: &str, headers: &[(HeaderName, &str)]) {
        let mut response = Response::new(Body::from(Bytes::copy_from_slice(words.as_bytes())));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            response.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        }
        self.inner.answers.lock().unwrap_or_else(PoisonError::into_inner).push_back(response);
    }

    fn requests(&self) -> Vec<Request> {
        self.inner.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lines(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.line).collect()
    }
}

async fn handle(inner: Arc<Inner>, request: hyper::Request<hyper::body::Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    if head.uri.path().ends_with("/api/v1/status") {
        let status = inner.status.lock().unwrap().clone();
        let code = if status.is_some() { 200 } else { 404 };
        let mut response = Response::new(Body::from(Bytes::from(status.unwrap_or_default())));
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        return response;
    }
    if head.method == hyper::Method::GET
        && let Some(page) = inner.held.lock().unwrap().take()
    {
        return Response::new(Body::from(Bytes::from(page)));
    }
    let body = body.collect().await.unwrap().to_bytes();
    let line = format!("{} {}", head.method, head.uri);
    inner.requests.lock().unwrap_or_else(PoisonError::into_inner).push(Request {
        line,
        headers: head.headers,
        body,
    });
    inner.leave.acquire().await.unwrap().forget();
    let answer = inner.answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    answer.unwrap_or_default()
}

fn config(url: &str, more: Value) -> PushGatewayConfig {
    let mut settings = json!({ "url": url });
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(settings).unwrap()
}

/// A sink before `fake`, and the board on which it shows its state.
fn sink(fake: &FakeGateway, more: Value) -> (Arc<dyn Sink>, HealthBoard) {
    let board = HealthBoard::default();
    let cx = StageContext { health: board.stage("gateway"), ..context("push_gateway") };
    let config = config(&format!("http://{}", fake.address), more);
    (config.build(&cx).unwrap().into(), board)
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn event(instance: &str, publisher: &str, seconds: u64) -> Event {
    let mut event = Event::new(at(seconds), "x 1\n");
    event.labels = [("job", "node"), ("instance", instance), ("publisher", publisher)].into_iter().collect();
    event
}

fn degraded(board: &HealthBoard) -> String {
    board.degraded().into_iter().map(|(_, reason)| reason).collect()
}

#[tokio::test]
async fn a_push_is_a_put_of_known_length_with_credentials() {
    let fake = FakeGateway::start().await;
    let (sink, board) = sink(&fake, json!({ "basic_auth": { "username": "u", "password": "p" } }));
    sink.send(event("db1:9100", "site", 1)).await.unwrap();
    let request = fake.requests().pop().unwrap();
    assert_eq!(request.line, "PUT /metrics/job/node/instance@base64/ZGIxOjkxMDA/publisher/site");
    assert_eq!(request.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(request.headers["authorization"], "Basic dTpw");
    assert_eq!(request.headers["content-length"], request.body.len().to_string().as_str());
    assert!(!request.headers.contains_key("transfer-encoding"));
    let body = String::from_utf8(request.body.to_vec()).unwrap();
    assert!(body.contains("\nup 1\n") && body.ends_with("\n# TYPE x untyped\nx 1\n"), "{body}");
    assert_eq!(degraded(&board), "");
}

#[tokio::test]
async fn a_path_prefix_is_kept_and_gzip_is_said_in_lower_case() {
    let fake = FakeGateway::start().await;
    let settings = config(&format!("http://{}/a//b/", fake.address), json!({ "compression": "gzip" }));
    let sink = settings.build(&context("push_gateway")).unwrap();
    sink.send(event("i", "p", 1)).await.unwrap();
    let request = fake.requests().pop().unwrap();
    assert_eq!(request.line, "PUT /a/b/metrics/job/node/instance/i/publisher/p");
    assert_eq!(request.headers["content-encoding"], "gzip");
    let mut body = String::new();
    GzDecoder::new(&request.body[..]).read_to_string(&mut body).unwrap();
    assert!(body.ends_with("x 1\n"), "{body}");
}

#[tokio::test]
async fn trouble_with_the_gateway_is_transient_and_shows() {
    let fake = FakeGateway::start().await;
    let (sink, board) = sink(&fake, json!({}));
    for status in [401, 404, 429, 500, 503] {
        fake.then(status, "words");
        let error = sink.send(event("i", "p", 1)).await.unwrap_err();
        assert!(error.is_transient(), "{status}: {error}");
        assert!(degraded(&board).contains(&status.to_string()), "{status}: {}", degraded(&board));
        fake.then(202, "");
        sink.send(event("other", "p", u64::from(status))).await.unwrap();
        assert_eq!(degraded(&board), "");
    }
    fake.then_with(503, "", &[(RETRY_AFTER, "7")]);
    let error = sink.send(event("i", "p", 1)).await.unwrap_err();
    let seven = Some(Duration::from_secs(7));
    assert!(matches!(error, SendError::Transient { retry_after, .. } if retry_after == seven), "{error}");
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_transient_and_shows() {
    let fake = FakeGateway::start().await;
    let (sink, board) = sink(&fake, json!({}));
    let address = fake.address.clone();
    drop(fake);
    until("the port is closed", || async { tokio::net::TcpStream::connect(&address).await.is_err() }).await;
    let error = sink.send(event("i", "p", 1)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(
        degraded(&board),
        format!("cannot push to http://{address}: cannot connect: connection refused")
    );
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let fake = FakeGateway::start().await;
    let (sink, board) = sink(&fake, json!({}));
    fake.then_with(301, "", &[(LOCATION, "/metrics/job/other")]);
    let error = sink.send(event("i", "p", 1)).await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("301"), "{error}");
    assert_eq!(fake.requests().len(), 1);
    assert_eq!(degraded(&board), "", "it is the scrape's trouble, not the gateway's");
}

const INCONSISTENT: &str =
    "pushed metrics are invalid or inconsistent with existing metrics: x is not a GAUGE\n";

#[tokio::test]
async fn a_family_at_fault_is_left_out_and_the_rest_lands() {
    let fake = FakeGateway::start().await;
    let (sink, board) = sink(&fake, json!({}));
    fake.then(400, INCONSISTENT);
    fake.then(200, &"x".repeat(1 << 20));
    fake.then(200, "");
    fake.then(400, INCONSISTENT);
    let event = Event { body: "x 1\ny 2\n".into(), ..event("i", "p", 1) };
    sink.send(event.clone()).await.unwrap();
    let put = "PUT /metrics/job/node/instance/i/publisher/p";
    assert_eq!(fake.lines(), [put, "GET /metrics", put, put]);
    let body = fake.body(2);
    assert!(body.contains("\ny 2\n") && body.contains("\nup 1\n") && !body.contains("\nx "), "{body}");
    assert_eq!(degraded(&board), "");

    sink.send(Event { timestamp: at(2), ..event }).await.unwrap();
    assert_eq!(fake.requests().len(), 5, "it is remembered");
    assert!(!fake.body(4).contains("\nx "), "{}", fake.body(4));
}

#[tokio::test]
async fn a_gateway_that_refuses_whatever_it_is_given_gets_the_scrape_rejected_in_the_end() {
    let fake = FakeGateway::start().await;
    let (sink, _) = sink(&fake, json!({}));
    fake.then(400, INCONSISTENT);
    fake.then(200, "");
    for _ in 0..200 {
        fake.then(400, INCONSISTENT);
    }
    let error = sink.send(event("i", "p", 1)).await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().ends_with("x is not a GAUGE"), "{error}");
    assert!(fake.requests().len() < 20, "{} requests", fake.requests().len());
}

#[tokio::test]
async fn an_inconsistency_is_not_ours_when_the_gateway_was_poisoned_before() {
    let fake = FakeGateway::start().await;
    let (sink, board) = sink(&fake, json!({}));
    for status in [500, 404] {
        fake.then(400, INCONSISTENT);
        fake.then(status, "An error has occurred while serving metrics");
        let error = sink.send(event("i", "p", 1)).await.unwrap_err();
        assert!(error.is_transient() && error.to_string().ends_with("x is not a GAUGE"), "{error}");
        assert!(!degraded(&board).is_empty() && !degraded(&board).contains("GAUGE"), "{}", degraded(&board));
    }
}

#[tokio::test]
async fn only_what_is_newer_than_what_was_confirmed_is_pushed() {
    let fake = FakeGateway::start().await;
    let cx = context("push_gateway");
    let config = config(&format!("http://{}", fake.address), json!({ "grouping": ["instance"] }));
    let sink = config.build(&cx).unwrap();
    sink.send(event("i", "a", 10)).await.unwrap();
    sink.send(event("i", "a", 10)).await.unwrap();
    sink.send(event("i", "b", 9)).await.unwrap();
    assert_eq!(fake.lines(), ["PUT /metrics/job/node/instance/i"]);
    fake.then(503, "");
    sink.send(event("i", "a", 11)).await.unwrap_err();
    sink.send(event("i", "a", 11)).await.unwrap();
    sink.send(event("j", "a", 9)).await.unwrap();
    assert_eq!(fake.requests().len(), 5, "after a failure there are two pushes");

    let families = cx.metrics.registry().gather();
    let value = |name: &str| {
        let family =
            families.iter().find(|family| family.name() == format!("prometheus_streams_{name}")).unwrap();
        let metric = &family.get_metric()[0];
        metric.get_counter().get_value() + metric.get_gauge().get_value()
    };
    assert_eq!(value("push_gateway_superseded_total"), 2.0);
    assert_eq!(value("push_gateway_groups"), 2.0);
    assert_eq!(value("receiver_publish_errors"), 1.0);
}

#[tokio::test]
async fn the_group_of_a_target_that_is_gone_is_deleted_and_an_older_scrape_makes_none() {
    let fake = FakeGateway::start().await;
    let (sink, _) = sink(&fake, json!({ "grouping": ["instance"] }));
    let gone = |seconds| {
        let mut gone = Event { body: Bytes::new(), ..event("i", "a", seconds) };
        gone.attributes.insert(scrape::TOMBSTONE, "true");
        gone
    };
    sink.send(event("i", "a", 10)).await.unwrap();
    sink.send(gone(9)).await.unwrap();
    sink.send(gone(12)).await.unwrap();
    sink.send(event("i", "a", 11)).await.unwrap();
    let path = "/metrics/job/node/instance/i";
    assert_eq!(fake.lines(), [format!("PUT {path}"), format!("DELETE {path}")]);
    // A push that was given up may land after a deletion too.
    fake.then(503, "");
    sink.send(event("i", "a", 13)).await.unwrap_err();
    sink.send(gone(14)).await.unwrap();
    assert_eq!(
        fake.lines()[2..],
        [format!("PUT {path}"), format!("DELETE {path}"), format!("DELETE {path}")]
    );
}

#[tokio::test]
async fn one_push_into_a_group_is_in_flight_and_the_older_one_that_waited_is_not_pushed() {
    let fake = FakeGateway::holding().await;
    let (sink, _) = sink(&fake, json!({ "grouping": ["instance"] }));
    let send = |event| {
        let sink = Arc::clone(&sink);
        tokio::spawn(async move { sink.send(event).await })
    };
    let newer = send(event("i", "a", 10));
    until("the first push is there", || async { fake.requests().len() == 1 }).await;
    let older = send(event("i", "b", 9));
    let other = send(event("j", "a", 1));
    until("the push of another group is there", || async { fake.requests().len() == 2 }).await;
    assert_eq!(fake.lines()[1], "PUT /metrics/job/node/instance/j", "groups do not wait for each other");
    fake.inner.leave.add_permits(2);
    for sent in [newer, older, other] {
        sent.await.unwrap().unwrap();
    }
    assert_eq!(fake.requests().len(), 2);
}

#[tokio::test]
async fn a_push_that_is_given_up_shows_and_leaves_its_group_free() {
    let fake = FakeGateway::holding().await;
    let (sink, board) = sink(&fake, json!({}));
    let slow = tokio::time::timeout(Duration::from_millis(50), sink.send(event("i", "p", 1)));
    assert!(slow.await.is_err());
    assert_eq!(degraded(&board), "the push gateway does not answer in time");
    fake.inner.leave.add_permits(10);
    sink.send(event("i", "p", 2)).await.unwrap();
    assert_eq!(degraded(&board), "");
    // The one that was given up may land between the two.
    assert_eq!(fake.requests().len(), 3);
    sink.send(event("i", "p", 3)).await.unwrap();
    assert_eq!(fake.requests().len(), 4);
}

#[tokio::test]
async fn what_cannot_be_read_is_permanent_and_the_group_says_down() {
    let fake = FakeGateway::start().await;
    let (sink, _) = sink(&fake, json!({}));
    for _ in 0..2 {
        let garbage = Event { body: "x 1\ny {\n".into(), ..event("i", "p", 1) };
        let error = sink.send(garbage).await.unwrap_err();
        assert!(!error.is_transient() && error.to_string().contains("line 2, column "), "{error}");
    }
    let requests = fake.requests();
    assert_eq!(requests.len(), 1, "delivered again, it is rejected again, and not pushed again");
    let body = String::from_utf8(requests[0].body.to_vec()).unwrap();
    assert!(body.contains("\nup 0\n") && !body.contains("\nx "), "{body}");

    let mut without_job = event("i", "p", 1);
    without_job.labels.remove("job");
    let error = sink.send(without_job).await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("no job label"), "{error}");
    assert_eq!(fake.requests().len(), 1);
}

#[test]
fn every_mistake_in_the_settings_is_told() {
    let settings = config(
        "http:///x",
        json!({
            "grouping": ["instance", "a.b", "instance"],
            "bearer_token": "x",
            "basic_auth": { "username": "u:v" },
            "tls": { "ca_file": "/nowhere/ca.pem" },
        }),
    );
    let Err(error) = settings.build(&context("push_gateway")) else { panic!("it was built") };
    let paths: Vec<_> = error.problems().iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["basic_auth.username", "tls.ca_file", "url", "grouping[1]", "grouping[2]"]);
    for url in ["push.example.net:9091", "ftp://h", "http://h/?a=b", "http://u:p@h", ""] {
        let Err(error) = config(url, json!({})).build(&context("push_gateway")) else { panic!("{url}") };
        assert_eq!(error.problems()[0].path, "url", "{error}");
    }
}
