mod formats;
mod virtual_targets;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::SystemTime;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use prometheus_streams_core::metrics::Metrics;
use prometheus_streams_core::stage::Clock;
use prometheus_streams_core::testing::{ManualClock, SinkBench, check_sink, context, context_with};

use super::negotiate::{TEXT, negotiate};
use super::rendering::Dialect;
use super::*;

struct Bench {
    sink: Exposition,
    clock: ManualClock,
    metrics: Metrics,
}

impl Bench {
    fn new(config: ExpositionConfig) -> Self {
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
        let cx = context_with("exposition", Arc::new(clock.clone()));
        Self { sink: config.sink(&cx).unwrap(), clock, metrics: cx.metrics }
    }

    fn event(&self, target: &str, body: &'static str) -> Event {
        let mut event = Event::new(self.clock.now(), body);
        event.labels = [("job", "j"), ("instance", target), ("zone", "")].into_iter().collect();
        event
    }

    async fn send(&self, target: &str, body: &'static str) -> Result<(), String> {
        self.sink.send(self.event(target, body)).await.map_err(|error| {
            assert!(!error.is_transient(), "{error}");
            error.to_string()
        })
    }

    fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    fn page(&self) -> String {
        self.page_for("")
    }

    /// The page for a reader with this `Accept`.
    fn page_for(&self, accept: &str) -> String {
        String::from_utf8(self.bytes_for(accept)).unwrap()
    }

    fn bytes_for(&self, accept: &str) -> Vec<u8> {
        let accept = [(header::ACCEPT, HeaderValue::from_str(accept).unwrap())].into_iter().collect();
        self.sink.store.page(negotiate(&accept)).collect::<Vec<_>>().concat()
    }

    /// The samples on the page that are not about the scrape itself.
    fn samples(&self) -> Vec<String> {
        let is_sample = |line: &&str| !line.starts_with('#') && !line.starts_with("scrape_");
        self.page().lines().filter(is_sample).map(str::to_owned).collect()
    }

    fn gauge(&self, name: &str) -> i64 {
        let gauges = self.metrics.gauges(name, "", &["pipeline", "sink"]);
        gauges.with_label_values(&["test", "exposition"]).get()
    }
}

fn config() -> ExpositionConfig {
    ExpositionConfig { listen: Listen(([127, 0, 0, 1], 0).into()), ..ExpositionConfig::default() }
}

#[tokio::test]
async fn the_newest_scrape_of_every_target_is_on_the_page() {
    let bench = Bench::new(config());
    let old = bench.event("a", "x 0\n");
    bench.advance(1);
    bench.send("a", "# TYPE x gauge\nx{instance=\"own\"} 1\n").await.unwrap();
    bench.send("b", "# TYPE x gauge\nx 2 17\n").await.unwrap();
    bench.sink.send(old).await.unwrap();
    let mut with_duration = bench.event("b", "# TYPE x gauge\nx 3\n");
    with_duration.attributes.insert(scrape::DURATION, "0.25");
    bench.sink.send(with_duration).await.unwrap();
    assert_eq!(
        bench.page(),
        "# HELP scrape_duration_seconds How long the scrape took.\n\
         # TYPE scrape_duration_seconds gauge\n\
         scrape_duration_seconds{instance=\"b\",job=\"j\"} 0.25\n\
         # HELP scrape_samples_post_metric_relabeling Samples that were left after relabelling.\n\
         # TYPE scrape_samples_post_metric_relabeling gauge\n\
         scrape_samples_post_metric_relabeling{instance=\"a\",job=\"j\"} 1\n\
         scrape_samples_post_metric_relabeling{instance=\"b\",job=\"j\"} 1\n\
         # HELP scrape_samples_scraped Samples that the target exposed.\n\
         # TYPE scrape_samples_scraped gauge\n\
         scrape_samples_scraped{instance=\"a\",job=\"j\"} 1\n\
         scrape_samples_scraped{instance=\"b\",job=\"j\"} 1\n\
         # HELP scrape_timestamp_seconds When the target was scraped, in seconds since 1970.\n\
         # TYPE scrape_timestamp_seconds gauge\n\
         scrape_timestamp_seconds{instance=\"a\",job=\"j\"} 1000001\n\
         scrape_timestamp_seconds{instance=\"b\",job=\"j\"} 1000001\n\
         # HELP up 1 if the last scrape of the target succeeded.\n\
         # TYPE up gauge\n\
         up{instance=\"a\",job=\"j\"} 1\n\
         up{instance=\"b\",job=\"j\"} 1\n\
         # TYPE x gauge\n\
         x{instance=\"a\",job=\"j\",exported_instance=\"own\"} 1\n\
         x{instance=\"b\",job=\"j\"} 3\n"
    );
}

#[tokio::test]
async fn a_failed_scrape_leaves_only_its_report() {
    let bench = Bench::new(config());
    bench.send("a", "x 1\n").await.unwrap();
    let mut failed = bench.event("a", "");
    failed.attributes.insert(scrape::ERROR, "connection refused");
    bench.sink.send(failed).await.unwrap();
    assert_eq!(bench.samples(), ["up{instance=\"a\",job=\"j\"} 0"]);
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_rejected_and_down() {
    let bench = Bench::new(config());
    bench.send("a", "x 1\n").await.unwrap();
    let error = bench.send("a", "x 1\ny{a=1} 2\n").await.unwrap_err();
    assert!(error.contains("line 2, column 5: expected a label value"), "{error}");
    assert_eq!(bench.samples(), ["up{instance=\"a\",job=\"j\"} 0"]);
}

#[tokio::test]
async fn labels_that_would_spoil_the_page_are_rejected() {
    let bench = Bench::new(config());
    for name in ["a.b", "9x", "__name__", "", "a:b"] {
        let mut event = bench.event("a", "x 1\n");
        event.labels.insert(name, "v");
        let error = bench.sink.send(event).await.unwrap_err();
        assert_eq!(error.to_string(), format!("{name:?} is not the name of a Prometheus label"));
        assert!(!error.is_transient());
    }
    assert_eq!(bench.page(), "");
}

#[tokio::test]
async fn what_is_too_old_leaves_the_page_and_does_not_come_back() {
    let bench = Bench::new(config());
    let first = bench.event("a", "x 1\n");
    bench.sink.send(first.clone()).await.unwrap();
    bench.advance(100);
    bench.send("b", "x 2\n").await.unwrap();
    bench.advance(200);
    assert_eq!(bench.gauge("exposition_targets"), 2);
    assert_eq!(bench.samples().len(), 4);
    bench.advance(1);
    assert_eq!(bench.samples(), ["up{instance=\"b\",job=\"j\"} 1", "x{instance=\"b\",job=\"j\"} 2"]);
    assert_eq!(bench.gauge("exposition_targets"), 1);
    bench.sink.send(first).await.unwrap();
    assert_eq!(bench.gauge("exposition_targets"), 1);
}

#[tokio::test]
async fn a_clock_that_runs_ahead_earns_nothing() {
    let bench = Bench::new(config());
    let mut ahead = bench.event("a", "x 1\n");
    ahead.timestamp += Duration::from_secs(1_000_000);
    bench.sink.send(ahead).await.unwrap();
    bench.advance(1);
    bench.send("a", "x 2\n").await.unwrap();
    assert_eq!(bench.samples()[1], "x{instance=\"a\",job=\"j\"} 2");
}

#[tokio::test]
async fn a_clock_that_is_set_back_silences_nobody() {
    let bench = Bench::new(config());
    let before = bench.clock.now();
    bench.advance(3_600);
    bench.send("a", "x 1\n").await.unwrap();
    bench.send("gone", "x 1\n").await.unwrap();
    bench.clock.set(before);
    bench.send("a", "x 2\n").await.unwrap();
    assert_eq!(bench.samples(), ["up{instance=\"a\",job=\"j\"} 1", "x{instance=\"a\",job=\"j\"} 2"]);
    // A correction is no jump, and what comes once more stays behind what is newer.
    let late = bench.event("a", "x 0\n");
    bench.advance(30);
    bench.send("a", "x 3\n").await.unwrap();
    bench.clock.set(before);
    bench.sink.send(late).await.unwrap();
    assert_eq!(bench.samples()[1], "x{instance=\"a\",job=\"j\"} 3");
}

#[tokio::test]
async fn a_target_that_is_gone_leaves_at_once_and_only_something_newer_brings_it_back() {
    let bench = Bench::new(config());
    let late = bench.event("a", "x 0\n");
    bench.advance(1);
    bench.send("a", "x 1\n").await.unwrap();
    bench.advance(1);
    let mut gone = bench.event("a", "");
    gone.attributes.insert(scrape::TOMBSTONE, "true");
    bench.sink.send(gone.clone()).await.unwrap();
    assert_eq!((bench.page().as_str(), bench.gauge("exposition_targets")), ("", 0));
    // Also one that was wanted when its sending began.
    let store = &bench.sink.store;
    let mut wanted = late.clone();
    wanted.labels = target_labels(&late.labels).unwrap();
    store.put(Entry::new(wanted, None, Dialect::Text, false, &store.names).0).unwrap();
    assert_eq!(bench.gauge("exposition_targets"), 0);
    bench.sink.send(late).await.unwrap();
    assert_eq!(bench.page(), "");
    bench.advance(1);
    bench.send("a", "x 2\n").await.unwrap();
    bench.sink.send(gone).await.unwrap();
    assert_eq!(
        bench.samples()[1],
        "x{instance=\"a\",job=\"j\"} 2",
        "it came back, and the notice came twice"
    );
}

#[tokio::test]
async fn what_is_remembered_of_targets_that_are_gone_is_bounded() {
    let bench = Bench::new(ExpositionConfig { max_targets: 2, ..config() });
    let late = ["a", "b", "c"].map(|target| bench.event(target, "x 1\n"));
    for target in ["a", "b", "c"] {
        bench.advance(1);
        let mut gone = bench.event(target, "");
        gone.attributes.insert(scrape::TOMBSTONE, "true");
        bench.sink.send(gone).await.unwrap();
    }
    for event in late {
        bench.sink.send(event).await.unwrap();
    }
    assert_eq!(bench.samples()[1..], ["x{instance=\"a\",job=\"j\"} 1"], "that which went first is forgotten");
}

#[tokio::test]
async fn labels_are_honoured_where_the_source_says_so() {
    let bench = Bench::new(config());
    let mut event = bench.event("a", "x{job=\"own\",instance=\"\"} 1 17\n");
    event.attributes.insert(scrape::HONOR_LABELS, "true");
    event.attributes.insert(scrape::HONOR_TIMESTAMPS, "false");
    bench.sink.send(event).await.unwrap();
    // Without the empty label the reader would put its own there.
    assert_eq!(bench.samples()[1..], ["x{job=\"own\",instance=\"\"} 1"]);
}

#[tokio::test]
async fn one_target_too_many_is_rejected_until_there_is_room() {
    let bench = Bench::new(ExpositionConfig { max_targets: 1, ..config() });
    bench.send("a", "x 1\n").await.unwrap();
    bench.send("a", "x 2\n").await.unwrap();
    let error = bench.send("b", "x 3\n").await.unwrap_err();
    assert_eq!(error, "the page holds 1 targets already; raise `max_targets` to hold more");
    bench.advance(301);
    bench.send("b", "x 3\n").await.unwrap();
    assert_eq!(bench.samples()[1], "x{instance=\"b\",job=\"j\"} 3");
}

#[tokio::test]
async fn targets_that_disagree_on_a_type_are_counted_and_nothing_is_lost() {
    let bench = Bench::new(config());
    bench.send("a", "# TYPE x gauge\nx 1\n").await.unwrap();
    bench.send("b", "# TYPE x counter\nx 2\n").await.unwrap();
    let [a, b] = ["x{instance=\"a\",job=\"j\"} 1\n", "x{instance=\"b\",job=\"j\"} 2\n"];
    assert!(bench.page().ends_with(&format!("# TYPE x untyped\n{a}{b}")), "{}", bench.page());
    assert_eq!(bench.gauge("exposition_conflicts"), 1);
    bench.send("b", "# TYPE x gauge\nx 2\n").await.unwrap();
    assert!(bench.page().ends_with(&format!("# TYPE x gauge\n{a}{b}")), "{}", bench.page());
    assert_eq!(bench.gauge("exposition_conflicts"), 0);
}

#[test]
fn every_mistake_in_the_settings_is_found() {
    let bad = ExpositionConfig {
        path: "metrics".into(),
        expire_after: Span::secs(0),
        max_targets: 0,
        web_config_file: Some(WebConfigFile("/nonexistent/web.yml".into())),
        external_url: Some("ftp://host".to_owned()),
        ..config()
    };
    let error = bad.build(&context("exposition")).err().unwrap();
    let paths: Vec<_> = error.problems().iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["path", "expire_after", "max_targets", "web_config_file", "external_url"]);
    let unknown = serde_json::json!({ "port": 1 });
    assert!(serde_json::from_value::<ExpositionConfig>(unknown).is_err());
}

async fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Vec<u8>) {
    let mut request = hyper::Request::get(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let response = client.request(request.body(Empty::new()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    (head.status, head.headers, body.collect().await.unwrap().to_bytes().to_vec())
}

#[tokio::test]
async fn the_page_is_served_over_http() {
    let bench = Bench::new(config());
    bench.send("a", "x 1\n{\"y.z\"} 2\n").await.unwrap();
    let server = Server::bind(bench.sink.listen).await.unwrap();
    let (address, shutdown) = (server.address(), CancellationToken::new());
    let client = async {
        let (status, headers, body) = get(address, "/metrics", &[]).await;
        assert_eq!((status, &headers[header::CONTENT_TYPE]), (StatusCode::OK, &TEXT.parse().unwrap()));
        assert_eq!(String::from_utf8(body).unwrap(), bench.page());

        let prometheus = [("accept", "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.6,*/*;q=0.1")];
        let (_, headers, body) = get(address, "/metrics?x", &prometheus).await;
        let with_quotes = "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8";
        assert_eq!(headers[header::CONTENT_TYPE], with_quotes);
        assert!(String::from_utf8(body).unwrap().contains("\n{\"y.z\",instance=\"a\",job=\"j\"} 2\n"));

        let (_, headers, body) = get(address, "/metrics", &[("accept-encoding", "gzip")]).await;
        assert_eq!(headers[header::CONTENT_ENCODING], "gzip");
        let unzipped = std::io::read_to_string(flate2::read::GzDecoder::new(&body[..])).unwrap();
        assert_eq!(unzipped, bench.page());

        assert!(String::from_utf8(get(address, "/", &[]).await.2).unwrap().contains("/metrics"));
        assert_eq!(get(address, "/other", &[]).await.0, StatusCode::NOT_FOUND);
        shutdown.cancel();
    };
    tokio::join!(bench.sink.serve(server, shutdown.clone()), client);
}

#[tokio::test]
async fn an_address_in_use_ends_the_run_and_is_named() {
    let taken = Server::bind(config().listen).await.unwrap();
    let listen = Listen(taken.address());
    let bench = Bench::new(ExpositionConfig { listen, ..config() });
    let error = bench.sink.run(CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains(&listen.0.to_string()), "{error}");
}

/// A sink that is its own far side: what has landed is on its page.
#[derive(Default)]
struct Laws(Mutex<Option<Arc<Store>>>);

#[async_trait]
impl SinkBench for Laws {
    fn sink(&self) -> Box<dyn Sink> {
        let sink = config().sink(&context("exposition")).unwrap();
        *self.0.lock().unwrap() = Some(Arc::clone(&sink.store));
        Box::new(sink)
    }

    fn event(&self, thing: usize, number: u64) -> Event {
        let started = SystemTime::now() - Duration::from_secs(60);
        let mut event = Event::new(started + Duration::from_secs(number), format!("x {number}\n"));
        event.labels.insert("thing", thing.to_string());
        event
    }

    fn bad_event(&self) -> Option<Event> {
        let mut event = self.event(0, 6);
        event.body = Bytes::from_static(b"<html>");
        Some(event)
    }

    async fn landed(&self, thing: usize) -> Vec<u64> {
        let store = self.0.lock().unwrap().clone().unwrap();
        let page = store.page(negotiate(&HeaderMap::new())).collect::<Vec<_>>().concat();
        let start = format!("x{{thing=\"{thing}\",instance=\"\",job=\"\"}} ");
        let page = String::from_utf8(page).unwrap();
        page.lines().filter_map(|line| line.strip_prefix(&start)?.parse().ok()).collect()
    }

    async fn take_away(&self) -> bool {
        false
    }

    async fn bring_back(&self) {}
}

#[tokio::test]
async fn the_delivery_laws_hold() {
    check_sink(&Laws::default()).await;
}
