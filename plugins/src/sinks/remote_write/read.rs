//! From an event to its series, as a Prometheus that scraped the target itself would have stored them: the labels
//! of the target on every sample, the time of the scrape, each series once, and the report of the scrape.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasherDefault;

use prometheus_streams_core::event::Event;
use prometheus_streams_core::values::Size;

use super::series::{ExemplarRow, Metadata, Origin, Pair, Part, Point, Row, STALE, Scrape};
use super::symbols::{AsItIs, Seed, Symbol};
use crate::exposition::relabel::{self, LabelSet, Rule};
use crate::exposition::{self, Entry, Exemplar, Family, MetricKind, Mode, ParseError, Parser, Sample};
use crate::support::report::{self, Fact, Unreadable};
use crate::support::scrape;

const NAME: &str = "__name__";

/// How far ahead of its scrape a sample may lie, in milliseconds. Prometheus drops what is further.
const MOST_AHEAD: i64 = 10 * 60 * 1000;

/// What the labels that every series of a scrape gets may take on all of them together. They are the only thing that
/// makes a scrape larger than its body.
const MOST_COMMON: Size = Size(512 << 20);

/// The suffixes of series that may belong to a family of another name.
const SUFFIXES: [&str; 8] = ["_total", "_bucket", "_sum", "_count", "_created", "_info", "_gsum", "_gcount"];

/// What is read, and how.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) seed: Seed,
    /// Sorted by name.
    pub(super) external_labels: Vec<(String, String)>,
    pub(super) exemplars: bool,
    pub(super) native_histograms: bool,
    pub(super) relabel: Vec<Rule>,
}

impl Reading {
    /// The series of an event, and whether its body could be read. If not, they are those of a failed scrape.
    pub(super) fn read(&self, event: &Event) -> (Scrape, Result<(), Unreadable>) {
        let readable = if scrape::is_up(event) { self.body(event).map(Some) } else { Ok(None) };
        match readable {
            Ok(Some(scrape)) => (scrape, Ok(())),
            Ok(None) => (self.reports(event, 0.0), Ok(())),
            Err(error) => (self.reports(event, 0.0), Err(error)),
        }
    }

    /// The end of what a scrape says of itself, at `timestamp`.
    pub(super) fn report_ends(&self, event: &Event, timestamp: i64) -> Scrape {
        let mut ends = self.reports(event, 0.0);
        for row in &mut ends.rows {
            (row.point, row.timestamp, row.origin) = (Point::Float(STALE), timestamp, Origin::End);
        }
        ends
    }

    fn reports(&self, event: &Event, up: f64) -> Scrape {
        let mut reader = Reader::new(self, event);
        reader.reports(event);
        reader.finish_reports(event, up);
        reader.scrape
    }

    fn body(&self, event: &Event) -> Result<Scrape, Unreadable> {
        let mut reader = Reader::new(self, event);
        reader.reports(event);
        let parser = Parser::new(report::format(event), Mode::Compat, &event.body);
        reader.make_room(event.body.len());
        reader.entries(parser).map_err(|error| report::unreadable(event, error))?;
        if reader.is_full() {
            return Err(Unreadable::TooLarge(MOST_COMMON));
        }
        reader.finish_reports(event, 1.0);
        Ok(reader.scrape)
    }
}

/// One event on its way.
struct Reader<'r> {
    reading: &'r Reading,
    scrape: Scrape,
    /// The labels that every series gets, sorted by name.
    common: Vec<Common>,
    /// What they take on one series, in bytes.
    common_size: u64,
    honor_labels: bool,
    honor_timestamps: bool,
    timestamp: i64,
    name_label: Symbol,
    /// Series that have come, with their time if that is their own; of several the first counts.
    seen: HashSet<u64, BuildHasherDefault<AsItIs>>,
    families: HashMap<Symbol, Metadata, BuildHasherDefault<AsItIs>>,
    /// Samples that were read, duplicates and dropped ones too.
    counted: usize,
    /// The facts that the first rows tell, by their names.
    reported: Vec<&'static str>,
    /// The name of the series before, and of its labels: those of the next are mostly the same.
    last: Vec<Symbol>,
    /// Memory for the labels of one series.
    own: Vec<Pair>,
    pairs: Vec<Pair>,
    /// The labels of the target, for series that have labels of the same names.
    target: Vec<(String, String)>,
}

/// A label that all series of an event get.
struct Common {
    name: Symbol,
    value: Symbol,
    /// Whether it is one of the target, and not an external one, which gives way.
    is_target: bool,
}

impl<'r> Reader<'r> {
    fn new(reading: &'r Reading, event: &Event) -> Self {
        let mut scrape = Scrape::new(reading.seed);
        let target = event.labels.iter().filter(|(_, value)| !value.is_empty());
        let target: Vec<_> = target.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut all: Vec<_> = target.iter().map(|(name, value)| (name, value, true)).collect();
        let external =
            reading.external_labels.iter().filter(|(name, _)| target.iter().all(|(own, _)| own != name));
        all.extend(external.map(|(name, value)| (name, value, false)));
        all.sort_unstable();
        let size = |name: &str, value: &str| size_of::<Pair>() + name.len() + value.len();
        let common_size = all.iter().map(|(name, value, _)| size(name, value) as u64).sum();
        let common = all.into_iter().map(|(name, value, is_target)| Common {
            name: scrape.symbols.intern(name),
            value: scrape.symbols.intern(value),
            is_target,
        });
        let common = common.collect();
        Self {
            reading,
            common,
            common_size,
            honor_labels: scrape::honors_labels(event),
            honor_timestamps: scrape::honors_timestamps(event),
            timestamp: i64::try_from(scrape::unix_millis(event.timestamp)).unwrap_or(i64::MAX),
            name_label: scrape.symbols.intern(NAME),
            seen: HashSet::default(),
            families: HashMap::default(),
            last: Vec::new(),
            counted: 0,
            reported: Vec::new(),
            own: Vec::new(),
            pairs: Vec::new(),
            target,
            scrape,
        }
    }

    /// Makes room for what a body of `bytes` bytes ordinarily says.
    fn make_room(&mut self, bytes: usize) {
        self.scrape.make_room(bytes);
        self.seen.reserve(bytes / 100);
        self.families.reserve(bytes / 200);
    }

    fn entries(&mut self, mut parser: Parser<'_>) -> Result<(), ParseError> {
        let mut skip = 0;
        while let Some(entry) = parser.next_entry()? {
            match entry {
                Entry::Help { name, text } => {
                    let help = self.scrape.symbols.intern(&text);
                    self.family(&name).help = help;
                }
                Entry::Type { name, kind } => self.family(&name).kind = kind,
                Entry::Unit { name, unit } => {
                    let unit = self.scrape.symbols.intern(&unit);
                    self.family(&name).unit = unit;
                }
                Entry::Sample { .. } if skip > 0 => skip -= 1,
                Entry::Sample { name, value, timestamp } => {
                    self.counted += 1;
                    let is_new = self.add(&parser, &name, Point::Float(value), timestamp);
                    if is_new && let Some(family) = name.strip_suffix("_created") {
                        self.created(&name, family, value);
                    }
                }
                Entry::Histogram { name, timestamp, classic, .. } if self.reading.native_histograms => {
                    self.counted += 1;
                    skip = classic;
                    let index = u32::try_from(self.scrape.histograms.len()).unwrap_or(u32::MAX);
                    self.scrape.histograms.extend(parser.histogram().cloned());
                    self.add(&parser, &name, Point::Histogram(index), timestamp);
                }
                Entry::Histogram { .. } => {}
            }
        }
        self.assign_families();
        Ok(())
    }

    fn family(&mut self, name: &str) -> &mut Metadata {
        let family = self.scrape.symbols.intern(name);
        let unknown = Metadata { family, kind: MetricKind::Untyped, help: 0, unit: 0 };
        self.families.entry(family).or_insert(unknown)
    }

    /// Adds the series that the parser has read last, unless it has come before; returns whether it did.
    fn add(&mut self, parser: &Parser<'_>, name: &str, point: Point, timestamp: Option<i64>) -> bool {
        if self.is_full() {
            return false;
        }
        let own_time = timestamp.filter(|_| self.honor_timestamps);
        if own_time.is_some_and(|own| own > self.timestamp.saturating_add(MOST_AHEAD)) {
            return false;
        }
        let Some(name) = self.label(parser, name) else { return false };
        let (labels, hash) = self.scrape.keep(&self.pairs);
        let at_time = own_time.map_or(0, |own| own as u64 | 1 << 63);
        if !self.seen.insert(hash ^ at_time.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            self.scrape.labels.truncate(labels.range().start);
            return false;
        }
        let timestamp = own_time.unwrap_or(self.timestamp);
        let exemplars = self.exemplars(parser.exemplars(), timestamp);
        self.scrape.rows.push(Row {
            labels,
            hash,
            name,
            point,
            timestamp,
            created: parser.created().unwrap_or(0),
            exemplars,
            metadata: None,
            origin: if own_time.is_some() { Origin::Timed } else { Origin::Scraped },
        });
        true
    }

    /// Whether there are as many series as there may be with what all of them get.
    fn is_full(&self) -> bool {
        self.common_size.saturating_mul(self.scrape.rows.len() as u64) > MOST_COMMON.0
    }

    /// Makes the labels of a series in `pairs`, and returns its name; nothing if rules drop it.
    fn label(&mut self, parser: &Parser<'_>, name: &str) -> Option<Symbol> {
        let name_symbol = self.intern_at(0, name);
        self.own.clear();
        self.own.push((self.name_label, name_symbol));
        let mut in_the_way = false;
        for (index, label) in parser.labels().iter().enumerate() {
            let pair = (self.intern_at(index + 1, &label.name), self.scrape.symbols.intern(&label.value()));
            in_the_way |= self.common.iter().any(|common| common.is_target && common.name == pair.0);
            if pair.1 != 0 {
                self.own.push(pair);
            }
        }
        if in_the_way {
            self.own_by_the_rules(parser, name);
        }
        self.merge(in_the_way);
        if self.reading.relabel.is_empty() { Some(name_symbol) } else { self.relabel() }
    }

    /// The number of a name that stands at this place of a series.
    fn intern_at(&mut self, place: usize, name: &str) -> Symbol {
        if self.last.len() <= place {
            self.last.resize(place + 1, 0);
        }
        let guess = &mut self.last[place];
        *guess = self.scrape.symbols.intern_near(*guess, name);
        *guess
    }

    /// The labels of a series some of which have the name of one of the target.
    fn own_by_the_rules(&mut self, parser: &Parser<'_>, name: &str) {
        let target: Vec<_> =
            self.target.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut sample = Sample::new(name, 0.0);
        sample.labels = parser.labels().iter().map(|label| (label.name.clone(), label.value())).collect();
        let mut family = [Family { samples: vec![sample], ..Family::new(name, MetricKind::Untyped) }];
        exposition::apply_target_labels(&mut family, &target, self.honor_labels);
        self.own.truncate(1);
        for (name, value) in family.iter().flat_map(|family| &family.samples).flat_map(|s| &s.labels) {
            let pair = (self.scrape.symbols.intern(name), self.scrape.symbols.intern(value));
            self.own.push(pair);
        }
    }

    /// Sorts the labels of a series, together with those that all get and that it does not have.
    fn merge(&mut self, has_target: bool) {
        let symbols = &self.scrape.symbols;
        let text = |pair: &Pair| symbols.get(pair.0);
        if !self.own.is_sorted_by(|a, b| text(a) < text(b)) {
            self.own.sort_unstable_by(|a, b| text(a).cmp(text(b)));
        }
        self.pairs.clear();
        let mut own = self.own.iter().peekable();
        for common in self.common.iter().filter(|common| !(has_target && common.is_target)) {
            let name = symbols.get(common.name);
            while let Some(pair) = own.next_if(|pair| text(pair) < name) {
                self.pairs.push(*pair);
            }
            if own.peek().is_none_or(|pair| pair.0 != common.name) {
                self.pairs.push((common.name, common.value));
            }
        }
        self.pairs.extend(own);
    }

    /// Runs the rules over the labels in `pairs`.
    fn relabel(&mut self) -> Option<Symbol> {
        let symbols = &self.scrape.symbols;
        let labels = self.pairs.iter().map(|(name, value)| (symbols.get(*name), symbols.get(*value)));
        let mut labels: LabelSet<'_> = labels.collect();
        if !relabel::apply(&self.reading.relabel, &mut labels) || labels.get(NAME).is_empty() {
            return None;
        }
        let labels = labels.into_owned();
        let name = self.scrape.symbols.intern(labels.get(NAME));
        self.pairs.clear();
        for (name, value) in labels.iter() {
            let pair = (self.scrape.symbols.intern(name), self.scrape.symbols.intern(value));
            self.pairs.push(pair);
        }
        Some(name)
    }

    fn exemplars(&mut self, exemplars: &[Exemplar<'_>], scraped: i64) -> Part {
        let start = self.scrape.exemplars.len();
        for exemplar in exemplars.iter().filter(|_| self.reading.exemplars) {
            self.own.clear();
            for (name, value) in exemplar.labels.iter().filter(|(_, value)| !value.is_empty()) {
                let pair = (self.scrape.symbols.intern(name), self.scrape.symbols.intern(value));
                self.own.push(pair);
            }
            let symbols = &self.scrape.symbols;
            self.own.sort_unstable_by(|a, b| symbols.get(a.0).cmp(symbols.get(b.0)));
            let at = self.scrape.labels.len();
            self.scrape.labels.extend_from_slice(&self.own);
            let labels = Part::new(at, self.scrape.labels.len());
            let timestamp = exemplar.timestamp.unwrap_or(scraped);
            self.scrape.exemplars.push(ExemplarRow { labels, value: exemplar.value, timestamp });
        }
        // Those of a native histogram; a receiver takes them in the order of time only.
        if let Some(added) = self.scrape.exemplars.get_mut(start..) {
            added.sort_by_key(|exemplar| exemplar.timestamp);
        }
        Part::new(start, self.scrape.exemplars.len())
    }

    /// Says of the series right before `name`, which is `family` with `_created`, when they began: those of the
    /// family that have its labels. It stops at another `_created`, so that no series is looked at twice.
    fn created(&mut self, name: &str, family: &str, seconds: f64) {
        let Some((created, before)) = self.scrape.rows.split_last() else { return };
        if self.scrape.symbols.get(created.name) != name || !seconds.is_finite() {
            return;
        }
        let labels = created.labels;
        let is_of_it = |row: &Row| {
            let rest = self.scrape.symbols.get(row.name).strip_prefix(family);
            rest.is_some_and(|rest| matches!(rest, "" | "_total" | "_bucket" | "_sum" | "_count"))
                && self.same_but_for_bounds(row.labels, labels)
        };
        let count = before.iter().rev().take_while(|row| is_of_it(row)).count();
        let first = before.len() - count;
        let millis = (seconds * 1000.0) as i64;
        self.scrape.rows.iter_mut().skip(first).take(count).for_each(|row| row.created = millis);
    }

    /// Whether two series have the same labels, but for their names and the bound of a bucket or quantile.
    fn same_but_for_bounds(&self, one: Part, other: Part) -> bool {
        let text = |symbol| self.scrape.symbols.get(symbol);
        let counts = |pair: &&Pair| !matches!(text(pair.0), NAME | "le" | "quantile");
        let [one, other] = [one, other].map(|part| self.scrape.pairs(part).iter().filter(counts));
        one.eq(other)
    }

    /// Tells every series what is known of its family.
    fn assign_families(&mut self) {
        let mut found: HashMap<Symbol, Option<u32>, BuildHasherDefault<AsItIs>> = HashMap::default();
        for row in &mut self.scrape.rows {
            let metadata = &mut self.scrape.metadata;
            let known = found.entry(row.name).or_insert_with(|| {
                let family = family_of(self.scrape.symbols.get(row.name), |name| {
                    self.families.get(&self.scrape.symbols.find(name)?)
                });
                metadata.extend(family);
                family.and_then(|_| u32::try_from(metadata.len() - 1).ok())
            });
            row.metadata = row.metadata.or(*known);
        }
    }

    /// Adds the series of the report; their values come last, when all has been counted.
    fn reports(&mut self, event: &Event) {
        for Fact { name, help, .. } in report::facts(event, 0) {
            self.own.clear();
            let symbol = self.scrape.symbols.intern(name);
            self.own.push((self.name_label, symbol));
            self.merge(false);
            let is_wanted = self.reading.relabel.is_empty() || self.relabel().is_some();
            if is_wanted {
                self.report(name, symbol, help);
            }
        }
    }

    fn report(&mut self, name: &'static str, symbol: Symbol, help: &str) {
        let help = self.scrape.symbols.intern(help);
        let metadata = Metadata { family: symbol, kind: MetricKind::Gauge, help, unit: 0 };
        self.scrape.metadata.push(metadata);
        let (labels, hash) = self.scrape.keep(&self.pairs);
        self.seen.insert(hash);
        self.reported.push(name);
        self.scrape.rows.push(Row {
            labels,
            hash,
            name: symbol,
            point: Point::Float(0.0),
            timestamp: self.timestamp,
            created: 0,
            exemplars: Part::default(),
            metadata: u32::try_from(self.scrape.metadata.len() - 1).ok(),
            origin: Origin::Report,
        });
    }

    fn finish_reports(&mut self, event: &Event, up: f64) {
        let facts = report::facts(event, self.counted);
        for (row, name) in self.scrape.rows.iter_mut().zip(&self.reported) {
            let fact = facts.iter().find(|fact| fact.name == *name).map_or(0.0, |fact| fact.value);
            row.point = Point::Float(if *name == report::UP { up } else { fact });
        }
    }
}

/// The family of a series: that of its name, or one whose kind adds to its own name what the series has more.
fn family_of<'f>(name: &str, declared: impl Fn(&str) -> Option<&'f Metadata>) -> Option<Metadata> {
    if let Some(own) = declared(name) {
        return Some(*own);
    }
    SUFFIXES.iter().find_map(|suffix| {
        let family = declared(name.strip_suffix(suffix)?)?;
        let is_its = family.kind.suffixes().contains(suffix)
            || matches!((family.kind, *suffix), (MetricKind::Counter, "_total"))
            || *suffix == "_created";
        is_its.then_some(*family)
    })
}

#[cfg(test)]
pub(super) mod tests;
