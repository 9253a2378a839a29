//! The poller against targets that behave, and against targets that do not.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use prometheus_streams_core::delivery::{Delivery, Outcome};
use prometheus_streams_core::event::Event;
use prometheus_streams_core::metrics::Metrics;
use prometheus_streams_core::stage::Clock;
use prometheus_streams_core::testing::{self, Inlet, pipe, until};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::support::http::testing::{Answer, Authority, TestServer};
use crate::support::schedule::Rhythm;
use crate::support::scrape::{self, number, unix_millis};

/// A source that runs, and the other end of its pipe.
struct Rig {
    inlet: Inlet,
    metrics: Metrics,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), BoxError>>,
    started: Instant,
}

impl Rig {
    fn start(config: Value) -> Self {
        Self::start_with(config, testing::context("http_scrape"), 64)
    }

    fn start_with(config: Value, cx: StageContext, capacity: usize) -> Self {
        let source = serde_json::from_value::<HttpScrapeConfig>(config).unwrap().build(&cx).unwrap();
        let (out, inlet) = pipe(capacity);
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(source.run(out, shutdown.clone()));
        Self { inlet, metrics: cx.metrics, shutdown, running, started: Instant::now() }
    }

    /// The next event, answered at once.
    async fn event(&mut self) -> Event {
        let Delivery { event, acker } = self.inlet.next().await.unwrap();
        acker.finish(Outcome::Delivered);
        event
    }

    /// The values of a metric, by its labels.
    fn metric(&self, name: &str) -> BTreeMap<String, f64> {
        let families = self.metrics.registry().gather();
        let family = families.iter().find(|family| family.name() == format!("prometheus_streams_{name}"));
        family
            .into_iter()
            .flat_map(|family| family.get_metric())
            .map(|metric| {
                let labels: Vec<_> = metric.get_label().iter().map(|label| label.value()).collect();
                (labels.join(" "), metric.get_counter().get_value() + metric.get_gauge().get_value())
            })
            .collect()
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
    }
}

/// One job `j` with these targets and a short interval.
fn job(interval: &str, targets: Value) -> Value {
    json!({ "interval": interval, "jobs": { "j": { "targets": targets } } })
}

fn url(server: &TestServer) -> String {
    format!("http://{}/metrics", server.address)
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_scrape_is_an_event_with_the_bytes_of_the_target() {
    let server = TestServer::start(|_| Answer::ok("up 1\n")).await;
    let config = json!({ "interval": "200ms", "jobs": { "node": {
        "labels": { "site": "dc1", "rack": "r1" },
        "targets": [{ "url": url(&server), "name": "db1", "labels": { "rack": "r7", "site": "" } }],
    }}});
    let mut rig = Rig::start(config);
    let (first, second) = (rig.event().await, rig.event().await);

    assert_eq!(first.labels.to_string(), r#"{instance="db1", job="node", publisher="tester", rack="r7"}"#);
    assert_eq!(first.body, "up 1\n");
    assert!(scrape::is_up(&first));
    assert_eq!(first.attributes.get(scrape::CONTENT_TYPE), Some("text/plain; version=0.0.4"));
    assert_eq!(number(&first.attributes, scrape::INTERVAL), Some(200));
    assert!(scrape::duration(&first.attributes).unwrap() < Duration::from_millis(200));
    let facts = |event: &Event| {
        let number = |name| number(&event.attributes, name).unwrap();
        (number(scrape::SEQUENCE), number(scrape::SLOT))
    };
    let ((sequence, slot), (next_sequence, next_slot)) = (facts(&first), facts(&second));
    assert_eq!(sequence, 1);
    assert_eq!(next_slot - slot, 200 * (next_sequence - sequence));
    assert!(unix_millis(first.timestamp) >= slot);

    until("the receipts are counted", || async { rig.metric("poller_published_count")[""] >= 2.0 }).await;
    assert_eq!(rig.metric("poller_jobs")[""], 1.0);
    assert_eq!(rig.metric("poller_targets")["node"], 1.0);
    assert!(rig.metric("poller_bytes_polled")["node db1"] >= 10.0);
    assert!(rig.metric("poller_poll_time_count")["node db1"] >= 2.0);
    assert!(rig.metric("poller_poll_time_sum")["node db1"] > 0.0);
    assert_eq!(rig.metric("poller_poll_errors")["node db1"], 0.0);
    rig.stop().await;
}

#[tokio::test]
async fn the_request_is_that_of_prometheus() {
    let server = TestServer::start(|_| Answer::ok("")).await;
    let config = json!({ "interval": "1s", "timeout": "500ms", "jobs": { "j": {
        "targets": [url(&server)],
        "basic_auth": { "username": "me", "password": "pw" },
    }}});
    let mut rig = Rig::start(config);
    let event = rig.event().await;
    // An empty page is a scrape of no samples.
    assert!(scrape::is_up(&event) && event.body.is_empty());
    assert_eq!(scrape::label(&event.labels, scrape::INSTANCE), server.address);
    let request = server.requests().remove(0).to_lowercase();
    for line in [
        "get /metrics http/1.1".to_owned(),
        format!("host: {}", server.address),
        "accept-encoding: gzip".to_owned(),
        "x-prometheus-scrape-timeout-seconds: 0.5".to_owned(),
        format!("user-agent: prometheus-streams/{}", env!("CARGO_PKG_VERSION")),
        "authorization: basic bwu6chc=".to_owned(),
    ] {
        assert!(request.lines().any(|found| found == line), "{line:?} is not in {request}");
    }
    assert!(request.contains("\naccept: application/openmetrics-text;version=1.0.0"), "{request}");
    rig.stop().await;
}

#[tokio::test]
async fn a_target_may_have_credentials_of_its_own() {
    let server = TestServer::start(|_| Answer::ok("")).await;
    let config = json!({ "interval": "1s", "jobs": { "j": {
        "targets": [{ "url": url(&server), "basic_auth": { "username": "me", "password": "pw" } }],
        "bearer_token": "of the job",
    }}});
    let mut rig = Rig::start(config);
    rig.event().await;
    let request = server.requests().remove(0).to_lowercase();
    assert!(request.lines().any(|line| line == "authorization: basic bwu6chc="), "{request}");
    rig.stop().await;
}

/// The event of a target that answers so.
async fn event_of(answer: Answer) -> Event {
    let server = TestServer::start(move |_| answer.clone()).await;
    let config = json!({ "interval": "400ms", "timeout": "200ms", "body_size_limit": "64KiB", "jobs": {
        "j": { "targets": [url(&server)] },
    }});
    let mut rig = Rig::start(config);
    let event = rig.event().await;
    let errors = f64::from(u8::from(!scrape::is_up(&event)));
    assert_eq!(rig.metric("poller_poll_errors").into_values().next(), Some(errors));
    rig.stop().await;
    event
}

#[tokio::test]
async fn whatever_a_target_does_wrong_is_an_event_that_says_so() {
    let html = ["Content-Type: text/html; charset=utf-8"];
    let packed = ["Content-Type: text/plain", "Content-Encoding: gzip"];
    for (answer, error) in [
        (Answer::complete("404 Not Found", &[], "no"), "status 404 Not Found"),
        (Answer::complete("500 Internal Server Error", &html, "oh"), "status 500 Internal Server Error"),
        (Answer::complete("204 No Content", &[], ""), "status 204 No Content"),
        (
            Answer::complete("200 OK", &html, "<html>"),
            "the content type \"text/html; charset=utf-8\" is not a metrics format, and there is no fallback_scrape_protocol",
        ),
        (Answer::Last(Bytes::new()), "broken answer: connection closed before message completed"),
        (Answer::Stall(Bytes::new()), "timed out after 200ms"),
        (Answer::Stall(Answer::head(&["Content-Type: text/plain"])), "timed out after 200ms"),
        (
            Answer::Endless(Answer::head(&["Content-Type: text/plain"]), Bytes::from(vec![b'#'; 8192])),
            "body_size_limit exceeded (limit: 64KiB)",
        ),
        (
            Answer::complete("200 OK", &packed, gzip(&vec![b'#'; 100 << 20])),
            "body_size_limit exceeded (limit: 64KiB)",
        ),
        (
            Answer::complete("200 OK", &packed, "this is not gzip"),
            "cannot decompress the body: invalid gzip header",
        ),
    ] {
        let event = event_of(answer).await;
        assert_eq!(event.attributes.get(scrape::ERROR), Some(error));
        assert!(event.body.is_empty(), "{error}");
        assert_eq!(event.attributes.get(scrape::CONTENT_TYPE), None, "{error}");
        assert!(scrape::duration(&event.attributes).is_some(), "{error}");
    }
}

#[tokio::test]
async fn a_scrape_may_be_packed_and_must_name_its_type() {
    let packed = ["Content-Type: text/plain", "Content-Encoding: gzip"];
    assert_eq!(event_of(Answer::complete("200 OK", &packed, gzip(b"up 1\n"))).await.body, "up 1\n");
    let nameless = event_of(Answer::complete("200 OK", &[], "up 1\n")).await;
    let error =
        "the target does not say the content type of its answer, and there is no fallback_scrape_protocol";
    assert_eq!(nameless.attributes.get(scrape::ERROR), Some(error));
    assert!(nameless.body.is_empty());
}

#[tokio::test]
async fn a_type_can_be_assumed_where_the_target_names_a_wrong_one() {
    let server =
        TestServer::start(|_| Answer::complete("200 OK", &["Content-Type: text/html"], "up 1\n")).await;
    let config = json!({ "interval": "200ms", "jobs": { "j": {
        "targets": [url(&server)], "fallback_scrape_protocol": "PrometheusText0.0.4",
    }}});
    let mut rig = Rig::start(config);
    let event = rig.event().await;
    assert_eq!(
        (event.body.as_ref(), event.attributes.get(scrape::CONTENT_TYPE)),
        (&b"up 1\n"[..], Some("text/plain;version=0.0.4"))
    );
    rig.stop().await;
}

#[tokio::test]
async fn tls_with_a_client_certificate_works_and_without_trust_is_an_error() {
    let authority = Authority::new();
    let server = TestServer::start_tls(authority.server("127.0.0.1", true), |_| Answer::ok("safe 1\n")).await;
    let tls = authority.settings_of("poller");
    let targets = json!([format!("https://{}/metrics", server.address)]);
    let config = json!({ "interval": "500ms", "jobs": {
        "known": { "targets": targets, "tls": {
            "ca_file": tls.ca_file, "cert_file": tls.cert_file, "key_file": tls.key_file,
        }},
        "unknown": { "targets": targets, "tls": { "ca_file": tls.ca_file } },
        "untrusting": { "targets": targets },
    }});
    let mut rig = Rig::start(config);
    let mut found = BTreeMap::new();
    while found.len() < 3 {
        let event = rig.event().await;
        let text = event.attributes.get(scrape::ERROR).unwrap_or("ok").to_owned();
        found.insert(scrape::label(&event.labels, scrape::JOB).to_owned(), text);
    }
    assert_eq!(found["known"], "ok");
    assert_eq!(found["unknown"], "TLS: received fatal alert: CertificateRequired");
    assert_eq!(found["untrusting"], "TLS: invalid peer certificate: UnknownIssuer");
    rig.stop().await;
}

#[tokio::test]
async fn a_full_pipe_skips_slots_and_counts_them() {
    let server = TestServer::start(|_| Answer::ok("up 1\n")).await;
    let config = job("20ms", json!([url(&server)]));
    let mut rig = Rig::start_with(config, testing::context("http_scrape"), 1);
    let held = rig.inlet.next().await.unwrap();
    until("slots are skipped", || async {
        rig.metric("poller_skipped_slots_total").get("j full").is_some_and(|count| *count >= 3.0)
    })
    .await;
    assert_eq!(server.requests().len(), 1, "a target was bothered for nothing");
    assert!(rig.inlet.try_next().is_none());

    held.acker.finish(Outcome::Delivered);
    let next = rig.event().await;
    assert!(number(&next.attributes, scrape::SEQUENCE).unwrap() >= 5, "skipped slots have their numbers");
    rig.stop().await;
}

#[tokio::test]
async fn a_paused_pipeline_scrapes_nothing_and_goes_on_when_resumed() {
    let server = TestServer::start(|_| Answer::ok("up 1\n")).await;
    let mut rig = Rig::start(job("20ms", json!([url(&server)])));
    rig.inlet.pause();
    until("slots are skipped", || async {
        rig.metric("poller_skipped_slots_total").get("j paused").is_some_and(|count| *count >= 3.0)
    })
    .await;
    let before = server.requests().len();
    assert!(before <= 1, "{before} requests while paused");
    rig.inlet.resume();
    rig.event().await;
    rig.stop().await;
}

#[tokio::test]
async fn failed_deliveries_are_counted_and_not_repeated() {
    let server = TestServer::start(|_| Answer::ok("up 1\n")).await;
    let mut rig = Rig::start(job("50ms", json!([url(&server)])));
    for outcome in [Outcome::failed("away"), Outcome::rejected("bad"), Outcome::Filtered] {
        rig.inlet.next().await.unwrap().acker.finish(outcome);
    }
    let last = rig.event().await;
    assert!(number(&last.attributes, scrape::SEQUENCE).unwrap() >= 4);
    until("the receipts are counted", || async {
        rig.metric("poller_publish_errors")[""] == 2.0 && rig.metric("poller_published_count")[""] >= 1.0
    })
    .await;
    rig.stop().await;
}

/// The machine's clock, set wrong by as many milliseconds as the test says.
#[derive(Clone, Debug, Default)]
struct Shifted(Arc<AtomicI64>);

impl Shifted {
    fn set(&self, millis: i64) {
        self.0.store(millis, Ordering::SeqCst);
    }
}

impl Clock for Shifted {
    fn now(&self) -> SystemTime {
        let shift = self.0.load(Ordering::SeqCst);
        let by = Duration::from_millis(shift.unsigned_abs());
        if shift < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
    }
}

#[tokio::test]
async fn shutdown_cancels_scrapes_and_waits_for_receipts() {
    let fast = TestServer::start(|_| Answer::ok("up 1\n")).await;
    let stuck = TestServer::start(|_| Answer::Stall(Bytes::new())).await;
    let clock = Shifted::default();
    let config = json!({ "jobs": {
        "fast": { "interval": "100ms", "targets": [url(&fast)] },
        "stuck": { "interval": "1000s", "timeout": "500s", "targets": [url(&stuck)] },
    }});
    let cx = testing::context_with("http_scrape", Arc::new(clock.clone()));
    let mut rig = Rig::start_with(config, cx, 1_000);
    let held = rig.inlet.next().await.unwrap();
    // On to the next slot of the one that is stuck.
    let names = [("instance", stuck.address.as_str()), ("job", "stuck"), ("publisher", "tester")];
    let rhythm = Rhythm::new(&names.into_iter().collect(), Duration::from_secs(1_000));
    let now = unix_millis(SystemTime::now());
    clock.set((rhythm.next(now, None) - now) as i64);
    until("the target that is stuck is asked", || async { !stuck.requests().is_empty() }).await;

    rig.shutdown.cancel();
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(!rig.running.is_finished(), "it did not wait for the receipt");
    while rig.inlet.try_next().is_some() {}
    held.acker.finish(Outcome::Delivered);
    rig.running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_clock_that_jumps_neither_stalls_nor_floods() {
    const HOUR: i64 = 3_600_000;
    let server = TestServer::start(|_| Answer::ok("up 1\n")).await;
    let clock = Shifted::default();
    let cx = testing::context_with("http_scrape", Arc::new(clock.clone()));
    let mut rig = Rig::start_with(job("100ms", json!([url(&server)])), cx, 64);
    rig.event().await;
    for shift in [HOUR, 0, -HOUR, 0] {
        clock.set(shift);
        let begun = clock.now();
        let event = loop {
            let event = rig.event().await;
            // One that was under way when the clock was set does not count.
            if event.timestamp >= begun && event.timestamp < begun + Duration::from_secs(600) {
                break event;
            }
        };
        let slot = number(&event.attributes, scrape::SLOT).unwrap();
        assert!(unix_millis(event.timestamp) - slot < 5_000, "the slot is of another time");
    }
    let elapsed_slots = rig.started.elapsed().as_millis() as u64 / 100;
    let sequence = number(&rig.event().await.attributes, scrape::SEQUENCE).unwrap();
    assert!(sequence < elapsed_slots + 10, "{sequence} slots in the time of {elapsed_slots}");
    rig.stop().await;
}

/// The mistakes of a configuration.
fn mistakes(config: Value) -> Vec<String> {
    let config = serde_json::from_value::<HttpScrapeConfig>(config).unwrap();
    match config.build(&testing::context("http_scrape")) {
        Ok(_) => Vec::new(),
        Err(error) => error.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn all_mistakes_are_found_at_once_each_with_its_path() {
    let found = mistakes(json!({
        "interval": "0s",
        "timeout": "0s",
        "body_size_limit": "0B",
        "jobs": {
            "": { "targets": ["http://db0/"] },
            "node": {
                "targets": [
                    "http://db1:9100/metrics",
                    "ftp://db2/",
                    { "url": "http:///metrics", "name": " ", "labels": { "a-b": "x", "job": "y" } },
                    { "url": "http://db1:9100/other" },
                    { "url": "http://db4/", "interval": "5s", "timeout": "6s" },
                    { "url": "http://db5/", "timeout": "61s" },
                ],
                "tls": { "ca_file": "/nowhere/ca.pem" },
                "bearer_token": "t",
                "bearer_token_file": "/nowhere/token",
                "labels": { "__meta": "x" },
                "fallback_scrape_protocol": "text/html",
            },
            "slow": { "targets": ["http://db1/"], "interval": "5s", "timeout": "1m" },
        },
    }));
    let name = "is not a label name: letters, digits and _ only, not a digit first, no __ first";
    let set = "is set for every target: job by its job, instance by its name, publisher by the identity";
    assert_eq!(
        found,
        [
            "interval: must be at least 1ms".to_owned(),
            "timeout: must be more than zero".to_owned(),
            "body_size_limit: must be more than zero".to_owned(),
            "jobs: the name of a job must not be empty".to_owned(),
            "jobs.node.bearer_token: set bearer_token or bearer_token_file, not both".to_owned(),
            "jobs.node.tls.ca_file: cannot read /nowhere/ca.pem: No such file or directory (os error 2)".to_owned(),
            format!("jobs.node.labels.__meta: {name}"),
            "jobs.node.fallback_scrape_protocol: there is no protocol \"text/html\"; there are PrometheusProto, OpenMetricsText1.0.0, OpenMetricsText0.0.1, PrometheusText1.0.0, PrometheusText0.0.4".to_owned(),
            "jobs.node.targets[1].url: \"ftp://db2/\" has the scheme \"ftp\"; http and https are known".to_owned(),
            "jobs.node.targets[2].url: \"http:///metrics\" does not read like http://host:port/path".to_owned(),
            format!("jobs.node.targets[2].labels.a-b: {name}"),
            format!("jobs.node.targets[2].labels.job: {set}"),
            "jobs.node.targets[2].name: must not be empty; without it host and port of the URL are the name".to_owned(),
            "jobs.node.targets[3]: is the instance \"db1:9100\", as targets[0] is already; give one of them another name".to_owned(),
            "jobs.node.targets[4].timeout: 6s is longer than the interval, 5s".to_owned(),
            "jobs.node.targets[5].timeout: 1m1s is longer than the interval, 1m".to_owned(),
            "jobs.slow.timeout: 1m is longer than the interval, 5s".to_owned(),
        ]
    );
}

#[test]
fn nothing_to_scrape_is_a_mistake() {
    let expected = ["jobs: there are no targets, so nothing would be scraped"];
    assert_eq!(mistakes(json!({ "jobs": {} })), expected);
    assert_eq!(mistakes(json!({ "jobs": { "node": { "targets": [] } } })), expected);
    assert!(
        mistakes(json!({ "jobs": { "a": { "targets": [] }, "b": { "targets": ["http://x/"] } } })).is_empty()
    );
}

#[test]
fn targets_inherit_interval_and_timeout() {
    let config = json!({ "interval": "30s", "timeout": "20s", "jobs": { "j": { "targets": [
        "http://inherits/",
        { "url": "http://shorter/", "interval": "5s" },
        { "url": "http://own/", "interval": "2m", "timeout": "1m" },
    ]}}});
    let config = serde_json::from_value::<HttpScrapeConfig>(config).unwrap();
    let jobs: Vec<_> = config.jobs().unwrap().into_iter().map(Arc::new).collect();
    let cx = testing::context("http_scrape");
    let fleet = Fleet::new(&jobs, &cx.identity, Arc::new(PollerMetrics::new(&cx.metrics)), 0);
    let mut paces: Vec<_> =
        fleet.targets().map(|target| (target.rhythm.interval(), target.timeout.as_millis())).collect();
    paces.sort();
    // Where the timeout is as long as the interval, the scrape ends before the next one begins.
    assert_eq!(paces, [(5_000, 4_900), (30_000, 20_000), (120_000, 60_000)]);
}

#[test]
fn a_mistake_inside_a_target_has_its_place() {
    let wrong = json!({ "jobs": { "j": { "targets": ["http://x/", { "ulr": "http://y/" }, 5] } } });
    let error = serde_json::from_value::<HttpScrapeConfig>(wrong).unwrap_err().to_string();
    assert!(error.contains("unknown field `ulr`, expected one of `url`, `name`"), "{error}");
    let number = json!({ "jobs": { "j": { "targets": [5] } } });
    let error = serde_json::from_value::<HttpScrapeConfig>(number).unwrap_err().to_string();
    assert!(error.contains("expected a URL, or a map with url"), "{error}");
}
