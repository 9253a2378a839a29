//! The making of an index.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use prometheus_streams_core::event::Event;

use super::super::shape::Shape;
use super::{Dialect, Facts, Form, Line, Part, Rendering, Target, Text, has};
use crate::exposition::{
    self, Entry, Family, FamilyOutline, Format, MetricKind, Outline, Parser, Sample, apply_target_labels,
    as_openmetrics, as_protobuf, as_text, encode_openmetrics_samples, encode_openmetrics_timestamp,
    encode_protobuf_metrics, encode_sample, encode_series,
};
use crate::support::report::{self, Fact};
use crate::support::scrape;

/// The names of the families that we add.
pub(super) fn is_reported(name: &str) -> bool {
    name == "up" || name.starts_with("scrape_")
}

/// An index in the making.
pub(super) struct Maker<'a> {
    event: &'a Event,
    target: Target<'a>,
    dialect: Dialect,
    honors_labels: bool,
    honors_timestamps: bool,
    pub(super) facts: Facts,
    families: Vec<(Cow<'a, str>, MetricKind)>,
    parts: Vec<Part>,
    lines: Vec<Line>,
    own: Vec<u8>,
}

impl<'a> Maker<'a> {
    pub(super) fn new(event: &'a Event, target: Target<'a>, dialect: Dialect) -> Self {
        Self {
            event,
            target,
            dialect,
            honors_labels: scrape::honors_labels(event),
            honors_timestamps: scrape::honors_timestamps(event),
            facts: Facts::default(),
            families: Vec::new(),
            parts: Vec::new(),
            lines: Vec::new(),
            own: Vec::new(),
        }
    }

    /// Notes a sample on which the parser stands: where the labels of the target go, or, where that is not all that
    /// there is to do, the line written anew.
    pub(super) fn note(&mut self, parser: &Parser<'_>, entry: &Entry<'_>) -> Line {
        let Entry::Sample { name, timestamp, .. } = entry else {
            // Bodies of lines have no native histograms.
            return Line { start: 0, splice: 0, end: 0, form: Form::Written };
        };
        let is_taken =
            |name: &str| has(self.target.labels, name) || name == scrape::JOB || name == scrape::INSTANCE;
        let has_conflict = parser.labels().iter().any(|label| is_taken(&label.name));
        self.facts.has_conflicts |= has_conflict;
        self.facts.has_timestamps |= timestamp.is_some();
        let keeps_tail = match timestamp {
            Some(_) => {
                self.honors_timestamps
                    && self.target.timestamp.is_none()
                    && self.dialect == self.own_dialect()
            }
            None => self.target.timestamp.is_none() || parser.exemplars().is_empty(),
        };
        if has_conflict || !keeps_tail || !parser.is_tidy(name) {
            return self.write_one(parser, name, *timestamp);
        }
        let at = narrow(parser.line());
        let series = narrow(parser.series());
        let is_bare = parser.labels().is_empty();
        let has_feed = self.event.body.get(parser.line()).is_some_and(|line| line.ends_with(b"\n"));
        Line {
            start: at.start,
            splice: series.end - u32::from(!is_bare),
            end: at.end - u32::from(has_feed),
            form: if is_bare { Form::Bare } else { Form::Labelled },
        }
    }

    /// The dialect of the body.
    fn own_dialect(&self) -> Dialect {
        match report::format(self.event) {
            Format::Text => Dialect::Text,
            Format::OpenMetrics => Dialect::OpenMetrics,
            Format::Protobuf => Dialect::Protobuf,
        }
    }

    /// Writes the line of a sample anew: its value, and its exemplar if it has one, are in the same words.
    fn write_one(&mut self, parser: &Parser<'_>, name: &str, timestamp: Option<i64>) -> Line {
        let mut sample = Sample::new(name, 0.0);
        sample.labels = parser.labels().iter().map(|label| (label.name.clone(), label.value())).collect();
        sample.timestamp = timestamp.filter(|_| self.honors_timestamps);
        let mut family = Family::new(name, MetricKind::Untyped);
        family.samples.push(sample);
        label(std::slice::from_mut(&mut family), &self.target, self.honors_labels);
        let start = self.own.len();
        let mut is_plain = true;
        for sample in &family.samples {
            is_plain &= sample.is_plain();
            encode_series(sample, &mut self.own);
            self.write_tail(parser, sample.timestamp);
        }
        self.facts.has_quotes |= !is_plain;
        written(start, self.own.len(), is_plain)
    }

    fn write_tail(&mut self, parser: &Parser<'_>, timestamp: Option<i64>) {
        let tail =
            self.event.body.get(parser.series().end..parser.line().end).unwrap_or_default().trim_ascii();
        let value = tail.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        self.own.push(b' ');
        self.own.extend_from_slice(value);
        match (self.dialect, timestamp) {
            (Dialect::OpenMetrics, timestamp) => encode_openmetrics_timestamp(timestamp, &mut self.own),
            (_, Some(timestamp)) => self.own.extend_from_slice(format!(" {timestamp}").as_bytes()),
            (_, None) => {}
        }
        if let Some(at) = memchr::memchr(b'#', tail) {
            self.own.push(b' ');
            self.own.extend_from_slice(&tail[at..]);
        }
    }

    /// The series that Prometheus adds to every scrape; `counted` samples were found in the body.
    pub(super) fn report(&mut self, counted: usize) {
        let event = self.event;
        for Fact { name, help, value } in report::dated_facts(event, true, counted) {
            let mut family = Family::new(name, MetricKind::Gauge);
            family.help = Some(help.into());
            family.samples.push(Sample::new(name, value));
            self.write_family(family, false);
        }
    }

    /// Takes over the families of a body of lines. Their types stay what the target said they are, for a reader as
    /// Prometheus, which takes its word; and whoever would refuse the target for that refuses the page.
    pub(super) fn take(&mut self, outline: Outline<'a, Line>, format: Format) {
        let converts = format == Format::Text && self.dialect == Dialect::OpenMetrics;
        let names: HashSet<_> =
            outline.families.iter().filter(|_| converts).map(|family| family.name.clone()).collect();
        for family in outline.families {
            let lines = &outline.samples[family.samples.clone()];
            let name = match family.kind {
                MetricKind::Counter if converts => openmetrics_counter(&family.name, &names),
                _ => family.name.clone(),
            };
            self.add(name, family, lines);
        }
    }

    fn add(&mut self, name: Cow<'a, str>, family: FamilyOutline<'a>, lines: &[Line]) {
        let start = self.lines.len();
        self.lines.extend_from_slice(lines);
        self.facts.has_quotes |= !exposition::is_plain_metric_name(&name);
        let (help, unit) = (self.text_of(family.help), self.text_of(family.unit));
        self.families.push((name, family.kind));
        self.parts.push(Part { help, unit, lines: start as u32..self.lines.len() as u32 });
    }

    /// Writes all families anew.
    pub(super) fn write_all(&mut self, families: Vec<Family<'a>>) {
        let families = match self.dialect {
            Dialect::Text => as_text(families),
            Dialect::OpenMetrics => as_openmetrics(families),
            Dialect::Protobuf => as_protobuf(families),
        };
        for family in families {
            self.write_family(family, self.honors_labels);
        }
    }

    fn write_family<'f>(&mut self, mut family: Family<'f>, honors_labels: bool)
    where
        'a: 'f,
    {
        if family.samples.is_empty() && family.histograms.is_empty() {
            return;
        }
        label(std::slice::from_mut(&mut family), &self.target, honors_labels);
        let start = self.lines.len();
        let (plain, quoted) = split(&family);
        for (family, is_plain) in [(plain, true), (quoted, false)] {
            let at = self.own.len();
            match self.dialect {
                Dialect::Text => {
                    family.samples.iter().for_each(|sample| encode_sample(sample, &mut self.own))
                }
                Dialect::OpenMetrics => encode_openmetrics_samples(&family, &mut self.own),
                Dialect::Protobuf => {
                    let mut metrics = Vec::new();
                    encode_protobuf_metrics(&family, &mut metrics);
                    self.own.extend_from_slice(&metrics);
                }
            }
            self.index(at, is_plain);
        }
        let (help, unit) = (self.own_text(family.help.as_deref()), self.own_text(family.unit.as_deref()));
        self.families.push((Cow::Owned(family.name.into_owned()), family.kind));
        self.parts.push(Part { help, unit, lines: start as u32..self.lines.len() as u32 });
    }

    /// Makes lines of what has been written from `at` on.
    fn index(&mut self, at: usize, is_plain: bool) {
        let text = &self.own[at..];
        if self.dialect == Dialect::Protobuf {
            if !text.is_empty() {
                self.lines.push(written(at, self.own.len(), is_plain));
            }
            return;
        }
        let mut start = at;
        for end in memchr::memchr_iter(b'\n', text) {
            self.lines.push(written(start, at + end, is_plain));
            start = at + end + 1;
        }
    }

    /// A text, in the body if that has it just so.
    fn text_of(&mut self, text: Option<Cow<'a, str>>) -> Text {
        let base = self.event.body.as_ptr() as usize;
        match text {
            Some(Cow::Borrowed(text)) => {
                let start = (text.as_ptr() as usize).wrapping_sub(base);
                match self.event.body.get(start..start.wrapping_add(text.len())) {
                    Some(found) if found == text.as_bytes() => {
                        Text { start: start as u32, end: (start + text.len()) as u32, is_own: false }
                    }
                    _ => self.own_text(Some(text)),
                }
            }
            Some(Cow::Owned(text)) => self.own_text(Some(&text)),
            None => Text::default(),
        }
    }

    fn own_text(&mut self, text: Option<&str>) -> Text {
        let start = self.own.len();
        self.own.extend_from_slice(text.unwrap_or_default().as_bytes());
        Text { start: start as u32, end: self.own.len() as u32, is_own: true }
    }

    pub(super) fn finish(self, before: Option<&Arc<Shape>>) -> Rendering {
        let families = self.families.iter().map(|(name, kind)| (&**name, *kind));
        Rendering {
            shape: self.target.names.shape(families, before),
            parts: self.parts.into(),
            lines: self.lines.into(),
            own: self.own.into(),
        }
    }
}

/// The name that a family of counters has in OpenMetrics: without `_total`, unless another family has that name.
fn openmetrics_counter<'a>(name: &Cow<'a, str>, names: &HashSet<Cow<'a, str>>) -> Cow<'a, str> {
    let base = name.strip_suffix("_total");
    match base.filter(|base| !base.is_empty() && !names.contains(*base) && !is_reported(base)) {
        Some(base) => Cow::Owned(base.to_owned()),
        None => name.clone(),
    }
}

/// Puts on the labels of the target and, where that is wanted, the time of the scrape.
fn label<'a>(families: &mut [Family<'a>], target: &Target<'a>, honors_labels: bool) {
    apply_target_labels(families, target.labels, honors_labels);
    for family in families {
        for sample in &mut family.samples {
            keep_away(&mut sample.labels);
            sample.timestamp = sample.timestamp.or(target.timestamp);
        }
        for histogram in &mut family.histograms {
            keep_away(&mut histogram.labels);
            histogram.timestamp = histogram.timestamp.or(target.timestamp);
        }
    }
}

/// See [`label_block`].
fn keep_away(labels: &mut Vec<exposition::LabelPair<'_>>) {
    for name in [scrape::INSTANCE, scrape::JOB] {
        if !labels.iter().any(|(own, _)| own == name) {
            labels.push((name.into(), "".into()));
        }
    }
}

/// The samples of a family that every reader takes, and those with names in quotes.
fn split<'a>(family: &Family<'a>) -> (Family<'a>, Family<'a>) {
    let mut quoted = Family { samples: Vec::new(), histograms: Vec::new(), ..family.clone() };
    let mut plain = family.clone();
    let is_plain = |labels: &[exposition::LabelPair<'_>]| {
        exposition::is_plain_metric_name(&family.name)
            && labels.iter().all(|(name, _)| exposition::is_plain_label_name(name))
    };
    quoted.samples = plain.samples.extract_if(.., |sample| !sample.is_plain()).collect();
    quoted.histograms = plain.histograms.extract_if(.., |histogram| !is_plain(&histogram.labels)).collect();
    (plain, quoted)
}

fn written(start: usize, end: usize, is_plain: bool) -> Line {
    let form = if is_plain { Form::Written } else { Form::Quoted };
    Line { start: start as u32, splice: 0, end: end as u32, form }
}

/// A place in a body, which is known to be less than 4 GiB long.
fn narrow(range: Range<usize>) -> Range<u32> {
    range.start as u32..range.end as u32
}
