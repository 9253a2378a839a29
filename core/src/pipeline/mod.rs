//! Builds the pipelines of a configuration, runs them, and drains them.
//!
//! ```text
//! source --emitter--> router (transforms) --queue--> lanes of sink A --> layers --> sink A
//!                                         '-queue--> lanes of sink B --> layers --> sink B
//! ```
//!
//! An event keeps its room in the pipeline from the emitter until its outcome is known, so the queues
//! in between are bounded by the pipeline's capacity. On shutdown the source stops taking new events
//! and waits for the outcomes that it is owed; what is not answered within the grace is dropped, which
//! answers it `Failed`.

mod build;
mod run;

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::control::Control;
use crate::error::{BoxError, ConfigError};
use crate::stage::{Clock, Extension};

use run::{LAST_GRACE, Pipeline};

/// Everything that a configuration says to run, built and not yet started.
pub struct Agent {
    pipelines: Vec<Pipeline>,
    extensions: Vec<(String, Box<dyn Extension>)>,
    control: Control,
    shutdown: CancellationToken,
    grace: Duration,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("pipelines", &self.summary()).finish_non_exhaustive()
    }
}

impl Agent {
    /// Builds every stage, without I/O but for files that the settings name. Each agent wants a
    /// registry of its own: metrics that a registry has already are not exported twice.
    ///
    /// # Errors
    /// Every mistake of the configuration, each with its file and path.
    pub fn build(config: Config, registry: Registry, clock: Arc<dyn Clock>) -> Result<Self, ConfigError> {
        build::agent(config, registry, clock)
    }

    /// The handle by which it is paused, watched and ended.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// One line for each pipeline: what flows where.
    pub fn summary(&self) -> Vec<String> {
        self.pipelines.iter().map(Pipeline::summary).collect()
    }

    /// Runs until [`Control::shutdown`], or until every pipeline's source has come to its end, and drains.
    ///
    /// # Errors
    /// A source, a sink or an extension ended with an error, or panicked. The others are drained first.
    pub async fn run(self) -> Result<(), BoxError> {
        let extensions_end = CancellationToken::new();
        let mut extensions = JoinSet::new();
        for (name, extension) in self.extensions {
            let (control, end) = (self.control.clone(), extensions_end.clone());
            extensions.spawn(async move { (name, extension.run(control, end).await) });
        }
        let mut pipelines = JoinSet::new();
        for pipeline in self.pipelines {
            info!(pipeline = pipeline.name, "{}", pipeline.summary());
            let (shutdown, grace) = (self.shutdown.child_token(), self.grace);
            pipelines.spawn(async move { (pipeline.name.clone(), pipeline.run(shutdown, grace).await) });
        }

        let mut first_error = None;
        while !pipelines.is_empty() {
            let ended = tokio::select! {
                Some(ended) = pipelines.join_next() => ended,
                Some(ended) = extensions.join_next() => ended,
            };
            if let Err(error) = named(ended) {
                error!(%error, "ending because a part of the program failed");
                first_error.get_or_insert(error);
                self.shutdown.cancel();
            }
        }
        extensions_end.cancel();
        let rest = async {
            while let Some(ended) = extensions.join_next().await {
                if let Err(error) = named(ended) {
                    first_error.get_or_insert(error);
                }
            }
        };
        if timeout(LAST_GRACE, rest).await.is_err() {
            warn!("an extension did not end in time; it is cut off");
            extensions.shutdown().await;
        }
        first_error.map_or(Ok(()), Err)
    }
}

/// The result of a task, with its name in the error.
fn named(ended: Result<(String, Result<(), BoxError>), JoinError>) -> Result<(), BoxError> {
    match ended {
        Ok((_, Ok(()))) => Ok(()),
        Ok((name, Err(error))) => Err(format!("{name}: {error}").into()),
        Err(panic) => Err(format!("a task ended early; this is a bug: {panic}").into()),
    }
}

#[cfg(test)]
mod tests;
