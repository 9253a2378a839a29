//! A reader of both messages that shares nothing with their writer, in one form for both.

use std::collections::BTreeMap;

use prost::Message as _;

/// A series of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in super::super) struct Series {
    pub(in super::super) labels: BTreeMap<String, String>,
    /// Values and times.
    pub(in super::super) samples: Vec<(f64, i64)>,
    /// Labels, value and time.
    pub(in super::super) exemplars: Vec<(BTreeMap<String, String>, f64, i64)>,
    pub(in super::super) histograms: Vec<Histogram>,
    /// Type, help and unit, where the message says them with the series.
    pub(in super::super) metadata: Option<(i32, String, String)>,
    pub(in super::super) created: i64,
}

/// What a request says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in super::super) struct Written {
    pub(in super::super) series: Vec<Series>,
    /// Family, type, help and unit.
    pub(in super::super) metadata: Vec<(String, i32, String, String)>,
}

/// Reads a request by its content type, as it came over the wire.
pub(in super::super) fn read(content_type: &str, body: &[u8]) -> Written {
    let body = snap::raw::Decoder::new().decompress_vec(body).expect("snappy");
    match content_type {
        "application/x-protobuf" => v1(&body),
        "application/x-protobuf;proto=io.prometheus.write.v2.Request" => v2(&body),
        other => panic!("{other} is not a message of remote write"),
    }
}

fn v1(body: &[u8]) -> Written {
    let request = V1Request::decode(body).expect("a WriteRequest");
    let labels = |labels: Vec<V1Label>| {
        assert!(labels.is_sorted_by(|a, b| a.name < b.name), "labels are sorted: {labels:?}");
        labels.into_iter().map(|label| (label.name, label.value)).collect()
    };
    let series = request.timeseries.into_iter().map(|series| Series {
        labels: labels(series.labels),
        samples: series.samples.into_iter().map(|sample| (sample.value, sample.timestamp)).collect(),
        exemplars: series
            .exemplars
            .into_iter()
            .map(|exemplar| (labels(exemplar.labels), exemplar.value, exemplar.timestamp))
            .collect(),
        histograms: series.histograms,
        metadata: None,
        created: 0,
    });
    let metadata = request.metadata.into_iter();
    Written {
        series: series.collect(),
        metadata: metadata.map(|family| (family.family, family.kind, family.help, family.unit)).collect(),
    }
}

fn v2(body: &[u8]) -> Written {
    let request = V2Request::decode(body).expect("a Request");
    assert_eq!(request.symbols[0], "");
    let text = |symbol: u32| request.symbols[symbol as usize].clone();
    let labels = |refs: &[u32]| {
        let pairs: Vec<_> = refs.chunks(2).map(|pair| (text(pair[0]), text(pair[1]))).collect();
        assert!(pairs.is_sorted_by(|a, b| a.0 < b.0), "labels are sorted: {pairs:?}");
        pairs.into_iter().collect()
    };
    let series = request.timeseries.iter().map(|series| Series {
        labels: labels(&series.labels_refs),
        samples: series.samples.iter().map(|sample| (sample.value, sample.timestamp)).collect(),
        exemplars: series
            .exemplars
            .iter()
            .map(|exemplar| (labels(&exemplar.labels_refs), exemplar.value, exemplar.timestamp))
            .collect(),
        histograms: series.histograms.clone(),
        metadata: series.metadata.as_ref().map(|m| (m.kind, text(m.help_ref), text(m.unit_ref))),
        created: series.created_timestamp,
    });
    Written { series: series.collect(), metadata: Vec::new() }
}

#[derive(Clone, PartialEq, prost::Message)]
struct V1Request {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<V1Series>,
    #[prost(message, repeated, tag = "3")]
    metadata: Vec<V1Metadata>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct V1Series {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<V1Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    exemplars: Vec<V1Exemplar>,
    #[prost(message, repeated, tag = "4")]
    histograms: Vec<Histogram>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct V1Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct V1Exemplar {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<V1Label>,
    #[prost(double, tag = "2")]
    value: f64,
    #[prost(int64, tag = "3")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct V1Metadata {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    family: String,
    #[prost(string, tag = "4")]
    help: String,
    #[prost(string, tag = "5")]
    unit: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct V2Request {
    #[prost(string, repeated, tag = "4")]
    symbols: Vec<String>,
    #[prost(message, repeated, tag = "5")]
    timeseries: Vec<V2Series>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct V2Series {
    #[prost(uint32, repeated, tag = "1")]
    labels_refs: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    histograms: Vec<Histogram>,
    #[prost(message, repeated, tag = "4")]
    exemplars: Vec<V2Exemplar>,
    #[prost(message, optional, tag = "5")]
    metadata: Option<V2Metadata>,
    #[prost(int64, tag = "6")]
    created_timestamp: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct V2Exemplar {
    #[prost(uint32, repeated, tag = "1")]
    labels_refs: Vec<u32>,
    #[prost(double, tag = "2")]
    value: f64,
    #[prost(int64, tag = "3")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct V2Metadata {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(uint32, tag = "3")]
    help_ref: u32,
    #[prost(uint32, tag = "4")]
    unit_ref: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(in super::super) struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    pub(in super::super) count_int: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(in super::super) count_float: Option<f64>,
    #[prost(double, tag = "3")]
    pub(in super::super) sum: f64,
    #[prost(sint32, tag = "4")]
    pub(in super::super) schema: i32,
    #[prost(double, tag = "5")]
    pub(in super::super) zero_threshold: f64,
    #[prost(uint64, optional, tag = "6")]
    pub(in super::super) zero_count_int: Option<u64>,
    #[prost(double, optional, tag = "7")]
    pub(in super::super) zero_count_float: Option<f64>,
    #[prost(message, repeated, tag = "8")]
    pub(in super::super) negative_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "9")]
    pub(in super::super) negative_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "10")]
    pub(in super::super) negative_counts: Vec<f64>,
    #[prost(message, repeated, tag = "11")]
    pub(in super::super) positive_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "12")]
    pub(in super::super) positive_deltas: Vec<i64>,
    #[prost(double, repeated, tag = "13")]
    pub(in super::super) positive_counts: Vec<f64>,
    #[prost(int32, tag = "14")]
    pub(in super::super) reset_hint: i32,
    #[prost(int64, tag = "15")]
    pub(in super::super) timestamp: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(in super::super) struct Span {
    #[prost(sint32, tag = "1")]
    pub(in super::super) offset: i32,
    #[prost(uint32, tag = "2")]
    pub(in super::super) length: u32,
}
