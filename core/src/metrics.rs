//! The metrics of the core, every name in this one file, and the way in which stages get theirs:
//! ask [`Metrics`] for a family by name, and stages that ask for the same name share one.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{
    CounterVec, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use crate::error::BoxError;

/// The prefix of every metric of this program.
pub const NAMESPACE: &str = "prometheus_streams";

/// Buckets of durations in seconds, from a loopback publish to a gateway that is about to time out.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// A Prometheus registry that was passed in, and the families that were asked of it so far.
///
/// Asking again for a name gives the family that is there, so two stages of one type share it.
/// Asking for it with other labels or as another type is a mistake in the stage's code; it is logged
/// and answered with a family that is not exported, so that counting never fails. A name or label that
/// Prometheus does not allow is one too, and panics when the stage is built.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    families: Arc<Mutex<HashMap<String, Box<dyn Any + Send>>>>,
}

impl Metrics {
    /// Metrics in `registry`.
    pub fn new(registry: Registry) -> Self {
        Self { registry, families: Arc::default() }
    }

    /// The registry, for whoever serves it.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The counters `prometheus_streams_<name>`.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.family(name, labels, |full| IntCounterVec::new(Opts::new(full, help), labels))
    }

    /// The counters `prometheus_streams_<name>` that count in fractions, as seconds.
    pub fn float_counters(&self, name: &str, help: &str, labels: &[&str]) -> CounterVec {
        self.family(name, labels, |full| CounterVec::new(Opts::new(full, help), labels))
    }

    /// The gauges `prometheus_streams_<name>`.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.family(name, labels, |full| IntGaugeVec::new(Opts::new(full, help), labels))
    }

    /// The gauges `prometheus_streams_<name>` that hold fractions, as times.
    pub fn float_gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.family(name, labels, |full| GaugeVec::new(Opts::new(full, help), labels))
    }

    /// The histograms `prometheus_streams_<name>` of durations in seconds, 0.5 ms to 30 s.
    pub fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        self.family(name, labels, |full| {
            HistogramVec::new(HistogramOpts::new(full, help).buckets(SECONDS.to_vec()), labels)
        })
    }

    /// Finds the family, or creates and registers it.
    fn family<F>(&self, name: &str, labels: &[&str], create: impl Fn(String) -> prometheus::Result<F>) -> F
    where
        F: Collector + Clone + 'static,
    {
        let full = format!("{NAMESPACE}_{name}");
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let known = families.get(&full).and_then(|family| family.downcast_ref::<F>());
        if let Some(known) =
            known.filter(|known| known.desc().iter().all(|desc| desc.variable_labels == labels))
        {
            return known.clone();
        }
        match self.register(&full, &create) {
            Ok(family) => {
                families.insert(full, Box::new(family.clone()));
                family
            }
            Err(error) => {
                tracing::error!(metric = full, %error, "cannot register a metric; it will not be exported");
                create(full).unwrap_or_else(|error| panic!("the metric {name} is declared wrongly: {error}"))
            }
        }
    }

    fn register<F>(&self, full: &str, create: impl Fn(String) -> prometheus::Result<F>) -> Result<F, BoxError>
    where
        F: Collector + Clone + 'static,
    {
        let family = create(full.to_owned())?;
        self.registry.register(Box::new(family.clone()))?;
        Ok(family)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// What the core counts for one pipeline.
#[derive(Clone)]
pub(crate) struct PipelineMetrics {
    pub(crate) events: IntCounter,
    pub(crate) held: IntGauge,
    pub(crate) paused: IntGauge,
}

impl PipelineMetrics {
    pub(crate) fn new(metrics: &Metrics, pipeline: &str) -> Self {
        let labels = &["pipeline"];
        Self {
            events: metrics
                .counters(
                    "pipeline_events_total",
                    "Events that the source of a pipeline sent into it.",
                    labels,
                )
                .with_label_values(&[pipeline]),
            held: metrics
                .gauges("pipeline_events_held", "Events that a pipeline holds, not yet answered.", labels)
                .with_label_values(&[pipeline]),
            paused: metrics
                .gauges("pipeline_paused", "1 while a pipeline is paused.", labels)
                .with_label_values(&[pipeline]),
        }
    }
}

/// What the core counts for one transform of a pipeline.
#[derive(Clone)]
pub(crate) struct TransformMetrics {
    pub(crate) filtered: IntCounter,
    pub(crate) errors: IntCounter,
}

impl TransformMetrics {
    pub(crate) fn new(metrics: &Metrics, pipeline: &str, transform: &str) -> Self {
        let counter = |name, help| {
            metrics.counters(name, help, &["pipeline", "transform"]).with_label_values(&[pipeline, transform])
        };
        Self {
            filtered: counter("transform_filtered_total", "Events that a transform dropped, on purpose."),
            errors: counter(
                "transform_errors_total",
                "Events that a transform could not handle; they are rejected.",
            ),
        }
    }
}

/// What the core counts for one sink of a pipeline.
#[derive(Clone)]
pub(crate) struct SinkMetrics {
    pub(crate) attempts: IntCounter,
    pub(crate) retries: IntCounter,
    pub(crate) superseded: IntCounter,
    pub(crate) in_flight: IntGauge,
    pub(crate) waiting: IntGauge,
    pub(crate) circuit_open: IntGauge,
    pub(crate) seconds: Histogram,
    outcomes: [IntCounter; 4],
}

impl SinkMetrics {
    pub(crate) fn new(metrics: &Metrics, pipeline: &str, sink: &str) -> Self {
        let (labels, values) = (&["pipeline", "sink"], &[pipeline, sink]);
        let counter = |name, help| metrics.counters(name, help, labels).with_label_values(values);
        let gauge = |name, help| metrics.gauges(name, help, labels).with_label_values(values);
        let outcomes = metrics.counters(
            "sink_outcomes_total",
            "Events that a sink has answered, by outcome: delivered, filtered, rejected, failed.",
            &["pipeline", "sink", "outcome"],
        );
        let outcome = |outcome| outcomes.with_label_values(&[pipeline, sink, outcome]);
        Self {
            attempts: counter("sink_attempts_total", "Attempts to deliver an event, the first try included."),
            retries: counter("sink_retries_total", "Attempts after the first."),
            superseded: counter(
                "sink_superseded_total",
                "Waiting events that a newer one of equal labels replaced.",
            ),
            in_flight: gauge("sink_in_flight", "Events that a sink is delivering now."),
            waiting: gauge("sink_waiting", "Events that wait for a lane of a sink."),
            circuit_open: gauge("sink_circuit_open", "1 while the circuit breaker of a sink is open."),
            seconds: metrics
                .seconds("sink_delivery_seconds", "Time from the first attempt to the answer.", labels)
                .with_label_values(values),
            outcomes: ["delivered", "filtered", "rejected", "failed"].map(outcome),
        }
    }

    pub(crate) fn count(&self, outcome: &crate::delivery::Outcome) {
        use crate::delivery::Outcome;
        let index = match outcome {
            Outcome::Delivered => 0,
            Outcome::Filtered => 1,
            Outcome::Rejected(_) => 2,
            Outcome::Failed(_) => 3,
        };
        self.outcomes[index].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_that_ask_for_one_name_share_one_family() {
        let metrics = Metrics::new(Registry::new());
        metrics.counters("x_total", "X.", &["job"]).with_label_values(&["a"]).inc();
        let again = metrics.counters("x_total", "X.", &["job"]);
        again.with_label_values(&["a"]).inc();
        assert_eq!(again.with_label_values(&["a"]).get(), 2);
        assert_eq!(metrics.registry().gather().len(), 1);
    }

    #[test]
    fn a_name_of_another_type_or_with_other_labels_is_not_exported_and_still_counts() {
        let metrics = Metrics::new(Registry::new());
        metrics.counters("x", "X.", &["a"]).with_label_values(&["1"]).inc();
        metrics.counters("x", "X.", &["a", "b"]).with_label_values(&["1", "2"]).inc();
        let other = metrics.gauges("x", "X.", &["b"]);
        other.with_label_values(&["1"]).set(3);
        assert_eq!(other.with_label_values(&["1"]).get(), 3);
        assert_eq!(metrics.registry().gather().len(), 1);
    }
}
