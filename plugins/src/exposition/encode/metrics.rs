//! The series of a family, gathered into metrics: those that share all labels but the bound.

use std::collections::{HashMap, HashSet, VecDeque};

use super::super::float::parse_float;
use super::super::model::{Family, HistogramSample, LabelPair, MetricKind, Sample};

/// What one metric of a family has.
#[derive(Debug)]
pub(super) struct Metric<'f, 'a> {
    /// The labels that all have.
    pub(super) labels: Vec<&'f LabelPair<'a>>,
    /// The series in the order of the family, each with what is behind the family's name.
    pub(super) samples: Vec<(&'f str, &'f Sample<'a>)>,
    pub(super) native: Option<&'f HistogramSample<'a>>,
}

/// The label that tells the series of one metric apart.
pub(super) fn bound_label(kind: MetricKind) -> Option<&'static str> {
    match kind {
        MetricKind::Histogram | MetricKind::GaugeHistogram => Some("le"),
        MetricKind::Summary => Some("quantile"),
        _ => None,
    }
}

/// The metrics in the order of their first series. A series that comes again starts a new metric.
pub(super) fn gather<'f, 'a>(family: &'f Family<'a>) -> Vec<Metric<'f, 'a>> {
    let bound = bound_label(family.kind);
    let mut natives: HashMap<Vec<&LabelPair<'a>>, VecDeque<&'f HistogramSample<'a>>> = HashMap::new();
    for histogram in &family.histograms {
        natives.entry(histogram.labels.iter().collect()).or_default().push_back(histogram);
    }
    let mut metrics: Vec<Metric<'f, 'a>> = Vec::new();
    let mut by_labels: HashMap<Vec<&LabelPair<'a>>, usize> = HashMap::new();
    let mut seen = HashSet::new();
    for sample in &family.samples {
        let labels: Vec<_> = sample.labels.iter().filter(|(name, _)| Some(&**name) != bound).collect();
        let suffix = sample.name.strip_prefix(&*family.name).unwrap_or(&sample.name);
        let value = bound.map(|bound| sample.label(bound));
        let known = by_labels.get(&labels).copied();
        let index = match known.filter(|index| seen.insert((*index, suffix, value))) {
            Some(index) => index,
            None => {
                let native = natives.get_mut(&labels).and_then(VecDeque::pop_front);
                metrics.push(Metric { labels: labels.clone(), samples: Vec::new(), native });
                let index = metrics.len() - 1;
                by_labels.insert(labels, index);
                seen.insert((index, suffix, value));
                index
            }
        };
        metrics[index].samples.push((suffix, sample));
    }
    for histogram in &family.histograms {
        let labels: Vec<_> = histogram.labels.iter().collect();
        if let Some(native) = natives.get_mut(&labels).and_then(VecDeque::pop_front) {
            metrics.push(Metric { labels, samples: Vec::new(), native: Some(native) });
        }
    }
    metrics
}

/// A metric of a histogram or summary that has a count, a sum and bounds that are numbers, and nothing else.
#[derive(Debug)]
pub(super) struct Whole<'f, 'a> {
    pub(super) count: &'f Sample<'a>,
    pub(super) sum: &'f Sample<'a>,
    /// Bounds or quantiles; `+Inf` is last.
    pub(super) bounds: Vec<(f64, &'f Sample<'a>)>,
}

impl<'f, 'a> Metric<'f, 'a> {
    /// The parts, if it is whole.
    pub(super) fn whole(&self, kind: MetricKind) -> Option<Whole<'f, 'a>> {
        let (bound, suffix) = (bound_label(kind)?, if kind == MetricKind::Summary { "" } else { "_bucket" });
        let (mut count, mut sum, mut bounds) = (None, None, Vec::new());
        for (own, sample) in &self.samples {
            let label = sample.label(bound);
            match *own {
                "_count" if label.is_empty() => count = Some(*sample),
                "_sum" if label.is_empty() => sum = Some(*sample),
                own if own == suffix => bounds.push((parse_float(label.as_bytes())?, *sample)),
                _ => return None,
            }
        }
        bounds.sort_by_key(|(bound, _)| *bound == f64::INFINITY);
        Some(Whole { count: count?, sum: sum?, bounds })
    }
}
