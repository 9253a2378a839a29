//! What this sink counts, beside what the core counts for every sink.

use hyper::StatusCode;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};
use prometheus_streams_core::stage::StageContext;

use super::wire::Slice;

#[derive(Debug)]
pub(super) struct WriteMetrics {
    names: [String; 2],
    requests: IntCounterVec,
    pub(super) time: Histogram,
    samples: IntCounter,
    bytes: IntCounter,
    newest: IntGauge,
    pub(super) refused: IntCounter,
    pub(super) left_out: IntCounter,
    pub(super) known: IntCounter,
    pub(super) stale: IntCounter,
    pub(super) targets: IntGauge,
    pub(super) forgotten: IntCounter,
}

impl WriteMetrics {
    pub(super) fn new(cx: &StageContext) -> Self {
        let (labels, values) = (&["pipeline", "sink"], &[cx.pipeline.as_str(), cx.name.as_str()]);
        let counter = |name: &str, help: &str| {
            cx.metrics.counters(&format!("remote_write_{name}"), help, labels).with_label_values(values)
        };
        let gauge = |name: &str, help: &str| {
            cx.metrics.gauges(&format!("remote_write_{name}"), help, labels).with_label_values(values)
        };
        Self {
            names: [cx.pipeline.clone(), cx.name.clone()],
            requests: cx.metrics.counters(
                "remote_write_requests_total",
                "Requests to a remote-write receiver, by the code of its answer; empty if there was none.",
                &["pipeline", "sink", "code"],
            ),
            time: cx
                .metrics
                .seconds(
                    "remote_write_request_seconds",
                    "Time until the receiver answered a request.",
                    labels,
                )
                .with_label_values(values),
            samples: counter("samples_total", "Samples that the receiver has taken, histograms too."),
            bytes: counter("bytes_total", "Bytes of the requests that the receiver has taken."),
            newest: gauge(
                "newest_timestamp_seconds",
                "The newest time of the samples that the receiver has taken, in seconds since 1970.",
            ),
            refused: counter(
                "series_refused_total",
                "Series that the receiver refused; they are dead letters.",
            ),
            left_out: counter(
                "samples_left_out_total",
                "Samples with timestamps of their own for which the receiver has no place any more.",
            ),
            known: counter(
                "scrapes_known_total",
                "Scrapes that came again after a start, and that the receiver had from before it.",
            ),
            stale: counter("stale_markers_total", "Staleness markers made for series that ended."),
            targets: gauge("targets", "Targets whose series are remembered, to mark their ends."),
            forgotten: counter(
                "targets_forgotten_total",
                "Scrapes of targets whose series are not remembered because there are too many targets.",
            ),
        }
    }

    pub(super) fn answered(&self, status: StatusCode) {
        self.requests.with_label_values(&[&*self.names[0], &self.names[1], status.as_str()]).inc();
    }

    pub(super) fn unanswered(&self) {
        self.requests.with_label_values(&[&*self.names[0], &self.names[1], ""]).inc();
    }

    /// The receiver has taken these rows, sent in `bytes` bytes.
    pub(super) fn taken(&self, slices: &[Slice], bytes: usize) {
        self.bytes.inc_by(bytes as u64);
        self.samples.inc_by(slices.iter().map(|slice| slice.len() as u64).sum());
        let newest = slices.iter().flat_map(Slice::rows).map(|row| row.timestamp).max();
        if let Some(seconds) = newest.map(|millis| millis / 1000).filter(|newest| *newest > self.newest.get())
        {
            self.newest.set(seconds);
        }
    }
}
