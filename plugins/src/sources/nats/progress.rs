//! Which messages of a stream are done with, as far as is known here and as the server says.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::support::nats::api::ConsumerInfo;

/// Messages that are not done with, of which the place is remembered.
const MOST_OPEN: usize = 1 << 16;

/// Which messages of the stream are done with, as far as this program has seen them come. What it has
/// not seen, because it was lost on the way, or came to another program or an earlier life of this one, is
/// known by the gap that it leaves in the count of deliveries; then only the word of the server counts.
#[derive(Debug, Default)]
pub(super) struct Progress {
    seen: Mutex<Seen>,
    /// Which stream of this name it is.
    life: AtomicU64,
}

#[derive(Debug, Default)]
struct Seen {
    highest: Option<u64>,
    open: BTreeSet<u64>,
    /// The number of the last delivery.
    delivery: u64,
    /// The first delivery behind the last gap.
    gap: Option<u64>,
    /// Up to here all is acknowledged, the server said.
    acknowledged: Option<u64>,
}

impl Progress {
    /// Notes that a message has come; true when deliveries before it have not.
    pub(super) fn received(&self, sequence: u64, delivery: u64) -> bool {
        let mut seen = self.seen();
        let behind_gap = delivery > seen.delivery + 1;
        if behind_gap {
            seen.gap = Some(delivery);
        }
        seen.delivery = seen.delivery.max(delivery);
        seen.highest = seen.highest.max(Some(sequence));
        seen.open.insert(sequence);
        if seen.open.len() > MOST_OPEN {
            // The oldest has expired in the stream long ago.
            seen.open.pop_first();
        }
        behind_gap
    }

    /// Takes in what the server says while messages may be on their way to us.
    pub(super) fn told(&self, info: &ConsumerInfo) {
        let mut seen = self.seen();
        seen.acknowledged = Some(info.ack_floor.stream_seq);
        if info.num_ack_pending == 0 {
            let delivered = info.delivered.consumer_seq;
            seen.delivery = seen.delivery.max(delivered);
            seen.gap = seen.gap.filter(|behind| *behind > delivered + 1);
        }
    }

    /// Takes in what the server says while nothing is on its way: where it has counted otherwise than we
    /// have, there is something that we did not see, or it is another consumer.
    pub(super) fn begins(&self, info: &ConsumerInfo) {
        self.told(info);
        let (mut seen, delivered) = (self.seen(), info.delivered.consumer_seq);
        if delivered != seen.delivery {
            (seen.delivery, seen.gap) = (delivered, Some(delivered + 1));
        }
    }

    /// True when the message came and is not done with.
    pub(super) fn is_open(&self, sequence: u64) -> bool {
        self.seen().open.contains(&sequence)
    }

    /// Notes that a message of this life of the stream is done with.
    pub(super) fn done(&self, sequence: u64, life: u64) {
        if life == self.life() {
            self.seen().open.remove(&sequence);
        }
    }

    /// Which stream of this name it is that is read.
    pub(super) fn life(&self) -> u64 {
        self.life.load(Ordering::Acquire)
    }

    /// True where there are deliveries that did not come here.
    pub(super) fn has_gap(&self) -> bool {
        self.seen().gap.is_some()
    }

    /// True when all that came is done with, and the server has delivered nothing else.
    pub(super) fn is_complete(&self) -> bool {
        let seen = self.seen();
        seen.gap.is_none() && seen.open.is_empty()
    }

    /// True when everything that the server has delivered has come here.
    pub(super) fn has_all_of(&self, info: &ConsumerInfo) -> bool {
        let seen = self.seen();
        seen.gap.is_none() && seen.delivery >= info.delivered.consumer_seq
    }

    /// The sequence up to which all is done with.
    pub(super) fn floor(&self) -> Option<u64> {
        let seen = self.seen();
        if seen.gap.is_some() {
            return seen.acknowledged;
        }
        seen.open.first().map(|first| first - 1).or(seen.highest.max(seen.acknowledged))
    }

    /// A new consumer counts its deliveries from 1.
    pub(super) fn starts_anew(&self) {
        let mut seen = self.seen();
        (seen.delivery, seen.gap) = (0, None);
    }

    pub(super) fn forget(&self) {
        *self.seen() = Seen::default();
        self.life.fetch_add(1, Ordering::AcqRel);
    }

    /// A consumer of the same stream delivers all behind `floor` once more.
    pub(super) fn rewinds(&self, floor: u64) {
        *self.seen() = Seen { highest: Some(floor), acknowledged: Some(floor), ..Seen::default() };
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_floor_is_below_the_oldest_that_is_open() {
        let progress = Progress::default();
        assert_eq!(progress.floor(), None);
        for (delivery, sequence) in (1..).zip([5, 6, 9]) {
            progress.received(sequence, delivery);
        }
        progress.done(5, 0);
        progress.done(9, 0);
        assert_eq!(progress.floor(), Some(5));
        progress.done(6, 0);
        assert_eq!(progress.floor(), Some(9));
        // A message that came again after a failure is open again.
        progress.received(6, 4);
        assert_eq!(progress.floor(), Some(5));
    }

    fn info(delivered: (u64, u64), floor: (u64, u64), pending: u64) -> ConsumerInfo {
        let pair = |(consumer, stream): (u64, u64)| json!({ "consumer_seq": consumer, "stream_seq": stream });
        let info = json!({
            "config": { "ack_policy": "explicit" },
            "delivered": pair(delivered),
            "ack_floor": pair(floor),
            "num_ack_pending": pending,
            "num_pending": 0,
        });
        serde_json::from_value(info).unwrap()
    }

    #[test]
    fn a_message_that_was_lost_on_the_way_is_not_passed_over() {
        let progress = Progress::default();
        progress.begins(&info((2, 4), (2, 4), 0));
        assert_eq!(progress.floor(), Some(4));
        for (sequence, delivery) in [(5, 3), (7, 5)] {
            progress.received(sequence, delivery);
            progress.done(sequence, 0);
        }
        assert_eq!(progress.floor(), Some(4), "6 did not come");
        progress.told(&info((5, 7), (3, 5), 1));
        assert_eq!(progress.floor(), Some(5));
        progress.received(6, 6);
        progress.done(6, 0);
        progress.told(&info((6, 7), (6, 7), 0));
        progress.received(8, 7);
        progress.done(8, 0);
        assert_eq!(progress.floor(), Some(8), "all that was missing has come");
    }

    #[test]
    fn what_an_earlier_life_did_not_acknowledge_is_not_passed_over() {
        let progress = Progress::default();
        progress.begins(&info((9, 20), (8, 14), 1));
        progress.received(21, 10);
        progress.done(21, 0);
        assert_eq!(progress.floor(), Some(14));
        // Nor is what was on its way to us when the connection was lost.
        let progress = Progress::default();
        progress.begins(&info((0, 0), (0, 0), 0));
        progress.received(1, 1);
        progress.done(1, 0);
        progress.begins(&info((2, 2), (1, 1), 1));
        progress.received(3, 3);
        progress.done(3, 0);
        assert_eq!(progress.floor(), Some(1));
    }
}
