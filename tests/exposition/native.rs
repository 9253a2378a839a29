//! Native histograms and exemplars, which only protobuf carries all the way.

use prometheus_streams_plugins::exposition::{
    Buckets, Exemplar, Family, HistogramSample, MetricKind, NativeHistogram, Sample, encode_protobuf,
};

use super::*;
use crate::support::http;
use crate::support::targets::Behaviour;
use crate::support::wait::wait_for;

const PROTOBUF: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
const FEATURES: &[&str] = &["--enable-feature=native-histograms,exemplar-storage"];
const HISTOGRAM: &str = "nh{job='probes',instance='native'}";

/// A native histogram, a counter with an exemplar and a gauge.
fn body() -> Vec<u8> {
    let mut native = Family::new("nh", MetricKind::Histogram);
    let positive = Buckets { spans: vec![(-1, 2), (3, 1)], counts: vec![2.0, 5.0, 1.0] };
    let value = NativeHistogram {
        schema: 3,
        zero_threshold: 1e-128,
        zero_count: 1.0,
        count: 9.0,
        sum: 12.5,
        positive,
        ..NativeHistogram::default()
    };
    let labels = vec![("path".into(), "/".into())];
    native.histograms.push(HistogramSample { labels, value, timestamp: None, exemplars: Vec::new() });
    let mut counter = Family::new("requests_total", MetricKind::Counter);
    let mut sample = Sample::new("requests_total", 7.0);
    let exemplar = Exemplar { labels: vec![("trace_id".into(), "abc".into())], value: 0.5, timestamp: None };
    sample.exemplar = Some(Box::new(exemplar));
    counter.samples.push(sample);
    let mut gauge = Family::new("g", MetricKind::Gauge);
    gauge.samples.push(Sample::new("g", 1.5));
    let mut body = Vec::new();
    encode_protobuf(&[native, counter, gauge], &mut body);
    body
}

/// The histogram as a Prometheus has stored it.
async fn histogram(prometheus: &Prometheus) -> Value {
    wait_for("a native histogram to be stored", secs(30), async || {
        let found = prometheus.query(HISTOGRAM).await;
        found.iter().map(|series| series["histogram"][1].clone()).find(|histogram| !histogram.is_null())
    })
    .await
}

async fn exemplars(prometheus: &Prometheus) -> Vec<Value> {
    wait_for("an exemplar to be stored", secs(30), async || {
        let query = "query=requests_total&start=0&end=9999999999";
        let answer = http::get(&format!("{}/api/v1/query_exemplars?{query}", prometheus.url())).await;
        let data = answer.expect("ask Prometheus").json()["data"].as_array().cloned().unwrap_or_default();
        let found: Vec<_> = data.iter().map(|series| series["exemplars"][0]["labels"].clone()).collect();
        (!found.is_empty()).then_some(found)
    })
    .await
}

#[tokio::test]
async fn native_histograms_and_exemplars_arrive_as_they_were() {
    let targets = Targets::start().await;
    targets.set("native", Behaviour::Page(PROTOBUF, body().into()));
    let site_job = json!([job(&targets, &["native"])]);
    let mut ours = site_job.clone();
    ours[0]["scrape_native_histograms"] = json!(true);
    let (_agent, page) = agent(&ours, json!({}), json!({}));
    let reading = json!([{
        "job_name": "streams", "honor_labels": true, "static_configs": [{ "targets": [page] }],
    }]);
    let (site, centre, each) = tokio::join!(
        Prometheus::with(site_job, FEATURES),
        Prometheus::with(reading, FEATURES),
        Prometheus::with(Prometheus::discovering(&page), FEATURES)
    );
    let expected = histogram(&site).await;
    assert_eq!(expected["count"], "9", "{expected}");
    for server in [&centre, &each] {
        assert_eq!(histogram(server).await, expected);
        assert_eq!(server.value("g{job='probes',instance='native',publisher='site1'}").await, 1.5);
        assert_eq!(exemplars(server).await, exemplars(&site).await);
    }
    // Who does not ask for protobuf gets the classic form.
    let plain = Prometheus::start(Prometheus::discovering(&page)).await;
    assert_eq!(plain.value("nh_count{job='probes',instance='native'}").await, 9.0);
}
