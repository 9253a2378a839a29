//! Delivers to one sink with so many events in flight, events of equal labels one after the other.
//! No event waits for another one's labels: a lane is a set of labels, and only its own events queue in it.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Stack, deliver};
use crate::delivery::{Delivery, Outcome};
use crate::error::SendError;
use crate::event::Labels;
use crate::metrics::SinkMetrics;

/// A sink in trouble says so once in this time.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// The lanes of one sink.
pub(crate) struct Lanes {
    pub(crate) pipeline: String,
    pub(crate) sink: String,
    pub(crate) stack: Stack,
    pub(crate) max_in_flight: usize,
    pub(crate) newest_only: bool,
    /// True where what is answered `Failed` comes again.
    pub(crate) redelivers: bool,
    pub(crate) metrics: Arc<SinkMetrics>,
}

/// What is under way. The queues need no bound of their own: the pipeline bounds the events it holds.
#[derive(Default)]
struct State {
    in_flight: JoinSet<(Key, Outcome)>,
    /// The events that wait, by lane. A lane is there while one of its events waits or is in flight.
    lanes: HashMap<Key, VecDeque<Delivery>, BuildHasherDefault<PassThrough>>,
    /// The lanes of which an event waits and none is in flight.
    ready: VecDeque<Key>,
    waiting: usize,
    hasher: RandomState,
    trouble: Trouble,
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
                    // An error means that the runtime is shutting down: a delivery catches its panics.
                    if let Ok((key, outcome)) = ended {
                        self.log(&mut state.trouble, &key.labels, &outcome);
                        self.next(&mut state, key, &outcome);
                    }
                }
                () = abort.cancelled() => break,
            }
        }
        state.in_flight.shutdown().await;
        self.metrics.in_flight.set(0);
        self.metrics.waiting.set(0);
    }

    fn accept(&self, state: &mut State, delivery: Delivery) {
        let labels = delivery.event.labels.clone();
        let key = Key { hash: state.hasher.hash_one(&labels), labels };
        let lane = state.lanes.entry(key).or_insert_with_key(|key| {
            state.ready.push_back(key.clone());
            VecDeque::new()
        });
        match lane.pop_back() {
            Some(waiting) if self.newest_only => lane.push_back(self.newer(waiting, delivery)),
            before => {
                lane.extend(before);
                lane.push_back(delivery);
                self.set_waiting(state, state.waiting + 1);
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

    /// The event in flight of a lane is answered: the lane is ready again, or closes.
    fn next(&self, state: &mut State, key: Key, outcome: &Outcome) {
        if self.redelivers && !self.newest_only && matches!(outcome, Outcome::Failed(_)) {
            self.fail_waiting(state, &key);
        }
        if state.lanes.get(&key).is_some_and(|lane| !lane.is_empty()) {
            state.ready.push_back(key);
        } else {
            state.lanes.remove(&key);
        }
        self.start(state);
    }

    /// What waits behind a failed event would overtake it; it fails as well, to come again behind it.
    fn fail_waiting(&self, state: &mut State, key: &Key) {
        let waiting = state.lanes.get_mut(key).map(std::mem::take).unwrap_or_default();
        self.set_waiting(state, state.waiting - waiting.len());
        let outcome = Outcome::failed("an earlier event of these labels failed");
        for delivery in waiting {
            self.metrics.count(&outcome);
            delivery.acker.finish(outcome.clone());
        }
    }

    fn start(&self, state: &mut State) {
        while state.in_flight.len() < self.max_in_flight {
            let Some(key) = state.ready.pop_front() else { break };
            let Some(delivery) = state.lanes.get_mut(&key).and_then(VecDeque::pop_front) else { continue };
            self.set_waiting(state, state.waiting - 1);
            let sending = send(self.stack.clone(), Arc::clone(&self.metrics), key, delivery);
            state.in_flight.spawn(sending);
        }
        self.metrics.in_flight.set(as_i64(state.in_flight.len()));
    }

    fn set_waiting(&self, state: &mut State, waiting: usize) {
        state.waiting = waiting;
        self.metrics.waiting.set(as_i64(waiting));
    }

    fn log(&self, trouble: &mut Trouble, labels: &Labels, outcome: &Outcome) {
        let (pipeline, sink) = (&self.pipeline, &self.sink);
        match outcome {
            Outcome::Rejected(reason) | Outcome::Failed(reason) => {
                let outcome = outcome.as_str();
                match trouble.speak() {
                    Some(unsaid) => warn!(pipeline, sink, %labels, outcome, %reason, unsaid, "not delivered"),
                    None => debug!(pipeline, sink, %labels, outcome, %reason, "not delivered"),
                }
            }
            Outcome::Delivered if !trouble.has_delivered => {
                trouble.has_delivered = true;
                info!(pipeline, sink, "delivering");
            }
            Outcome::Delivered | Outcome::Filtered => {}
        }
    }
}

/// Keeps one bad target among a thousand from filling the log.
#[derive(Default)]
struct Trouble {
    has_delivered: bool,
    last: Option<Instant>,
    unsaid: u64,
}

impl Trouble {
    /// How many went unsaid since the last time, if it is time to speak again.
    fn speak(&mut self) -> Option<u64> {
        if self.last.is_some_and(|last| last.elapsed() < LOG_EVERY) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// The labels of a lane, hashed once: there are several look-ups to an event.
#[derive(Clone, PartialEq, Eq)]
struct Key {
    hash: u64,
    labels: Labels,
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Takes the hash of a [`Key`] as it is.
#[derive(Default)]
struct PassThrough(u64);

impl Hasher for PassThrough {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Delivers one event and answers for it.
async fn send(stack: Stack, metrics: Arc<SinkMetrics>, key: Key, delivery: Delivery) -> (Key, Outcome) {
    let Delivery { event, acker } = delivery;
    let began = Instant::now();
    let work = async {
        match deliver(stack, event).await {
            Ok(()) => Outcome::Delivered,
            Err(SendError::Permanent(error)) => Outcome::rejected(error),
            Err(error) => Outcome::failed(error),
        }
    };
    let caught = AssertUnwindSafe(work).catch_unwind().await;
    let outcome = caught.unwrap_or_else(|_| Outcome::failed("the sink panicked; this is a bug"));
    metrics.seconds.observe(began.elapsed().as_secs_f64());
    metrics.count(&outcome);
    acker.finish(outcome.clone());
    (key, outcome)
}

fn as_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
