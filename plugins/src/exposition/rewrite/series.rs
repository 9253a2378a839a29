//! One series at a time: its final labels, and how they are written so that the far side comes to the same.

use std::borrow::Cow;

use super::super::entry::{Label, RawValue};
use super::super::float::{format_bound, parse_float};
use super::super::model::{MetricKind, is_plain_label_name, is_plain_metric_name};
use super::super::relabel::{LabelSet, Rule, apply};

/// The label under which relabelling sees the name of a series.
const NAME: &str = "__name__";
/// How much of the labels of a series an error shows, in characters: a body may be one label.
const MOST_SHOWN: usize = 1000;

/// Who was scraped, and by which rules its samples are relabelled.
#[derive(Clone, Copy, Debug)]
pub struct Relabeling<'a> {
    /// The labels of the target that relabelling sees, none of them empty.
    pub target: &'a [(&'a str, &'a str)],
    /// Whether a scraped label wins against that of the target; see [`crate::exposition::apply_target_labels`].
    pub honor_labels: bool,
    /// The rules, in order.
    pub rules: &'a [Rule],
}

/// A series as it was exposed.
#[derive(Clone, Copy, Debug)]
pub struct Exposed<'s, 'a> {
    /// Its name.
    pub name: &'s Cow<'a, str>,
    /// Its other labels, in the order of the body.
    pub labels: &'s [Label<'a>],
    /// The type that the body named last before it.
    pub kind: MetricKind,
}

/// What becomes of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its line says all that there is to say, where scraped labels are honoured.
    Kept,
    /// Its labels must be written anew.
    Changed,
    /// It is left out.
    Dropped,
}

/// A series that fails the scrape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Relabelling has left it no name.
    #[error("missing metric name (__name__ label)")]
    NoName,
    /// Relabelling has given it a name that there cannot be.
    #[error("invalid metric name or label names: {0}")]
    Invalid(String),
}

impl<'a> Relabeling<'a> {
    /// What becomes of a series; afterwards `set` holds its final labels.
    ///
    /// # Errors
    /// What relabelling has left is no series.
    pub fn judge<'b>(&self, exposed: Exposed<'_, 'b>, set: &mut LabelSet<'b>) -> Result<Fate, Unfit>
    where
        'a: 'b,
    {
        self.fill(exposed, set);
        if !apply(self.rules, set) || set.is_empty() {
            return Ok(Fate::Dropped);
        }
        if !set.contains(NAME) {
            return Err(Unfit::NoName);
        }
        if set.contains("") {
            return Err(Unfit::Invalid(set.to_string().chars().take(MOST_SHOWN).collect()));
        }
        Ok(if self.is_as_exposed(exposed, set) { Fate::Kept } else { Fate::Changed })
    }

    /// The labels of the series and those of its target, as [`crate::exposition::apply_target_labels`] brings them
    /// together.
    fn fill<'b>(&self, exposed: Exposed<'_, 'b>, set: &mut LabelSet<'b>)
    where
        'a: 'b,
    {
        let name = (Cow::Borrowed(NAME), exposed.name.clone());
        let own = exposed.labels.iter().map(|label| (label.name.clone(), exposed.value(label)));
        set.refill(std::iter::once(name).chain(own));
        let mut displaced = Vec::new();
        for (name, value) in self.target {
            if !self.honor_labels {
                displaced.extend(set.remove(name).map(|scraped| (*name, scraped)));
                set.set(*name, *value);
            } else if !exposed.has(name) {
                set.set(*name, *value);
            }
        }
        displaced.sort_by_key(|(name, _)| name.len());
        for (name, scraped) in displaced {
            let mut exported = format!("exported_{name}");
            while set.contains(&exported) {
                exported.insert_str(0, "exported_");
            }
            set.set(exported, scraped);
        }
    }

    /// Whether the line as it stands comes to the final labels where scraped labels are honoured.
    fn is_as_exposed(&self, exposed: Exposed<'_, '_>, set: &LabelSet<'_>) -> bool {
        let mut expected = 1;
        let own = exposed.labels.iter().filter(|label| !label.is_empty()).all(|label| {
            expected += 1;
            set.get(&label.name) == exposed.value(label)
        });
        let added = self.target.iter().filter(|(name, _)| !exposed.has(name)).all(|(name, value)| {
            expected += 1;
            set.get(name) == *value
        });
        own && added && set.get(NAME) == exposed.name && set.len() == expected
    }

    /// Appends the final labels of a series to `out`, as both line formats write them: those that its target
    /// would not give it, and without a value those that its target must not give it. Values that did not change
    /// are spelled as they were.
    pub fn write(&self, exposed: Exposed<'_, '_>, set: &LabelSet<'_>, out: &mut Vec<u8>) {
        let name = set.get(NAME);
        let is_plain = is_plain_metric_name(name);
        if is_plain {
            out.extend_from_slice(name.as_bytes());
        }
        let mut labels = self.labels(exposed, set).peekable();
        if is_plain && labels.peek().is_none() {
            return;
        }
        out.push(b'{');
        if !is_plain {
            quote(name, out);
        }
        for (index, (name, value)) in labels.enumerate() {
            if index > 0 || !is_plain {
                out.push(b',');
            }
            if is_plain_label_name(name) {
                out.extend_from_slice(name.as_bytes());
            } else {
                quote(name, out);
            }
            out.push(b'=');
            quote(&value, out);
        }
        out.push(b'}');
    }

    /// The labels that a series must be given where scraped labels are honoured, its name not among them.
    pub(super) fn labels<'s>(
        &'s self,
        exposed: Exposed<'s, 's>,
        set: &'s LabelSet<'_>,
    ) -> impl Iterator<Item = (&'s str, Cow<'s, str>)> {
        let is_given = |name: &str, value: &str| self.target.contains(&(name, value));
        let own = set.iter().filter(move |(name, value)| *name != NAME && !is_given(name, value));
        let own = own.map(move |(name, value)| (name, exposed.spelling(name, value)));
        let taken = self.target.iter().filter(|(name, _)| !set.contains(name));
        own.chain(taken.map(|(name, _)| (*name, Cow::Borrowed(""))))
    }
}

impl<'a> Exposed<'_, 'a> {
    fn has(&self, name: &str) -> bool {
        self.labels.iter().any(|label| label.name == name)
    }

    /// The value of a label as relabelling sees it: Prometheus 3 spells all bounds alike.
    fn value(&self, label: &Label<'a>) -> Cow<'a, str> {
        match (self.kind, &*label.name, label.raw) {
            (MetricKind::Histogram, "le", RawValue::Escaped(text) | RawValue::Plain(text))
            | (MetricKind::Summary, "quantile", RawValue::Escaped(text) | RawValue::Plain(text)) => {
                parse_float(text.as_bytes()).map_or_else(|| label.value(), |bound| format_bound(bound).into())
            }
            _ => label.value(),
        }
    }

    /// The value that was exposed, where it is this one in other letters.
    fn spelling(self, name: &str, value: &'a str) -> Cow<'a, str> {
        let is_bound = matches!(name, "le" | "quantile");
        let own = self.labels.iter().find(|label| is_bound && label.name == name);
        own.filter(|label| self.value(label) == value).map_or(Cow::Borrowed(value), Label::value)
    }
}

fn quote(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\\' | b'"' => out.extend_from_slice(&[b'\\', byte]),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}
