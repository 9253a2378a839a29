//! A pipe for a source alone, and a rig for a sink alone, as a pipeline would run them.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::delivery::{Delivery, Receipt};
use crate::emitter::{Backlog, Capacity, Emitter};
use crate::error::BoxError;
use crate::event::Event;
use crate::metrics::{Metrics, PipelineMetrics, SinkMetrics};
use crate::middleware::{DeliveryConfig, Lanes};
use crate::stage::Sink;

/// A pipe with room for `capacity` unanswered events: one end for a source, one for the test.
pub fn pipe(capacity: usize) -> (Emitter, Inlet) {
    pipe_with(capacity, Backlog::Any)
}

/// [`pipe`] for sinks with a wish for the order of a backlog.
pub fn pipe_with(capacity: usize, backlog: Backlog) -> (Emitter, Inlet) {
    let (pause, paused) = watch::channel(false);
    let metrics = Arc::new(PipelineMetrics::new(&Metrics::new(Registry::new()), "test"));
    let capacity = Capacity { events: capacity, bytes: u64::MAX };
    let (emitter, deliveries) = Emitter::new(capacity, backlog, paused, CancellationToken::new(), metrics);
    (emitter, Inlet { deliveries, pause })
}

/// The test's end of a [`pipe`]: it receives what the source sends, and answers.
#[derive(Debug)]
pub struct Inlet {
    deliveries: mpsc::UnboundedReceiver<Delivery>,
    pause: watch::Sender<bool>,
}

impl Inlet {
    /// The next delivery; `None` when the source has ended. Answer it with `delivery.acker.finish(..)`.
    ///
    /// # Panics
    /// Nothing comes within 20 seconds.
    pub async fn next(&mut self) -> Option<Delivery> {
        tokio::time::timeout(super::PATIENCE, self.deliveries.recv())
            .await
            .unwrap_or_else(|_| panic!("waited in vain for the source to send an event"))
    }

    /// A delivery that is already there.
    pub fn try_next(&mut self) -> Option<Delivery> {
        self.deliveries.try_recv().ok()
    }

    /// Pauses the pipeline.
    pub fn pause(&self) {
        self.pause.send_replace(true);
    }

    /// Lets the pipeline go on.
    pub fn resume(&self) {
        self.pause.send_replace(false);
    }
}

/// A sink with its lanes and layers, as a pipeline runs it. Needs a runtime.
pub struct SinkRig {
    queue: mpsc::UnboundedSender<Delivery>,
    lanes: JoinHandle<()>,
    companion: JoinHandle<Result<(), BoxError>>,
    abort: CancellationToken,
    end: CancellationToken,
    metrics: Arc<SinkMetrics>,
}

impl SinkRig {
    /// Starts a sink with `delivery` around it, behind a source that redelivers; 8 in flight unless it
    /// says otherwise.
    pub fn start(sink: Box<dyn Sink>, delivery: &DeliveryConfig) -> Self {
        let sink: Arc<dyn Sink> = sink.into();
        let metrics = Arc::new(SinkMetrics::new(&Metrics::new(Registry::new()), "test", "sink"));
        let (abort, end) = (CancellationToken::new(), CancellationToken::new());
        let (queue, deliveries) = mpsc::unbounded_channel();
        let lanes = Lanes {
            pipeline: "test".into(),
            sink: "sink".into(),
            stack: delivery.stack(Arc::clone(&sink), &metrics, "test/sink"),
            max_in_flight: delivery.max_in_flight.unwrap_or(8),
            newest_only: delivery.newest_only.unwrap_or(false),
            redelivers: true,
            metrics: Arc::clone(&metrics),
        };
        let token = end.clone();
        Self {
            lanes: tokio::spawn(lanes.run(deliveries, abort.clone())),
            companion: tokio::spawn(async move { sink.run(token).await }),
            queue,
            abort,
            end,
            metrics,
        }
    }

    /// Sends one event.
    pub fn send(&self, event: Event) -> Receipt {
        let (delivery, receipt) = Delivery::new(event);
        let _ = self.queue.send(delivery);
        receipt
    }

    /// Attempts so far, the first ones included.
    pub fn attempts(&self) -> u64 {
        self.metrics.attempts.get()
    }

    /// Events in flight now.
    pub fn in_flight(&self) -> i64 {
        self.metrics.in_flight.get()
    }

    /// Gives up what is in flight, as a pipeline does when its grace is over.
    pub fn abort(&self) {
        self.abort.cancel();
    }

    /// Waits for what is in flight, ends the sink, and returns what its companion said.
    ///
    /// # Errors
    /// The companion ended with an error, panicked, or did not end in time.
    pub async fn finish(self) -> Result<(), BoxError> {
        drop(self.queue);
        self.lanes.await?;
        self.end.cancel();
        let ended: Result<Result<(), BoxError>, JoinError> =
            tokio::time::timeout(Duration::from_secs(5), self.companion).await?;
        ended?
    }
}
