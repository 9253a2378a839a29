//! What a real Prometheus says to single scrapes.

use std::time::{Duration, SystemTime};

use prometheus_streams_core::event::Event;
use prometheus_streams_core::stage::{Sink, SinkConfig};
use prometheus_streams_core::testing::context;
use prometheus_streams_plugins::sinks::remote_write::RemoteWriteConfig;
use serde_json::{Value, json};

use crate::support::http;
use crate::support::prometheus::Prometheus;

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
