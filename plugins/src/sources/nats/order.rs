//! Events of equal labels one after the other: the next one is sent when the one before is answered, and one that
//! failed is sent again before anything behind it. What waits is held at the server by signs of life.

use std::collections::{BTreeSet, HashMap, VecDeque};

use prometheus_streams_core::event::Labels;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::answers::{Ticket, delay};
use crate::support::envelope::Envelope;

/// Messages that are held at most, in the pipeline or waiting; with so many, no more are asked for.
const MOST_HELD: usize = 10_000;

/// Bytes of messages that are held at most, as they came.
const MOST_BYTES: usize = 64 << 20;

/// An event that has come and is not answered.
pub(super) struct Waiting {
    pub(super) envelope: Envelope,
    /// The messages of the stream in which it came.
    pub(super) tickets: Vec<Ticket>,
    /// True once it was in the pipeline.
    pub(super) was_sent: bool,
}

/// An event that was in the pipeline.
pub(super) struct Answered {
    pub(super) labels: Labels,
    /// The event, where it has to be sent again.
    pub(super) failed: Option<Waiting>,
    /// Bytes of the messages in which it came.
    pub(super) bytes: usize,
    /// Bytes of its body.
    pub(super) body: u64,
}

/// The events that are held, by their labels.
pub(super) struct Order {
    lanes: HashMap<Labels, Lane>,
    /// Lanes of which nothing is in the pipeline and something waits.
    ready: VecDeque<Labels>,
    /// Lanes that rest after a failure.
    resting: BTreeSet<(Instant, Labels)>,
    held: usize,
    bytes: usize,
    /// Bytes of the bodies that are in the pipeline.
    in_pipeline: u64,
    /// Its bound is the room of the pipeline.
    pub(super) answers: mpsc::UnboundedReceiver<Answered>,
    pub(super) answer: mpsc::UnboundedSender<Answered>,
}

#[derive(Default)]
struct Lane {
    waiting: VecDeque<Waiting>,
    /// How often its first event failed.
    failures: u64,
}

impl Waiting {
    pub(super) fn bytes(&self) -> usize {
        self.tickets.iter().map(|ticket| ticket.payload.len()).sum()
    }

    /// The place of its last part.
    fn position(&self) -> Option<(u64, u64)> {
        self.tickets.iter().map(Ticket::position).max()
    }
}

impl Order {
    pub(super) fn new() -> Self {
        let (answer, answers) = mpsc::unbounded_channel();
        Self {
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            resting: BTreeSet::new(),
            held: 0,
            bytes: 0,
            in_pipeline: 0,
            answers,
            answer,
        }
    }

    /// Takes an event in; it waits for its turn.
    pub(super) fn add(&mut self, message: Waiting) {
        self.held += 1;
        self.bytes += message.bytes();
        let labels = message.envelope.labels();
        let lane = self.lanes.entry(labels).or_insert_with_key(|labels| {
            self.ready.push_back(labels.clone());
            Lane::default()
        });
        let behind = lane.waiting.partition_point(|other| other.position() <= message.position());
        lane.waiting.insert(behind, message);
    }

    /// The next event whose turn it is.
    pub(super) fn next(&mut self) -> Option<(Labels, Waiting)> {
        self.wake();
        while let Some(labels) = self.ready.pop_front() {
            if let Some(message) = self.lanes.get_mut(&labels).and_then(|lane| lane.waiting.pop_front()) {
                return Some((labels, message));
            }
            self.lanes.remove(&labels);
        }
        None
    }

    /// An event with a body of so many bytes is sent into the pipeline.
    pub(super) fn sent(&mut self, body: u64) {
        self.in_pipeline += body;
    }

    /// An event is answered, or will be sent again after a pause.
    pub(super) fn settle(&mut self, answered: Answered) {
        let Answered { labels, failed, bytes, body } = answered;
        self.in_pipeline -= body;
        let Some(lane) = self.lanes.get_mut(&labels) else { return };
        if let Some(message) = failed {
            lane.waiting.push_front(message);
            lane.failures += 1;
            self.resting.insert((Instant::now() + delay(lane.failures), labels));
            return;
        }
        lane.failures = 0;
        self.held -= 1;
        self.bytes -= bytes;
        if lane.waiting.is_empty() {
            self.lanes.remove(&labels);
        } else {
            self.ready.push_back(labels);
        }
    }

    /// True when the turn of some event has come.
    pub(super) fn is_ready(&mut self) -> bool {
        self.wake();
        !self.ready.is_empty()
    }

    /// When the turn of an event that failed comes again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.resting.first().map(|(due, _)| *due)
    }

    /// True when no more should be asked for.
    pub(super) fn is_full(&self) -> bool {
        self.held >= MOST_HELD || self.bytes >= MOST_BYTES
    }

    /// Events that are held, in the pipeline or waiting.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Bytes of the bodies that are in the pipeline.
    pub(super) fn in_pipeline(&self) -> u64 {
        self.in_pipeline
    }

    /// Gives a sign of life for what waits; what is in the pipeline does so for itself.
    pub(super) async fn tend(&self) {
        for message in self.lanes.values().flat_map(|lane| &lane.waiting) {
            for ticket in &message.tickets {
                ticket.working().await;
            }
        }
    }

    fn wake(&mut self) {
        let now = Instant::now();
        while self.resting.first().is_some_and(|(due, _)| *due <= now) {
            self.ready.extend(self.resting.pop_first().map(|(_, labels)| labels));
        }
    }
}

/// Until an event that failed may be sent again; for ever if there is none.
pub(super) async fn until_due(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
