//! The poller at work: starts scrapes when their slots come, hands their events over, and collects
//! the receipts; takes in targets as they are found, and announces those that are gone. One timer for
//! all targets, and a task only for each scrape that is running.

mod fleet;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use prometheus_streams_core::delivery::{Outcome, Receipt};
use prometheus_streams_core::emitter::{Emitter, NoRoom, Room};
use prometheus_streams_core::event::Event;
use prometheus_streams_core::stage::Clock;
use tokio::sync::mpsc;
use tokio::task::{self, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

pub(super) use self::fleet::Fleet;
use super::discovery::Found;
use super::ingest::Memory;
use super::metrics::{PollerMetrics, Skipped};
use super::scraper;
use super::status::Last;
use super::targets::Target;
use crate::support::schedule::{Due, Key};
use crate::support::scrape::{self, ERROR, INSTANCE, JOB, label, unix_millis};

/// Slots that begin within this time may begin together: with many targets most of the cost of a scrape
/// that is not work is waking up for it.
const GRAIN: Duration = Duration::from_millis(5);
/// Lists that are taken in at once: where many jobs begin, their targets are sorted out together.
const MOST_LISTS: usize = 256;

/// A scrape that has ended.
struct Ended {
    target: Key,
    /// The target as it was when the scrape began.
    scraped: Arc<Target>,
    memory: Memory,
    last: Last,
    receipt: Receipt,
}

pub(super) struct Poller {
    fleet: Fleet,
    clock: Arc<dyn Clock>,
    metrics: Arc<PollerMetrics>,
    out: Emitter,
    scrapes: JoinSet<Ended>,
    /// The scrapes of targets that went meanwhile.
    cancelled: HashMap<task::Id, Key>,
    receipts: FuturesUnordered<Receipt>,
    /// The wait for room to announce that a target is gone. Kept, because it is a place in a queue.
    grave: Option<BoxFuture<'static, Room>>,
}

impl Poller {
    pub(super) fn new(
        fleet: Fleet,
        metrics: Arc<PollerMetrics>,
        clock: Arc<dyn Clock>,
        out: Emitter,
    ) -> Self {
        Self {
            fleet,
            clock,
            metrics,
            out,
            scrapes: JoinSet::new(),
            cancelled: HashMap::new(),
            receipts: FuturesUnordered::new(),
            grave: None,
        }
    }

    /// Polls until `shutdown`, then cancels what is running and waits for the receipts that are open.
    pub(super) async fn run(mut self, mut found: mpsc::Receiver<Found>, shutdown: CancellationToken) {
        let mut lists = Vec::new();
        loop {
            let wait = self.start_due();
            self.queue_for_graves();
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
                Some(ended) = self.scrapes.join_next_with_id() => self.ended(ended),
                Some(outcome) = self.receipts.next() => self.answered(&outcome),
                1.. = found.recv_many(&mut lists, MOST_LISTS) => self.take_in(lists.drain(..)),
                room = wait_for(&mut self.grave) => self.bury(room),
            }
        }
        self.scrapes.abort_all();
        while let Some(ended) = self.scrapes.join_next_with_id().await {
            self.ended(ended);
        }
        while let Some(outcome) = self.receipts.next().await {
            self.answered(&outcome);
        }
    }

    /// Starts the scrapes whose slots have begun; how long to wait for the next.
    fn start_due(&mut self) -> Duration {
        let now = unix_millis(self.clock.now());
        while let Some(due) = self.fleet.due(now) {
            match self.room_for(due) {
                Ok(room) => self.start(due, room),
                Err(reason) => {
                    let Some(polled) = self.fleet.get(due.target) else { continue };
                    let target = &polled.watched.target;
                    tracing::debug!(labels = %target.labels, ?reason, "skipped a slot");
                    self.metrics.skipped(&target.job.name, reason);
                }
            }
        }
        self.fleet.wait(now).max(GRAIN)
    }

    /// Room in the pipeline for the event of a scrape, before anything is asked of the target.
    fn room_for(&self, due: Due) -> Result<Room, Skipped> {
        if due.late {
            return Err(Skipped::Late);
        }
        if self.fleet.get(due.target).is_some_and(|polled| polled.is_running()) {
            return Err(Skipped::Busy);
        }
        self.out.try_reserve().map_err(|reason| match reason {
            NoRoom::Full => Skipped::Full,
            NoRoom::Paused => Skipped::Paused,
        })
    }

    fn start(&mut self, due: Due, room: Room) {
        let refusal = self.fleet.refusal(due.target);
        let Some(polled) = self.fleet.get_mut(due.target) else { return };
        let sequence = polled.sequence;
        let mut memory = std::mem::take(&mut polled.memory);
        let target = Arc::clone(&polled.watched.target);
        let (clock, metrics) = (Arc::clone(&self.clock), Arc::clone(&self.metrics));
        polled.running = Some(self.scrapes.spawn(async move {
            let at = clock.now();
            let event = match refusal {
                Some(reason) => scraper::refuse(&target, due.slot, sequence, at, &reason),
                None => scraper::scrape(&target, &mut memory, due.slot, sequence, at).await,
            };
            metrics.scraped(&event);
            let last = last(&event);
            let receipt = room.send(event);
            Ended { target: due.target, scraped: target, memory, last, receipt }
        }));
    }

    fn ended(&mut self, ended: Result<(task::Id, Ended), JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let cancelled = self.cancelled.remove(&id);
        match ended {
            Ok((_, ended)) => self.note(id, ended),
            Err(error) if error.is_cancelled() => {}
            Err(error) => tracing::error!(%error, "a scrape ended by a mistake in this program"),
        }
        if let Some(target) = cancelled {
            self.fleet.is_idle(target);
        }
    }

    fn note(&mut self, scrape: task::Id, ended: Ended) {
        self.receipts.push(ended.receipt);
        let Some(polled) = self.fleet.get_mut(ended.target) else { return };
        polled.ended(scrape, &ended.scraped, ended.memory);
        let watched = &polled.watched;
        let (job, instance) = (label(&watched.target.labels, JOB), label(&watched.target.labels, INSTANCE));
        let was_down = watched.is_down();
        match &ended.last.error {
            Some(error) if !was_down => tracing::warn!(job, instance, error, "target is down"),
            None if was_down => tracing::info!(job, instance, "target is up again"),
            _ => {}
        }
        watched.note(ended.last);
    }

    fn answered(&self, outcome: &Outcome) {
        if let Outcome::Rejected(reason) | Outcome::Failed(reason) = outcome {
            tracing::debug!(%reason, "a scrape was not delivered");
        }
        self.metrics.answered(outcome);
    }

    /// Takes in what was found. The scrapes of targets that are gone are cancelled.
    fn take_in(&mut self, lists: impl Iterator<Item = Found>) {
        for found in lists {
            self.fleet.tell(found);
        }
        for (target, scrape) in self.fleet.sort_out(unix_millis(self.clock.now())) {
            scrape.abort();
            self.cancelled.insert(scrape.id(), target);
        }
    }

    /// Waits for room while there are targets to announce as gone, and not otherwise.
    fn queue_for_graves(&mut self) {
        if !self.fleet.has_graves() {
            self.grave = None;
        } else if self.grave.is_none() {
            let out = self.out.clone();
            self.grave = Some(Box::pin(async move { out.reserve().await }));
        }
    }

    /// Announces that a target is gone.
    fn bury(&mut self, room: Room) {
        self.grave = None;
        let Some((key, polled)) = self.fleet.bury() else { return };
        let now = self.clock.now();
        // No slot of a scrape, so that a broker which has seen that does not take this for the same.
        let slot = unix_millis(now).max(polled.last_slot.map_or(0, |last| last + 1));
        let target = &polled.watched.target;
        tracing::debug!(labels = %target.labels, key, "target is gone");
        let event = scraper::tombstone(target, slot, polled.sequence + 1, now);
        self.metrics.buried();
        self.receipts.push(room.send(event));
    }
}

/// The room, if somebody waits for it.
async fn wait_for(room: &mut Option<BoxFuture<'static, Room>>) -> Room {
    match room {
        Some(room) => room.await,
        None => std::future::pending().await,
    }
}

fn last(event: &Event) -> Last {
    Last {
        at: event.timestamp,
        took: scrape::duration(&event.attributes).unwrap_or_default(),
        error: event.attributes.get(ERROR).map(Into::into),
    }
}
