//! The poller at work: starts scrapes when their slots come, hands their events over, and collects
//! the receipts. One timer for all targets, and a task only for each scrape that is running.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use prometheus_streams_core::delivery::{Outcome, Receipt};
use prometheus_streams_core::emitter::{Emitter, NoRoom, Room};
use prometheus_streams_core::stage::Clock;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::metrics::{PollerMetrics, Skipped};
use super::schedule::{Due, Schedule};
use super::scraper::Target;
use crate::support::scrape::{ERROR, INSTANCE, JOB, label, unix_millis};

/// Slots that begin within this time may begin together: with many targets most of the cost of a scrape
/// that is not work is waking up for it.
const GRAIN: Duration = Duration::from_millis(5);

/// A scrape that has ended.
struct Ended {
    target: usize,
    error: Option<String>,
    receipt: Receipt,
}

/// What changes about a target.
#[derive(Clone, Debug, Default)]
struct State {
    /// How many slots it has had.
    sequence: u64,
    /// The scrape that was started last, until its end was noticed.
    running: Option<AbortHandle>,
    /// Whether the last scrape succeeded; a target counts as up until one has failed.
    down: bool,
}

pub(super) struct Poller {
    targets: Vec<Arc<Target>>,
    states: Vec<State>,
    schedule: Schedule,
    clock: Arc<dyn Clock>,
    metrics: Arc<PollerMetrics>,
    out: Emitter,
    scrapes: JoinSet<Ended>,
    receipts: FuturesUnordered<Receipt>,
}

impl Poller {
    pub(super) fn new(
        targets: Vec<Target>,
        metrics: PollerMetrics,
        clock: Arc<dyn Clock>,
        out: Emitter,
    ) -> Self {
        let rhythms = targets.iter().map(|target| target.rhythm).collect();
        Self {
            states: vec![State::default(); targets.len()],
            schedule: Schedule::new(rhythms, unix_millis(clock.now())),
            targets: targets.into_iter().map(Arc::new).collect(),
            clock,
            metrics: Arc::new(metrics),
            out,
            scrapes: JoinSet::new(),
            receipts: FuturesUnordered::new(),
        }
    }

    /// Polls until `shutdown`, then cancels what is running and waits for the receipts that are open.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let wait = self.start_due();
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
                Some(ended) = self.scrapes.join_next() => self.ended(ended),
                Some(outcome) = self.receipts.next() => self.answered(&outcome),
            }
        }
        self.scrapes.abort_all();
        while let Some(ended) = self.scrapes.join_next().await {
            self.ended(ended);
        }
        while let Some(outcome) = self.receipts.next().await {
            self.answered(&outcome);
        }
    }

    /// Starts the scrapes whose slots have begun; how long to wait for the next.
    fn start_due(&mut self) -> Duration {
        let now = unix_millis(self.clock.now());
        while let Some(due) = self.schedule.due(now) {
            self.states[due.target].sequence += 1;
            match self.room_for(due) {
                Ok(room) => self.start(due, room),
                Err(reason) => {
                    let labels = &self.targets[due.target].labels;
                    tracing::debug!(%labels, ?reason, "skipped a slot");
                    self.metrics.skipped(labels, reason);
                }
            }
        }
        self.schedule.wait(now).max(GRAIN)
    }

    /// Room in the pipeline for the event of a scrape, before anything is asked of the target.
    fn room_for(&self, due: Due) -> Result<Room, Skipped> {
        if due.late {
            return Err(Skipped::Late);
        }
        if self.states[due.target].running.as_ref().is_some_and(|scrape| !scrape.is_finished()) {
            return Err(Skipped::Busy);
        }
        self.out.try_reserve().map_err(|reason| match reason {
            NoRoom::Full => Skipped::Full,
            NoRoom::Paused => Skipped::Paused,
        })
    }

    fn start(&mut self, due: Due, room: Room) {
        let state = &mut self.states[due.target];
        let sequence = state.sequence;
        let target = Arc::clone(&self.targets[due.target]);
        let (clock, metrics) = (Arc::clone(&self.clock), Arc::clone(&self.metrics));
        state.running = Some(self.scrapes.spawn(async move {
            let event = target.scrape(due.slot, sequence, clock.now()).await;
            metrics.scraped(due.target, &event);
            let error = event.attributes.get(ERROR).map(str::to_owned);
            Ended { target: due.target, error, receipt: room.send(event) }
        }));
    }

    fn ended(&mut self, ended: Result<Ended, JoinError>) {
        let Ended { target, error, receipt } = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_cancelled() => return,
            Err(error) => return tracing::error!(%error, "a scrape ended by a mistake in this program"),
        };
        self.receipts.push(receipt);
        let state = &mut self.states[target];
        state.running = None;
        let labels = &self.targets[target].labels;
        let (job, instance) = (label(labels, JOB), label(labels, INSTANCE));
        match (&error, std::mem::replace(&mut state.down, error.is_some())) {
            (Some(error), false) => tracing::warn!(job, instance, error, "target is down"),
            (None, true) => tracing::info!(job, instance, "target is up again"),
            _ => {}
        }
    }

    fn answered(&self, outcome: &Outcome) {
        if let Outcome::Rejected(reason) | Outcome::Failed(reason) = outcome {
            tracing::debug!(%reason, "a scrape was not delivered");
        }
        self.metrics.answered(outcome);
    }
}
