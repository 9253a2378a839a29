//! What a parser reads, one entry at a time, whatever the format.

use std::borrow::Cow;

use super::float::format_bound;
use super::model::MetricKind;

/// One line of meaning; comments and blank lines are skipped.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry<'a> {
    /// A `HELP` line.
    Help {
        /// The family that it describes.
        name: Cow<'a, str>,
        /// The unescaped text.
        text: Cow<'a, str>,
    },
    /// A `TYPE` line.
    Type {
        /// The family that it describes.
        name: Cow<'a, str>,
        /// Its kind.
        kind: MetricKind,
    },
    /// A `UNIT` line.
    Unit {
        /// The family that it describes.
        name: Cow<'a, str>,
        /// The unit.
        unit: Cow<'a, str>,
    },
    /// A sample; its labels are in [`super::Parser::labels`] until the next entry is read, and its
    /// exemplar in [`super::Parser::exemplars`].
    Sample {
        /// The name of the series.
        name: Cow<'a, str>,
        /// Its value.
        value: f64,
        /// Milliseconds since the epoch.
        timestamp: Option<i64>,
    },
    /// A native histogram; it is in [`super::Parser::histogram`] until the next entry is read, and its labels
    /// and exemplars are where those of a sample are. The same observations in classic form follow it, so
    /// that a caller takes either: this entry, or the `classic` samples after it.
    Histogram {
        /// The name of the family.
        name: Cow<'a, str>,
        /// Milliseconds since the epoch.
        timestamp: Option<i64>,
        /// How many samples follow that say the same in classic form: `_count`, `_sum`, `_bucket`s.
        classic: usize,
        /// Whether the target exposed classic buckets at all; if not, the only one is `+Inf`, made from the
        /// count. Prometheus, once it takes native histograms, takes the classic samples only where there
        /// are buckets, and only with `always_scrape_classic_histograms`.
        has_buckets: bool,
    },
}

/// One label of a sample, its value perhaps not yet resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Label<'a> {
    /// The name, unquoted.
    pub name: Cow<'a, str>,
    pub(super) raw: RawValue<'a>,
    pub(super) at: usize,
}

/// A label value as the parser came by it; nothing is allocated until somebody asks for the text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum RawValue<'a> {
    /// From inside double quotes.
    Escaped(&'a str),
    /// What it says.
    Plain(&'a str),
    /// A bucket's bound or a quantile, in Prometheus' spelling.
    Number(f64),
}

impl<'a> Label<'a> {
    /// The unescaped value; borrowed unless it has an escape or was a number.
    pub fn value(&self) -> Cow<'a, str> {
        match self.raw {
            RawValue::Escaped(text) => unescape(text, true),
            RawValue::Plain(text) => Cow::Borrowed(text),
            RawValue::Number(number) => Cow::Owned(format_bound(number)),
        }
    }

    /// How many bytes the label takes as encoders write it, if it has a value without escapes.
    pub(super) fn tidy_len(&self) -> Option<usize> {
        match self.raw {
            RawValue::Escaped(text) => {
                let is_plain = !text.is_empty() && memchr::memchr2(b'\\', b'\n', text.as_bytes()).is_none();
                is_plain.then_some(self.name.len() + text.len() + "=\"\"".len())
            }
            RawValue::Plain(_) | RawValue::Number(_) => None,
        }
    }

    /// Whether the value is empty, which means the same as no label.
    pub fn is_empty(&self) -> bool {
        matches!(self.raw, RawValue::Escaped("") | RawValue::Plain(""))
    }
}

/// Resolves `\\`, `\n` and, in quoted strings, `\"`. Other escapes stay as they are.
pub(super) fn unescape(raw: &str, is_quoted: bool) -> Cow<'_, str> {
    if memchr::memchr(b'\\', raw.as_bytes()).is_none() {
        return Cow::Borrowed(raw);
    }
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let (plain, used) = match rest.as_bytes().get(at + 1) {
            Some(b'\\') => ("\\", 2),
            Some(b'n') => ("\n", 2),
            Some(b'"') if is_quoted => ("\"", 2),
            _ => ("\\", 1),
        };
        text.push_str(plain);
        rest = &rest[at + used..];
    }
    text.push_str(rest);
    Cow::Owned(text)
}
