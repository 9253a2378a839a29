//! Families as JSON, for people and scripts.

use serde_json::{Map, Value, json};

use super::super::float::{format_bound, write_float};
use super::super::model::{Buckets, Exemplar, Family, HistogramSample, LabelPair, MetricKind, Sample};
use super::metrics::{Metric, Whole, gather};

/// The families in the shape that `prom2json` prints: a list of objects with `name`, `help`, `type` in upper
/// case, and `metrics`.
///
/// A metric has `labels`, `timestamp_ms` if it has one, and a `value`; a histogram has `buckets` by bound,
/// `count` and `sum`, and a summary `quantiles` instead of buckets. All numbers are strings, since JSON has
/// no `NaN` nor `+Inf`. In addition to `prom2json` a family has its `unit`, metrics have `exemplars`, a
/// native histogram is in `native`, and a series whose name is neither that of its family nor part of a whole
/// histogram or summary has its `name` beside its value.
pub fn encode_json(families: &[Family<'_>]) -> Value {
    families.iter().map(family_object).collect()
}

fn family_object(family: &Family<'_>) -> Value {
    let mut object = Map::new();
    object.insert("name".into(), json!(family.name));
    if let Some(help) = &family.help {
        object.insert("help".into(), json!(help));
    }
    object.insert("type".into(), type_word(family.kind).into());
    if let Some(unit) = &family.unit {
        object.insert("unit".into(), json!(unit));
    }
    let metrics = gather(family);
    let metrics = metrics.iter().flat_map(|metric| metric_objects(family, metric));
    object.insert("metrics".into(), metrics.collect());
    object.into()
}

fn type_word(kind: MetricKind) -> &'static str {
    match kind {
        MetricKind::Counter => "COUNTER",
        MetricKind::Gauge => "GAUGE",
        MetricKind::Histogram => "HISTOGRAM",
        MetricKind::Summary => "SUMMARY",
        MetricKind::Untyped => "UNTYPED",
        MetricKind::GaugeHistogram => "GAUGE_HISTOGRAM",
        MetricKind::Info => "INFO",
        MetricKind::StateSet => "STATE_SET",
    }
}

/// One object for a whole metric, or one for each of its series.
fn metric_objects(family: &Family<'_>, metric: &Metric<'_, '_>) -> Vec<Value> {
    let labels = metric.labels.iter().copied();
    let whole = metric.whole(family.kind);
    if whole.is_none() && metric.native.is_none() {
        return metric.samples.iter().map(|(_, sample)| series_object(family, sample)).collect();
    }
    let timestamp = metric.samples.first().map(|(_, sample)| sample.timestamp);
    let timestamp = timestamp.unwrap_or(metric.native.and_then(|native| native.timestamp));
    let mut object = start(labels, timestamp);
    if let Some(whole) = &whole {
        add_parts(&mut object, family.kind, whole);
    }
    if let Some(histogram) = metric.native {
        object.insert("native".into(), native_object(histogram));
    }
    let mut all = vec![object.into()];
    if whole.is_none() {
        all.extend(metric.samples.iter().map(|(_, sample)| series_object(family, sample)));
    }
    all
}

fn start<'l, 'a: 'l>(
    labels: impl Iterator<Item = &'l LabelPair<'a>>,
    timestamp: Option<i64>,
) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("labels".into(), label_object(labels));
    if let Some(millis) = timestamp {
        object.insert("timestamp_ms".into(), millis.to_string().into());
    }
    object
}

fn label_object<'l, 'a: 'l>(labels: impl Iterator<Item = &'l LabelPair<'a>>) -> Value {
    let pairs = labels.map(|(name, value)| (name.to_string(), Value::from(value.as_ref())));
    Value::Object(pairs.collect())
}

fn number(value: f64) -> Value {
    let mut text = Vec::new();
    write_float(&mut text, value);
    String::from_utf8_lossy(&text).into()
}

fn series_object(family: &Family<'_>, sample: &Sample<'_>) -> Value {
    let mut object = start(sample.labels.iter(), sample.timestamp);
    if sample.name != family.name {
        object.insert("name".into(), json!(sample.name));
    }
    object.insert("value".into(), number(sample.value));
    add_exemplars(&mut object, sample.exemplar.as_deref());
    object.into()
}

fn add_parts(object: &mut Map<String, Value>, kind: MetricKind, whole: &Whole<'_, '_>) {
    let bounds = whole.bounds.iter().map(|(bound, sample)| (bound_text(*bound), number(sample.value)));
    let key = if kind == MetricKind::Summary { "quantiles" } else { "buckets" };
    object.insert(key.into(), Value::Object(bounds.collect()));
    object.insert("count".into(), number(whole.count.value));
    object.insert("sum".into(), number(whole.sum.value));
    add_exemplars(object, whole.bounds.iter().filter_map(|(_, sample)| sample.exemplar.as_deref()));
}

/// As `prom2json` spells bounds: without the `.0` of whole numbers.
fn bound_text(bound: f64) -> String {
    let text = format_bound(bound);
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

fn add_exemplars<'e, 'a: 'e>(
    object: &mut Map<String, Value>,
    exemplars: impl IntoIterator<Item = &'e Exemplar<'a>>,
) {
    let exemplars: Vec<Value> = exemplars
        .into_iter()
        .map(|exemplar| {
            let mut object = start(exemplar.labels.iter(), exemplar.timestamp);
            object.insert("value".into(), number(exemplar.value));
            object.into()
        })
        .collect();
    if !exemplars.is_empty() {
        object.insert("exemplars".into(), exemplars.into());
    }
}

fn native_object(histogram: &HistogramSample<'_>) -> Value {
    let native = &histogram.value;
    let mut object = Map::new();
    object.insert("schema".into(), native.schema.into());
    object.insert("is_float".into(), native.is_float.into());
    for (key, value) in [
        ("count", native.count),
        ("sum", native.sum),
        ("zero_threshold", native.zero_threshold),
        ("zero_count", native.zero_count),
    ] {
        object.insert(key.into(), number(value));
    }
    object.insert("negative".into(), side_object(&native.negative));
    object.insert("positive".into(), side_object(&native.positive));
    add_exemplars(&mut object, &histogram.exemplars);
    object.into()
}

/// Counts by the index of their bucket.
fn side_object(side: &Buckets) -> Value {
    let mut next = 0_i64;
    let mut counts = side.counts.iter();
    let mut object = Map::new();
    for (offset, length) in &side.spans {
        next += i64::from(*offset);
        for count in counts.by_ref().take(*length as usize) {
            object.insert(next.to_string(), number(*count));
            next += 1;
        }
    }
    object.into()
}
