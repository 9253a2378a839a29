//! The types of OpenMetrics and native histograms, in the words of older formats.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::super::float::format_bound;
use super::super::model::{Family, HistogramSample, LabelPair, MetricKind, Sample};

/// Whether text has the family as it is.
pub(super) fn is_of_text(family: &Family<'_>) -> bool {
    let is_kind =
        !matches!(family.kind, MetricKind::Info | MetricKind::StateSet | MetricKind::GaugeHistogram);
    is_kind && family.histograms.is_empty() && family.samples.iter().all(|sample| is_own(family, sample))
}

/// The families that formats without the types of OpenMetrics have for one: `info` and `stateset` become
/// gauges, a counter has the name of its samples (`…_total`), `_created` is a gauge of its own, and the series
/// of a `gaugehistogram` are untyped each. Native histograms stay with the first.
pub(in super::super) fn spread(mut family: Family<'_>) -> Vec<Family<'_>> {
    if matches!(family.kind, MetricKind::Info | MetricKind::StateSet) {
        family.kind = MetricKind::Gauge;
    }
    if family.samples.iter().all(|sample| is_own(&family, sample)) {
        return vec![family];
    }
    let mut others: Vec<Family<'_>> = Vec::new();
    let mut by_name = HashMap::new();
    for sample in std::mem::take(&mut family.samples) {
        if is_own(&family, &sample) {
            family.samples.push(sample);
            continue;
        }
        let index = *by_name.entry(sample.name.clone()).or_insert_with(|| {
            let other = Family::new(sample.name.clone(), kind_of(&family, &sample));
            others.push(Family { help: family.help.clone(), unit: family.unit.clone(), ..other });
            others.len() - 1
        });
        others[index].samples.push(sample);
    }
    if !family.samples.is_empty() || !family.histograms.is_empty() {
        others.insert(0, family);
    }
    others
}

/// Takes a family apart into untyped ones, one for each name; native histograms stay together.
pub(super) fn by_name(mut family: Family<'_>) -> Vec<Family<'_>> {
    let mut untyped = Family::new(family.name.clone(), MetricKind::Untyped);
    (untyped.help, untyped.unit) = (family.help.clone(), family.unit.clone());
    untyped.samples = std::mem::take(&mut family.samples);
    let mut all = spread(untyped);
    if !family.histograms.is_empty() {
        all.push(family);
    }
    all
}

fn is_own(family: &Family<'_>, sample: &Sample<'_>) -> bool {
    match family.kind {
        MetricKind::Histogram | MetricKind::Summary => !is_created(family, sample),
        _ => sample.name == family.name,
    }
}

/// What a series is when it has a family of its own.
fn kind_of(family: &Family<'_>, sample: &Sample<'_>) -> MetricKind {
    let suffix = sample.name.strip_prefix(&*family.name).unwrap_or_default();
    match (family.kind, suffix) {
        (MetricKind::Counter, "_total") => MetricKind::Counter,
        // An info is a gauge by now.
        (MetricKind::Gauge, "_info") | (_, "_created") => MetricKind::Gauge,
        _ => MetricKind::Untyped,
    }
}

fn is_created(family: &Family<'_>, sample: &Sample<'_>) -> bool {
    sample.name.strip_prefix(&*family.name) == Some("_created")
}

/// Gives every native histogram that has no classic form the one that a scrape without native histograms
/// would have found: `_count`, `_sum` and the bucket of all. Native buckets have bounds of their own, and
/// too many of them, to be shown as classic ones.
pub(in super::super) fn add_classic_forms(family: &mut Family<'_>) {
    if family.histograms.is_empty() {
        return;
    }
    let count = format!("{}_count", family.name);
    let counts = family.samples.iter().filter(|sample| sample.name == count);
    let has_classic: HashSet<_> = counts.map(|sample| &sample.labels).collect();
    let natives = family.histograms.iter().filter(|histogram| !has_classic.contains(&histogram.labels));
    let added: Vec<_> = natives.flat_map(|histogram| classic_form(&family.name, histogram)).collect();
    family.samples.extend(added);
}

fn classic_form<'a>(name: &str, histogram: &HistogramSample<'a>) -> Vec<Sample<'a>> {
    let sample = |suffix: &str, value: f64, bound: Option<LabelPair<'a>>| Sample {
        name: Cow::Owned(format!("{name}{suffix}")),
        labels: histogram.labels.iter().cloned().chain(bound).collect(),
        value,
        timestamp: histogram.timestamp,
        exemplar: None,
    };
    let all = ("le".into(), format_bound(f64::INFINITY).into());
    let native = &histogram.value;
    let mut form = vec![sample("_count", native.count, None), sample("_sum", native.sum, None)];
    // A label of its own can be in the way of the bucket's.
    if histogram.labels.iter().all(|(name, value)| name != "le" || value.is_empty()) {
        form.push(sample("_bucket", native.count, Some(all)));
    }
    form
}
