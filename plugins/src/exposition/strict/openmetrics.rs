//! The families of OpenMetrics 1.0: each once, metadata before samples, no two with a sample name in common,
//! and in each family metrics and points one after the other.

use std::borrow::Cow;
use std::collections::HashSet;

use super::super::entry::Entry;
use super::super::error::ParseError;
use super::super::float::parse_float;
use super::super::model::MetricKind;
use super::Context;
use super::point::{Point, inner_label, suffixes};

/// All families so far.
#[derive(Debug, Default)]
pub(in super::super) struct Families<'a> {
    names: HashSet<Cow<'a, str>>,
    /// Every sample name that a family has or could have.
    sample_names: HashSet<String>,
    current: Option<Family<'a>>,
}

#[derive(Debug)]
struct Family<'a> {
    name: Cow<'a, str>,
    /// Where its first line stands.
    at: usize,
    kind: Option<MetricKind>,
    has_help: bool,
    unit: Option<Cow<'a, str>>,
    has_samples: bool,
    /// The labels of the metrics that have ended; for infos, labels and times of all.
    ended: HashSet<String>,
    metric: Option<Metric>,
}

/// The metric that was read last.
#[derive(Debug)]
struct Metric {
    key: String,
    timestamp: Option<f64>,
    point: Point,
}

impl<'a> Families<'a> {
    pub(super) fn entry(&mut self, entry: &Entry<'a>, context: &Context<'_, 'a>) -> Result<(), ParseError> {
        match entry {
            Entry::Help { name, .. } => {
                let family = self.described(name, context)?;
                let again = std::mem::replace(&mut family.has_help, true);
                once(again, "HELP", context)
            }
            Entry::Type { name, kind } => {
                let family = self.described(name, context)?;
                once(family.kind.replace(*kind).is_some(), "TYPE", context)?;
                family.check_unit(context)
            }
            Entry::Unit { name, unit } => {
                let family = self.described(name, context)?;
                once(family.unit.replace(unit.clone()).is_some(), "UNIT", context)?;
                family.check_unit(context)
            }
            Entry::Sample { name, value, .. } => {
                let family = self.sampled(name, context)?;
                if !std::mem::replace(&mut family.has_samples, true) {
                    let names = family.sample_names();
                    let at = family.at;
                    self.claim(names, at, context.body)?;
                }
                self.current.as_mut().map_or(Ok(()), |family| family.sample(name, *value, context))
            }
            Entry::Histogram { .. } => Ok(()),
        }
    }

    pub(super) fn end(&mut self, body: &[u8]) -> Result<(), ParseError> {
        let Some(mut family) = self.current.take() else { return Ok(()) };
        if !family.has_samples {
            self.claim(family.sample_names(), family.at, body)?;
        }
        family.end_metric(body)?;
        self.names.insert(family.name);
        Ok(())
    }

    /// Notes which sample names a family may use; no other family may.
    fn claim(&mut self, names: Vec<String>, at: usize, body: &[u8]) -> Result<(), ParseError> {
        if let Some(name) = names.iter().find(|name| self.sample_names.contains(*name)) {
            let message = format!("expected a sample name of one family only, found {name:?} in a second");
            return Err(ParseError::new(body, at, message));
        }
        self.sample_names.extend(names);
        Ok(())
    }

    /// The family that a line of metadata describes.
    fn described(
        &mut self,
        name: &Cow<'a, str>,
        context: &Context<'_, 'a>,
    ) -> Result<&mut Family<'a>, ParseError> {
        match &self.current {
            Some(family) if family.name == *name && family.has_samples => {
                Err(context.fail(format!("expected the metadata of {name:?} before its samples")))
            }
            _ => self.turn_to(name, context),
        }
    }

    /// Ends the current family unless it has this name.
    fn turn_to(
        &mut self,
        name: &Cow<'a, str>,
        context: &Context<'_, 'a>,
    ) -> Result<&mut Family<'a>, ParseError> {
        if self.current.as_ref().is_some_and(|family| family.name != *name) {
            self.end(context.body)?;
        }
        if name.starts_with('_') {
            return Err(context.fail(format!("expected no reserved name, found {name:?}")));
        }
        if self.names.contains(name) {
            return Err(
                context.fail(format!("expected each family once, in one piece, found {name:?} again"))
            );
        }
        Ok(self.current.get_or_insert_with(|| Family::new(name.clone(), context.line.start)))
    }

    /// The family that a sample belongs to.
    fn sampled(
        &mut self,
        name: &Cow<'a, str>,
        context: &Context<'_, 'a>,
    ) -> Result<&mut Family<'a>, ParseError> {
        let is_own = self.current.as_ref().is_some_and(|family| family.suffix(name).is_some());
        if !is_own {
            // Also when the family has this very name, as of a counter without its suffix.
            self.end(context.body)?;
        }
        let name = self.current.as_ref().map_or(name, |family| &family.name).clone();
        self.turn_to(&name, context)
    }
}

fn once(is_again: bool, keyword: &str, context: &Context<'_, '_>) -> Result<(), ParseError> {
    if is_again {
        return Err(context.fail(format!("expected one {keyword} line for a family, found another")));
    }
    Ok(())
}

impl<'a> Family<'a> {
    fn new(name: Cow<'a, str>, at: usize) -> Self {
        Self {
            name,
            at,
            kind: None,
            has_help: false,
            unit: None,
            has_samples: false,
            ended: HashSet::new(),
            metric: None,
        }
    }

    fn kind(&self) -> MetricKind {
        self.kind.unwrap_or(MetricKind::Untyped)
    }

    fn sample_names(&self) -> Vec<String> {
        suffixes(self.kind()).iter().map(|suffix| format!("{}{suffix}", self.name)).collect()
    }

    /// What a sample name has after the family's, if it may have that.
    fn suffix(&self, sample: &str) -> Option<&'static str> {
        let rest = sample.strip_prefix(&*self.name)?;
        suffixes(self.kind()).iter().copied().find(|suffix| *suffix == rest)
    }

    fn check_unit(&self, context: &Context<'_, '_>) -> Result<(), ParseError> {
        let has_unit = self.unit.as_ref().is_some_and(|unit| !unit.is_empty());
        if has_unit && matches!(self.kind, Some(MetricKind::Info | MetricKind::StateSet)) {
            return Err(context.fail("expected no unit of an info or a stateset"));
        }
        Ok(())
    }

    fn sample(&mut self, name: &str, value: f64, context: &Context<'_, '_>) -> Result<(), ParseError> {
        let kind = self.kind();
        let Some(suffix) = self.suffix(name) else { return Ok(()) };
        let inner = &*inner_label(kind, &self.name, suffix).to_owned();
        let key = context.key_without(inner);
        let timestamp = timestamp(context);
        if kind == MetricKind::Info {
            // Which labels are the metric's and which the point's cannot be told, so neither can their order.
            if !self.ended.insert(format!("{key} {timestamp:?}")) {
                return Err(context.fail("expected each info once, found this one again"));
            }
            return Point::new(context.line.start).sample(kind, suffix, inner, value, context);
        }
        if self.metric.as_ref().is_none_or(|metric| metric.key != key) {
            self.end_metric(context.body)?;
            if self.ended.contains(&key) {
                return Err(context.fail("expected the samples of a metric one after the other"));
            }
        }
        let point = Point::new(context.line.start);
        let metric = self.metric.get_or_insert(Metric { key, timestamp, point });
        metric.turn_to(kind, timestamp, context)?;
        metric.point.sample(kind, suffix, inner, value, context)
    }

    fn end_metric(&mut self, body: &[u8]) -> Result<(), ParseError> {
        let Some(metric) = self.metric.take() else { return Ok(()) };
        metric.point.end(self.kind(), body)?;
        self.ended.insert(metric.key);
        Ok(())
    }
}

impl Metric {
    /// Ends the point unless it has this time; time moves on.
    fn turn_to(
        &mut self,
        kind: MetricKind,
        timestamp: Option<f64>,
        context: &Context<'_, '_>,
    ) -> Result<(), ParseError> {
        match (self.timestamp, timestamp) {
            (None, None) => {}
            (Some(last), Some(new)) if last < new => {
                self.point.end(kind, context.body)?;
                self.point = Point::new(context.line.start);
                self.timestamp = Some(new);
            }
            (Some(last), Some(new)) if last > new => {
                return Err(context.fail("expected timestamps that do not go back"));
            }
            (Some(_), Some(_)) => {}
            _ => return Err(context.fail("expected a timestamp on every point of a metric, or on none")),
        }
        Ok(())
    }
}

/// The timestamp of a sample in seconds, as exact as it is written.
fn timestamp(context: &Context<'_, '_>) -> Option<f64> {
    let rest = context.body[context.series.end..context.line.end].trim_ascii();
    let mut words = rest.split(|byte| *byte == b' ');
    parse_float(words.nth(1).filter(|word| *word != b"#")?)
}
