//! One pipeline while it runs: the source, the router, the lanes of each sink, and how they end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use crate::delivery::{Delivery, Outcome};
use crate::emitter::{Backlog, Capacity, Emitter};
use crate::error::BoxError;
use crate::event::Event;
use crate::metrics::{PipelineMetrics, SinkMetrics, TransformMetrics};
use crate::middleware::{DeliveryConfig, Lanes};
use crate::stage::{Sink, Source, Transform};

/// How long a stage may take to end after it has no more work, before it is cut off.
pub(super) const LAST_GRACE: Duration = Duration::from_secs(2);

/// A pipeline that is ready to run.
pub(super) struct Pipeline {
    pub(super) name: String,
    pub(super) paused: watch::Receiver<bool>,
    pub(super) capacity: Capacity,
    pub(super) source_name: String,
    pub(super) source: Box<dyn Source>,
    /// True where the source sends again what was answered `Failed`.
    pub(super) redelivers: bool,
    pub(super) transforms: Vec<TransformStage>,
    pub(super) sinks: Vec<SinkStage>,
    pub(super) metrics: Arc<PipelineMetrics>,
}

pub(super) struct TransformStage {
    pub(super) name: String,
    pub(super) transform: Box<dyn Transform>,
    pub(super) metrics: TransformMetrics,
}

pub(super) struct SinkStage {
    pub(super) name: String,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) delivery: DeliveryConfig,
    pub(super) metrics: Arc<SinkMetrics>,
}

impl Pipeline {
    /// `http_scrape > labeler > nats + exposition`.
    pub(super) fn summary(&self) -> String {
        let sinks: Vec<_> = self.sinks.iter().map(|sink| sink.name.as_str()).collect();
        let mut parts = vec![self.source_name.clone()];
        parts.extend(self.transforms.iter().map(|transform| transform.name.clone()));
        parts.push(sinks.join(" + "));
        format!("{}: {}", self.name, parts.join(" > "))
    }

    pub(super) async fn run(self, shutdown: CancellationToken, grace: Duration) -> Result<(), BoxError> {
        let abort = CancellationToken::new();
        let sinks_end = CancellationToken::new();
        let backlog = self.sinks.iter().map(|stage| stage.sink.backlog()).fold(Backlog::Any, Backlog::and);
        let (emitter, deliveries) =
            Emitter::new(self.capacity, backlog, self.paused, abort.clone(), self.metrics);

        let mut companions = JoinSet::new();
        let mut drivers = JoinSet::new();
        let mut queues = Vec::new();
        for stage in self.sinks {
            companions.spawn(companion(stage.name.clone(), Arc::clone(&stage.sink), sinks_end.clone()));
            let (queue, deliveries) = mpsc::unbounded_channel();
            queues.push(queue);
            drivers.spawn(stage.lanes(&self.name, self.redelivers).run(deliveries, abort.clone()));
        }
        drivers.spawn(route(self.transforms, deliveries, queues));
        let source = tokio::spawn(self.source.run(emitter, shutdown.clone()));
        let mut running =
            Running { name: self.source_name, source: Some(AbortOnDropHandle::new(source)), drivers };

        let early = tokio::select! {
            ended = running.source_end() => ended,
            Some(ended) = companions.join_next() => {
                shutdown.cancel();
                companion_result(ended)
            }
            () = shutdown.cancelled() => Ok(()),
        };
        let late = running.drain(&abort, grace).await;
        sinks_end.cancel();
        early.and(late).and(end_companions(companions).await)
    }
}

impl SinkStage {
    fn lanes(self, pipeline: &str, redelivers: bool) -> Lanes {
        Lanes {
            stack: self.delivery.stack(self.sink, &self.metrics, &format!("{pipeline}/{}", self.name)),
            pipeline: pipeline.to_owned(),
            sink: self.name,
            max_in_flight: self.delivery.max_in_flight.unwrap_or(1),
            newest_only: self.delivery.newest_only.unwrap_or(false),
            redelivers,
            metrics: self.metrics,
        }
    }
}

/// The source and the drivers of a pipeline while it runs. Dropped, all of them end.
struct Running {
    name: String,
    /// Nothing once its end has been seen.
    source: Option<AbortOnDropHandle<Result<(), BoxError>>>,
    drivers: JoinSet<()>,
}

impl Running {
    /// Waits for the end of the source, and says how it was.
    async fn source_end(&mut self) -> Result<(), BoxError> {
        let Some(source) = &mut self.source else { return Ok(()) };
        let ended = source.await;
        self.source = None;
        let name = &self.name;
        match ended {
            Ok(result) => result.map_err(|error| format!("{name}: {error}").into()),
            Err(panic) => Err(format!("{name}: the source ended early; this is a bug: {panic}").into()),
        }
    }

    /// Waits for the source and then for the lanes; what takes longer than `grace` is answered `Failed`.
    async fn drain(mut self, abort: &CancellationToken, grace: Duration) -> Result<(), BoxError> {
        let mut result = Ok(());
        let all = async {
            result = self.source_end().await;
            while self.drivers.join_next().await.is_some() {}
        };
        if timeout(grace, all).await.is_ok() {
            return result;
        }
        warn!(?grace, "the grace is over; what is still in flight is given up, and left to whoever sent it");
        abort.cancel();
        if let Ok(ended) = timeout(LAST_GRACE, self.source_end()).await {
            result = result.and(ended);
        }
        let rest = async { while self.drivers.join_next().await.is_some() {} };
        if timeout(LAST_GRACE, rest).await.is_err() {
            self.drivers.shutdown().await;
        }
        result
    }
}

/// Runs what a sink does beside its sends. One that has no more to do waits for the end with the others.
async fn companion(name: String, sink: Arc<dyn Sink>, end: CancellationToken) -> Result<(), BoxError> {
    sink.run(end.clone()).await.map_err(|error| format!("{name}: {error}"))?;
    end.cancelled().await;
    Ok(())
}

async fn end_companions(mut companions: JoinSet<Result<(), BoxError>>) -> Result<(), BoxError> {
    let mut result = Ok(());
    let all = async {
        while let Some(ended) = companions.join_next().await {
            result = std::mem::replace(&mut result, Ok(())).and(companion_result(ended));
        }
    };
    if timeout(LAST_GRACE, all).await.is_err() {
        companions.shutdown().await;
    }
    result
}

fn companion_result(ended: Result<Result<(), BoxError>, JoinError>) -> Result<(), BoxError> {
    ended.unwrap_or_else(|panic| Err(format!("a sink ended early; this is a bug: {panic}").into()))
}

/// Applies the transforms, and hands each event to every sink.
async fn route(
    transforms: Vec<TransformStage>,
    mut deliveries: mpsc::UnboundedReceiver<Delivery>,
    sinks: Vec<mpsc::UnboundedSender<Delivery>>,
) {
    while let Some(Delivery { event, acker }) = deliveries.recv().await {
        match transform(&transforms, event) {
            Err(outcome) => acker.finish(outcome),
            Ok(event) => {
                for (sink, acker) in sinks.iter().zip(acker.split(sinks.len())) {
                    // A sink whose lanes have been given up drops the delivery, which answers `Failed`.
                    let _ = sink.send(Delivery { event: event.clone(), acker });
                }
            }
        }
    }
}

/// The event after all transforms, or the outcome that one of them decided.
fn transform(transforms: &[TransformStage], mut event: Event) -> Result<Event, Outcome> {
    for stage in transforms {
        // A transform sees nothing but the event, so one that panics would panic at every redelivery.
        let applied = catch_unwind(AssertUnwindSafe(|| stage.transform.apply(event)))
            .unwrap_or_else(|_| Err("the transform panicked; this is a bug".into()));
        match applied {
            Ok(Some(next)) => event = next,
            Ok(None) => {
                stage.metrics.filtered.inc();
                return Err(Outcome::Filtered);
            }
            Err(error) => {
                stage.metrics.errors.inc();
                debug!(transform = stage.name, %error, "rejected");
                return Err(Outcome::rejected(error));
            }
        }
    }
    Ok(event)
}
