//! The streaming parser of Prometheus' protobuf format: `io.prometheus.client.MetricFamily` messages, each
//! after its length, as the content type `application/vnd.google.protobuf;
//! proto=io.prometheus.client.MetricFamily; encoding=delimited` says.
//!
//! A family has its help, type and unit once, and its metrics; a metric of a histogram or summary holds
//! what is several series elsewhere. This parser reads the wire format itself, borrows all text from the
//! body, and gives the entries that the other formats' parsers give for the same metrics: counts and sums as
//! `_count` and `_sum`, buckets with `le` as Prometheus spells it, and a `+Inf` bucket where the target left
//! it out. Only the names of such series are allocated.
//!
//! As in Prometheus a family without metrics is skipped unseen, a timestamp of 0 is none, and what follows
//! the `+Inf` bucket is not shown. Start timestamps are read and left out: Prometheus makes no series of
//! them. Metrics with a native histogram give [`Entry::Histogram`] and after it the same in classic form,
//! unless a label `le` of their own is in the way.

mod labels;
mod metric;
mod native;
mod series;
#[cfg(test)]
mod tests;
mod wire;

use std::borrow::Cow;

use super::entry::{Entry, Label};
use super::error::ParseError;
use super::format::Mode;
use super::model::{Exemplar, MetricKind, NativeHistogram};
use metric::Metric;
use wire::{Message, fail};

/// Reads a body entry by entry.
#[derive(Debug)]
pub(super) struct ProtobufParser<'a> {
    rest: Message<'a>,
    /// The number of the family in the body, from 1.
    number: usize,
    family: Family<'a>,
    step: Step,
    metric: Metric<'a>,
    exemplars: Vec<Exemplar<'a>>,
    histogram: Option<NativeHistogram>,
}

/// A `MetricFamily`; its metrics are yet to be read from `fields`.
#[derive(Debug)]
struct Family<'a> {
    fields: Message<'a>,
    name: &'a str,
    help: Option<&'a str>,
    unit: Cow<'a, str>,
    kind: MetricKind,
}

/// What comes next.
#[derive(Debug, Clone, Copy)]
enum Step {
    Help,
    Unit,
    Type,
    Metric,
    /// The series of the current metric with this number: count, sum, and then buckets or quantiles.
    Series(usize),
}

impl<'a> ProtobufParser<'a> {
    /// A parser at the start of `body`.
    pub(super) fn new(body: &'a [u8], mode: Mode) -> Self {
        let rest = Message::new(body, mode);
        let family =
            Family { fields: rest, name: "", help: None, unit: "".into(), kind: MetricKind::Untyped };
        Self {
            rest,
            number: 0,
            family,
            step: Step::Help,
            metric: Metric::default(),
            exemplars: Vec::new(),
            histogram: None,
        }
    }

    /// See [`super::Parser::labels`].
    pub(super) fn labels(&self) -> &[Label<'a>] {
        self.metric.labels.as_slice()
    }

    /// See [`super::Parser::exemplars`].
    pub(super) fn exemplars(&self) -> &[Exemplar<'a>] {
        &self.exemplars
    }

    /// See [`super::Parser::histogram`].
    pub(super) fn histogram(&self) -> Option<&NativeHistogram> {
        self.histogram.as_ref()
    }

    /// See [`super::Parser::created`].
    pub(super) fn created(&self) -> Option<i64> {
        Some(self.metric.created).filter(|created| *created != 0)
    }

    /// See [`super::Parser::next_entry`].
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry<'a>>, ParseError> {
        self.advance().map_err(|error| self.blame(error))
    }

    #[cold]
    fn blame(&self, error: ParseError) -> ParseError {
        let name = match self.family.name {
            "" => String::new(),
            name => format!(" {name:?}"),
        };
        ParseError { message: format!("family {}{name}: {}", self.number, error.message), ..error }
    }

    fn advance(&mut self) -> Result<Option<Entry<'a>>, ParseError> {
        loop {
            match self.step {
                Step::Help => {
                    if !self.next_family()? {
                        return Ok(None);
                    }
                    self.step = Step::Unit;
                    if let Some(text) = self.family.help {
                        return Ok(Some(Entry::Help { name: self.family.name.into(), text: text.into() }));
                    }
                }
                Step::Unit => {
                    self.step = Step::Type;
                    if !self.family.unit.is_empty() {
                        let unit = std::mem::take(&mut self.family.unit);
                        return Ok(Some(Entry::Unit { name: self.family.name.into(), unit }));
                    }
                }
                Step::Type => {
                    self.step = Step::Metric;
                    return Ok(Some(Entry::Type { name: self.family.name.into(), kind: self.family.kind }));
                }
                Step::Metric => {
                    if !self.next_metric()? {
                        self.step = Step::Help;
                    } else if let Some(entry) = self.whole_metric()? {
                        return Ok(Some(entry));
                    }
                }
                Step::Series(index) => return self.series(index).map(Some),
            }
        }
    }

    /// Reads on to the next family that has metrics; whether there is one.
    fn next_family(&mut self) -> Result<bool, ParseError> {
        while !self.rest.is_at_end() {
            self.number += 1;
            self.family.name = "";
            let fields = self.rest.delimited()?;
            if self.family.read(fields)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads on to the next metric of the family; whether there is one.
    fn next_metric(&mut self) -> Result<bool, ParseError> {
        let fields = &mut self.family.fields;
        while let Some(field) = fields.field("MetricFamily")? {
            if field.number == METRIC {
                self.metric.decode(fields.message(field, "MetricFamily.metric")?)?;
                return Ok(true);
            }
            fields.skip(field)?;
        }
        Ok(false)
    }

    /// What a metric says at once: its only sample, or its native histogram. `None` if it has only series.
    fn whole_metric(&mut self) -> Result<Option<Entry<'a>>, ParseError> {
        self.exemplars.clear();
        self.histogram = None;
        let metric = &mut self.metric;
        let value = match self.family.kind {
            MetricKind::Counter => {
                self.exemplars.extend(metric.exemplar.take());
                metric.counter
            }
            MetricKind::Gauge => metric.gauge,
            MetricKind::Summary => {
                self.step = Step::Series(0);
                return Ok(None);
            }
            MetricKind::Histogram | MetricKind::GaugeHistogram => return self.native_histogram(),
            _ => metric.untyped,
        };
        let name = self.family.name.into();
        let (value, timestamp) = (value.unwrap_or_default(), self.metric.timestamp());
        Ok(Some(Entry::Sample { name, value, timestamp }))
    }

    fn native_histogram(&mut self) -> Result<Option<Entry<'a>>, ParseError> {
        self.step = Step::Series(0);
        let has_room = self.metric.labels.has_room_for("le");
        let histogram = self.metric.histogram.get_or_insert_default();
        if !histogram.is_native() {
            return Ok(None);
        }
        if !has_room {
            self.step = Step::Metric;
        }
        self.histogram = Some(histogram.native()?);
        self.exemplars.extend(histogram.native_exemplars());
        Ok(Some(Entry::Histogram {
            name: self.family.name.into(),
            classic: if has_room { 2 + histogram.shown_buckets() } else { 0 },
            has_buckets: !histogram.buckets.is_empty(),
            timestamp: self.metric.timestamp(),
        }))
    }

    /// One series of a histogram or summary.
    fn series(&mut self, index: usize) -> Result<Entry<'a>, ParseError> {
        self.exemplars.clear();
        self.histogram = None;
        let is_summary = self.family.kind == MetricKind::Summary;
        let part = if is_summary {
            self.metric.summary.get_or_insert_default().part(index)
        } else {
            self.metric.histogram.get_or_insert_default().part(index)
        };
        self.exemplars.extend(part.exemplar);
        self.metric.labels.set_bound(part.bound)?;
        self.step = if part.is_last { Step::Metric } else { Step::Series(index + 1) };
        let name = match part.suffix {
            "" => self.family.name.into(),
            suffix => format!("{}{suffix}", self.family.name).into(),
        };
        Ok(Entry::Sample { name, value: part.value, timestamp: self.metric.timestamp() })
    }
}

/// The number of the field in a `MetricFamily` that holds a metric.
const METRIC: i32 = 4;

impl<'a> Family<'a> {
    /// Reads all but the metrics; whether there are any. If not, nothing of it matters.
    fn read(&mut self, message: Message<'a>) -> Result<bool, ParseError> {
        self.fields = message;
        self.unit = "".into();
        let (mut name, mut help, mut kind) = (None, None, 0);
        let mut has_metrics = false;
        let mut fields = message;
        while let Some(field) = fields.field("MetricFamily")? {
            match field.number {
                1 => name = Some(fields.message(field, "MetricFamily.name")?),
                2 => help = Some(fields.message(field, "MetricFamily.help")?),
                3 => kind = fields.integer(field, "MetricFamily.type")? as i32,
                METRIC => {
                    fields.message(field, "MetricFamily.metric")?;
                    has_metrics = true;
                }
                5 => self.unit = fields.lossy_text(field, "MetricFamily.unit")?,
                _ => fields.skip(field)?,
            }
        }
        if has_metrics {
            self.name = name.map_or(Ok(""), |name| name.into_text("MetricFamily.name"))?;
            self.help = help.map(|help| help.into_text("MetricFamily.help")).transpose()?;
            self.kind = kind_of(kind, message.at())?;
        }
        if has_metrics && self.name.is_empty() {
            return fail(message.at(), "MetricFamily.name: expected a name".into());
        }
        Ok(has_metrics)
    }
}

fn kind_of(number: i32, at: usize) -> Result<MetricKind, ParseError> {
    Ok(match number {
        0 => MetricKind::Counter,
        1 => MetricKind::Gauge,
        2 => MetricKind::Summary,
        3 => MetricKind::Untyped,
        4 => MetricKind::Histogram,
        5 => MetricKind::GaugeHistogram,
        other => return fail(at, format!("MetricFamily.type: expected a type from 0 to 5, found {other}")),
    })
}
