//! One pipeline while it runs: the source, the router, the lanes of each sink, and how they end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::delivery::{Delivery, Outcome};
use crate::emitter::Emitter;
use crate::error::BoxError;
use crate::event::Event;
use crate::metrics::{PipelineMetrics, SinkMetrics, TransformMetrics};
use crate::middleware::{DeliveryConfig, Lanes};
use crate::stage::{Sink, Source, Transform};

/// How long a stage may take to end after it has no more work, before it is cut off.
const LAST_GRACE: Duration = Duration::from_secs(2);

/// A pipeline that is ready to run.
pub(super) struct Pipeline {
    pub(super) name: String,
    pub(super) paused: watch::Receiver<bool>,
    pub(super) capacity: usize,
    pub(super) source: (String, Box<dyn Source>),
    pub(super) transforms: Vec<TransformStage>,
    pub(super) sinks: Vec<SinkStage>,
    pub(super) metrics: PipelineMetrics,
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
    pub(super) metrics: SinkMetrics,
}

impl Pipeline {
    /// `http_scrape > labeler > nats + exposition`.
    pub(super) fn summary(&self) -> String {
        let sinks: Vec<_> = self.sinks.iter().map(|sink| sink.name.as_str()).collect();
        let mut parts = vec![self.source.0.clone()];
        parts.extend(self.transforms.iter().map(|transform| transform.name.clone()));
        parts.push(sinks.join(" + "));
        format!("{}: {}", self.name, parts.join(" > "))
    }

    pub(super) async fn run(self, shutdown: CancellationToken, grace: Duration) -> Result<(), BoxError> {
        let (emitter, deliveries) = Emitter::new(self.capacity, self.paused, self.metrics);
        let abort = CancellationToken::new();
        let sinks_end = CancellationToken::new();

        let mut companions = JoinSet::new();
        let mut drivers = JoinSet::new();
        let mut queues = Vec::new();
        for stage in self.sinks {
            let (sink, end) = (Arc::clone(&stage.sink), sinks_end.clone());
            companions.spawn(companion(stage.name.clone(), sink, end));
            let (queue, deliveries) = mpsc::unbounded_channel();
            queues.push(queue);
            drivers.spawn(lanes(&self.name, stage).run(deliveries, abort.clone()));
        }
        drivers.spawn(route(self.transforms, deliveries, queues));
        let (source_name, source) = self.source;
        let mut source = tokio::spawn(source.run(emitter, shutdown.clone()));

        let early = tokio::select! {
            ended = &mut source => Some(source_result(&source_name, ended)),
            Some(ended) = companions.join_next() => {
                shutdown.cancel();
                Some(companion_result(ended))
            }
            () = shutdown.cancelled() => None,
        };
        let drained = drain(&mut source, &mut drivers, &abort, grace);
        let late = drained.await.map(|ended| source_result(&source_name, ended));
        sinks_end.cancel();
        let companions = end_companions(companions).await;
        early.unwrap_or(Ok(())).and(late.unwrap_or(Ok(()))).and(companions)
    }
}

fn lanes(pipeline: &str, stage: SinkStage) -> Lanes {
    Lanes {
        pipeline: pipeline.to_owned(),
        sink: stage.name,
        stack: stage.delivery.stack(stage.sink, &stage.metrics),
        max_in_flight: stage.delivery.max_in_flight.unwrap_or(1),
        newest_only: stage.delivery.newest_only.unwrap_or(false),
        metrics: stage.metrics,
    }
}

/// Waits for the source and then for the lanes; what takes longer than `grace` is answered `Failed`.
/// The source's result, if it had not ended before.
async fn drain(
    source: &mut JoinHandle<Result<(), BoxError>>,
    drivers: &mut JoinSet<()>,
    abort: &CancellationToken,
    grace: Duration,
) -> Option<Result<Result<(), BoxError>, JoinError>> {
    let mut result = None;
    let all = async {
        if !source.is_finished() {
            result = Some((&mut *source).await);
        }
        while drivers.join_next().await.is_some() {}
    };
    if timeout(grace, all).await.is_ok() {
        return result;
    }
    warn!(?grace, "the grace is over; what is still in flight is given up, and left to whoever sent it");
    abort.cancel();
    if !source.is_finished() {
        match timeout(LAST_GRACE, &mut *source).await {
            Ok(ended) => result = Some(ended),
            Err(_) => source.abort(),
        }
    }
    let rest = async { while drivers.join_next().await.is_some() {} };
    if timeout(LAST_GRACE, rest).await.is_err() {
        drivers.shutdown().await;
    }
    result
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

fn source_result(name: &str, ended: Result<Result<(), BoxError>, JoinError>) -> Result<(), BoxError> {
    match ended {
        Ok(result) => result.map_err(|error| format!("{name}: {error}").into()),
        Err(panic) => Err(format!("{name}: the source ended early; this is a bug: {panic}").into()),
    }
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
