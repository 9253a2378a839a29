//! The sink against a receiver in this process that records what it is sent, and answers as a test says.

mod messages;
mod refusals;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use hyper::StatusCode;
use prometheus_streams_core::stage::SinkConfig;
use prometheus_streams_core::testing::{SinkBench, check_sink, context, until};
use serde_json::{Value, json};

use super::wire::decode::{self, Series, Written};
use super::*;
use crate::support::server::{self, Listen, Request, Response, Server};

const MESSAGE_2: &str = "application/x-protobuf;proto=io.prometheus.write.v2.Request";

/// What a receiver answers to what it read.
type Rule = dyn Fn(&Got) -> (u16, String) + Send + Sync;

/// One request.
#[derive(Clone, Debug)]
struct Got {
    content_type: String,
    version: String,
    tenant: String,
    written: Written,
}

impl Got {
    /// Whether a series of the request has this label.
    fn has(&self, name: &str, value: &str) -> bool {
        self.written.series.iter().any(|series| series.labels.get(name).is_some_and(|own| own == value))
    }
}

/// A receiver.
struct Far {
    url: String,
    state: Arc<State>,
    stop: CancellationToken,
}

struct State {
    got: Mutex<Vec<(Got, u16)>>,
    rule: Mutex<Arc<Rule>>,
    headers: Vec<(&'static str, &'static str)>,
}

impl Far {
    async fn start() -> Self {
        Self::with_headers(&[("x-prometheus-remote-write-samples-written", "1")]).await
    }

    async fn with_headers(headers: &[(&'static str, &'static str)]) -> Self {
        let server = Server::bind(Listen(([127, 0, 0, 1], 0).into())).await.unwrap();
        let (url, stop) = (format!("http://{}/write", server.address()), CancellationToken::new());
        let state = Arc::new(State {
            got: Mutex::default(),
            rule: Mutex::new(Arc::new(|_: &Got| (204, String::new()))),
            headers: headers.to_vec(),
        });
        let (shared, token) = (Arc::clone(&state), stop.clone());
        let handler = move |request: Request| answer(Arc::clone(&shared), request);
        tokio::spawn(async move { server.serve("a receiver", handler, token).await });
        Self { url, state, stop }
    }

    fn answers(&self, rule: impl Fn(&Got) -> (u16, String) + Send + Sync + 'static) {
        *self.state.rule.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(rule);
    }

    /// What it was sent, with what it answered.
    fn got(&self) -> Vec<(Got, u16)> {
        self.state.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Values and times by series, of what it has taken.
    fn taken(&self) -> BTreeMap<String, Vec<(f64, i64)>> {
        let mut taken: BTreeMap<String, Vec<(f64, i64)>> = BTreeMap::new();
        for (got, status) in self.got() {
            for series in got.written.series.iter().filter(|_| status < 300) {
                taken.entry(name_of(series)).or_default().extend(&series.samples);
            }
        }
        taken
    }

    fn sink(&self, more: Value) -> Box<dyn Sink> {
        let mut settings = json!({ "url": self.url, "queue_config": { "batch_send_deadline": "5ms" } });
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let config: RemoteWriteConfig = serde_json::from_value(settings).unwrap();
        config.build(&context("remote_write")).unwrap()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn name_of(series: &Series) -> String {
    let pairs: Vec<_> = series
        .labels
        .iter()
        .filter(|(name, _)| *name != "__name__")
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    format!("{}{{{}}}", series.labels["__name__"], pairs.join(","))
}

async fn answer(state: Arc<State>, request: Request) -> Response {
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    assert_eq!(header("content-encoding"), "snappy");
    assert!(header("user-agent").starts_with("prometheus-streams/"));
    let (content_type, version) = (header("content-type"), header("x-prometheus-remote-write-version"));
    let tenant = header("x-scope-orgid");
    let body: Bytes = match server::read_body(request.into_body(), 1 << 24).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let written = decode::read(&content_type, &body);
    let got = Got { content_type, version, tenant, written };
    let rule = Arc::clone(&state.rule.lock().unwrap_or_else(PoisonError::into_inner));
    let (status, words) = rule(&got);
    state.got.lock().unwrap_or_else(PoisonError::into_inner).push((got, status));
    let mut response = server::answer(StatusCode::from_u16(status).unwrap(), "text/plain", words);
    for (name, value) in &state.headers {
        // What is refused is not written.
        let value = if status >= 400 && name.ends_with("-written") { "0" } else { *value };
        response.headers_mut().insert(*name, hyper::header::HeaderValue::from_static(value));
    }
    response
}

fn event(instance: &str, seconds: u64, body: &str) -> Event {
    let mut event = Event::new(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), body.to_owned());
    event.labels = [("job", "j"), ("instance", instance)].into_iter().collect();
    event
}

fn failed(instance: &str, seconds: u64) -> Event {
    let mut event = event(instance, seconds, "");
    event.attributes.insert(scrape::ERROR, "connection refused");
    event
}

fn tombstone(instance: &str, seconds: u64) -> Event {
    let mut event = event(instance, seconds, "");
    event.attributes.insert(scrape::TOMBSTONE, "true");
    event
}

/// Values of a series with its times; `None` for the mark of an end.
fn points(far: &Far, series: &str) -> Vec<(Option<f64>, i64)> {
    let taken = far.taken().remove(series).unwrap_or_default();
    let is_end = |value: f64| value.to_bits() == series::STALE.to_bits();
    taken.into_iter().map(|(value, at)| ((!is_end(value)).then_some(value), at)).collect()
}

#[tokio::test]
async fn both_messages_say_the_same() {
    let body = "# HELP x Help.\n# TYPE x counter\nx{a=\"1\"} 1\nx{a=\"2\",b=\"c\"} NaN\ny 3 17\n";
    let far = Far::start().await;
    for message in ["prometheus.WriteRequest", "io.prometheus.write.v2.Request"] {
        let sink = far.sink(json!({ "protobuf_message": message, "headers": { "X-Scope-OrgID": "site1" } }));
        sink.send(event("i", 1000, body)).await.unwrap();
    }
    let [(first, _), (second, _)] = &far.got()[..] else { panic!("{:?}", far.got()) };
    assert_eq!((first.version.as_str(), second.version.as_str()), ("0.1.0", "2.0.0"));
    assert_eq!((first.tenant.as_str(), second.tenant.as_str()), ("site1", "site1"));
    assert!(first.written.metadata.contains(&("x".into(), 1, "Help.".into(), String::new())));
    let samples = |got: &Got| -> BTreeMap<String, Vec<(u64, i64)>> {
        let bits =
            |series: &Series| series.samples.iter().map(|(value, at)| (value.to_bits(), *at)).collect();
        got.written.series.iter().map(|series| (name_of(series), bits(series))).collect()
    };
    assert_eq!(samples(first), samples(second));
    assert_eq!(samples(first)["y{instance=i,job=j}"], [(3.0_f64.to_bits(), 17)]);
    assert_eq!(samples(first)["x{a=2,b=c,instance=i,job=j}"], [(0x7ff8_0000_0000_0001, 1_000_000)]);
    let x = second.written.series.iter().find(|series| name_of(series).starts_with("x{a=1")).unwrap();
    assert_eq!(x.metadata, Some((1, "Help.".into(), String::new())));
}

#[tokio::test]
async fn what_is_refused_is_cut_down_to_its_series() {
    let far = Far::start().await;
    far.answers(|got| if got.has("bad", "1") { (400, "label bad".into()) } else { (204, String::new()) });
    let sink: Arc<dyn Sink> =
        far.sink(json!({ "queue_config": { "batch_send_deadline": "200ms", "max_shards": 1 } })).into();
    let body: String = (0..100).map(|n| format!("x{{n=\"{n}\"}} 1\n")).collect();
    let bad = format!("{body}x{{n=\"7\",bad=\"1\"}} 1\n{}x{{bad=\"1\"}} 1\n", body.replace('x', "y"));
    let sends = [("good", body.clone()), ("bad", bad), ("fine", body)].map(|(instance, body)| {
        let sink = Arc::clone(&sink);
        tokio::spawn(async move { sink.send(event(instance, 1000, &body)).await })
    });
    let mut results = Vec::new();
    for send in sends {
        results.push(send.await.unwrap());
    }
    assert!(results[0].is_ok() && results[2].is_ok());
    let error = results[1].as_ref().unwrap_err();
    assert!(!error.is_transient());
    assert_eq!(
        error.to_string(),
        "the receiver answered 400 Bad Request: label bad; refused 2 of 205 series: \
         x{bad=\"1\", instance=\"bad\", job=\"j\", n=\"7\"}, x{bad=\"1\", instance=\"bad\", job=\"j\"}"
    );
    let taken = far.taken();
    let of = |instance: &str| {
        taken.keys().filter(|series| series.contains(&format!("instance={instance}"))).count()
    };
    assert_eq!((of("good"), of("bad"), of("fine")), (103, 203, 103));
    assert!(far.got().len() < 40, "{} requests", far.got().len());
}

#[tokio::test]
async fn a_scrape_that_comes_too_late_as_a_whole_is_not_asked_for_series_by_series() {
    let far = Far::start().await;
    let body: String = (0..500).map(|n| format!("x{{n=\"{n}\"}} 1\n")).collect();
    let sink = far.sink(json!({}));
    sink.send(event("i", 1001, "x 1\n")).await.unwrap();
    far.answers(|_| (400, "out of order sample".into()));
    let error = sink.send(event("i", 1000, &body)).await.unwrap_err();
    assert!(error.to_string().contains("refused 503 of 503 series"), "{error}");
    assert!(far.got().len() < 40, "{} requests", far.got().len());
}

#[tokio::test]
async fn samples_with_old_timestamps_of_their_own_are_left_out_as_prometheus_does() {
    let far = Far::start().await;
    far.answers(|got| {
        let is_old = |series: &Series| series.samples.iter().any(|(_, at)| *at == 17);
        if got.written.series.iter().any(is_old) {
            (400, "out of bounds".into())
        } else {
            (204, String::new())
        }
    });
    far.sink(json!({})).send(event("i", 1000, "x 1\nold 1 17\n")).await.unwrap();
    assert_eq!(points(&far, "x{instance=i,job=j}"), [(Some(1.0), 1_000_000)]);
}

#[tokio::test]
async fn what_may_be_taken_later_waits_as_long_as_it_is_asked_to() {
    let far =
        Far::with_headers(&[("retry-after", "30"), ("x-prometheus-remote-write-samples-written", "0")]).await;
    far.answers(|_| (429, "slow down".into()));
    let sink = far.sink(json!({}));
    for _ in 0..3 {
        let error = sink.send(event("i", 1000, "x 1\n")).await.unwrap_err();
        let SendError::Transient { retry_after: Some(wait), .. } = &error else { panic!("{error}") };
        assert!((20..=30).contains(&wait.as_secs()), "{wait:?}");
        assert!(error.to_string().contains("slow down"), "{error}");
    }
    assert_eq!(far.got().len(), 1, "it was asked again before its time");
}

#[tokio::test]
async fn what_a_receiver_does_not_want_at_all_is_not_cut() {
    let far = Far::start().await;
    far.answers(|_| (401, "who are you".into()));
    let error = far.sink(json!({})).send(event("i", 1000, "x 1\ny 2\n")).await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("401 Unauthorized: who are you"), "{error}");
    assert_eq!(far.got().len(), 1);
}

#[tokio::test]
async fn series_end_when_they_are_gone_when_a_scrape_fails_and_with_their_target() {
    let far = Far::start().await;
    let sink = far.sink(json!({}));
    for event in [
        event("i", 10, "x 1\ny 1\n"),
        event("i", 20, "y 2\nx 2\n"),
        event("i", 30, "y 3\n"),
        failed("i", 40),
        event("i", 50, "x 5\n"),
        tombstone("i", 55),
        event("i", 60, "x 6\n"),
    ] {
        sink.send(event).await.unwrap();
    }
    let of = |name: &str| points(&far, &format!("{name}{{instance=i,job=j}}"));
    assert_eq!(
        of("x"),
        [
            (Some(1.0), 10_000),
            (Some(2.0), 20_000),
            (None, 30_000),
            (Some(5.0), 50_000),
            (None, 55_000),
            (Some(6.0), 60_000)
        ]
    );
    assert_eq!(of("y"), [(Some(1.0), 10_000), (Some(2.0), 20_000), (Some(3.0), 30_000), (None, 40_000)]);
    let up: Vec<_> = of("up").into_iter().map(|(value, _)| value).collect();
    assert_eq!(up, [Some(1.0), Some(1.0), Some(1.0), Some(0.0), Some(1.0), None, Some(1.0)]);
}

#[tokio::test]
async fn what_a_job_has_pushed_has_no_report_and_ends_with_its_group() {
    let far = Far::start().await;
    let sink = far.sink(json!({}));
    for mut event in [event("i", 10, "x 1\n"), tombstone("i", 20)] {
        event.attributes.insert(scrape::PUSHED, "true");
        sink.send(event).await.unwrap();
    }
    assert_eq!(points(&far, "x{instance=i,job=j}"), [(Some(1.0), 10_000), (None, 20_000)]);
    assert_eq!(far.taken().len(), 1, "{:?}", far.taken());
}

#[tokio::test]
async fn a_failed_scrape_does_not_end_what_the_other_poller_of_a_pair_has_just_seen() {
    let far = Far::start().await;
    let sink = far.sink(json!({}));
    let in_slot = |mut event: Event, slot: &str| {
        event.attributes.insert(scrape::SLOT, slot);
        event
    };
    sink.send(in_slot(event("i", 10, "x 1\n"), "10000")).await.unwrap();
    sink.send(in_slot(failed("i", 11), "10000")).await.unwrap();
    sink.send(in_slot(failed("i", 20), "20000")).await.unwrap();
    sink.send(in_slot(event("i", 21, "x 2\n"), "20000")).await.unwrap();
    let of = |name: &str| points(&far, &format!("{name}{{instance=i,job=j}}"));
    assert_eq!(of("x"), [(Some(1.0), 10_000), (None, 20_000), (Some(2.0), 21_000)]);
    assert_eq!(of("up").len(), 3);
}

#[tokio::test]
async fn a_mark_that_was_not_taken_comes_again_and_one_that_was_does_not() {
    let far = Far::start().await;
    let sink = far.sink(json!({}));
    sink.send(event("i", 10, "x 1\ny 1\n")).await.unwrap();
    far.answers(|_| (503, String::new()));
    assert!(sink.send(event("i", 20, "y 2\n")).await.unwrap_err().is_transient());
    far.answers(|_| (204, String::new()));
    sink.send(event("i", 20, "y 2\n")).await.unwrap();
    sink.send(event("i", 30, "y 3\n")).await.unwrap();
    assert_eq!(points(&far, "x{instance=i,job=j}"), [(Some(1.0), 10_000), (None, 20_000)]);
}

#[tokio::test]
async fn the_past_has_ends_of_its_own() {
    let far = Far::start().await;
    let sink = far.sink(json!({ "order": "fresh_first" }));
    assert!(matches!(sink.backlog(), Backlog::FreshFirst { rate: 100, .. }));
    for (seconds, body) in [
        (10, "x 1\n"),
        (100, "x 2\nz 1\n"),
        (20, "x 1\ny 1\n"),
        (30, "x 1\n"),
        (110, "x 3\n"),
        (40, "x 4\ny 1\n"),
    ] {
        sink.send(event("i", seconds, body)).await.unwrap();
    }
    let of = |name: &str| points(&far, &format!("{name}{{instance=i,job=j}}"));
    assert_eq!(of("y"), [(Some(1.0), 20_000), (None, 30_000), (Some(1.0), 40_000)]);
    assert_eq!(of("z"), [(Some(1.0), 100_000), (None, 110_000)]);
    assert!(of("x").iter().all(|(value, _)| value.is_some()));
}

#[tokio::test]
async fn a_silent_target_ends_right_behind_its_last_scrape() {
    let far = Far::start().await;
    let sink: Arc<dyn Sink> = far.sink(json!({ "stale_after": "300ms" })).into();
    let (stop, running) = (CancellationToken::new(), Arc::clone(&sink));
    let token = stop.clone();
    let task = tokio::spawn(async move { running.run(token).await });
    sink.send(event("silent", 10, "x 1\n")).await.unwrap();
    until("the silent target ends", || async {
        points(&far, "x{instance=silent,job=j}") == [(Some(1.0), 10_000), (None, 10_001)]
            && points(&far, "up{instance=silent,job=j}") == [(Some(1.0), 10_000), (None, 10_001)]
    })
    .await;
    // What comes late finds its place.
    sink.send(event("silent", 11, "x 2\n")).await.unwrap();
    assert_eq!(points(&far, "x{instance=silent,job=j}").last(), Some(&(Some(2.0), 11_000)));
    stop.cancel();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_large_scrape_is_several_requests_and_one_answer() {
    let far = Far::start().await;
    let sink =
        far.sink(json!({ "queue_config": { "max_samples_per_send": 30, "batch_send_deadline": "1ms" } }));
    let body: String = (0..100).map(|n| format!("x{{n=\"{n}\"}} 1\n")).collect();
    sink.send(event("i", 1000, &body)).await.unwrap();
    let sizes: Vec<_> = far.got().iter().map(|(got, _)| got.written.series.len()).collect();
    assert_eq!(sizes, [30, 30, 30, 13]);
    assert_eq!(far.taken().len(), 103);
}

/// What has landed is what the receiver has taken.
struct Laws(Far);

#[async_trait]
impl SinkBench for Laws {
    fn sink(&self) -> Box<dyn Sink> {
        self.0.sink(json!({}))
    }

    fn event(&self, thing: usize, number: u64) -> Event {
        event(&thing.to_string(), number, "x 1\n")
    }

    fn bad_event(&self) -> Option<Event> {
        Some(event("1", 5, "<html>"))
    }

    async fn landed(&self, thing: usize) -> Vec<u64> {
        let seconds = |at: i64| u64::try_from(at / 1000).unwrap();
        points(&self.0, &format!("x{{instance={thing},job=j}}"))
            .into_iter()
            .map(|(_, at)| seconds(at))
            .collect()
    }

    async fn take_away(&self) -> bool {
        self.0.answers(|_| (503, "away".into()));
        true
    }

    async fn bring_back(&self) {
        self.0.answers(|_| (204, String::new()));
    }
}

#[tokio::test]
async fn the_delivery_laws_hold() {
    check_sink(&Laws(Far::start().await)).await;
}

#[test]
fn mistakes_are_found_with_their_paths() {
    let config: RemoteWriteConfig = serde_json::from_value(json!({
        "url": "ftp://x/",
        "headers": { "Content-Type": "x", "X-Prometheus-Remote-Write-Version": "9" },
        "external_labels": { "a-b": "c" },
        "write_relabel_configs": [{ "action": "keep", "regex": "(" }],
        "queue_config": { "max_shards": 0 },
        "backfill": { "rate": 0 },
        "stale_after": "0s",
    }))
    .unwrap();
    let error = config.build(&context("remote_write")).err().unwrap().to_string();
    for path in [
        "url: ",
        "headers.Content-Type: ",
        "headers.X-Prometheus-Remote-Write-Version: ",
        "external_labels.a-b: ",
        "write_relabel_configs[0].regex: ",
        "queue_config.max_shards: ",
        "backfill: ",
        "backfill.rate: ",
        "stale_after: ",
    ] {
        assert!(error.lines().any(|line| line.starts_with(path)), "{path} is not in:\n{error}");
    }
}
