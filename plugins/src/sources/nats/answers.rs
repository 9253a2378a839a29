//! What the server is told about a message: still working, done, again later, never again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::{AckKind, Context};
use async_nats::{Client, Message, Subject, jetstream};
use bytes::Bytes;
use prometheus_streams_core::delivery::{Outcome, Receipt};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::dead_letters::{DeadLetters, Letter, Reason};
use super::hands::Hands;
use super::progress::Progress;
use crate::support::nats::is_up;

/// How long an answer may wait for its turn; while the connection is down the queue can be full.
const ANSWER: Duration = Duration::from_secs(5);

/// Dead letters are told of once in this time; the metrics count them all.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// The delay after the first failure; it doubles with every further one.
const FIRST_DELAY: Duration = Duration::from_secs(1);

/// The longest delay after a failure.
pub(super) const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// Where the server takes the answer for a message: another place once it has come again.
#[derive(Clone, Debug)]
pub(super) struct Place {
    client: Client,
    reply: Subject,
    progress: Arc<Progress>,
    /// The life of the stream in which the message came.
    life: u64,
}

/// The duty to answer the server for one message, with what is needed to dead-letter it.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    place: Arc<Mutex<Place>>,
    /// Nothing where the order does not matter.
    pub(super) hands: Option<Arc<Hands>>,
    subject: Subject,
    /// Its place in the stream.
    pub(super) sequence: u64,
    /// When the stream took it, in nanoseconds since 1970.
    pub(super) published: i64,
    /// How often it was delivered, this time included.
    pub(super) deliveries: u64,
    /// How many messages the consumer has not delivered yet.
    pub(super) pending: u64,
    /// True when deliveries before this one did not come here.
    pub(super) behind_gap: bool,
    /// The data, as it came.
    pub(super) payload: Bytes,
}

impl Ticket {
    /// The ticket of a message, or nothing if it does not come from a consumer.
    pub(super) fn new(context: &Context, progress: &Arc<Progress>, message: Message) -> Option<Self> {
        let message = jetstream::Message { message, context: context.clone() };
        let info = message.info().ok()?;
        let (sequence, deliveries) = (info.stream_sequence, u64::try_from(info.delivered).unwrap_or(1));
        let published = i64::try_from(info.published.unix_timestamp_nanos()).unwrap_or(i64::MAX);
        let pending = info.pending;
        let behind_gap = progress.received(sequence, info.consumer_sequence);
        let message = message.message;
        let (client, progress, life) = (context.client(), Arc::clone(progress), progress.life());
        let place = Place { client, reply: message.reply?, progress, life };
        Some(Self {
            place: Arc::new(Mutex::new(place)),
            hands: None,
            subject: message.subject,
            sequence,
            published,
            deliveries,
            pending,
            behind_gap,
            payload: message.payload,
        })
    }

    /// Where it is answered for now.
    pub(super) fn place(&self) -> Place {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same, so that it can be changed.
    pub(super) fn shared_place(&self) -> Arc<Mutex<Place>> {
        Arc::clone(&self.place)
    }

    /// Its place among all messages, those of a stream that was made anew behind those of the one before.
    pub(super) fn position(&self) -> (u64, u64) {
        (self.place().life, self.sequence)
    }

    fn letter(&self) -> Letter<'_> {
        let Self { sequence, deliveries, .. } = *self;
        Letter { subject: &self.subject, sequence, deliveries, payload: &self.payload }
    }

    /// Still working on it. Says nothing while there is nobody to hear it.
    pub(super) async fn working(&self) {
        if is_up(&self.place().client) {
            self.say(AckKind::Progress).await;
        }
    }

    /// Done with it for good.
    pub(super) async fn done(&self, kind: AckKind) {
        if let Some(hands) = &self.hands {
            hands.done(self);
        }
        let Place { progress, life, .. } = self.place();
        progress.done(self.sequence, life);
        self.say(kind).await;
    }

    /// Again, later the more often it failed.
    pub(super) async fn again(&self) {
        self.release();
        self.say(AckKind::Nak(Some(delay(self.deliveries)))).await;
    }

    /// Again, to whoever asks next.
    pub(super) async fn give_back(&self) {
        self.release();
        self.say(AckKind::Nak(None)).await;
    }

    /// It is for somebody else to answer for.
    pub(super) fn leave(&self) {
        let Place { progress, life, .. } = self.place();
        progress.done(self.sequence, life);
    }

    /// It is not ours any more, and is taken when it comes again.
    fn release(&self) {
        if let Some(hands) = &self.hands {
            hands.release(self);
        }
    }

    /// An answer that is lost costs a second delivery, so nobody waits for its arrival.
    async fn say(&self, kind: AckKind) {
        let Place { client, reply, progress, life } = self.place();
        if life != progress.life() {
            // In another stream of the same name it would be the answer for another message.
            return;
        }
        let said = timeout(ANSWER, client.publish(reply, kind.into())).await;
        if !matches!(said, Ok(Ok(()))) {
            tracing::debug!(
                sequence = self.sequence,
                ?kind,
                "cannot answer for a message; it will come again"
            );
        }
    }
}

/// How outcomes become answers.
pub(super) struct Answers {
    pub(super) dead_letters: DeadLetters,
    /// When a dead letter was last told of, so that a flood of them does not fill the log.
    told: Mutex<Option<Instant>>,
}

impl Answers {
    pub(super) fn new(dead_letters: DeadLetters) -> Self {
        Self { dead_letters, told: Mutex::default() }
    }

    /// Waits for the outcome of an event, and answers for the messages that it came in. False where they were not
    /// answered for: the event failed, or was rejected and cannot be dead-lettered now.
    pub(super) async fn follow(&self, tickets: &[Ticket], receipt: Receipt, sign_of_life: Duration) -> bool {
        match outcome(tickets, receipt, sign_of_life).await {
            Outcome::Delivered | Outcome::Filtered => {
                for ticket in tickets {
                    ticket.done(AckKind::Ack).await;
                }
                true
            }
            Outcome::Rejected(reason) => self.bury(tickets, Reason::Rejected, &reason).await,
            Outcome::Failed(reason) => {
                let sequence = tickets.first().map(|ticket| ticket.sequence);
                tracing::debug!(sequence, %reason, "an event failed; it will come again");
                false
            }
        }
    }

    /// Moves messages to the dead letters. They leave the stream only when they have arrived there; false where
    /// they have not.
    pub(super) async fn bury(&self, tickets: &[Ticket], kind: Reason, reason: &str) -> bool {
        for ticket in tickets {
            if self.dead_letters.put(&ticket.letter(), kind, reason).await.is_err() {
                return false;
            }
            self.log_burial(ticket, kind, reason);
            ticket.done(AckKind::Term).await;
        }
        true
    }
}

impl Answers {
    fn log_burial(&self, ticket: &Ticket, kind: Reason, reason: &str) {
        let (subject, sequence, kind) = (&ticket.subject, ticket.sequence, kind.as_str());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
            tracing::debug!(%subject, sequence, kind, reason, "a message went to the dead letters");
        } else {
            *told = Some(Instant::now());
            tracing::warn!(%subject, sequence, kind, reason, "a message went to the dead letters");
        }
    }
}

async fn outcome(tickets: &[Ticket], mut receipt: Receipt, sign_of_life: Duration) -> Outcome {
    let mut ticks = interval_at(Instant::now() + sign_of_life, sign_of_life);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            outcome = &mut receipt => return outcome,
            _ = ticks.tick() => {
                for ticket in tickets {
                    ticket.working().await;
                }
            }
        }
    }
}

/// How long a message that failed has to wait.
pub(super) fn delay(deliveries: u64) -> Duration {
    let doublings = u32::try_from(deliveries.saturating_sub(1).min(16)).unwrap_or(16);
    FIRST_DELAY.saturating_mul(1 << doublings).min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_and_ends_somewhere() {
        let delays: Vec<_> = [0, 1, 2, 3, 7, u64::MAX].map(|n| delay(n).as_secs()).into();
        assert_eq!(delays, [1, 1, 2, 4, 60, 60]);
    }
}
