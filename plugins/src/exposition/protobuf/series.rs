//! What a metric of a histogram or summary says, as the series that other formats have for it.

use super::super::model::Exemplar;
use super::metric::{Histogram, Metric, Summary};

/// One series of a metric.
#[derive(Debug, Default)]
pub(super) struct Part<'a> {
    /// What its name has behind that of the family.
    pub(super) suffix: &'static str,
    /// The label that tells it from its siblings.
    pub(super) bound: Option<(&'static str, f64)>,
    pub(super) value: f64,
    pub(super) exemplar: Option<Exemplar<'a>>,
    /// Whether the metric has no more.
    pub(super) is_last: bool,
}

impl Metric<'_> {
    /// As in Prometheus, which cannot tell 0 from absence.
    pub(super) fn timestamp(&self) -> Option<i64> {
        (self.timestamp != 0).then_some(self.timestamp)
    }
}

impl Summary {
    /// The count, the sum, and then the quantiles.
    pub(super) fn part(&self, index: usize) -> Part<'static> {
        let is_last = index > self.quantiles.len();
        match index {
            0 => Part { suffix: "_count", value: self.count as f64, ..Part::default() },
            1 => Part { suffix: "_sum", value: self.sum, is_last, ..Part::default() },
            _ => {
                let (quantile, value) = self.quantiles.get(index - 2).copied().unwrap_or_default();
                Part { bound: Some(("quantile", quantile)), value, is_last, ..Part::default() }
            }
        }
    }
}

impl<'a> Histogram<'a> {
    /// The count, the sum, and then the buckets up to `+Inf`, which is made if it is missing.
    pub(super) fn part(&mut self, index: usize) -> Part<'a> {
        match index {
            0 => Part { suffix: "_count", value: self.classic_count(), ..Part::default() },
            1 => Part { suffix: "_sum", value: self.sum, ..Part::default() },
            _ => self.bucket(index - 2),
        }
    }

    fn bucket(&mut self, index: usize) -> Part<'a> {
        let all = self.classic_count();
        let (bound, value, exemplar) = match self.buckets.get_mut(index) {
            Some(bucket) => (bucket.bound, bucket.count, bucket.exemplar.take()),
            None => (f64::INFINITY, all, None),
        };
        Part {
            suffix: "_bucket",
            bound: Some(("le", bound)),
            value,
            exemplar: exemplar.map(|exemplar| *exemplar),
            is_last: bound == f64::INFINITY,
        }
    }

    /// How many buckets there will be.
    pub(super) fn shown_buckets(&self) -> usize {
        let infinity = self.buckets.iter().position(|bucket| bucket.bound == f64::INFINITY);
        infinity.unwrap_or(self.buckets.len()) + 1
    }

    /// The exemplars of the native histogram: its own, or else those of its buckets. Those without a
    /// timestamp are left out, as Prometheus has it.
    pub(super) fn native_exemplars(&self) -> Vec<Exemplar<'a>> {
        let has_timestamp = |exemplar: &&Exemplar<'a>| exemplar.timestamp.is_some();
        if self.exemplars.is_empty() {
            let buckets = self.buckets.iter().filter_map(|bucket| bucket.exemplar.as_deref());
            return buckets.filter(has_timestamp).cloned().collect();
        }
        self.exemplars.iter().filter(has_timestamp).cloned().collect()
    }
}
