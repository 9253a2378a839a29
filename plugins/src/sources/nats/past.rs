//! What a reader does with messages of the past: deliver them like others, leave them to a backfill, or be that.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_streams_core::emitter::Capacity;
use tokio::sync::watch;
use tokio::time::Instant;

use super::answers::Ticket;
use super::order::Order;
use super::progress::Progress;
use super::pull::{End, MOST_MESSAGES};
use super::stretches::Stretches;
use crate::support::nats::api::ConsumerInfo;

/// A backfill takes one part in so many of the room of the pipeline.
const SHARE: usize = 4;

/// So many requests make the rate of a second.
const REQUESTS: u32 = 4;

/// What a reader does with the past.
pub(super) enum Past {
    /// It delivers it like all else.
    Delivered,
    /// It leaves it to a backfill.
    Left {
        /// The age at which a message is of the past.
        after: Duration,
        /// Until then the past is delivered.
        resting: Option<Instant>,
    },
    /// It delivers nothing else.
    Backfilled(Backfill),
}

/// What a backfill delivers, and how fast.
pub(super) struct Backfill {
    stretches: watch::Receiver<Stretches>,
    rate: u32,
    /// When it may ask for messages again.
    due: Instant,
    /// The end that it has reached.
    ended: Option<u64>,
}

/// What a message is to a reader.
pub(super) enum Judged {
    /// To be delivered.
    Wanted,
    /// Of the past, and not to be delivered here.
    Behind,
    /// Delivered by another one.
    Elsewhere,
    /// Behind the end.
    Beyond,
}

impl Past {
    /// Leaves what is older than `after` to a backfill.
    pub(super) fn left(after: Duration) -> Self {
        Self::Left { after, resting: None }
    }

    pub(super) fn judge(&mut self, ticket: &Ticket, now: SystemTime) -> Judged {
        match self {
            Self::Delivered => Judged::Wanted,
            Self::Left { after, resting } => {
                let rests = resting.is_some_and(|until| Instant::now() < until);
                let published = Duration::from_nanos(u64::try_from(ticket.published).unwrap_or_default());
                let age = now.duration_since(UNIX_EPOCH + published).unwrap_or_default();
                // With nothing behind it there is nothing that would have to wait for it.
                let is_behind = ticket.pending > 0 && age > *after && !rests;
                if is_behind { Judged::Behind } else { Judged::Wanted }
            }
            Self::Backfilled(backfill) => backfill.judge(ticket),
        }
    }

    /// Delivers the past for so long.
    pub(super) fn rest(&mut self, time: Duration) {
        if let Self::Left { resting, .. } = self {
            *resting = Some(Instant::now() + time);
        }
    }

    /// The most messages to ask for now.
    pub(super) fn most(&self, order: Option<&Order>, capacity: Capacity) -> usize {
        let (Some(order), share) = (order, (capacity.events / SHARE).max(1)) else { return usize::MAX };
        match self {
            Self::Delivered => usize::MAX,
            // A request takes room though nothing comes, and would take all of it.
            Self::Left { .. } => capacity.events.saturating_sub(share).max(1).saturating_sub(order.open()),
            Self::Backfilled(backfill) => {
                let heavy = order.in_pipeline() > capacity.bytes / SHARE as u64;
                if heavy || backfill.ended.is_some() {
                    return 0;
                }
                // What it holds is what it delivers in a second, so that little is before what is new.
                let share = share.min(backfill.rate as usize).max(1);
                share.saturating_sub(order.held()).min(backfill.batch())
            }
        }
    }

    /// When messages may be asked for, where that is limited.
    pub(super) fn due(&self) -> Option<Instant> {
        match self {
            Self::Backfilled(backfill) => Some(backfill.due),
            Self::Delivered | Self::Left { .. } => None,
        }
    }

    /// Notes that so many messages are asked for.
    pub(super) fn asked(&mut self, messages: usize) {
        if let Self::Backfilled(backfill) = self {
            let second = Duration::from_secs(1);
            let time = second.mul_f64(messages as f64 / f64::from(backfill.rate.max(1)));
            backfill.due = backfill.due.max(Instant::now()) + time;
        }
    }

    /// True when all of it was read.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self, Self::Backfilled(Backfill { ended: Some(_), .. }))
    }

    /// True when there is more to read than when it ended.
    pub(super) fn has_more(&self) -> bool {
        match self {
            Self::Backfilled(Backfill { ended: Some(ended), stretches, .. }) => {
                stretches.borrow().end() > *ended
            }
            _ => false,
        }
    }

    /// How it ends now, if it does.
    pub(super) fn end(&mut self, progress: &Progress) -> Option<End> {
        let has_more = self.has_more();
        match self {
            Self::Backfilled(backfill) if has_more => {
                backfill.ended = None;
                Some(End::Again)
            }
            Self::Backfilled(Backfill { ended: Some(_), .. }) if progress.is_complete() => {
                Some(End::Finished)
            }
            _ => None,
        }
    }

    /// Takes in what the server says of the consumer.
    pub(super) fn told(&mut self, info: &ConsumerInfo, progress: &Progress) {
        if let Self::Backfilled(backfill) = self {
            let end = backfill.stretches.borrow().end();
            let is_read = info.num_pending == 0 || info.delivered.stream_seq >= end;
            if is_read && progress.has_all_of(info) {
                backfill.ended = Some(end);
            }
        }
    }

    /// How many messages the reader is behind.
    pub(super) fn lag(&self, info: &ConsumerInfo) -> u64 {
        let all = info.num_pending.saturating_add(info.num_ack_pending);
        match self {
            Self::Backfilled(backfill) => {
                backfill.stretches.borrow().behind(info.ack_floor.stream_seq).min(all)
            }
            Self::Delivered | Self::Left { .. } => all,
        }
    }
}

impl Backfill {
    pub(super) fn new(stretches: watch::Receiver<Stretches>, rate: u32) -> Self {
        Self { stretches, rate, due: Instant::now(), ended: None }
    }

    fn batch(&self) -> usize {
        ((self.rate / REQUESTS) as usize).clamp(1, MOST_MESSAGES)
    }

    fn judge(&mut self, ticket: &Ticket) -> Judged {
        let stretches = self.stretches.borrow();
        let (end, is_ours) = (stretches.end(), stretches.has(ticket.sequence));
        if ticket.pending == 0 || ticket.sequence >= end {
            self.ended = Some(end);
        }
        match is_ours {
            true => Judged::Wanted,
            false if ticket.sequence > end => Judged::Beyond,
            false => Judged::Elsewhere,
        }
    }
}
