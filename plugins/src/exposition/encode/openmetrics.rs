//! Families as a page of OpenMetrics 1.0.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::Write;

use super::super::float::{parse_float, write_float};
use super::super::model::{Exemplar, Family, LabelPair, MetricKind, Sample, is_plain_metric_name};
use super::metrics::{Metric, gather};
use super::spread::{add_classic_forms, by_name};
use super::text::{encode_labels, encode_meta_name, encode_series, escape};

/// The most characters that the labels of an exemplar may have together.
const EXEMPLAR_CHARACTERS: usize = 128;

/// Appends the families to `out`, and `# EOF`.
///
/// A strict reader takes the page, if names and labels are what it allows: the series of a metric are put one
/// after the other; a counter gets the name without `_total`; a unit stays if the name ends with it; and a
/// family whose series are not what its type asks for is written as `unknown` ones, one for each name.
pub fn encode_openmetrics(families: &[Family<'_>], out: &mut Vec<u8>) {
    for family in as_openmetrics(families.to_vec()) {
        encode_openmetrics_metadata(&family, out);
        encode_openmetrics_samples(&family, out);
    }
    out.extend_from_slice(OPENMETRICS_END);
}

/// The last line of a page.
pub const OPENMETRICS_END: &[u8] = b"# EOF\n";

/// The families that OpenMetrics has for these, each of which can then be written by itself; see
/// [`encode_openmetrics`].
pub fn as_openmetrics(families: Vec<Family<'_>>) -> Vec<Family<'_>> {
    let names: HashSet<_> = families.iter().map(|family| family.name.clone()).collect();
    families.into_iter().flat_map(|family| fit(family, &names)).collect()
}

/// The families that OpenMetrics can hold for one. A counter of text cannot have the name without `_total` if another
/// of the families has it, as with `go_memstats_alloc_bytes`.
fn fit<'a>(mut family: Family<'a>, names: &HashSet<Cow<'a, str>>) -> Vec<Family<'a>> {
    add_classic_forms(&mut family);
    family.histograms.clear();
    if family.kind == MetricKind::Counter
        && let Some(base) = family.name.strip_suffix("_total")
        && !base.is_empty()
        && !names.contains(base)
        && family.samples.iter().all(|sample| sample.name == family.name)
    {
        family.name = Cow::Owned(base.to_owned());
    }
    if gather(&family).iter().all(|metric| is_fit(&family, metric)) {
        return vec![family];
    }
    by_name(family)
}

/// Whether a metric is as the specification wants it.
fn is_fit(family: &Family<'_>, metric: &Metric<'_, '_>) -> bool {
    let has = |suffix: &str| metric.samples.iter().any(|(own, _)| *own == suffix);
    let all = |fits: &dyn Fn(&str, f64) -> bool| metric.samples.iter().all(|(own, s)| fits(own, s.value));
    match family.kind {
        MetricKind::Gauge | MetricKind::Untyped => all(&|suffix, _| suffix.is_empty()),
        MetricKind::Counter => {
            has("_total") && all(&|suffix, value| matches!(suffix, "_total" | "_created") && value >= 0.0)
        }
        MetricKind::Info => all(&|suffix, value| suffix == "_info" && value == 1.0),
        MetricKind::StateSet => {
            let has_state =
                metric.labels.iter().any(|(name, value)| *name == family.name && !value.is_empty());
            has_state && all(&|suffix, value| suffix.is_empty() && (value == 0.0 || value == 1.0))
        }
        MetricKind::Summary => {
            all(&|suffix, value| match suffix {
                "_count" => is_natural(value),
                "_sum" | "" => value >= 0.0 || (suffix.is_empty() && value.is_nan()),
                _ => suffix == "_created",
            }) && quantiles_fit(metric)
        }
        MetricKind::Histogram => histogram_fits(metric, "_sum", "_count"),
        MetricKind::GaugeHistogram => histogram_fits(metric, "_gsum", "_gcount"),
    }
}

fn is_natural(value: f64) -> bool {
    value >= 0.0 && value.fract() == 0.0
}

fn bound(sample: &Sample<'_>, label: &str) -> Option<f64> {
    parse_float(sample.label(label).as_bytes())
}

fn quantiles_fit(metric: &Metric<'_, '_>) -> bool {
    metric.samples.iter().all(|(suffix, sample)| match *suffix {
        "" => bound(sample, "quantile").is_some_and(|quantile| (0.0..=1.0).contains(&quantile)),
        _ => sample.label("quantile").is_empty(),
    })
}

/// Buckets that rise to `+Inf`, and a count that agrees with it; a sum only where all is above zero.
fn histogram_fits(metric: &Metric<'_, '_>, sum_suffix: &str, count_suffix: &str) -> bool {
    let (mut sum, mut count) = (None, None);
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for (suffix, sample) in &metric.samples {
        let le = bound(sample, "le");
        match (*suffix, le) {
            ("_bucket", Some(le)) if is_natural(sample.value) => buckets.push((le, sample.value)),
            ("_created", None) => {}
            (suffix, None) if suffix == sum_suffix => sum = Some(sample.value),
            (suffix, None) if suffix == count_suffix => count = Some(sample.value),
            _ => return false,
        }
    }
    let has_negative = buckets.first().is_some_and(|(le, _)| *le < 0.0);
    let is_histogram = sum_suffix == "_sum";
    let sum_fits = sum.is_none_or(|sum| (sum >= 0.0 && !has_negative) || (!is_histogram && has_negative));
    buckets.last().is_some_and(|(le, all)| *le == f64::INFINITY && count.is_none_or(|count| count == *all))
        && buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1)
        && sum.is_some() == count.is_some()
        && sum_fits
}

/// Appends what there is to say of a family before its samples: `TYPE`, `UNIT` and `HELP`.
pub fn encode_openmetrics_metadata(family: &Family<'_>, out: &mut Vec<u8>) {
    let name = &family.name;
    meta("TYPE", name, family.kind.as_openmetrics_str(), out);
    if let Some(unit) = family.unit.as_deref().filter(|unit| unit_fits(family, unit)) {
        meta("UNIT", name, unit, out);
    }
    if let Some(help) = &family.help {
        out.extend_from_slice(b"# HELP ");
        encode_meta_name(name, out);
        out.push(b' ');
        escape(help, b"\\\n\"", out);
        out.push(b'\n');
    }
}

/// Appends the samples of a family, one line each, those of a metric one after the other.
pub fn encode_openmetrics_samples(family: &Family<'_>, out: &mut Vec<u8>) {
    for metric in gather(family) {
        for (suffix, sample) in &metric.samples {
            let exemplar = sample.exemplar.as_deref().filter(|e| has_place(family.kind, suffix, sample, e));
            encode_line(sample, exemplar, out);
        }
    }
}

/// Whether an exemplar belongs to the total of a counter, or into the bucket that shows it, and is short enough.
fn has_place(kind: MetricKind, suffix: &str, sample: &Sample<'_>, exemplar: &Exemplar<'_>) -> bool {
    let is_here = match kind {
        MetricKind::Counter => suffix == "_total",
        MetricKind::Histogram | MetricKind::GaugeHistogram => {
            let is_above = bound(sample, "le").is_some_and(|le| exemplar.value > le);
            suffix == "_bucket" && !is_above
        }
        _ => false,
    };
    is_here && is_short(&exemplar.labels)
}

fn meta(keyword: &str, name: &str, text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"# ");
    out.extend_from_slice(keyword.as_bytes());
    out.push(b' ');
    encode_meta_name(name, out);
    out.push(b' ');
    out.extend_from_slice(text.as_bytes());
    out.push(b'\n');
}

fn unit_fits(family: &Family<'_>, unit: &str) -> bool {
    let has_units = !matches!(family.kind, MetricKind::Info | MetricKind::StateSet);
    let is_end = family.name.strip_suffix(unit).is_some_and(|rest| rest.ends_with('_'));
    unit.is_empty() || (has_units && is_end && is_plain_metric_name(&family.name))
}

fn encode_line(sample: &Sample<'_>, exemplar: Option<&Exemplar<'_>>, out: &mut Vec<u8>) {
    encode_series(sample, out);
    out.push(b' ');
    write_float(out, sample.value);
    encode_openmetrics_timestamp(sample.timestamp, out);
    if let Some(exemplar) = exemplar {
        out.extend_from_slice(b" # {");
        encode_labels(&exemplar.labels, false, out);
        out.extend_from_slice(b"} ");
        write_float(out, exemplar.value);
        encode_openmetrics_timestamp(exemplar.timestamp, out);
    }
    out.push(b'\n');
}

fn is_short(labels: &[LabelPair<'_>]) -> bool {
    let characters = labels.iter().map(|(name, value)| name.chars().count() + value.chars().count());
    characters.sum::<usize>() <= EXEMPLAR_CHARACTERS
}

/// Appends a timestamp, if there is one, behind a blank: seconds with a fraction. Readers multiply by 1000 and cut off; where that would lose the last millisecond,
/// the next number away from zero is written.
pub fn encode_openmetrics_timestamp(millis: Option<i64>, out: &mut Vec<u8>) {
    let Some(millis) = millis else { return };
    let mut seconds = millis as f64 / 1000.0;
    if (seconds * 1000.0) as i64 != millis {
        seconds = if millis < 0 { seconds.next_down() } else { seconds.next_up() };
    }
    // Writing to a Vec cannot fail.
    let _ = write!(out, " {seconds}");
}
