//! The two messages of remote write, and which of them a receiver takes.
//!
//! [1.0](https://prometheus.io/docs/specs/prw/remote_write_spec/) repeats every text in every series;
//! [2.0](https://prometheus.io/docs/specs/prw/remote_write_spec_2_0/) has each text once and says more of a series.
//! Both are compressed with snappy, in its block format.

#[cfg(test)]
pub(super) mod decode;
mod v1;
mod v2;

use std::ops::Range;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use super::series::{Metadata, Row, Scrape};
use crate::exposition::{Buckets, MetricKind, NativeHistogram, packed_counts, varint, zigzag};

/// A message of remote write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    V1,
    V2,
}

/// Which message is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum MessageChoice {
    /// 2.0 if the receiver takes it, else 1.0.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// That of remote write 1.0.
    #[serde(rename = "prometheus.WriteRequest")]
    V1,
    /// That of remote write 2.0.
    #[serde(rename = "io.prometheus.write.v2.Request")]
    V2,
}

impl Message {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::V1 => "application/x-protobuf",
            Self::V2 => "application/x-protobuf;proto=io.prometheus.write.v2.Request",
        }
    }

    /// The value of `X-Prometheus-Remote-Write-Version`.
    pub(super) fn version(self) -> &'static str {
        match self {
            Self::V1 => "0.1.0",
            Self::V2 => "2.0.0",
        }
    }

    /// The message of these rows, not yet compressed. `families` are those of which 1.0 says what is known;
    /// 2.0 says it with each series.
    pub(super) fn encode(self, slices: &[Slice], families: &[(Arc<Scrape>, Metadata)]) -> Vec<u8> {
        match self {
            Self::V1 => v1::encode(slices, families),
            Self::V2 => v2::encode(slices),
        }
    }
}

/// Some rows of a scrape.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    pub(super) scrape: Arc<Scrape>,
    pub(super) rows: Range<usize>,
}

impl Slice {
    pub(super) fn rows(&self) -> &[Row] {
        self.scrape.rows.get(self.rows.clone()).unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }
}

/// How many bytes a varint takes.
fn varint_length(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

fn integer(number: u64, value: u64, out: &mut Vec<u8>) {
    varint(number << 3, out);
    varint(value, out);
}

fn double(number: u64, value: f64, out: &mut Vec<u8>) {
    varint(number << 3 | 1, out);
    out.extend_from_slice(&value.to_le_bytes());
}

fn bytes(number: u64, content: &[u8], out: &mut Vec<u8>) {
    varint(number << 3 | 2, out);
    varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

/// A `Sample`, which is the same in both.
fn sample(number: u64, value: f64, timestamp: i64, out: &mut Vec<u8>) {
    varint(number << 3 | 2, out);
    varint(9 + 1 + varint_length(timestamp as u64) as u64, out);
    double(1, value, out);
    integer(2, timestamp as u64, out);
}

/// The type of a family, the same number in both.
fn kind_number(kind: MetricKind) -> u64 {
    match kind {
        MetricKind::Untyped => 0,
        MetricKind::Counter => 1,
        MetricKind::Gauge => 2,
        MetricKind::Histogram => 3,
        MetricKind::GaugeHistogram => 4,
        MetricKind::Summary => 5,
        MetricKind::Info => 6,
        MetricKind::StateSet => 7,
    }
}

/// A `Histogram`, which is the same in both.
fn histogram(number: u64, native: &NativeHistogram, is_gauge: bool, timestamp: i64, out: &mut Vec<u8>) {
    let mut message = Vec::new();
    if native.is_float {
        double(2, native.count, &mut message);
    } else {
        integer(1, native.count as u64, &mut message);
    }
    double(3, native.sum, &mut message);
    integer(4, zigzag(i64::from(native.schema)), &mut message);
    double(5, native.zero_threshold, &mut message);
    if native.is_float {
        double(7, native.zero_count, &mut message);
    } else {
        integer(6, native.zero_count as u64, &mut message);
    }
    side(8, &native.negative, native.is_float, &mut message);
    side(11, &native.positive, native.is_float, &mut message);
    if is_gauge {
        integer(14, 3, &mut message);
    }
    integer(15, timestamp as u64, &mut message);
    bytes(number, &message, out);
}

/// Spans, then counts: of integers each as its difference from the one before, of floats as it is.
fn side(first: u64, side: &Buckets, is_float: bool, out: &mut Vec<u8>) {
    let mut span = Vec::new();
    for (offset, length) in &side.spans {
        span.clear();
        integer(1, zigzag(i64::from(*offset)), &mut span);
        integer(2, u64::from(*length), &mut span);
        bytes(first, &span, out);
    }
    let packed = packed_counts(side, is_float);
    if !packed.is_empty() {
        bytes(first + if is_float { 2 } else { 1 }, &packed, out);
    }
}
