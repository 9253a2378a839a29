//! What the poller counts, under the names that prometheus-streams 1.0 gave them. There are as many
//! series as there are jobs and targets, and no more: those of a target go when it goes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus::{CounterVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use prometheus_streams_core::delivery::Outcome;
use prometheus_streams_core::event::{Event, Labels};
use prometheus_streams_core::metrics::Metrics;

use crate::support::scrape::{self, INSTANCE, JOB, label};

const TARGET_LABELS: &[&str] = &["poller_job", "poller_target"];

/// The metrics of all targets. Two pollers in one program add up.
pub(super) struct PollerMetrics {
    errors: IntCounterVec,
    bytes: IntCounterVec,
    seconds: CounterVec,
    count: IntCounterVec,
    skipped: IntCounterVec,
    targets: IntGaugeVec,
    jobs: IntGauge,
    refused: IntCounterVec,
    published: IntCounter,
    publish_errors: IntCounter,
    tombstones: IntCounter,
    tombstones_lost: IntCounter,
    /// How many targets share the series of a job and an instance.
    shared: Mutex<HashMap<[Box<str>; 2], usize>>,
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
    pub(super) fn new(metrics: &Metrics) -> Self {
        let per_target = |name, help| metrics.counters(name, help, TARGET_LABELS);
        let counter = |name, help| metrics.counters(name, help, &[]).with_label_values::<&str>(&[]);
        Self {
            errors: per_target("poller_poll_errors", "Scrapes that failed."),
            bytes: per_target("poller_bytes_polled", "Bytes of all scrapes, after decompression."),
            // The sum and the count of a summary, which the library does not have.
            seconds: metrics.float_counters(
                "poller_poll_time_sum",
                "Seconds that all scrapes took.",
                TARGET_LABELS,
            ),
            count: per_target("poller_poll_time_count", "Scrapes, failed ones included."),
            skipped: metrics.counters(
                "poller_skipped_slots_total",
                "Slots that went by without a scrape, by reason: full, paused, late, busy.",
                &["poller_job", "reason"],
            ),
            targets: metrics.gauges(
                "poller_targets",
                "Targets that are scraped, by their job.",
                &["poller_job"],
            ),
            jobs: metrics
                .gauges("poller_jobs", "Jobs that are scraped.", &[])
                .with_label_values::<&str>(&[]),
            refused: metrics.counters(
                "poller_refused_targets_total",
                "Addresses that were found and cannot be targets: invalid, or with the labels of another target.",
                &["poller_job"],
            ),
            published: counter("poller_published_count", "Scrapes that were delivered."),
            publish_errors: counter("poller_publish_errors", "Scrapes that could not be delivered."),
            tombstones: counter("poller_tombstones_total", "Events that say that a target is gone."),
            tombstones_lost: counter(
                "poller_tombstones_lost_total",
                "Targets that went unannounced, because too many went while the pipeline had no room.",
            ),
            shared: Mutex::default(),
        }
    }

    /// A job has this many more targets, or fewer.
    pub(super) fn targets_changed(&self, job: &str, by: i64) {
        self.targets.with_label_values(&[job]).add(by);
    }

    /// There are this many more jobs with targets, or fewer.
    pub(super) fn jobs_changed(&self, by: i64) {
        self.jobs.add(by);
    }

    /// Addresses of a job cannot be targets.
    pub(super) fn refused(&self, job: &str, count: usize) {
        self.refused.with_label_values(&[job]).inc_by(count as u64);
    }

    /// A target with these labels is there from now on.
    pub(super) fn joined(&self, labels: &Labels) {
        *self.shared().entry(place(labels).map(Into::into)).or_default() += 1;
    }

    /// A target with these labels is no longer there.
    pub(super) fn left(&self, labels: &Labels) {
        let key: [Box<str>; 2] = place(labels).map(Into::into);
        let mut shared = self.shared();
        let Some(count) = shared.get_mut(&key) else { return };
        *count -= 1;
        if *count == 0 {
            shared.remove(&key);
            let place = &place(labels);
            for counters in [&self.errors, &self.bytes, &self.count] {
                // It is not there if the target was never scraped.
                let _ = counters.remove_label_values(place);
            }
            let _ = self.seconds.remove_label_values(place);
        }
    }

    fn shared(&self) -> MutexGuard<'_, HashMap<[Box<str>; 2], usize>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn skipped(&self, job: &str, reason: Skipped) {
        self.skipped.with_label_values(&[job, reason.as_str()]).inc();
    }

    pub(super) fn scraped(&self, event: &Event) {
        let place = &place(&event.labels);
        self.count.with_label_values(place).inc();
        self.bytes.with_label_values(place).inc_by(event.body.len() as u64);
        self.errors.with_label_values(place).inc_by(u64::from(!scrape::is_up(event)));
        let took = scrape::duration(&event.attributes).unwrap_or_default();
        self.seconds.with_label_values(place).inc_by(took.as_secs_f64());
    }

    pub(super) fn answered(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Delivered => self.published.inc(),
            Outcome::Rejected(_) | Outcome::Failed(_) => self.publish_errors.inc(),
            Outcome::Filtered => {}
        }
    }

    pub(super) fn buried(&self) {
        self.tombstones.inc();
    }

    pub(super) fn buried_unannounced(&self) {
        self.tombstones_lost.inc();
    }
}

fn place(labels: &Labels) -> [&str; 2] {
    [label(labels, JOB), label(labels, INSTANCE)]
}
