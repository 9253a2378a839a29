//! `prometheus.WriteRequest`.

use std::sync::Arc;

use super::super::series::{ExemplarRow, Metadata, Pair, Point, Row, Scrape};
use super::{Slice, bytes, double, histogram, integer, kind_number, sample, varint, varint_length};
use crate::exposition::MetricKind;

/// The fields of `WriteRequest`.
const TIMESERIES: u64 = 1;
const METADATA: u64 = 3;

/// The fields of `TimeSeries`.
const LABELS: u64 = 1;
const SAMPLES: u64 = 2;
const EXEMPLARS: u64 = 3;
const HISTOGRAMS: u64 = 4;

pub(super) fn encode(slices: &[Slice], families: &[(Arc<Scrape>, Metadata)]) -> Vec<u8> {
    let rows: usize = slices.iter().map(Slice::len).sum();
    let mut out = Vec::with_capacity(rows * 200);
    let mut rest = Vec::new();
    for slice in slices {
        for row in slice.rows() {
            series(&slice.scrape, row, &mut rest, &mut out);
        }
    }
    for (scrape, family) in families {
        metadata(scrape, family, &mut out);
    }
    out
}

/// A series; `rest` is memory for what comes behind its labels.
fn series(scrape: &Scrape, row: &Row, rest: &mut Vec<u8>, out: &mut Vec<u8>) {
    rest.clear();
    match row.point {
        Point::Float(value) => sample(SAMPLES, value, row.timestamp, rest),
        Point::Histogram(_) => {}
    }
    for at in scrape.exemplars.get(row.exemplars.range()).unwrap_or_default() {
        exemplar(scrape, at, rest);
    }
    if let Point::Histogram(index) = row.point
        && let Some(native) = scrape.histograms.get(index as usize)
    {
        let kind = row.metadata.and_then(|at| scrape.metadata.get(at as usize)).map(|known| known.kind);
        histogram(HISTOGRAMS, native, kind == Some(MetricKind::GaugeHistogram), row.timestamp, rest);
    }
    let pairs = scrape.pairs(row.labels);
    varint(TIMESERIES << 3 | 2, out);
    varint((labels_length(scrape, pairs) + rest.len()) as u64, out);
    labels(scrape, pairs, out);
    out.extend_from_slice(rest);
}

fn labels_length(scrape: &Scrape, pairs: &[Pair]) -> usize {
    let lengths = pairs.iter().map(|pair| {
        let length = pair_length(scrape, pair);
        1 + varint_length(length as u64) + length
    });
    lengths.sum()
}

fn pair_length(scrape: &Scrape, (name, value): &Pair) -> usize {
    let length = |text: &str| 1 + varint_length(text.len() as u64) + text.len();
    length(scrape.symbols.get(*name)) + length(scrape.symbols.get(*value))
}

fn labels(scrape: &Scrape, pairs: &[Pair], out: &mut Vec<u8>) {
    for pair in pairs {
        varint(LABELS << 3 | 2, out);
        varint(pair_length(scrape, pair) as u64, out);
        bytes(1, scrape.symbols.get(pair.0).as_bytes(), out);
        bytes(2, scrape.symbols.get(pair.1).as_bytes(), out);
    }
}

fn exemplar(scrape: &Scrape, exemplar: &ExemplarRow, out: &mut Vec<u8>) {
    let mut message = Vec::new();
    labels(scrape, scrape.pairs(exemplar.labels), &mut message);
    double(2, exemplar.value, &mut message);
    integer(3, exemplar.timestamp as u64, &mut message);
    bytes(EXEMPLARS, &message, out);
}

fn metadata(scrape: &Scrape, family: &Metadata, out: &mut Vec<u8>) {
    let text = |symbol| scrape.symbols.get(symbol).as_bytes();
    let mut message = Vec::new();
    integer(1, kind_number(family.kind), &mut message);
    bytes(2, text(family.family), &mut message);
    bytes(4, text(family.help), &mut message);
    bytes(5, text(family.unit), &mut message);
    bytes(METADATA, &message, out);
}
