//! What this sink counts, beside what the core counts for every sink.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};
use prometheus_streams_core::stage::StageContext;

use crate::exposition::Canonical;

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
    samples: IntCounter,
    bytes: IntCounter,
    duplicates: IntCounter,
    unnameable: IntCounter,
}

impl PushMetrics {
    pub(super) fn new(cx: &StageContext) -> Self {
        let names = &["pipeline", "sink"];
        let values = &[cx.pipeline.as_str(), cx.name.as_str()];
        let counter = |name: &str, help: &str| {
            cx.metrics.counters(&format!("push_gateway_{name}"), help, names).with_label_values(values)
        };
        let left_out = cx.metrics.counters(
            "push_gateway_samples_left_out_total",
            "Samples left out of pushes: duplicates of a series, and names that a gateway cannot hold.",
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
            groups: cx
                .metrics
                .gauges("push_gateway_groups", "Groups whose newest scrape is remembered.", names)
                .with_label_values(values),
            samples: counter("samples_total", "Samples that the gateway has confirmed."),
            bytes: counter("bytes_total", "Bytes of confirmed pushes, as they were sent."),
            duplicates: left_out("duplicate"),
            unnameable: left_out("name"),
        }
    }

    /// The gateway has confirmed `page`, sent in `bytes` bytes.
    pub(super) fn confirmed(&self, page: &Canonical, bytes: usize) {
        self.samples.inc_by(page.samples as u64);
        self.bytes.inc_by(bytes as u64);
        self.duplicates.inc_by(page.duplicates as u64);
        self.unnameable.inc_by(page.dropped as u64);
    }

    /// A scrape of `job` was not taken.
    pub(super) fn failed(&self, job: &str) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = jobs.contains(job) || jobs.len() < MOST_JOBS && jobs.insert(job.to_owned());
        self.errors.with_label_values(&[if is_known { job } else { "" }]).inc();
    }
}
