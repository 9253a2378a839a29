//! One handle for every management interface: what runs, in what state; pause, resume and flip a
//! pipeline; the log level; shutdown.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus::IntGauge;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::BoxError;
use crate::health::HealthBoard;
use crate::metrics::Metrics;

/// The handle. Clones steer the same program.
#[derive(Clone)]
pub struct Control(Arc<Inner>);

struct Inner {
    pipelines: Mutex<BTreeMap<String, Gate>>,
    health: HealthBoard,
    metrics: Metrics,
    shutdown: CancellationToken,
    log_level: OnceLock<SetLogLevel>,
}

type SetLogLevel = Box<dyn Fn(&str) -> Result<(), BoxError> + Send + Sync>;

/// The gate at the entrance of one pipeline.
struct Gate {
    paused: watch::Sender<bool>,
    gauge: IntGauge,
}

/// What a management interface shows of one pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineState {
    /// Its name in the configuration.
    pub name: String,
    /// True while it takes no new events.
    pub paused: bool,
}

/// Why a request could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no pipeline of that name.
    #[error("there is no pipeline named {0:?}")]
    UnknownPipeline(String),
    /// The log level cannot be changed, or not to that.
    #[error("cannot set the log level to {level:?}: {source}")]
    LogLevel {
        /// The level that was asked for.
        level: String,
        /// Why not.
        source: BoxError,
    },
}

impl Control {
    /// A handle for a program whose stages report to `health`, count in `metrics`, and end with `shutdown`.
    pub fn new(metrics: Metrics, health: HealthBoard, shutdown: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            pipelines: Mutex::default(),
            health,
            metrics,
            shutdown,
            log_level: OnceLock::new(),
        }))
    }

    /// The pipelines and their state, by name.
    pub fn pipelines(&self) -> Vec<PipelineState> {
        let gates = self.0.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        gates
            .iter()
            .map(|(name, gate)| PipelineState { name: name.clone(), paused: *gate.paused.borrow() })
            .collect()
    }

    /// Holds a pipeline: it asks for nothing more, and what it already has goes on to its end.
    ///
    /// # Errors
    /// There is no such pipeline.
    pub fn pause(&self, pipeline: &str) -> Result<(), ControlError> {
        self.set_paused(pipeline, |_| true).map(drop)
    }

    /// Lets a pipeline go on.
    ///
    /// # Errors
    /// There is no such pipeline.
    pub fn resume(&self, pipeline: &str) -> Result<(), ControlError> {
        self.set_paused(pipeline, |_| false).map(drop)
    }

    /// Pauses a pipeline that runs, resumes one that is paused; true when it is paused now.
    ///
    /// # Errors
    /// There is no such pipeline.
    pub fn flip(&self, pipeline: &str) -> Result<bool, ControlError> {
        self.set_paused(pipeline, |paused| !paused)
    }

    /// Asks the program to drain and end.
    pub fn shutdown(&self) {
        self.0.shutdown.cancel();
    }

    /// The stages that do not do their work now, with their reasons; empty when the program is ready.
    pub fn degraded(&self) -> Vec<(String, String)> {
        self.0.health.degraded()
    }

    /// The reports of all stages on a topic as they are now, by the name of their stage.
    pub fn reports(&self, topic: &str) -> Vec<(String, serde_json::Value)> {
        self.0.health.reports(topic)
    }

    /// The metrics of the program, for whoever serves them.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Sets the level of the log, as `debug` or a filter like `info,async_nats=debug`.
    ///
    /// # Errors
    /// The program's log cannot be changed while it runs, or not to that.
    pub fn set_log_level(&self, level: &str) -> Result<(), ControlError> {
        let set = self.0.log_level.get().ok_or_else(|| "this program does not offer it".into());
        set.and_then(|set| set(level))
            .map_err(|source| ControlError::LogLevel { level: level.to_owned(), source })
    }

    /// Tells how the level of the log is set; only the first call counts.
    pub fn on_set_log_level(&self, set: impl Fn(&str) -> Result<(), BoxError> + Send + Sync + 'static) {
        let _ = self.0.log_level.set(Box::new(set));
    }

    /// Adds a pipeline, and returns what its emitter watches.
    pub(crate) fn add_pipeline(&self, name: &str, gauge: IntGauge) -> watch::Receiver<bool> {
        let (paused, watched) = watch::channel(false);
        gauge.set(0);
        let mut gates = self.0.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        gates.insert(name.to_owned(), Gate { paused, gauge });
        watched
    }

    fn set_paused(&self, pipeline: &str, next: impl Fn(bool) -> bool) -> Result<bool, ControlError> {
        let gates = self.0.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = gates.get(pipeline).ok_or_else(|| ControlError::UnknownPipeline(pipeline.to_owned()))?;
        let before = *gate.paused.borrow();
        let paused = next(before);
        gate.paused.send_replace(paused);
        gate.gauge.set(i64::from(paused));
        if paused != before {
            tracing::info!(pipeline, paused, "pipeline {}", if paused { "paused" } else { "resumed" });
        }
        Ok(paused)
    }
}
