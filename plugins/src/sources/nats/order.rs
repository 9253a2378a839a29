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
    /// Events that are in the pipeline.
    open: usize,
    /// Bytes of their bodies.
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
            open: 0,
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
        self.open += 1;
        self.in_pipeline += body;
    }

    /// An event is answered, or will be sent again after a pause.
    pub(super) fn settle(&mut self, answered: Answered) {
        let Answered { labels, failed, bytes, body } = answered;
        self.open -= 1;
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

    /// Events that are in the pipeline.
    pub(super) fn open(&self) -> usize {
        self.open
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use async_nats::Message;
    use async_nats::jetstream::{self, Context};
    use prometheus_streams_core::event::Event;

    use super::super::hands::{Hands, Met};
    use super::super::progress::Progress;
    use super::*;

    /// JetStream on a broker that is not there.
    async fn nowhere() -> Context {
        let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
        jetstream::new(options.connect("nats://127.0.0.1:1").await.unwrap())
    }

    fn envelope(instance: &str) -> Envelope {
        let labels = [("instance", instance)].into_iter().collect();
        Envelope::seal(&Event { labels, ..Event::new(SystemTime::UNIX_EPOCH, "x") }, 0).unwrap()
    }

    fn ticket(context: &Context, progress: &Arc<Progress>, sequence: u64, published: u64) -> Ticket {
        let reply = format!("$JS.ACK.S.d.1.{sequence}.{sequence}.{published}.0");
        let message = Message {
            subject: "s".into(),
            reply: Some(reply.into()),
            payload: "x".into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        Ticket::new(context, progress, message).unwrap()
    }

    fn sequence(next: Option<(Labels, Waiting)>) -> Option<u64> {
        next.map(|(_, waiting)| waiting.tickets[0].sequence)
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_event_is_sent_again_before_those_behind_it_however_they_came() {
        let (context, progress, mut order) = (nowhere().await, Arc::default(), Order::new());
        for (instance, number) in [("a", 1), ("a", 4), ("b", 2), ("a", 3)] {
            let tickets = vec![ticket(&context, &progress, number, number)];
            order.add(Waiting { envelope: envelope(instance), tickets, was_sent: false });
        }
        let (labels, first) = order.next().unwrap();
        order.sent(0);
        assert_eq!(first.tickets[0].sequence, 1);
        assert_eq!(sequence(order.next()), Some(2), "another lane waits too");
        assert_eq!(sequence(order.next()), None, "two of one lane at once");

        let failed = Answered { labels: labels.clone(), failed: Some(first), bytes: 1, body: 0 };
        order.settle(failed);
        assert!(!order.is_ready(), "it does not rest");
        tokio::time::advance(Duration::from_secs(1)).await;
        for expected in [1, 3, 4] {
            assert_eq!(sequence(order.next()), Some(expected));
            order.sent(0);
            order.settle(Answered { labels: labels.clone(), failed: None, bytes: 1, body: 0 });
        }
        assert_eq!((order.held(), order.lanes.len()), (1, 1), "the one of b is not answered");
    }

    #[tokio::test]
    async fn a_message_is_known_by_its_place_and_its_time() {
        let (context, progress, hands) = (nowhere().await, Arc::default(), Arc::new(Hands::default()));
        let met = |sequence, published| hands.meet(ticket(&context, &progress, sequence, published));
        let Met::New(first) = met(7, 100) else { panic!("it was never there") };
        assert!(matches!(met(7, 100), Met::Held));
        hands.done(&first);
        assert!(matches!(met(7, 100), Met::Done(_)));
        // The same place in a stream that was made anew.
        let Met::New(other) = met(7, 200) else { panic!("another message is taken for the first") };
        hands.release(&other);
        assert!(matches!(met(7, 200), Met::New(_)), "one that was given back comes again");
    }
}
