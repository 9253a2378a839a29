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
    /// The unit, where the format has units (OpenMetrics, protobuf).
    pub unit: Option<Cow<'a, str>>,
    /// The samples in the order of the body; empty when the body only describes the family.
    pub samples: Vec<Sample<'a>>,
    /// The native histograms of the family (protobuf only).
    pub histograms: Vec<HistogramSample<'a>>,
}

impl<'a> Family<'a> {
    /// A family of which nothing is known but its name and kind.
    pub fn new(name: impl Into<Cow<'a, str>>, kind: MetricKind) -> Self {
        Self { name: name.into(), kind, help: None, unit: None, samples: Vec::new(), histograms: Vec::new() }
    }
}

/// The metric types of all formats. Text 0.0.4 has the first five; OpenMetrics has all, and calls
/// [`MetricKind::Untyped`] unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricKind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative `_bucket` samples by `le`, with `_sum` and `_count`; or native histograms.
    Histogram,
    /// Samples by `quantile`, with `_sum` and `_count`.
    Summary,
    /// Not known.
    Untyped,
    /// A histogram whose counts may fall: `_bucket`, `_gsum`, `_gcount`; or native histograms.
    GaugeHistogram,
    /// Labels that tell about the target; the value is 1.
    Info,
    /// One sample of 0 or 1 for each state that is possible.
    StateSet,
}

impl MetricKind {
    /// The word in a `TYPE` line of text 0.0.4; `untyped` for what that format does not have.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
            Self::Untyped | Self::GaugeHistogram | Self::Info | Self::StateSet => "untyped",
        }
    }

    /// The kind that a `TYPE` line of text 0.0.4 names; lower case only, as Prometheus has it.
    pub fn from_word(word: &[u8]) -> Option<Self> {
        Some(match word {
            b"counter" => Self::Counter,
            b"gauge" => Self::Gauge,
            b"histogram" => Self::Histogram,
            b"summary" => Self::Summary,
            b"untyped" => Self::Untyped,
            _ => return None,
        })
    }

    /// The kind that a `TYPE` line of OpenMetrics names.
    pub fn from_openmetrics_word(word: &[u8]) -> Option<Self> {
        match word {
            b"gaugehistogram" => Some(Self::GaugeHistogram),
            b"info" => Some(Self::Info),
            b"stateset" => Some(Self::StateSet),
            b"unknown" => Some(Self::Untyped),
            b"untyped" => None,
            word => Self::from_word(word),
        }
    }

    /// The word in a `TYPE` line of OpenMetrics.
    pub fn as_openmetrics_str(self) -> &'static str {
        match self {
            Self::Untyped => "unknown",
            Self::GaugeHistogram => "gaugehistogram",
            Self::Info => "info",
            Self::StateSet => "stateset",
            Self::Counter | Self::Gauge | Self::Histogram | Self::Summary => self.as_str(),
        }
    }

    /// The suffixes that this kind adds to the family name to name its series.
    pub fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Histogram => &["_bucket", "_sum", "_count"],
            Self::Summary => &["_sum", "_count"],
            // OpenMetrics has the g, protobuf does not.
            Self::GaugeHistogram => &["_bucket", "_gsum", "_gcount", "_sum", "_count"],
            Self::Info => &["_info"],
            Self::Counter | Self::Gauge | Self::Untyped | Self::StateSet => &[],
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
    /// An example of what was counted, where the format has exemplars.
    pub exemplar: Option<Box<Exemplar<'a>>>,
}

impl<'a> Sample<'a> {
    /// A sample without labels, timestamp or exemplar.
    pub fn new(name: impl Into<Cow<'a, str>>, value: f64) -> Self {
        Self { name: name.into(), labels: Vec::new(), value, timestamp: None, exemplar: None }
    }

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

/// An example of what a counter or a bucket counted, mostly with the id of a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Exemplar<'a> {
    /// Label names and unescaped values; may be empty.
    pub labels: Vec<LabelPair<'a>>,
    /// The value that was observed.
    pub value: f64,
    /// Milliseconds since the epoch.
    pub timestamp: Option<i64>,
}

/// One series of native histograms and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramSample<'a> {
    /// As in [`Sample`].
    pub labels: Vec<LabelPair<'a>>,
    /// The value.
    pub value: NativeHistogram,
    /// Milliseconds since the epoch, when the target said so.
    pub timestamp: Option<i64>,
    /// Examples of what was counted.
    pub exemplars: Vec<Exemplar<'a>>,
}

/// A native histogram: buckets whose bounds follow from a schema, sparse, of integers or floats.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NativeHistogram {
    /// The resolution: bucket bounds are powers of 2^(2^-schema); from -4 to 8.
    pub schema: i32,
    /// Observations whose absolute value is at most this are in the zero bucket.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: f64,
    /// All observations. Integers up to 2^53 are exact.
    pub count: f64,
    /// The sum of all observations.
    pub sum: f64,
    /// Whether counts were exposed as floats, which cannot be told from their values.
    pub is_float: bool,
    /// Buckets of observations above zero.
    pub positive: Buckets,
    /// Buckets of observations below zero.
    pub negative: Buckets,
}

/// The buckets of one side of zero.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Buckets {
    /// Runs of adjacent buckets: the gap before each (for the first, its index), and its length.
    pub spans: Vec<(i32, u32)>,
    /// The absolute count of each bucket of all spans.
    pub counts: Vec<f64>,
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
