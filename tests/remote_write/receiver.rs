//! What a real Prometheus says to single scrapes.

use std::time::{Duration, SystemTime};

use prometheus_streams_core::event::Event;
use prometheus_streams_core::stage::{Sink, SinkConfig};
use prometheus_streams_core::testing::context;
use prometheus_streams_plugins::sinks::remote_write::RemoteWriteConfig;
use prometheus_streams_plugins::support::scrape;
use serde_json::{Value, json};

use crate::support::certs::Certs;
use crate::support::dump::dump;
use crate::support::http;
use crate::support::prometheus::{Prometheus, VictoriaMetrics};
use crate::support::wait::{secs, wait_until};

fn sink(prometheus: &Prometheus, more: Value) -> Box<dyn Sink> {
    let mut settings = json!({ "url": prometheus.write_url() });
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let config: RemoteWriteConfig = serde_json::from_value(settings).unwrap();
    config.build(&context("remote_write")).unwrap()
}

fn event(age: u64, body: &str) -> Event {
    let mut event = Event::new(SystemTime::now() - Duration::from_secs(age), body.to_owned());
    event.labels = [("job", "j"), ("instance", "i")].into_iter().collect();
    event
}

/// Values of a series in the last hour, oldest first.
async fn values(prometheus: &Prometheus, series: &str) -> Vec<String> {
    let found = prometheus.query(&format!("{series}[1h]")).await;
    let values = found.first().and_then(|found| found["values"].as_array().cloned()).unwrap_or_default();
    values.iter().map(|value| value[1].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn what_is_older_than_what_is_there_is_refused_and_the_rest_goes_on() {
    let prometheus = Prometheus::receiving(json!({})).await;
    let sink = sink(&prometheus, json!({}));
    sink.send(event(30, "x 1\n")).await.unwrap();
    // Only `x` is older than what is there; the report is too, so that it is refused with it.
    let error = sink.send(event(60, "x 2\ny 2\n")).await.unwrap_err();
    let text = error.to_string();
    assert!(!error.is_transient() && text.contains("out of order sample") && text.contains("x{"), "{text}");
    assert!(!text.contains("y{"), "{text}");
    sink.send(event(20, "x 3\n")).await.unwrap();
    assert_eq!(values(&prometheus, "x").await, ["1", "3"]);
    assert_eq!(values(&prometheus, "y").await, ["2"]);
}

#[tokio::test]
async fn what_is_older_than_an_out_of_order_window_is_refused_though_the_answer_asks_for_another_try() {
    let config = json!({ "storage": { "tsdb": { "out_of_order_time_window": "10m" } } });
    let prometheus = Prometheus::receiving(config).await;
    let sink = sink(&prometheus, json!({ "order": "fresh_first" }));
    sink.send(event(0, "x 1\n")).await.unwrap();
    sink.send(event(300, "x 2\n")).await.unwrap();
    let error = sink.send(event(3000, "x 3\n")).await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("too old sample"), "{error}");
    assert_eq!(values(&prometheus, "x").await, ["2", "1"]);
}

#[tokio::test]
async fn exemplars_and_native_histograms_arrive() {
    let prometheus = Prometheus::receiving(json!({})).await;
    let mut event = event(5, "# TYPE c counter\nc_total 1 # {trace_id=\"t\"} 0.5\n# EOF\n");
    event.attributes.insert("content_type", "application/openmetrics-text; version=1.0.0");
    sink(&prometheus, json!({})).send(event).await.unwrap();
    let url = format!("{}/api/v1/query_exemplars?query=c_total&start=0&end=9999999999", prometheus.url());
    let answer = http::get(&url).await.unwrap().json();
    assert_eq!(answer["data"][0]["exemplars"][0]["labels"]["trace_id"], "t", "{answer}");

    let mut event = self::event(5, "");
    event.attributes.insert(
        "content_type",
        "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
    );
    event.body = native_histogram().into();
    sink(&prometheus, json!({ "send_native_histograms": true })).send(event).await.unwrap();
    let found = prometheus.query("histogram_count(h)").await;
    assert_eq!(found[0]["value"][1], "6", "{found:?}");
    let sum = prometheus.query("histogram_sum(h)").await;
    assert_eq!(sum[0]["value"][1], "7.5", "{sum:?}");
}

#[tokio::test]
async fn an_exemplar_that_is_older_than_the_last_one_is_no_fault_of_the_scrape() {
    let prometheus = Prometheus::receiving(json!({})).await;
    let sink = sink(&prometheus, json!({}));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    for (age, exemplar) in [(20, now - 30), (10, now - 40)] {
        let body =
            format!("# TYPE c counter\nc_total {age} # {{trace_id=\"t{age}\"}} 0.5 {exemplar}\n# EOF\n");
        let mut event = event(age, &body);
        event.attributes.insert("content_type", "application/openmetrics-text; version=1.0.0");
        sink.send(event).await.unwrap();
    }
    assert_eq!(values(&prometheus, "c_total").await, ["20", "10"]);
}

#[tokio::test]
async fn a_receiver_behind_tls_and_a_password_takes_what_comes_with_the_right_one() {
    let certs = Certs::new();
    let mut prometheus = Prometheus::receiving_tls(&certs).await;
    let settings = |password: &str| {
        json!({
            "tls_config": { "ca_file": certs.ca() },
            "basic_auth": { "username": "site", "password": password },
            "headers": { "X-Scope-OrgID": "tenant" },
            "external_labels": { "via": "streams" },
        })
    };
    let error = sink(&prometheus, settings("wrong")).send(event(5, "x 1\n")).await.unwrap_err();
    assert!(!error.is_transient() && error.to_string().contains("401 Unauthorized"), "{error}");
    sink(&prometheus, settings("secret")).send(event(4, "x 2\n")).await.unwrap();
    prometheus.stop().await;
    let dump = dump(&prometheus.dir().join("data"));
    let x: Vec<_> = dump.iter().filter(|(series, _)| series.contains("\"x\"")).collect();
    assert_eq!(x.len(), 1, "{x:?}");
    assert_eq!(x[0].0, r#"{__name__="x", instance="i", job="j", via="streams"}"#);
    assert_eq!(x[0].1[0].1, "2");
}

#[tokio::test]
async fn victoria_metrics_takes_it_too_and_what_is_old_in_any_order() {
    let database = VictoriaMetrics::start().await;
    let config = json!({ "url": format!("{}/api/v1/write", database.url()), "order": "fresh_first" });
    let config: RemoteWriteConfig = serde_json::from_value(config).unwrap();
    let sink = config.build(&context("remote_write")).unwrap();
    let events =
        [(10, 3), (30, 1), (20, 2)].map(|(age, value)| event(age, &format!("x{{a=\"b\"}} {value}\n")));
    let millis = |event: &Event| i64::try_from(scrape::unix_millis(event.timestamp)).unwrap();
    let expected = [(millis(&events[1]), 1.0), (millis(&events[2]), 2.0), (millis(&events[0]), 3.0)];
    for event in events {
        sink.send(event).await.unwrap();
    }
    wait_until("all samples to be found", secs(20), async || {
        let mut found = database.samples(r#"x{a="b",instance="i",job="j"}"#).await;
        found.sort_by_key(|(time, _)| *time);
        found == expected
    })
    .await;
}

/// A native histogram `h` of six observations.
fn native_histogram() -> Vec<u8> {
    use prometheus_streams_plugins::exposition::{
        Buckets, Family, HistogramSample, MetricKind, NativeHistogram, encode_protobuf,
    };
    let value = NativeHistogram {
        schema: 0,
        zero_threshold: 0.001,
        zero_count: 1.0,
        count: 6.0,
        sum: 7.5,
        is_float: false,
        positive: Buckets { spans: vec![(0, 2), (1, 1)], counts: vec![1.0, 2.0, 1.0] },
        negative: Buckets { spans: vec![(0, 1)], counts: vec![1.0] },
    };
    let histogram = HistogramSample { labels: Vec::new(), value, timestamp: None, exemplars: Vec::new() };
    let family = Family { histograms: vec![histogram], ..Family::new("h", MetricKind::Histogram) };
    let mut body = Vec::new();
    encode_protobuf(&[family], &mut body);
    body
}
