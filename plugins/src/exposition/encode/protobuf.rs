//! Families as delimited protobuf.

use super::super::model::{Buckets, Exemplar, Family, HistogramSample, LabelPair, MetricKind, Sample};
use super::metrics::{Metric, Whole, bound_label, gather};
use super::spread::{by_name, spread};

/// Appends the families to `out`, each a `MetricFamily` after its length. Families without metrics are left
/// out, as readers leave them out. A histogram or summary whose series do not make up whole metrics is
/// written as untyped families, one for each name.
pub fn encode_protobuf(families: &[Family<'_>], out: &mut Vec<u8>) {
    for family in families.iter().cloned().flat_map(fit) {
        let mut metrics = Vec::new();
        encode_protobuf_metrics(&family, &mut metrics);
        encode_protobuf_metadata(&family, metrics.len(), out);
        out.extend_from_slice(&metrics);
    }
}

/// The families that protobuf has for these, each of which can then be written by itself; see
/// [`encode_protobuf`].
pub fn as_protobuf(families: Vec<Family<'_>>) -> Vec<Family<'_>> {
    families.into_iter().flat_map(fit).collect()
}

/// Appends the beginning of a family's message: its length, and what there is to say of the family before
/// `metrics` bytes of [metrics](encode_protobuf_metrics).
pub fn encode_protobuf_metadata(family: &Family<'_>, metrics: usize, out: &mut Vec<u8>) {
    let mut message = Message::default();
    message.bytes(1, family.name.as_bytes());
    if let Some(help) = &family.help {
        message.bytes(2, help.as_bytes());
    }
    message.integer(3, type_number(family.kind));
    if let Some(unit) = &family.unit {
        message.bytes(5, unit.as_bytes());
    }
    varint((message.0.len() + metrics) as u64, out);
    out.extend_from_slice(&message.0);
}

/// Appends the metrics of a family, as they stand in its message; those of several targets may stand in one.
pub fn encode_protobuf_metrics(family: &Family<'_>, out: &mut Vec<u8>) {
    let mut message = Message(std::mem::take(out));
    for metric in gather(family) {
        let labels = metric.labels.iter().filter(|(_, value)| !value.is_empty());
        message.message(4, |inner| {
            labels.for_each(|label| inner.label(label));
            add_value(inner, family.kind, &metric);
        });
    }
    *out = message.0;
}

/// The families that protobuf can hold for one.
fn fit(family: Family<'_>) -> Vec<Family<'_>> {
    let is_whole = family.kind == MetricKind::GaugeHistogram && is_sound(&family);
    let all = if is_whole { vec![family] } else { spread(family) };
    let mut fit = Vec::with_capacity(all.len());
    for family in all {
        match bound_label(family.kind) {
            Some(_) if !is_sound(&family) => fit.extend(by_name(family)),
            _ => fit.push(family),
        }
    }
    fit.retain(|family| !family.samples.is_empty() || !family.histograms.is_empty());
    fit
}

fn is_sound(family: &Family<'_>) -> bool {
    gather(family).iter().all(|metric| {
        let whole = metric.whole(family.kind);
        let is_alone = metric.samples.is_empty() && metric.native.is_some();
        is_alone || whole.is_some_and(|whole| is_one_metric(family.kind, &whole))
    })
}

/// Whether a message can say what the series say: one timestamp for all, natural counts in a summary, and
/// the bucket of all last.
fn is_one_metric(kind: MetricKind, whole: &Whole<'_, '_>) -> bool {
    let at = whole.count.timestamp;
    let samples = || whole.bounds.iter().map(|(_, sample)| *sample).chain([whole.count, whole.sum]);
    let infinities = whole.bounds.iter().filter(|(bound, _)| *bound == f64::INFINITY).count();
    samples().all(|sample| sample.timestamp == at)
        && (kind != MetricKind::Summary || natural(whole.count.value).is_some())
        && (kind == MetricKind::Summary || infinities <= 1)
}

/// A message in the making.
#[derive(Default)]
struct Message(Vec<u8>);

/// Appends a number as protobuf writes it.
pub(crate) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A number with a sign, as protobuf's `sint` types have it.
pub(crate) fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

impl Message {
    fn integer(&mut self, number: u64, value: u64) {
        varint(number << 3, &mut self.0);
        varint(value, &mut self.0);
    }

    fn double(&mut self, number: u64, value: f64) {
        varint(number << 3 | 1, &mut self.0);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, number: u64, content: &[u8]) {
        varint(number << 3 | 2, &mut self.0);
        varint(content.len() as u64, &mut self.0);
        self.0.extend_from_slice(content);
    }

    fn message(&mut self, number: u64, build: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        build(&mut inner);
        self.bytes(number, &inner.0);
    }

    fn value(&mut self, number: u64, value: f64) {
        self.message(number, |inner| inner.double(1, value));
    }

    /// A count: in the field of integers, or if it is none in that of floats, which wins unless it is 0.
    fn count(&mut self, integer: u64, float: u64, value: f64) {
        match natural(value) {
            Some(count) => self.integer(integer, count),
            None => self.double(float, value),
        }
    }

    fn label(&mut self, (name, value): &LabelPair<'_>) {
        self.message(1, |pair| {
            pair.bytes(1, name.as_bytes());
            pair.bytes(2, value.as_bytes());
        });
    }

    fn exemplar(&mut self, number: u64, exemplar: Option<&Exemplar<'_>>) {
        let Some(exemplar) = exemplar else { return };
        self.message(number, |inner| {
            exemplar.labels.iter().for_each(|label| inner.label(label));
            inner.double(2, exemplar.value);
            if let Some(millis) = exemplar.timestamp {
                inner.message(3, |at| {
                    at.integer(1, millis.div_euclid(1000) as u64);
                    at.integer(2, millis.rem_euclid(1000) as u64 * 1_000_000);
                });
            }
        });
    }
}

fn natural(value: f64) -> Option<u64> {
    let is_natural = value.fract() == 0.0 && value >= 0.0 && value < u64::MAX as f64;
    is_natural.then_some(value as u64)
}

fn type_number(kind: MetricKind) -> u64 {
    match kind {
        MetricKind::Counter => 0,
        MetricKind::Gauge | MetricKind::Info | MetricKind::StateSet => 1,
        MetricKind::Summary => 2,
        MetricKind::Untyped => 3,
        MetricKind::Histogram => 4,
        MetricKind::GaugeHistogram => 5,
    }
}

fn add_value(message: &mut Message, kind: MetricKind, metric: &Metric<'_, '_>) {
    let mut timestamp = metric.native.and_then(|native| native.timestamp);
    if let Some((_, sample)) = metric.samples.first() {
        timestamp = sample.timestamp;
        match kind {
            MetricKind::Counter => add_counter(message, sample),
            MetricKind::Gauge | MetricKind::Info | MetricKind::StateSet => message.value(2, sample.value),
            MetricKind::Untyped => message.value(5, sample.value),
            MetricKind::Summary => add_summary(message, metric),
            MetricKind::Histogram | MetricKind::GaugeHistogram => {}
        }
    }
    if bound_label(kind) == Some("le") {
        message.message(7, |inner| add_histogram(inner, kind, metric));
    }
    if let Some(millis) = timestamp {
        message.integer(6, millis as u64);
    }
}

fn add_counter(message: &mut Message, sample: &Sample<'_>) {
    message.message(3, |inner| {
        inner.double(1, sample.value);
        inner.exemplar(2, sample.exemplar.as_deref());
    });
}

fn add_summary(message: &mut Message, metric: &Metric<'_, '_>) {
    let Some(whole) = metric.whole(MetricKind::Summary) else { return };
    message.message(4, |inner| {
        inner.integer(1, natural(whole.count.value).unwrap_or_default());
        inner.double(2, whole.sum.value);
        for (quantile, sample) in &whole.bounds {
            inner.message(3, |pair| {
                pair.double(1, *quantile);
                pair.double(2, sample.value);
            });
        }
    });
}

fn add_histogram(message: &mut Message, kind: MetricKind, metric: &Metric<'_, '_>) {
    if let Some(whole) = metric.whole(kind) {
        if metric.native.is_none() {
            message.count(1, 4, whole.count.value);
            message.double(2, whole.sum.value);
        }
        for (bound, sample) in &whole.bounds {
            message.message(3, |bucket| {
                bucket.count(1, 4, sample.value);
                bucket.double(2, *bound);
                bucket.exemplar(3, sample.exemplar.as_deref());
            });
        }
    }
    if let Some(native) = metric.native {
        add_native(message, native);
    }
}

fn add_native(message: &mut Message, histogram: &HistogramSample<'_>) {
    let native = &histogram.value;
    if native.is_float {
        message.double(4, native.count);
        message.double(8, native.zero_count);
    } else {
        message.count(1, 4, native.count);
        message.count(7, 8, native.zero_count);
    }
    message.double(2, native.sum);
    message.integer(5, zigzag(i64::from(native.schema)));
    message.double(6, native.zero_threshold);
    add_side(message, 9, &native.negative, native.is_float);
    add_side(message, 12, &native.positive, native.is_float);
    let has_buckets = !native.positive.spans.is_empty() || !native.negative.spans.is_empty();
    if !has_buckets {
        // Buckets tell native histograms from classic ones, and floats from integers. An empty one will do.
        let counts = if native.is_float { vec![0.0] } else { Vec::new() };
        let empty = Buckets { spans: vec![(0, counts.len() as u32)], counts };
        add_side(message, 12, &empty, native.is_float);
    }
    for exemplar in &histogram.exemplars {
        message.exemplar(16, Some(exemplar));
    }
}

fn add_side(message: &mut Message, first: u64, side: &Buckets, is_float: bool) {
    for (offset, length) in &side.spans {
        message.message(first, |span| {
            span.integer(1, zigzag(i64::from(*offset)));
            span.integer(2, u64::from(*length));
        });
    }
    let packed = packed_counts(side, is_float);
    if !packed.is_empty() {
        message.bytes(first + if is_float { 2 } else { 1 }, &packed);
    }
}

/// The counts of native buckets as a packed field: of integers each as its difference from the one before, of
/// floats as it is.
pub(crate) fn packed_counts(side: &Buckets, is_float: bool) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut last = 0;
    for count in &side.counts {
        if is_float {
            packed.extend_from_slice(&count.to_le_bytes());
        } else {
            varint(zigzag(*count as i64 - last), &mut packed);
            last = *count as i64;
        }
    }
    packed
}
