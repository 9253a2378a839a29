//! What this sink counts, beside what the core counts for every sink.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};
use prometheus_streams_core::stage::StageContext;

use super::page::Body;

/// Jobs that are told apart; the errors of others count under an empty name. Jobs come with the events,
/// and whoever can publish those must not be able to fill our memory.
const MOST_JOBS: usize = 1_000;

#[derive(Debug)]
pub(super) struct PushMetrics {
    errors: IntCounterVec,
    jobs: Mutex<HashSet<String>>,
    pub(super) time: Histogram,
    pub(super) superseded: IntCounter,
    pub(super) groups: IntGauge,
    pub(super) memory: IntGauge,
    pub(super) expired: IntCounter,
    pub(super) upkeep: IntCounter,
    pub(super) restarts: IntCounter,
    samples: IntCounter,
    bytes: IntCounter,
    pub(super) duplicates: IntCounter,
    pub(super) unnameable: IntCounter,
    pub(super) conflicting: IntCounter,
    pub(super) refused: IntCounter,
}

impl PushMetrics {
    pub(super) fn new(cx: &StageContext) -> Self {
        let names = &["pipeline", "sink"];
        let values = &[cx.pipeline.as_str(), cx.name.as_str()];
        let counter = |name: &str, help: &str| {
            cx.metrics.counters(&format!("push_gateway_{name}"), help, names).with_label_values(values)
        };
        let gauge = |name: &str, help: &str| {
            cx.metrics.gauges(&format!("push_gateway_{name}"), help, names).with_label_values(values)
        };
        let left_out = cx.metrics.counters(
            "push_gateway_samples_left_out_total",
            "Samples left out: duplicates of a series (duplicate), names that a gateway cannot hold (name), families \
             that do not go with others of ours or of the gateway (conflict), and families that the gateway has \
             refused in their group (refused).",
            &["pipeline", "sink", "reason"],
        );
        let left_out = |reason| left_out.with_label_values(&[values[0], values[1], reason]);
        Self {
            errors: cx.metrics.counters(
                "receiver_publish_errors",
                "Scrapes that a push gateway did not take, each attempt counted.",
                &["receiver_job"],
            ),
            jobs: Mutex::default(),
            time: cx
                .metrics
                .seconds("receiver_publish_time", "Time until a push gateway confirmed a push.", &[])
                .with_label_values::<&str>(&[]),
            superseded: counter(
                "superseded_total",
                "Scrapes not pushed because the gateway has confirmed them, or a newer one of their group.",
            ),
            groups: gauge("groups", "Groups whose newest scrapes are remembered."),
            memory: gauge("memory_bytes", "Bytes in which the newest scrapes of all groups are remembered."),
            expired: counter(
                "expired_total",
                "Targets taken out of their group because nothing was heard of them.",
            ),
            upkeep: counter(
                "upkeep_pushes_total",
                "Pushes that no event asked for: of groups that a restarted gateway has lost, and of expired ones.",
            ),
            restarts: counter("restarts_total", "Restarts of the push gateway that were noticed."),
            samples: counter("samples_total", "Samples that the gateway has confirmed."),
            bytes: counter("bytes_total", "Bytes of confirmed pushes, as they were sent."),
            duplicates: left_out("duplicate"),
            unnameable: left_out("name"),
            conflicting: left_out("conflict"),
            refused: left_out("refused"),
        }
    }

    /// The gateway has confirmed a push.
    pub(super) fn confirmed(&self, body: &Body) {
        self.samples.inc_by(body.samples as u64);
        self.bytes.inc_by(body.bytes.len() as u64);
    }

    /// A scrape of `job` was not taken.
    pub(super) fn failed(&self, job: &str) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = jobs.contains(job) || jobs.len() < MOST_JOBS && jobs.insert(job.to_owned());
        self.errors.with_label_values(&[if is_known { job } else { "" }]).inc();
    }
}
