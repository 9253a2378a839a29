//! What the source counts.

use prometheus::{IntCounterVec, IntGauge};
use prometheus_streams_core::stage::StageContext;

/// The metrics of one source.
#[derive(Clone)]
pub(super) struct PushMetrics {
    labels: [String; 2],
    requests: IntCounterVec,
    skipped: IntCounterVec,
    pub(super) groups: IntGauge,
    pub(super) size: IntGauge,
    pub(super) unsaved: IntGauge,
}

impl PushMetrics {
    pub(super) fn new(cx: &StageContext) -> Self {
        let labels = [cx.pipeline.clone(), cx.name.clone()];
        let gauge =
            |name, help| cx.metrics.gauges(name, help, &["pipeline", "source"]).with_label_values(&labels);
        Self {
            requests: cx.metrics.counters(
                "push_requests_total",
                "Pushes and deletions, by method and status code.",
                &["pipeline", "source", "method", "code"],
            ),
            skipped: cx.metrics.counters(
                "push_skipped_repeats_total",
                "Repetitions of groups that were left out, by reason: full, paused, late, busy.",
                &["pipeline", "source", "reason"],
            ),
            groups: gauge("push_groups", "Groups that the source holds."),
            size: gauge(
                "push_groups_bytes",
                "Roughly the memory that all groups take, as `max_total_size` counts it.",
            ),
            unsaved: gauge(
                "push_unsaved_groups",
                "Groups whose newest state could not be written to the disk.",
            ),
            labels,
        }
    }

    pub(super) fn answered(&self, method: &str, code: u16) {
        let [pipeline, source] = &self.labels;
        self.requests.with_label_values(&[pipeline, source, method, &code.to_string()]).inc();
    }

    pub(super) fn skipped(&self, reason: &str) {
        let [pipeline, source] = &self.labels;
        self.skipped.with_label_values(&[pipeline, source, reason]).inc();
    }
}
