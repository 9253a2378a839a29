//! Reads the events that a `local_stream` sink of the same program appended to a stream on the disk of
//! this machine.
//!
//! ```yaml
//! source:
//!   type: local_stream
//!   path: /var/lib/prometheus-streams/stream
//!   consumer: receiver
//! ```
//!
//! Every event is answered for itself: what is delivered or filtered is done with, what is rejected goes to
//! the dead letters of the stream, and what failed is sent again, before anything later of equal labels
//! that has not been sent yet. What was not answered when the program ended, or was killed, comes again.
//!
//! For sinks that want a backlog in strict order, events of equal labels are in the pipeline one at a time, so that none
//! is delivered for the first time behind a later one. For sinks that would rather have the new first it is the same: a local
//! stream sends what it holds oldest first.

mod reader;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prometheus::{IntCounter, IntGauge};
use prometheus_streams_core::emitter::{Backlog, Emitter};
use prometheus_streams_core::error::{BoxError, BuildError};
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{Clock, Source, SourceConfig, StageContext};
use prometheus_streams_core::values::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::reader::Reader;
use crate::support::local_stream::{Standing, Store, StoreError, Subscription, Usage};

/// Reads events from a stream on the disk of this machine, each until it has been answered.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalStreamSourceConfig {
    /// The directory of the stream, as the sink has it.
    pub path: PathBuf,

    /// Under which name the stream remembers what has been answered; the name of the pipeline, if absent.
    /// Consumers of different names each get every event. A new one begins with the oldest event.
    #[serde(default)]
    pub consumer: Option<String>,

    /// The pause before an event that failed is sent again. It doubles with every further failure, up
    /// to 30s.
    #[serde(default = "one_second")]
    pub redelivery_delay: Span,
}

fn one_second() -> Span {
    Span::secs(1)
}

register!(source: LocalStreamSourceConfig);

/// Names of consumers are short.
const LONGEST_NAME: usize = 128;

impl SourceConfig for LocalStreamSourceConfig {
    const TYPE: &'static str = "local_stream";
    const REDELIVERS: bool = true;

    fn build(self, cx: &StageContext) -> Result<Box<dyn Source>, BuildError> {
        let mut problems = BuildError::default();
        if self.path.as_os_str().is_empty() {
            problems.add("path", "must name a directory");
        }
        let consumer = self.consumer.unwrap_or_else(|| cx.pipeline.clone());
        if consumer.is_empty() || consumer.len() > LONGEST_NAME {
            problems.add("consumer", format!("must have 1 to {LONGEST_NAME} bytes"));
        }
        let metrics = Counts::new(cx);
        let redelivery_delay = self.redelivery_delay.0;
        problems.or(Box::new(LocalStreamSource {
            path: self.path,
            consumer,
            redelivery_delay,
            metrics,
            standing: Standing::new(cx.health.clone()),
            pipeline: cx.pipeline.clone(),
            clock: Arc::clone(&cx.clock),
        }))
    }
}

/// A consumer of a stream that all stages of this process share.
struct LocalStreamSource {
    pipeline: String,
    clock: Arc<dyn Clock>,
    path: PathBuf,
    consumer: String,
    redelivery_delay: Duration,
    metrics: Counts,
    standing: Standing,
}

/// What the source counts.
#[derive(Clone)]
struct Counts {
    lost: IntCounter,
    redelivered: IntCounter,
    dead: IntCounter,
    pending: IntGauge,
}

impl Counts {
    fn new(cx: &StageContext) -> Self {
        let (labels, values) = (&["pipeline", "source"], &[cx.pipeline.as_str(), cx.name.as_str()]);
        let counter = |name, help| cx.metrics.counters(name, help, labels).with_label_values(values);
        Self {
            lost: counter(
                "local_stream_lost_total",
                "Events that a local stream let go before they were answered.",
            ),
            redelivered: counter(
                "local_stream_redelivered_total",
                "Events that were sent again because they had failed.",
            ),
            dead: counter(
                "local_stream_dead_letters_total",
                "Events that were rejected or damaged, and moved to the dead letters.",
            ),
            pending: cx
                .metrics
                .gauges(
                    "local_stream_pending",
                    "Events from the oldest that is not answered to the newest.",
                    labels,
                )
                .with_label_values(values),
        }
    }
}

#[async_trait]
impl Source for LocalStreamSource {
    async fn run(self: Box<Self>, out: Emitter, shutdown: CancellationToken) -> Result<(), BoxError> {
        let Some(opened) = shutdown.run_until_cancelled(self.open()).await else { return Ok(()) };
        let (usage, subscription) = opened?;
        if let Backlog::FreshFirst { .. } = out.backlog() {
            let (pipeline, path) = (&self.pipeline, self.path.display());
            tracing::info!(pipeline, %path, "a local stream sends what it holds oldest first, the new behind the old");
        }
        let one_by_one = out.backlog() != Backlog::Any;
        Reader::new(*self, subscription, one_by_one).run(usage, out, shutdown).await
    }
}

/// The pause before what the disk refused is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

impl LocalStreamSource {
    /// Opens the stream, however long it takes.
    async fn open(&self) -> Result<(watch::Receiver<Usage>, Subscription), StoreError> {
        self.patiently(|| async {
            let store = Store::at(&self.path, None, Arc::clone(&self.clock)).await?;
            store.sweep().await?;
            Ok((store.usage(), store.subscribe(&self.consumer).await?))
        })
        .await
    }

    /// Does work on the stream until it succeeds, or never can.
    async fn patiently<T, F>(&self, work: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        loop {
            match self.standing.told(work().await) {
                Err(StoreError::Unavailable(_)) => tokio::time::sleep(RETRY_PAUSE).await,
                result => return result,
            }
        }
    }
}
