//! Puts split events together. Parts wait here, held at the server by signs of life, until the last one
//! has come; all are answered together. What is held is bounded, and given back when it waits too long.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::answers::{LONGEST_DELAY, Ticket};
use crate::support::envelope::{Envelope, Part};

/// How long a part waits for the others, beside the time in which they come again if they were lost on
/// the way: longer than any delay after a failure.
const PATIENCE: Duration = LONGEST_DELAY.saturating_add(Duration::from_secs(10));

/// A part that was delivered so often and did not find the others, though the stream was read to its end
/// while it waited, is a dead letter.
const MOST_DELIVERIES: u64 = 3;

/// Bytes of parts that are held at most.
const MOST_BYTES: usize = 128 << 20;

/// Parts of one event are equal in these: what was observed when, the hash of the whole, and how many
/// there are.
type Key = (u64, u64, u32);

/// The parts that wait for others.
#[derive(Default)]
pub(super) struct Parts {
    waiting: HashMap<Key, Assembly>,
    bytes: usize,
}

struct Assembly {
    since: Instant,
    /// The stream was read to its end since then, so nothing is still to come for the first time.
    all_was_read: bool,
    parts: HashMap<u32, (Envelope, Ticket)>,
}

impl Parts {
    /// Takes a part in. Returns all parts of its event, sorted, if this was the last one.
    pub(super) fn add(
        &mut self,
        part: Part,
        envelope: Envelope,
        ticket: Ticket,
    ) -> Option<(Vec<Envelope>, Vec<Ticket>)> {
        let key = (envelope.identity(), part.whole, part.count);
        let new = || Assembly { since: Instant::now(), all_was_read: false, parts: HashMap::new() };
        let assembly = self.waiting.entry(key).or_insert_with(new);
        self.bytes += ticket.payload.len();
        // The same part again has a newer ticket, and only that counts for the server.
        if let Some((_, older)) = assembly.parts.insert(part.index, (envelope, ticket)) {
            self.bytes -= older.payload.len();
        }
        if assembly.parts.len() < part.count as usize {
            return None;
        }
        let mut parts: Vec<_> = self.take(key).into_iter().collect();
        parts.sort_unstable_by_key(|(index, _)| *index);
        Some(parts.into_iter().map(|(_, part)| part).unzip())
    }

    /// Notes that the server has nothing that it has not delivered at least once.
    pub(super) fn all_was_read(&mut self) {
        self.waiting.values_mut().for_each(|assembly| assembly.all_was_read = true);
    }

    /// Gives a sign of life for every part that waits; gives back those that have waited too long, or
    /// are too much to hold, the oldest first. Returns those for which there is no hope.
    pub(super) async fn tend(&mut self, ack_wait: Duration) -> Vec<Ticket> {
        let mut lonely = Vec::new();
        while let Some(key) = self.overdue(PATIENCE.saturating_add(ack_wait)) {
            let all_was_read = self.waiting.get(&key).is_some_and(|assembly| assembly.all_was_read);
            for (_, ticket) in self.take(key).into_values() {
                if all_was_read && ticket.deliveries >= MOST_DELIVERIES {
                    lonely.push(ticket);
                } else {
                    ticket.again().await;
                }
            }
        }
        for (_, ticket) in self.waiting.values().flat_map(|assembly| assembly.parts.values()) {
            ticket.working().await;
        }
        lonely
    }

    /// Gives all back at once.
    pub(super) async fn give_back(&mut self) {
        self.bytes = 0;
        for (_, ticket) in self.waiting.drain().flat_map(|(_, assembly)| assembly.parts.into_values()) {
            ticket.give_back().await;
        }
    }

    fn overdue(&self, patience: Duration) -> Option<Key> {
        let (key, oldest) = self.waiting.iter().min_by_key(|(_, assembly)| assembly.since)?;
        (oldest.since.elapsed() > patience || self.bytes > MOST_BYTES).then_some(*key)
    }

    fn take(&mut self, key: Key) -> HashMap<u32, (Envelope, Ticket)> {
        let parts = self.waiting.remove(&key).map(|assembly| assembly.parts).unwrap_or_default();
        self.bytes -= parts.values().map(|(_, ticket)| ticket.payload.len()).sum::<usize>();
        parts
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use async_nats::Message;
    use async_nats::jetstream::{self, Context};
    use prometheus_streams_core::event::Event;

    use super::super::progress::Progress;
    use super::*;

    /// JetStream on a broker that is not there.
    async fn nowhere() -> Context {
        let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
        jetstream::new(options.connect("nats://127.0.0.1:1").await.unwrap())
    }

    fn parts_of(instance: &str) -> Vec<Envelope> {
        let event = Event {
            labels: [("instance", instance)].into_iter().collect(),
            ..Event::new(SystemTime::UNIX_EPOCH, vec![7; 3000])
        };
        Envelope::seal(&event, 0).unwrap().split(1000).unwrap()
    }

    fn add(
        parts: &mut Parts,
        context: &Context,
        envelope: &Envelope,
        deliveries: u64,
    ) -> Option<Vec<Envelope>> {
        let message = Message {
            subject: "s".into(),
            reply: Some(format!("$JS.ACK.S.d.{deliveries}.1.1.0.0").into()),
            payload: envelope.to_bytes(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        let ticket = Ticket::new(context, &Arc::<Progress>::default(), message).unwrap();
        parts.add(envelope.part().unwrap(), envelope.clone(), ticket).map(|(parts, _)| parts)
    }

    #[tokio::test]
    async fn events_with_equal_bodies_are_not_mixed() {
        let (mut parts, context) = (Parts::default(), nowhere().await);
        let (one, two) = (parts_of("one"), parts_of("two"));
        let mut whole = Vec::new();
        for (one, two) in one.iter().zip(&two) {
            assert_eq!(one.part(), two.part());
            whole.extend(add(&mut parts, &context, one, 1));
            whole.extend(add(&mut parts, &context, two, 1));
        }
        assert_eq!(whole, [one, two]);
        assert!(parts.waiting.is_empty() && parts.bytes == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_is_a_dead_letter_only_when_the_others_cannot_be_still_to_come() {
        let (mut parts, context) = (Parts::default(), nowhere().await);
        let (part, ack_wait) = (&parts_of("one")[0], Duration::from_secs(30));
        let wait = async || tokio::time::advance(PATIENCE + ack_wait * 2).await;
        for (deliveries, all_was_read, expected) in
            [(1, true, 0), (MOST_DELIVERIES, false, 0), (MOST_DELIVERIES, true, 1)]
        {
            add(&mut parts, &context, part, deliveries);
            if all_was_read {
                parts.all_was_read();
            }
            // A part that was lost on the way comes again after this time.
            tokio::time::advance(ack_wait).await;
            assert!(parts.tend(ack_wait).await.is_empty() && parts.waiting.len() == 1);
            wait().await;
            assert_eq!(parts.tend(ack_wait).await.len(), expected, "{deliveries} {all_was_read}");
            assert!(parts.waiting.is_empty() && parts.bytes == 0);
        }
    }
}
