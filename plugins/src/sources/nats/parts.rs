//! Puts split events together. Parts wait here, held at the server by signs of life, until the last one
//! has come; all are answered together. What is held is bounded, and given back when it waits too long.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::answers::{Answers, Ticket};
use super::dead_letters::Reason;
use crate::support::envelope::{Envelope, Part};

/// How long a part waits for the others.
const PATIENCE: Duration = Duration::from_secs(30);

/// A part that was delivered so often and never found the others is a dead letter.
const MOST_DELIVERIES: u64 = 5;

/// Bytes of parts that are held at most.
const MOST_BYTES: usize = 128 << 20;

/// Parts of one event are equal in these: the hash of the whole, and how many there are.
type Key = (u64, u32);

/// The parts that wait for others.
#[derive(Default)]
pub(super) struct Parts {
    waiting: HashMap<Key, Assembly>,
    bytes: usize,
}

struct Assembly {
    since: Instant,
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
        let key = (part.whole, part.count);
        let now = Instant::now();
        let assembly =
            self.waiting.entry(key).or_insert_with(|| Assembly { since: now, parts: HashMap::new() });
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

    /// Gives a sign of life for every part that waits; gives back those that have waited too long, or
    /// are too much to hold, the oldest first.
    pub(super) async fn tend(&mut self, answers: &Answers) {
        while let Some(key) = self.overdue() {
            for (_, ticket) in self.take(key).into_values() {
                if ticket.deliveries >= MOST_DELIVERIES {
                    answers
                        .bury(&ticket, Reason::Incomplete, "the other parts of the event never came")
                        .await;
                } else {
                    ticket.again().await;
                }
            }
        }
        for (_, ticket) in self.waiting.values().flat_map(|assembly| assembly.parts.values()) {
            ticket.working().await;
        }
    }

    /// Gives all back at once.
    pub(super) async fn give_back(&mut self) {
        self.bytes = 0;
        for (_, ticket) in self.waiting.drain().flat_map(|(_, assembly)| assembly.parts.into_values()) {
            ticket.give_back().await;
        }
    }

    fn overdue(&self) -> Option<Key> {
        let (key, oldest) = self.waiting.iter().min_by_key(|(_, assembly)| assembly.since)?;
        (oldest.since.elapsed() > PATIENCE || self.bytes > MOST_BYTES).then_some(*key)
    }

    fn take(&mut self, key: Key) -> HashMap<u32, (Envelope, Ticket)> {
        let parts = self.waiting.remove(&key).map(|assembly| assembly.parts).unwrap_or_default();
        self.bytes -= parts.values().map(|(_, ticket)| ticket.payload.len()).sum::<usize>();
        parts
    }
}
