//! Delivers to one sink with so many events in flight, events of equal labels one after the other.
//! No event waits for another one's labels: a lane is a set of labels, and only its own events queue in it.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Stack, deliver};
use crate::delivery::{Delivery, Outcome};
use crate::error::SendError;
use crate::event::Labels;
use crate::metrics::SinkMetrics;

/// The lanes of one sink.
pub(crate) struct Lanes {
    pub(crate) pipeline: String,
    pub(crate) sink: String,
    pub(crate) stack: Stack,
    pub(crate) max_in_flight: usize,
    pub(crate) newest_only: bool,
    pub(crate) metrics: SinkMetrics,
}

/// What is under way. The queues need no bound of their own: the pipeline bounds the events it holds.
#[derive(Default)]
struct State {
    in_flight: JoinSet<(Labels, Outcome)>,
    /// The events that wait, by lane. A lane is there while one of its events waits or is in flight.
    lanes: HashMap<Labels, VecDeque<Delivery>>,
    /// The lanes of which an event waits and none is in flight.
    ready: VecDeque<Labels>,
    waiting: usize,
    /// How the last event ended, so that only changes are logged.
    last: Option<&'static str>,
}

impl Lanes {
    /// Delivers what comes from `queue` until it is closed and all is answered, or until `abort`;
    /// what is not answered by then is dropped, and so answered `Failed`.
    pub(crate) async fn run(self, mut queue: mpsc::UnboundedReceiver<Delivery>, abort: CancellationToken) {
        let mut state = State::default();
        let mut open = true;
        while open || !state.in_flight.is_empty() {
            tokio::select! {
                delivery = queue.recv(), if open => match delivery {
                    Some(delivery) => self.accept(&mut state, delivery),
                    None => open = false,
                },
                Some(ended) = state.in_flight.join_next() => {
                    // A task ends without a result only when the runtime shuts down.
                    if let Ok((labels, outcome)) = ended {
                        self.log_change(&mut state, &labels, &outcome);
                        self.next(&mut state, labels);
                    }
                }
                () = abort.cancelled() => break,
            }
        }
        self.metrics.in_flight.set(0);
        self.metrics.waiting.set(0);
    }

    fn accept(&self, state: &mut State, delivery: Delivery) {
        let lane = state.lanes.entry(delivery.event.labels.clone()).or_insert_with_key(|labels| {
            state.ready.push_back(labels.clone());
            VecDeque::new()
        });
        match lane.pop_back() {
            Some(waiting) if self.newest_only => lane.push_back(self.newer(waiting, delivery)),
            before => {
                lane.extend(before);
                lane.push_back(delivery);
                state.waiting += 1;
            }
        }
        self.start(state);
    }

    /// The newer of two waiting events; the other is answered.
    fn newer(&self, waiting: Delivery, arrived: Delivery) -> Delivery {
        let (keep, superseded) = if arrived.event.timestamp >= waiting.event.timestamp {
            (arrived, waiting)
        } else {
            (waiting, arrived)
        };
        self.metrics.superseded.inc();
        self.metrics.count(&Outcome::Filtered);
        superseded.acker.finish(Outcome::Filtered);
        keep
    }

    /// The event in flight of `labels` is answered: its lane is ready again, or closes.
    fn next(&self, state: &mut State, labels: Labels) {
        if state.lanes.get(&labels).is_some_and(|lane| !lane.is_empty()) {
            state.ready.push_back(labels);
        } else {
            state.lanes.remove(&labels);
        }
        self.start(state);
    }

    fn start(&self, state: &mut State) {
        while state.in_flight.len() < self.max_in_flight {
            let Some(labels) = state.ready.pop_front() else { break };
            let Some(delivery) = state.lanes.get_mut(&labels).and_then(VecDeque::pop_front) else { continue };
            state.waiting -= 1;
            state.in_flight.spawn(send(self.stack.clone(), self.metrics.clone(), delivery));
        }
        self.metrics.in_flight.set(as_i64(state.in_flight.len()));
        self.metrics.waiting.set(as_i64(state.waiting));
    }

    /// Says once when deliveries begin to fail, and once when they succeed again.
    fn log_change(&self, state: &mut State, labels: &Labels, outcome: &Outcome) {
        let (pipeline, sink) = (&self.pipeline, &self.sink);
        let changed = state.last.replace(outcome.as_str()) != Some(outcome.as_str());
        match outcome {
            Outcome::Rejected(reason) if changed => {
                warn!(pipeline, sink, %labels, %reason, "an event was rejected; more follow at debug level");
            }
            Outcome::Failed(reason) if changed => {
                warn!(pipeline, sink, %labels, %reason, "delivery fails; more failures follow at debug level");
            }
            Outcome::Rejected(reason) | Outcome::Failed(reason) => {
                debug!(pipeline, sink, %labels, %reason, outcome = outcome.as_str(), "not delivered");
            }
            Outcome::Delivered if changed => info!(pipeline, sink, "delivering"),
            Outcome::Delivered | Outcome::Filtered => {}
        }
    }
}

/// Delivers one event and answers for it.
async fn send(stack: Stack, metrics: SinkMetrics, delivery: Delivery) -> (Labels, Outcome) {
    let Delivery { event, acker } = delivery;
    let labels = event.labels.clone();
    let began = Instant::now();
    let result = AssertUnwindSafe(deliver(stack, event)).catch_unwind().await;
    metrics.seconds.observe(began.elapsed().as_secs_f64());
    let outcome = match result {
        Ok(Ok(())) => Outcome::Delivered,
        Ok(Err(SendError::Permanent(error))) => Outcome::rejected(error),
        Ok(Err(error)) => Outcome::failed(error),
        Err(_) => Outcome::failed("the sink panicked; this is a bug"),
    };
    metrics.count(&outcome);
    acker.finish(outcome.clone());
    (labels, outcome)
}

fn as_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
