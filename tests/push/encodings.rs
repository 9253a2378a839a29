//! The formats and encodings of bodies: those of a gateway 1.5.1 beside one, and those of newer ones.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use prometheus_streams_plugins::exposition::{
    self, Family, Format, HistogramSample, MetricKind, Mode, NativeHistogram, Sample, encode_protobuf,
};
use serde_json::json;

use super::differential::Pair;
use super::{PROTOBUF, Site, ask};

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn encodings_are_those_of_a_gateway() {
    let mut pair = Pair::start(json!({})).await;
    let text = "# HELP h He.\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 3\nh_sum 1.5\nh_count 3\n\
                # TYPE s summary\ns{quantile=\"0.9\"} 1\ns_sum 2\ns_count 4\n# TYPE c counter\nc{a=\"b\"} 1\ng 2\n";
    let families = exposition::parse_pushed(text.as_bytes()).unwrap();
    let mut protobuf = Vec::new();
    encode_protobuf(&families, &mut protobuf);
    let path = "/metrics/job/e";
    for encoding in ["gzip", "identity", "deflate", "zstd", "x-gzip", ""] {
        let body = if encoding == "gzip" { gzip(text.as_bytes()) } else { text.as_bytes().to_vec() };
        pair.ask("PUT", path, &[("content-encoding", encoding)], body).await;
        pair.compare(encoding).await;
    }
    pair.ask("PUT", path, &[("content-encoding", "gzip")], "").await;
    pair.ask("PUT", path, &[("content-encoding", "x-gzip")], gzip(b"x 1\n")).await;
    pair.ask("PUT", path, &[("content-encoding", "gzip")], [gzip(b"x 1\n"), gzip(b"y 1\n")].concat()).await;
    for content_type in [
        PROTOBUF,
        "application/vnd.google.protobuf;encoding=delimited;proto=io.prometheus.client.MetricFamily",
        "Application/Vnd.Google.Protobuf; Encoding=delimited; proto=\"io.prometheus.client.MetricFamily\"",
    ] {
        pair.ask("PUT", path, &[("content-type", content_type)], &protobuf).await;
        pair.compare(content_type).await;
        pair.ask(
            "PUT",
            path,
            &[("content-type", content_type), ("content-encoding", "gzip")],
            gzip(&protobuf),
        )
        .await;
        pair.compare(content_type).await;
        pair.ask("PUT", path, &[("content-type", content_type)], "").await;
        pair.compare(content_type).await;
    }
    // Of two families of one name the second counts.
    let twice = |value| {
        let family = Family { samples: vec![Sample::new("g", value)], ..Family::new("g", MetricKind::Gauge) };
        let mut body = Vec::new();
        encode_protobuf(&[family], &mut body);
        body
    };
    pair.ask("PUT", path, &[("content-type", PROTOBUF)], [twice(1.0), twice(2.0)].concat()).await;
    pair.compare("one family twice").await;
    // What is not announced as protobuf is text, whatever else it is called.
    for content_type in [
        "application/openmetrics-text",
        "application/json",
        "application/vnd.google.protobuf",
        "text/plain; version=9",
    ] {
        pair.ask("PUT", path, &[("content-type", content_type)], text).await;
        pair.compare(content_type).await;
    }
    pair.finish(20);
}

#[tokio::test]
async fn a_native_histogram_goes_on_as_one_beside_what_is_text() {
    let (site, events) = Site::delivering(json!({})).await;
    let value =
        NativeHistogram { count: 3.0, sum: 4.5, zero_count: 3.0, zero_threshold: 0.5, ..Default::default() };
    let histogram =
        HistogramSample { labels: vec![("a".into(), "b".into())], value, timestamp: None, exemplars: vec![] };
    let family = Family { histograms: vec![histogram], ..Family::new("h", MetricKind::Histogram) };
    let mut body = Vec::new();
    encode_protobuf(&[family], &mut body);
    assert_eq!(
        ask(site.address(), "PUT", "/metrics/job/n", &[("content-type", PROTOBUF)], body).await.status,
        200
    );
    assert_eq!(site.push("POST", "job/n", "x{le=\"1\"} 1\n").await.status, 200);
    let event = events.lock().unwrap().last().unwrap().clone();
    assert_eq!(event.attributes.get("content_type"), Some(PROTOBUF));
    let families = exposition::parse(Format::Protobuf, Mode::Compat, &event.body).unwrap();
    let names: Vec<_> = families.iter().map(|family| (&*family.name, family.histograms.len())).collect();
    assert_eq!(names, [("h", 1), ("x", 0), ("push_failure_time_seconds", 0), ("push_time_seconds", 0)]);
    assert_eq!(families[0].histograms[0].value.count, 3.0);
    let page = site.metrics().await;
    assert!(page.contains("h_count{a=\"b\",instance=\"\",job=\"n\"} 3\n"), "{page}");
}

#[tokio::test]
async fn the_encodings_of_newer_gateways_are_understood() {
    let (site, _) = Site::delivering(json!({})).await;
    let mut snappy = snap::write::FrameEncoder::new(Vec::new());
    snappy.write_all(b"x 5\n").unwrap();
    let snappy = snappy.into_inner().unwrap();
    for (encoding, body) in [("snappy", snappy), ("GZIP", gzip(b"x 6\n"))] {
        let answer =
            ask(site.address(), "PUT", "/metrics/job/a", &[("content-encoding", encoding)], &body).await;
        assert_eq!(answer.status, 200, "{encoding}: {answer:?}");
        let page = site.metrics().await;
        // A body that breaks off changes nothing.
        // The first ten bytes of a framed snappy stream are one by themselves.
        for length in (1..body.len()).filter(|length| (encoding, *length) != ("snappy", 10)) {
            let headers = [("content-encoding", encoding)];
            let answer = ask(site.address(), "PUT", "/metrics/job/a", &headers, &body[..length]).await;
            assert_eq!(answer.status, 400, "{encoding} {length}: {answer:?}");
        }
        assert_eq!(site.metrics().await, page, "{encoding}");
    }
    assert!(site.metrics().await.contains("x{instance=\"\",job=\"a\"} 6\n"));
}
