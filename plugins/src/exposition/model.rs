//! What a scrape says: families, their kind and help, and their samples.

use std::borrow::Cow;

/// The samples of one metric family, with what is known about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Family<'a> {
    /// The name in the `TYPE` line; samples of histograms and summaries add a suffix to it.
    pub name: Cow<'a, str>,
    /// What the family measures; [`MetricKind::Untyped`] when the body does not say.
    pub kind: MetricKind,
    /// The unescaped help text.
    pub help: Option<Cow<'a, str>>,
    /// The samples in the order of the body; empty when the body only describes the family.
    pub samples: Vec<Sample<'a>>,
}

/// The metric types of text format 0.0.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricKind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative `_bucket` samples by `le`, with `_sum` and `_count`.
    Histogram,
    /// Samples by `quantile`, with `_sum` and `_count`.
    Summary,
    /// Not known.
    Untyped,
}

impl MetricKind {
    /// The word in a `TYPE` line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
            Self::Untyped => "untyped",
        }
    }

    /// The kind that a `TYPE` line names; lower case only, as Prometheus has it.
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "counter" => Self::Counter,
            "gauge" => Self::Gauge,
            "histogram" => Self::Histogram,
            "summary" => Self::Summary,
            "untyped" => Self::Untyped,
            _ => return None,
        })
    }

    /// The suffixes that this kind adds to the family name to name its series.
    pub fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Histogram => &["_bucket", "_sum", "_count"],
            Self::Summary => &["_sum", "_count"],
            Self::Counter | Self::Gauge | Self::Untyped => &[],
        }
    }
}

/// The name and the unescaped value of a label.
pub type LabelPair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// One series and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<'a> {
    /// The name of the series: the family's name, perhaps with a suffix.
    pub name: Cow<'a, str>,
    /// Label names and unescaped values as they stand in the body. A label with an empty value
    /// means the same as no label, except to [`super::apply_target_labels`].
    pub labels: Vec<LabelPair<'a>>,
    /// The value.
    pub value: f64,
    /// Milliseconds since the epoch, when the target said so.
    pub timestamp: Option<i64>,
}

impl Sample<'_> {
    /// The value of a label; empty when the sample does not have it.
    pub fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value)
    }

    /// Whether no name needs quotes. Only Prometheus 3 reads samples with quoted names; to an older
    /// one, or to a Push Gateway, one of them spoils the page.
    pub fn is_plain(&self) -> bool {
        is_plain_metric_name(&self.name) && self.labels.iter().all(|(name, _)| is_plain_label_name(name))
    }
}

/// Whether a metric name can be written without quotes: `[a-zA-Z_:][a-zA-Z0-9_:]*`.
pub fn is_plain_metric_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.first().is_some_and(|b| is_name_start(*b)) && bytes.iter().all(|b| is_name_char(*b))
}

/// Whether a label name can be written without quotes: `[a-zA-Z_][a-zA-Z0-9_]*`.
pub fn is_plain_label_name(name: &str) -> bool {
    is_plain_metric_name(name) && !name.contains(':')
}

/// The first character of a metric name.
pub(super) fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte == b':'
}

/// A later character of a metric name.
pub(super) fn is_name_char(byte: u8) -> bool {
    NAME_CHARS[usize::from(byte)]
}

/// A table, since most of a scrape is names and most of parsing is to find their ends.
const NAME_CHARS: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let c = byte as u8;
        table[byte] = c.is_ascii_alphanumeric() || c == b'_' || c == b':';
        byte += 1;
    }
    table
};
