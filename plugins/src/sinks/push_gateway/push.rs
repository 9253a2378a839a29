//! One push at a time into a group: whoever waits for it shares it, and what comes meanwhile goes into the next.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_streams_core::event::Labels;
use prometheus_streams_core::health::Health;
use prometheus_streams_core::stage::Clock;
use tokio::sync::{OnceCell, Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::answer::Refusal;
use super::gateway::Gateway;
use super::groups::{Group, Groups, Snapshot};
use super::key::{GroupingKey, KeyError};
use super::metrics::PushMetrics;
use super::page::{Page, Press, assemble};
use super::probe::Wire;

/// The pause before a group is pushed again, for the sake of pushes that were given up: as long as the push
/// before it took, for the gateway was about as slow with those, within these bounds.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The pause between the pushes of a group of several targets, in which their scrapes gather: a fifth of the
/// interval at which they are scraped, within these bounds. Longer, and attempts would end before it does.
const SHORTEST_GATHERING: Duration = Duration::from_millis(500);
const LONGEST_GATHERING: Duration = Duration::from_secs(3);
/// Groups of several targets that are pushed at once. A gateway applies one push at a time; with a second one
/// it is kept busy across the way there and back.
pub(super) const MOST_PUSHES: usize = 2;

/// The end of a push that nobody may give up, because there is always somebody new who waits for it, or that
/// nobody waits for.
pub(super) const LONGEST_PUSH: Duration = Duration::from_secs(30);

/// What is said of a gateway that hangs.
pub(super) const NOT_IN_TIME: &str = "the push gateway does not answer in time";

/// Lands groups in a gateway.
#[derive(Debug)]
pub(super) struct Pusher {
    pub(super) gateway: Gateway,
    pub(super) by: By,
    pub(super) groups: Groups,
    pub(super) press: Press,
    pub(super) expire_after: Duration,
    pub(super) recalled: OnceCell<()>,
    /// Bounds the pushes of groups of several targets; those of one are bounded by the events in flight.
    pub(super) permits: Semaphore,
    pub(super) metrics: PushMetrics,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) health: Health,
}

/// How targets are put into groups.
#[derive(Debug)]
pub(super) enum By {
    /// Each has one of its own.
    Target,
    /// Those that differ in none of these labels replace each other.
    Replacing(Vec<String>),
    /// Those that differ in none of these labels stand beside each other.
    Members(Vec<String>),
}

/// A push that is under way. Dropped by all who wait for it, it is given up.
#[derive(Debug)]
pub(super) struct Push {
    outcome: watch::Receiver<Option<Outcome>>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Clone, Debug)]
struct Outcome {
    /// The version of the group that was pushed.
    version: u64,
    result: Result<(), Refusal>,
}

impl By {
    /// The key of a target's group.
    pub(super) fn key<'a>(&self, labels: &'a Labels) -> Result<GroupingKey<'a>, KeyError> {
        match self {
            Self::Target => GroupingKey::new(labels, None),
            Self::Replacing(names) | Self::Members(names) => GroupingKey::new(labels, Some(names)),
        }
    }

    /// What tells a target from the others of its group.
    pub(super) fn member(&self, labels: &Labels) -> Labels {
        match self {
            Self::Target | Self::Replacing(_) => Labels::default(),
            Self::Members(_) => labels.clone(),
        }
    }

    pub(super) fn coalesces(&self) -> bool {
        matches!(self, Self::Members(_))
    }
}

impl Pusher {
    /// The group of a target, and what it is called there.
    pub(super) fn place(&self, labels: &Labels) -> Result<(Arc<Group>, Labels), KeyError> {
        let key = self.by.key(labels)?;
        let group = self.groups.group(&key.path, &key.grouped, self.gateway.epoch());
        Ok((group, self.by.member(labels)))
    }

    pub(super) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Waits until the gateway has confirmed this version of a group, or one after it.
    pub(super) async fn land(self: &Arc<Self>, group: &Arc<Group>, version: u64) -> Result<(), Refusal> {
        loop {
            let push = self.join(group);
            let mut outcome = push.outcome.clone();
            let outcome = outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
            let Ok(Some(outcome)) = outcome else {
                return Err(Refusal::unavailable("the push ended early; this is a bug", ""));
            };
            if outcome.version >= version {
                return outcome.result;
            }
        }
    }

    fn join(self: &Arc<Self>, group: &Arc<Group>) -> Arc<Push> {
        group.join(|turn| {
            let (sender, outcome) = watch::channel(None);
            let (pusher, pushed) = (Arc::clone(self), Arc::clone(group));
            let task = tokio::spawn(async move {
                let outcome = pusher.push(&pushed, turn).await;
                pushed.leave(turn);
                sender.send_replace(Some(outcome));
            });
            Push { outcome, _task: AbortOnDropHandle::new(task) }
        })
    }

    /// Pushes a group until nothing older can land any more after it.
    async fn push(&self, group: &Group, turn: u64) -> Outcome {
        if let Some(not_before) = group.not_before() {
            sleep_until(not_before).await;
        }
        // An error says that the semaphore was closed, and it never is.
        let _permit = if self.groups.coalesces { self.permits.acquire().await.ok() } else { None };
        loop {
            let wire = self.gateway.wire().await;
            let snapshot = group.begin(turn, self.gateway.epoch());
            let started = Instant::now();
            let made = match wire {
                Ok(wire) if self.groups.coalesces => {
                    let made = timeout(LONGEST_PUSH, self.make(group, &snapshot, wire)).await;
                    made.unwrap_or_else(|_| Err(Refusal::unavailable(NOT_IN_TIME, "")))
                }
                Ok(wire) => self.make(group, &snapshot, wire).await,
                Err(refusal) => Err(refusal),
            };
            self.tell(&made);
            if self.groups.coalesces {
                group.pace(started.elapsed(), SHORTEST_GATHERING, LONGEST_GATHERING);
            }
            let version = snapshot.version;
            match made {
                Err(refusal) => {
                    group.refuse(&snapshot, &refusal);
                    return Outcome { version, result: Err(refusal) };
                }
                Ok(()) if group.confirm(&snapshot) => return Outcome { version, result: Ok(()) },
                Ok(()) => sleep(started.elapsed().clamp(SHORTEST_PAUSE, LONGEST_PAUSE)).await,
            }
        }
    }

    async fn make(&self, group: &Group, snapshot: &Snapshot, wire: Wire) -> Result<(), Refusal> {
        if let Some(why) = group.held() {
            return Err(why);
        }
        let _timer = self.metrics.time.start_timer();
        for path in &snapshot.elsewhere {
            self.gateway.delete(path).await?;
        }
        if snapshot.pages.is_empty() {
            return self.gateway.delete(&group.path).await;
        }
        let out = group.quarantined().into_iter().collect();
        match self.put(group, &snapshot.pages, Pick::AllBut(out), wire).await {
            Err(Refusal::Inconsistent(words)) => self.heal(group, &snapshot.pages, wire, words).await,
            made => made,
        }
    }

    /// Replaces what the gateway has of a group by some families of these pages.
    pub(super) async fn put(
        &self,
        group: &Group,
        pages: &[Arc<Page>],
        pick: Pick,
        wire: Wire,
    ) -> Result<(), Refusal> {
        let pages = pages.to_vec();
        // A group of many targets takes tens of milliseconds.
        let body = spawn_blocking(move || assemble(&pages, |name| pick.leaves_out(name), wire)).await;
        let broken = |error: String| Refusal::Bad(format!("cannot write the body of a push: {error}"));
        let body =
            body.map_err(|error| broken(error.to_string()))?.map_err(|error| broken(error.to_string()))?;
        self.gateway.put(&group.path, body.bytes.clone(), wire).await?;
        self.metrics.confirmed(&body);
        Ok(())
    }

    fn tell(&self, made: &Result<(), Refusal>) {
        match made {
            Err(Refusal::Unreachable(why) | Refusal::Unavailable { why, .. }) => self.health.degraded(why),
            _ => self.health.ready(),
        }
    }
}

/// Which families of a group are pushed.
#[derive(Clone, Debug)]
pub(super) enum Pick {
    AllBut(HashSet<Box<str>>),
    Only(HashSet<Box<str>>),
}

impl Pick {
    fn leaves_out(&self, name: &str) -> bool {
        match self {
            Self::AllBut(names) => names.contains(name),
            Self::Only(names) => !names.contains(name),
        }
    }
}
