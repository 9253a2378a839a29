//! What the poller counts, under the names that prometheus-streams 1.0 gave them. There are as many
//! series as there are jobs and targets in the configuration, and no more.

use std::collections::BTreeSet;

use prometheus::core::{AtomicF64, GenericCounter};
use prometheus::{IntCounter, IntCounterVec};
use prometheus_streams_core::delivery::Outcome;
use prometheus_streams_core::event::{Event, Labels};
use prometheus_streams_core::metrics::Metrics;

use super::scraper::Target;
use crate::support::scrape::{self, INSTANCE, JOB, label};

/// The metrics of all targets.
pub(super) struct PollerMetrics {
    targets: Vec<TargetMetrics>,
    skipped: IntCounterVec,
    published: IntCounter,
    publish_errors: IntCounter,
}

struct TargetMetrics {
    errors: IntCounter,
    bytes: IntCounter,
    seconds: GenericCounter<AtomicF64>,
    count: IntCounter,
}

/// Why a slot went by without a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Skipped {
    /// The pipeline held as many events as it may.
    Full,
    /// The pipeline was paused.
    Paused,
    /// The slot began too long ago: the machine was suspended, or its clock was set.
    Late,
    /// The scrape before was still running.
    Busy,
}

impl Skipped {
    fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Paused => "paused",
            Self::Late => "late",
            Self::Busy => "busy",
        }
    }
}

impl PollerMetrics {
    pub(super) fn new(metrics: &Metrics, targets: &[Target]) -> Self {
        let counter = |name, help| metrics.counters(name, help, &[]).with_label_values::<&str>(&[]);
        Self {
            targets: targets.iter().map(|target| TargetMetrics::new(metrics, &target.labels)).collect(),
            skipped: metrics.counters(
                "poller_skipped_slots_total",
                "Slots that went by without a scrape, by reason: full, paused, late, busy.",
                &["poller_job", "reason"],
            ),
            published: counter("poller_published_count", "Scrapes that were delivered."),
            publish_errors: counter("poller_publish_errors", "Scrapes that could not be delivered."),
        }
    }

    /// Shows how much is polled, and returns the number of jobs. Two pollers in one program add up.
    pub(super) fn announce(metrics: &Metrics, targets: &[Target]) -> usize {
        let per_job =
            metrics.gauges("poller_targets", "Targets that are scraped, by their job.", &["poller_job"]);
        let jobs: BTreeSet<_> = targets.iter().map(|target| label(&target.labels, JOB)).collect();
        let count = i64::try_from(jobs.len()).unwrap_or(i64::MAX);
        metrics
            .gauges("poller_jobs", "Jobs that are scraped.", &[])
            .with_label_values::<&str>(&[])
            .add(count);
        for target in targets {
            per_job.with_label_values(&[label(&target.labels, JOB)]).inc();
        }
        jobs.len()
    }

    pub(super) fn skipped(&self, labels: &Labels, reason: Skipped) {
        self.skipped.with_label_values(&[label(labels, JOB), reason.as_str()]).inc();
    }

    pub(super) fn scraped(&self, target: usize, event: &Event) {
        let metrics = &self.targets[target];
        metrics.count.inc();
        metrics.bytes.inc_by(event.body.len() as u64);
        if let Some(duration) = scrape::duration(&event.attributes) {
            metrics.seconds.inc_by(duration.as_secs_f64());
        }
        if !scrape::is_up(event) {
            metrics.errors.inc();
        }
    }

    pub(super) fn answered(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Delivered => self.published.inc(),
            Outcome::Rejected(_) | Outcome::Failed(_) => self.publish_errors.inc(),
            Outcome::Filtered => {}
        }
    }
}

impl TargetMetrics {
    fn new(metrics: &Metrics, labels: &Labels) -> Self {
        const NAMES: &[&str] = &["poller_job", "poller_target"];
        let values = &[label(labels, JOB), label(labels, INSTANCE)];
        let counter = |name, help| metrics.counters(name, help, NAMES).with_label_values(values);
        Self {
            errors: counter("poller_poll_errors", "Scrapes that failed."),
            bytes: counter("poller_bytes_polled", "Bytes of all scrapes, after decompression."),
            // The sum and the count of a summary, which the library does not have.
            seconds: metrics
                .float_counters("poller_poll_time_sum", "Seconds that all scrapes took.", NAMES)
                .with_label_values(values),
            count: counter("poller_poll_time_count", "Scrapes, failed ones included."),
        }
    }
}
