//! One event as the series that a receiver is sent: their labels as numbers of texts, and one point each.

use std::ops::Range;

use super::symbols::{Seed, Symbol, Symbols};
use crate::exposition::{MetricKind, NativeHistogram};

/// The value that ends a series, as Prometheus has it.
pub(super) const STALE: f64 = f64::from_bits(0x7ff0_0000_0000_0002);

/// The series of one event.
#[derive(Debug)]
pub(super) struct Scrape {
    pub(super) symbols: Symbols,
    pub(super) rows: Vec<Row>,
    pub(super) histograms: Vec<NativeHistogram>,
    pub(super) exemplars: Vec<ExemplarRow>,
    pub(super) metadata: Vec<Metadata>,
    /// Names and values, in turn the labels of each row and exemplar.
    pub(super) labels: Vec<Pair>,
}

/// The name and the value of a label.
pub(super) type Pair = (Symbol, Symbol);

/// A part of a list, in half the room of a range.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    start: u32,
    end: u32,
}

impl Part {
    /// What was added to a list that had `start` elements and now has `end`.
    pub(super) fn new(start: usize, end: usize) -> Self {
        let index = |at| u32::try_from(at).unwrap_or(u32::MAX);
        Self { start: index(start), end: index(end) }
    }

    pub(super) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// One series and its point.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Sorted by name, with `__name__`, each with a value.
    pub(super) labels: Part,
    /// Of all labels; equal in all scrapes of one seed.
    pub(super) hash: u64,
    /// The name of the series.
    pub(super) name: Symbol,
    pub(super) point: Point,
    /// Milliseconds since 1970.
    pub(super) timestamp: i64,
    /// When the series began to count, in milliseconds since 1970; 0 if that is not known.
    pub(super) created: i64,
    pub(super) exemplars: Part,
    /// What is known of the family.
    pub(super) metadata: Option<u32>,
    pub(super) origin: Origin,
}

/// Where a row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It says how the scrape went.
    Report,
    /// The target exposed it. When it is gone, its end is marked.
    Scraped,
    /// The target exposed it with a timestamp of its own. It just ends, as in Prometheus.
    Timed,
    /// It marks the end of a series.
    End,
}

/// What a series says at one time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Point {
    Float(f64),
    /// By its place in [`Scrape::histograms`].
    Histogram(u32),
}

/// An example of what a series has counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExemplarRow {
    pub(super) labels: Part,
    pub(super) value: f64,
    /// Milliseconds since 1970.
    pub(super) timestamp: i64,
}

/// What is known of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) family: Symbol,
    pub(super) kind: MetricKind,
    pub(super) help: Symbol,
    pub(super) unit: Symbol,
}

impl Scrape {
    pub(super) fn new(seed: Seed) -> Self {
        Self {
            symbols: Symbols::new(seed),
            rows: Vec::new(),
            histograms: Vec::new(),
            exemplars: Vec::new(),
            metadata: Vec::new(),
            labels: Vec::new(),
        }
    }

    /// Makes room for what a text of `bytes` bytes ordinarily says.
    pub(super) fn make_room(&mut self, bytes: usize) {
        self.rows.reserve(bytes / 100);
        self.labels.reserve(bytes / 16);
        self.symbols.reserve(bytes / 80);
    }

    /// The labels of a row, names and values.
    pub(super) fn pairs(&self, part: Part) -> &[Pair] {
        self.labels.get(part.range()).unwrap_or_default()
    }

    /// Keeps the labels of a row, which are sorted by name; returns where they are and their hash.
    pub(super) fn keep(&mut self, pairs: &[Pair]) -> (Part, u64) {
        let start = self.labels.len();
        self.labels.extend_from_slice(pairs);
        let symbols = &self.symbols;
        let hash = pairs.iter().fold(pairs.len() as u64, |hash, (name, value)| {
            mix(mix(hash, symbols.hash(*name)), symbols.hash(*value))
        });
        (Part::new(start, self.labels.len()), hash)
    }

    /// A row as PromQL writes its series: `up{job="node"}`.
    pub(super) fn describe(&self, row: &Row) -> String {
        let name = self.symbols.get(row.name);
        let text = |symbol| self.symbols.get(symbol);
        let labels = self.pairs(row.labels).iter().map(|(name, value)| (text(*name), text(*value)));
        let labels: Vec<_> = labels
            .filter(|(name, _)| *name != "__name__")
            .map(|(name, value)| format!("{name}={value:?}"))
            .collect();
        format!("{name}{{{}}}", labels.join(", "))
    }

    /// The rows whose end is to be marked when they are gone.
    pub(super) fn tracked(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.origin == Origin::Scraped)
    }

    /// Adds the end of a series that has these labels, sorted by name.
    pub(super) fn end<'l>(&mut self, labels: impl Iterator<Item = (&'l str, &'l str)>, timestamp: i64) {
        let symbols = &mut self.symbols;
        let pairs: Vec<_> =
            labels.map(|(name, value)| (symbols.intern(name), symbols.intern(value))).collect();
        let (labels, hash) = self.keep(&pairs);
        let name = self.symbols.find("__name__");
        let name = pairs.iter().find(|(own, _)| Some(*own) == name).map_or(0, |(_, value)| *value);
        self.rows.push(Row {
            labels,
            hash,
            name,
            point: Point::Float(STALE),
            timestamp,
            created: 0,
            exemplars: Part::default(),
            metadata: None,
            origin: Origin::End,
        });
    }
}

fn mix(hash: u64, more: u64) -> u64 {
    (hash.rotate_left(23) ^ more).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
