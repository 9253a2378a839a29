//! The families of text format 0.0.4: in one group, metadata first, each series once, histograms and
//! summaries in order.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::super::entry::Entry;
use super::super::error::ParseError;
use super::super::float::parse_float;
use super::super::model::MetricKind;
use super::Context;

/// All families so far.
#[derive(Debug, Default)]
pub(in super::super) struct Families<'a> {
    /// Names of families and of their series, of all groups that have ended.
    ended: HashSet<Cow<'a, str>>,
    current: Option<Family<'a>>,
    /// Every series so far.
    series: HashSet<String>,
}

#[derive(Debug)]
struct Family<'a> {
    name: Cow<'a, str>,
    kind: Option<MetricKind>,
    has_help: bool,
    names: HashSet<Cow<'a, str>>,
    /// Histograms and summaries by their labels.
    groups: HashMap<String, Group>,
}

/// One histogram or summary.
#[derive(Debug)]
struct Group {
    /// Where its first sample stands.
    at: usize,
    last_bound: Option<f64>,
    infinite: Option<f64>,
    /// The count and where it stands.
    count: Option<(f64, usize)>,
}

impl<'a> Families<'a> {
    pub(super) fn entry(&mut self, entry: &Entry<'a>, context: &Context<'_, 'a>) -> Result<(), ParseError> {
        match entry {
            Entry::Help { name, .. } => {
                let family = self.described(name, context)?;
                if std::mem::replace(&mut family.has_help, true) {
                    return Err(context.fail(format!("expected one HELP line for {name:?}, found another")));
                }
            }
            Entry::Type { name, kind } => {
                let family = self.described(name, context)?;
                if family.kind.replace(*kind).is_some() {
                    return Err(context.fail(format!("expected one TYPE line for {name:?}, found another")));
                }
                let mut series = kind.suffixes().iter().map(|suffix| format!("{name}{suffix}"));
                if let Some(early) = series.find(|series| self.ended.contains(series.as_str())) {
                    return Err(
                        context.fail(format!("expected the TYPE of {name:?} before its sample {early:?}"))
                    );
                }
            }
            Entry::Sample { name, value, .. } => {
                if !self.series.insert(format!("{name};{}", context.key_without(""))) {
                    return Err(context.fail("expected each series once, found this one again"));
                }
                self.sampled(name, context)?.sample(name, *value, context)?;
            }
            Entry::Unit { .. } | Entry::Histogram { .. } => {}
        }
        Ok(())
    }

    pub(super) fn end(&mut self, body: &[u8]) -> Result<(), ParseError> {
        let Some(family) = self.current.take() else { return Ok(()) };
        family.end(body)?;
        let suffixes = family.kind.map_or(&[][..], MetricKind::suffixes);
        self.ended.extend(suffixes.iter().map(|suffix| format!("{}{suffix}", family.name).into()));
        self.ended.insert(family.name);
        self.ended.extend(family.names);
        Ok(())
    }

    /// The family that a `HELP` or `TYPE` line describes.
    fn described(
        &mut self,
        name: &Cow<'a, str>,
        context: &Context<'_, 'a>,
    ) -> Result<&mut Family<'a>, ParseError> {
        if let Some(family) = &self.current
            && family.name == *name
            && !family.names.is_empty()
        {
            return Err(context.fail(format!("expected the metadata of {name:?} before its samples")));
        }
        self.turn_to(name, context)
    }

    /// The family that a sample belongs to.
    fn sampled(
        &mut self,
        name: &Cow<'a, str>,
        context: &Context<'_, 'a>,
    ) -> Result<&mut Family<'a>, ParseError> {
        let family = match &self.current {
            Some(family) if family.owns(name) => family.name.clone(),
            _ => name.clone(),
        };
        let family = self.turn_to(&family, context)?;
        family.names.insert(name.clone());
        Ok(family)
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
        if self.ended.contains(name) {
            let message = format!("expected all lines of a family in one group, found {name:?} again");
            return Err(context.fail(message));
        }
        Ok(self.current.get_or_insert_with(|| Family {
            name: name.clone(),
            kind: None,
            has_help: false,
            names: HashSet::new(),
            groups: HashMap::new(),
        }))
    }
}

impl Family<'_> {
    fn owns(&self, series: &str) -> bool {
        let suffixes = self.kind.map_or(&[][..], MetricKind::suffixes);
        series.strip_prefix(&*self.name).is_some_and(|rest| rest.is_empty() || suffixes.contains(&rest))
    }

    fn sample(&mut self, name: &str, value: f64, context: &Context<'_, '_>) -> Result<(), ParseError> {
        let suffix = &name[self.name.len().min(name.len())..];
        let bound_label = match (self.kind, suffix) {
            (Some(MetricKind::Histogram), "_bucket") => "le",
            (Some(MetricKind::Histogram), "") => {
                return Err(
                    context.fail(format!("expected _bucket, _sum or _count of the histogram {name:?}"))
                );
            }
            (Some(MetricKind::Summary), "") => "quantile",
            (Some(MetricKind::Histogram | MetricKind::Summary), _) => "",
            _ => return Ok(()),
        };
        let at = context.line.start;
        let group = self.groups.entry(context.key_without(bound_label)).or_insert(Group {
            at,
            last_bound: None,
            infinite: None,
            count: None,
        });
        if suffix == "_count" {
            group.count = Some((value, at));
        } else if !bound_label.is_empty() {
            group.bound(bound_label, value, context)?;
        }
        Ok(())
    }

    fn end(&self, body: &[u8]) -> Result<(), ParseError> {
        if self.kind != Some(MetricKind::Histogram) {
            return Ok(());
        }
        // The first in the body, so that the same body has the same error.
        let mut groups: Vec<&Group> = self.groups.values().collect();
        groups.sort_unstable_by_key(|group| group.at);
        for group in groups {
            let (at, message) = match (group.infinite, group.count) {
                (None, _) => (group.at, "expected a bucket with le=\"+Inf\" in the histogram".to_owned()),
                (Some(_), None) => (group.at, "expected a count in the histogram".to_owned()),
                (Some(infinite), Some((count, at))) if infinite != count && !infinite.is_nan() => {
                    (at, format!("expected the count of the +Inf bucket, {infinite}, found {count}"))
                }
                _ => continue,
            };
            return Err(ParseError::new(body, at, message));
        }
        Ok(())
    }
}

impl Group {
    /// Takes a bucket or a quantile: their bounds are numbers, in increasing order.
    fn bound(&mut self, label: &str, value: f64, context: &Context<'_, '_>) -> Result<(), ParseError> {
        let Some(found) = context.label(label) else {
            return Err(context.fail(format!("expected the label {label}")));
        };
        let text = found.value();
        let Some(bound) = parse_float(text.as_bytes()).filter(|bound| !bound.is_nan()) else {
            return Err(context.fail_at(found.at, format!("expected a number as {label}, found {text:?}")));
        };
        if self.last_bound.is_some_and(|last| last >= bound) {
            return Err(
                context.fail_at(found.at, format!("expected {label} in increasing order, found {text:?}"))
            );
        }
        self.last_bound = Some(bound);
        if bound == f64::INFINITY {
            self.infinite = Some(value);
        }
        Ok(())
    }
}
