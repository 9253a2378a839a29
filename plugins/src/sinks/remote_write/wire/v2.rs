//! `io.prometheus.write.v2.Request`.

use super::super::series::{ExemplarRow, Part, Point, Row, Scrape};
use super::super::symbols::{Symbol, Symbols};
use super::{Slice, bytes, double, histogram, integer, kind_number, sample, varint};
use crate::exposition::MetricKind;

/// The fields of `Request`.
const SYMBOLS: u64 = 4;
const TIMESERIES: u64 = 5;

/// The fields of `TimeSeries`.
const LABELS_REFS: u64 = 1;
const SAMPLES: u64 = 2;
const HISTOGRAMS: u64 = 3;
const EXEMPLARS: u64 = 4;
const METADATA: u64 = 5;
const CREATED_TIMESTAMP: u64 = 6;

pub(super) fn encode(slices: &[Slice]) -> Vec<u8> {
    let Some(first) = slices.first() else { return Vec::new() };
    let rows: usize = slices.iter().map(Slice::len).sum();
    let mut request = Request {
        symbols: Symbols::new(first.scrape.symbols.seed()),
        out: Vec::with_capacity(rows * 40),
        message: Vec::new(),
        inner: Vec::new(),
    };
    for slice in slices {
        let mut numbers = vec![0; slice.scrape.symbols.len()];
        for row in slice.rows() {
            request.series(&slice.scrape, row, &mut numbers);
        }
    }
    request.finish()
}

/// A request in the making. Its symbols come from all scrapes, each of which has numbers of its own for them.
struct Request {
    symbols: Symbols,
    /// The series.
    out: Vec<u8>,
    /// Memory for one series, and for what is in it.
    message: Vec<u8>,
    inner: Vec<u8>,
}

impl Request {
    /// The symbols come first: a reader may then resolve the series as it reads them.
    fn finish(mut self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.out.len() * 2);
        for symbol in 0..self.symbols.len() {
            bytes(SYMBOLS, self.symbols.get(symbol as Symbol).as_bytes(), &mut all);
        }
        all.append(&mut self.out);
        all
    }

    fn series(&mut self, scrape: &Scrape, row: &Row, numbers: &mut [Symbol]) {
        self.message.clear();
        self.labels(LABELS_REFS, scrape, row.labels, numbers);
        let known = row.metadata.and_then(|at| scrape.metadata.get(at as usize));
        match row.point {
            Point::Float(value) => sample(SAMPLES, value, row.timestamp, &mut self.message),
            Point::Histogram(index) => {
                if let Some(native) = scrape.histograms.get(index as usize) {
                    let is_gauge = known.is_some_and(|known| known.kind == MetricKind::GaugeHistogram);
                    histogram(HISTOGRAMS, native, is_gauge, row.timestamp, &mut self.message);
                }
            }
        }
        for exemplar in scrape.exemplars.get(row.exemplars.range()).unwrap_or_default() {
            self.exemplar(scrape, exemplar, numbers);
        }
        if let Some(known) = known {
            let (help, unit) =
                (self.number(scrape, known.help, numbers), self.number(scrape, known.unit, numbers));
            self.inner.clear();
            integer(1, kind_number(known.kind), &mut self.inner);
            integer(3, u64::from(help), &mut self.inner);
            integer(4, u64::from(unit), &mut self.inner);
            bytes(METADATA, &self.inner, &mut self.message);
        }
        if row.created != 0 {
            integer(CREATED_TIMESTAMP, row.created as u64, &mut self.message);
        }
        bytes(TIMESERIES, &self.message, &mut self.out);
    }

    /// Adds the labels as a packed list of numbers.
    fn labels(&mut self, field: u64, scrape: &Scrape, part: Part, numbers: &mut [Symbol]) {
        self.inner.clear();
        for (name, value) in scrape.pairs(part) {
            let (name, value) = (self.number(scrape, *name, numbers), self.number(scrape, *value, numbers));
            varint(u64::from(name), &mut self.inner);
            varint(u64::from(value), &mut self.inner);
        }
        bytes(field, &self.inner, &mut self.message);
    }

    fn exemplar(&mut self, scrape: &Scrape, exemplar: &ExemplarRow, numbers: &mut [Symbol]) {
        let mut series = std::mem::take(&mut self.message);
        self.labels(1, scrape, exemplar.labels, numbers);
        double(2, exemplar.value, &mut self.message);
        integer(3, exemplar.timestamp as u64, &mut self.message);
        bytes(EXEMPLARS, &self.message, &mut series);
        self.message = series;
    }

    /// The number of a text of a scrape here; 0 in `numbers` means that it has not come yet.
    fn number(&mut self, scrape: &Scrape, symbol: Symbol, numbers: &mut [Symbol]) -> Symbol {
        let Some(number) = numbers.get_mut(symbol as usize) else { return 0 };
        if *number == 0 && symbol != 0 {
            *number = self.symbols.intern(scrape.symbols.get(symbol));
        }
        *number
    }
}
