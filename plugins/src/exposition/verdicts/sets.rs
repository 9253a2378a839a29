//! Sets of metrics of every type, as the specifications want them: what our encoders write of them, strict mode
//! takes, and it reads back as it was.

use std::collections::BTreeSet;

use super::super::*;
use proptest::prelude::*;

/// The types of OpenMetrics; text 0.0.4 has the first [`TEXT_KINDS`].
const KINDS: [MetricKind; 8] = [
    MetricKind::Counter,
    MetricKind::Gauge,
    MetricKind::Histogram,
    MetricKind::Summary,
    MetricKind::Untyped,
    MetricKind::GaugeHistogram,
    MetricKind::Info,
    MetricKind::StateSet,
];
const TEXT_KINDS: usize = 5;

/// What a family is made from.
#[derive(Debug, Clone)]
struct Seed {
    kind: MetricKind,
    help: Option<String>,
    has_unit: bool,
    /// The value of the one label of each metric.
    metrics: BTreeSet<String>,
    value: f64,
    /// The observations in each bucket.
    buckets: Vec<u32>,
    exemplar: Option<String>,
}

fn seeds(kinds: usize) -> impl Strategy<Value = Vec<Seed>> {
    let text = || r#"[ -~é漢🚀\n\\"]{1,8}"#;
    let value = prop_oneof![any::<f64>(), (0..1000_i32).prop_map(f64::from)];
    let buckets = proptest::collection::vec(0..1000_u32, 1..5);
    let metrics = proptest::collection::btree_set(text(), 1..4);
    let option = || proptest::option::of(text());
    let parts = (0..kinds, option(), any::<bool>(), metrics, value, buckets, option());
    let seed = parts.prop_map(|(kind, help, has_unit, metrics, value, buckets, exemplar)| Seed {
        kind: KINDS[kind],
        // Text 0.0.4 has no blanks at the ends of a help text.
        help: help.map(|help| help.trim().to_owned()),
        has_unit,
        metrics,
        // NaN is not equal to itself.
        value: if value.is_nan() { 0.0 } else { value },
        buckets,
        exemplar,
    });
    proptest::collection::vec(seed, 0..5)
}

/// The families of a set, with names of their own.
fn families(seeds: &[Seed], format: Format) -> Vec<Family<'static>> {
    seeds.iter().enumerate().map(|(index, seed)| family(seed, index, format)).collect()
}

fn family(seed: &Seed, index: usize, format: Format) -> Family<'static> {
    let is_openmetrics = format == Format::OpenMetrics;
    let has_unit =
        is_openmetrics && seed.has_unit && !matches!(seed.kind, MetricKind::Info | MetricKind::StateSet);
    let name = format!("f{index}{}", if has_unit { "_seconds" } else { "" });
    let mut family = Family::new(name.clone(), seed.kind);
    family.help = seed.help.clone().map(Into::into);
    family.unit = has_unit.then(|| "seconds".into());
    for metric in &seed.metrics {
        let sample = |suffix: &str, inner: Option<(&str, String)>, value: f64| {
            let mut sample = Sample::new(format!("{name}{suffix}"), value);
            sample.labels.push(("m".into(), metric.clone().into()));
            sample.labels.extend(inner.map(|(name, value)| (name.to_owned().into(), value.into())));
            sample
        };
        let exemplar = |value: f64| {
            let label = seed.exemplar.clone().filter(|_| is_openmetrics)?;
            Some(Box::new(Exemplar {
                labels: vec![("id".into(), label.into())],
                value,
                timestamp: Some(1500),
            }))
        };
        let samples = &mut family.samples;
        match seed.kind {
            MetricKind::Counter => {
                let mut total = sample(if is_openmetrics { "_total" } else { "" }, None, seed.value.abs());
                total.exemplar = exemplar(1.5);
                samples.push(total);
            }
            MetricKind::Gauge | MetricKind::Untyped => samples.push(sample("", None, seed.value)),
            MetricKind::Histogram | MetricKind::GaugeHistogram => {
                let is_gauge = seed.kind == MetricKind::GaugeHistogram;
                let mut sum = 0;
                for (bound, count) in seed.buckets.iter().enumerate() {
                    sum += count;
                    let mut bucket = sample("_bucket", Some(("le", format!("{}.5", bound))), f64::from(sum));
                    bucket.exemplar = exemplar(bound as f64);
                    samples.push(bucket);
                }
                samples.push(sample("_bucket", Some(("le", "+Inf".to_owned())), f64::from(sum)));
                samples.push(sample(if is_gauge { "_gsum" } else { "_sum" }, None, seed.value.abs()));
                samples.push(sample(if is_gauge { "_gcount" } else { "_count" }, None, f64::from(sum)));
            }
            MetricKind::Summary => {
                samples.push(sample("", Some(("quantile", "0.5".to_owned())), seed.value.abs()));
                samples.push(sample("", Some(("quantile", "0.9".to_owned())), f64::INFINITY));
                samples.push(sample("_sum", None, seed.value.abs()));
                samples.push(sample("_count", None, f64::from(seed.buckets[0])));
            }
            MetricKind::Info => samples.push(sample("_info", None, 1.0)),
            MetricKind::StateSet => {
                let state = |state: &str| Some((name.as_str(), state.to_owned()));
                samples.push(sample("", state("on"), 1.0));
                samples.push(sample("", state("off"), 0.0));
            }
        }
    }
    family
}

proptest! {
    #[test]
    fn a_set_in_text_comes_back(seeds in seeds(TEXT_KINDS)) {
        let families = families(&seeds, Format::Text);
        let mut page = Vec::new();
        encode(&families, &mut page);
        prop_assert_eq!(parse(Format::Text, Mode::Strict, &page).unwrap(), families);
    }

    #[test]
    fn a_set_in_openmetrics_comes_back(seeds in seeds(KINDS.len())) {
        let families = families(&seeds, Format::OpenMetrics);
        let mut page = Vec::new();
        encode_openmetrics(&families, &mut page);
        prop_assert_eq!(parse(Format::OpenMetrics, Mode::Strict, &page).unwrap(), families);
    }
}
