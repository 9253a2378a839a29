//! What the server is told about a message: still working, done, again later, never again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::{AckKind, Context};
use async_nats::{Client, Message, Subject, jetstream};
use bytes::Bytes;
use prometheus_streams_core::delivery::{Outcome, Receipt};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::consumer::Progress;
use super::dead_letters::{DeadLetters, Letter, Reason};
use crate::support::nats::is_up;

/// How long an answer may wait for its turn; while the connection is down the queue can be full.
const ANSWER: Duration = Duration::from_secs(5);

/// Dead letters are told of once in this time; the metrics count them all.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// The delay after the first failure; it doubles with every further one.
const FIRST_DELAY: Duration = Duration::from_secs(1);

/// The longest delay after a failure.
pub(super) const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// The duty to answer the server for one message, with what is needed to dead-letter it.
#[derive(Clone, Debug)]
pub(super) struct Ticket {
    client: Client,
    reply: Subject,
    progress: Arc<Progress>,
    subject: Subject,
    /// Its place in the stream.
    sequence: u64,
    /// How often it was delivered, this time included.
    pub(super) deliveries: u64,
    /// The data, as it came.
    pub(super) payload: Bytes,
}

impl Ticket {
    /// The ticket of a message, or nothing if it does not come from a consumer.
    pub(super) fn new(context: &Context, progress: &Arc<Progress>, message: Message) -> Option<Self> {
        let message = jetstream::Message { message, context: context.clone() };
        let info = message.info().ok()?;
        let (sequence, deliveries) = (info.stream_sequence, u64::try_from(info.delivered).unwrap_or(1));
        progress.received(sequence, info.consumer_sequence);
        let message = message.message;
        Some(Self {
            client: context.client(),
            reply: message.reply?,
            progress: Arc::clone(progress),
            subject: message.subject,
            sequence,
            deliveries,
            payload: message.payload,
        })
    }

    fn letter(&self) -> Letter<'_> {
        let Self { sequence, deliveries, .. } = *self;
        Letter { subject: &self.subject, sequence, deliveries, payload: &self.payload }
    }

    /// Still working on it. Says nothing while there is nobody to hear it.
    pub(super) async fn working(&self) {
        if is_up(&self.client) {
            self.say(AckKind::Progress).await;
        }
    }

    /// Done with it for good.
    async fn done(&self, kind: AckKind) {
        self.progress.done(self.sequence);
        self.say(kind).await;
    }

    /// Again, later the more often it failed.
    pub(super) async fn again(&self) {
        self.say(AckKind::Nak(Some(delay(self.deliveries)))).await;
    }

    /// Again, to whoever asks next.
    pub(super) async fn give_back(&self) {
        self.say(AckKind::Nak(None)).await;
    }

    /// An answer that is lost costs a second delivery, so nobody waits for its arrival.
    async fn say(&self, kind: AckKind) {
        let said = timeout(ANSWER, self.client.publish(self.reply.clone(), kind.into())).await;
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

    /// Waits for the outcome of an event, and answers for the messages that it came in.
    pub(super) async fn follow(&self, tickets: Vec<Ticket>, receipt: Receipt, sign_of_life: Duration) {
        match outcome(&tickets, receipt, sign_of_life).await {
            Outcome::Delivered | Outcome::Filtered => {
                for ticket in &tickets {
                    ticket.done(AckKind::Ack).await;
                }
            }
            Outcome::Rejected(reason) => {
                for ticket in &tickets {
                    self.bury(ticket, Reason::Rejected, &reason).await;
                }
            }
            Outcome::Failed(reason) => {
                tracing::debug!(sequence = tickets.first().map(|ticket| ticket.sequence), %reason, "an event failed; it will come again");
                for ticket in &tickets {
                    ticket.again().await;
                }
            }
        }
    }

    /// Moves a message to the dead letters. It leaves the stream only when it has arrived there.
    pub(super) async fn bury(&self, ticket: &Ticket, kind: Reason, reason: &str) {
        match self.dead_letters.put(&ticket.letter(), kind, reason).await {
            Ok(()) => {
                self.log_burial(ticket, kind, reason);
                ticket.done(AckKind::Term).await;
            }
            Err(_) => ticket.again().await,
        }
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
fn delay(deliveries: u64) -> Duration {
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
