//! All groups, and how they change: one change of a group at a time, which is prepared, held against the other groups,
//! and then either made or taken back. Until then everybody sees what was before.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_streams_core::event::Labels;
use prometheus_streams_core::stage::Clock;
use prometheus_streams_core::values::Size;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::answer::{Refusal, inconsistent, unavailable};
use super::index::{GroupId, Index};
use super::metrics::PushMetrics;
use super::state::{Kept, State};
use crate::support::schedule::{Due, Rhythm, Schedule};
use crate::support::scrape::unix_millis;

/// A clock that goes back by less than this is being corrected and has not jumped.
const CORRECTION: Duration = Duration::from_secs(1);

/// What the groups are bound to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) groups: usize,
    /// Of one group, in bytes.
    pub(super) group_size: Size,
    /// Of all groups, in bytes.
    pub(super) total_size: Size,
    /// Whether a push is held against the other groups.
    pub(super) check: bool,
    /// From one repetition of a group to the next.
    pub(super) interval: Duration,
}

pub(super) struct Groups {
    limits: Limits,
    clock: Arc<dyn Clock>,
    metrics: PushMetrics,
    inner: Mutex<Inner>,
}

struct Inner {
    groups: HashMap<Labels, Entry>,
    by_id: HashMap<GroupId, Labels>,
    next_id: GroupId,
    /// Roughly what all groups take, with changes that are under way.
    size: u64,
    index: Index,
    schedule: Schedule,
    /// The time of the newest event.
    newest: SystemTime,
}

struct Entry {
    id: GroupId,
    /// Whoever has it may change the group, or tell of it.
    turn: Arc<AsyncMutex<()>>,
    /// Nothing while the first push is under way.
    state: Option<Arc<State>>,
}

/// The wish for the turn of a group. A group that nobody has pushed into is gone with the last wish.
struct Seat {
    groups: Arc<Groups>,
    key: Labels,
    turn: Arc<AsyncMutex<()>>,
}

/// The right to change one group.
pub(super) struct Turn {
    // Before the seat, which looks whether others still have a use for the group.
    _guard: OwnedMutexGuard<()>,
    seat: Seat,
    id: GroupId,
    /// What the group holds; nothing if it is not there.
    pub(super) state: Option<Arc<State>>,
}

/// What a push does to its group.
pub(super) enum Change {
    /// The families take the place of all.
    Replace(Vec<Kept>),
    /// The families take the place of those of their names.
    Merge(Vec<Kept>),
}

/// A change that is neither made nor taken back.
#[must_use = "a claim stands until it is settled"]
pub(super) struct Claim {
    pub(super) state: Arc<State>,
    fresh: Vec<Arc<Kept>>,
}

impl Groups {
    pub(super) fn new(limits: Limits, clock: Arc<dyn Clock>, metrics: PushMetrics) -> Self {
        let inner = Inner {
            groups: HashMap::new(),
            by_id: HashMap::new(),
            next_id: 0,
            size: 0,
            index: Index::default(),
            schedule: Schedule::new(unix_millis(clock.now())),
            newest: SystemTime::UNIX_EPOCH,
        };
        Self { limits, clock, metrics, inner: Mutex::new(inner) }
    }

    pub(super) fn metrics(&self) -> &PushMetrics {
        &self.metrics
    }

    pub(super) fn interval(&self) -> Duration {
        self.limits.interval
    }

    /// Takes in a group that was there before the program started.
    ///
    /// # Errors
    /// There is no room for it, or it does not go together with the others.
    pub(super) fn restore(self: &Arc<Self>, key: &Labels, state: State) -> Result<(), Refusal> {
        let mut turn = self.try_turn(key).ok_or_else(|| unavailable("there are too many groups"))?;
        let State { families, pushed, failed } = state;
        let kept = families.into_values().filter_map(Arc::into_inner).collect();
        let claim = turn.claim(Change::Replace(kept), SystemTime::UNIX_EPOCH)?;
        let state = State { families: claim.state.families.clone(), pushed, failed };
        turn.settle(Claim { state: Arc::new(state), ..claim });
        Ok(())
    }

    /// All groups, sorted by their keys.
    pub(super) fn all(&self) -> Vec<(Labels, Arc<State>)> {
        let inner = self.lock();
        let all = inner.groups.iter().filter_map(|(key, entry)| Some((key.clone(), entry.state.clone()?)));
        let mut all: Vec<_> = all.collect();
        drop(inner);
        all.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        all
    }

    /// Waits for the turn of a group, be it there or not.
    ///
    /// # Errors
    /// There are as many groups as there may be.
    pub(super) async fn turn(self: &Arc<Self>, key: &Labels) -> Result<Turn, Refusal> {
        let seat = self.seat(key)?;
        let guard = Arc::clone(&seat.turn).lock_owned().await;
        Ok(self.begin(seat, guard))
    }

    /// The turn of a group, if nobody else has it.
    pub(super) fn try_turn(self: &Arc<Self>, key: &Labels) -> Option<Turn> {
        let seat = self.seat(key).ok()?;
        let guard = Arc::clone(&seat.turn).try_lock_owned().ok()?;
        Some(self.begin(seat, guard))
    }

    /// The key of a group that is there.
    pub(super) fn key_of(&self, id: GroupId) -> Option<Labels> {
        self.lock().by_id.get(&id).cloned()
    }

    fn seat(self: &Arc<Self>, key: &Labels) -> Result<Seat, Refusal> {
        let mut inner = self.lock();
        let most = self.limits.groups;
        if !inner.groups.contains_key(key) && inner.groups.len() >= most {
            return Err(unavailable(format!("there are {most} groups already; `max_groups` allows more")));
        }
        let turn = Arc::clone(&inner.entry(key).turn);
        Ok(Seat { groups: Arc::clone(self), key: key.clone(), turn })
    }

    fn begin(&self, seat: Seat, guard: OwnedMutexGuard<()>) -> Turn {
        let mut inner = self.lock();
        let entry = inner.entry(&seat.key);
        let (id, state) = (entry.id, entry.state.clone());
        Turn { _guard: guard, seat, id, state }
    }

    /// The time for the next event, later than that of any before.
    pub(super) fn timestamp(&self) -> SystemTime {
        let now = self.clock.now();
        let mut inner = self.lock();
        let is_corrected = inner.newest.duration_since(now).is_ok_and(|ahead| ahead < CORRECTION);
        let time = if is_corrected { inner.newest + Duration::from_nanos(1) } else { now };
        inner.newest = time;
        time
    }

    /// A group whose time to be repeated has come, if there is one.
    pub(super) fn due(&self) -> Option<Due> {
        let now = unix_millis(self.clock.now());
        self.lock().schedule.due(now)
    }

    /// How long to wait before asking [`Groups::due`] again.
    pub(super) fn wait(&self) -> Duration {
        let now = unix_millis(self.clock.now());
        self.lock().schedule.wait(now)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn entry(&mut self, key: &Labels) -> &mut Entry {
        let (next_id, by_id) = (&mut self.next_id, &mut self.by_id);
        self.groups.entry(key.clone()).or_insert_with(|| {
            *next_id += 1;
            by_id.insert(*next_id, key.clone());
            Entry { id: *next_id, turn: Arc::default(), state: None }
        })
    }
}

impl Turn {
    pub(super) fn key(&self) -> &Labels {
        &self.seat.key
    }

    /// Prepares a push of `now`.
    ///
    /// # Errors
    /// The group would become too large, or does not go together with the others.
    pub(super) fn claim(&self, change: Change, now: SystemTime) -> Result<Claim, Refusal> {
        let old = self.state.as_deref();
        let (mut families, kept) = match change {
            Change::Replace(kept) => (Default::default(), kept),
            Change::Merge(kept) => (old.map(|old| old.families.clone()).unwrap_or_default(), kept),
        };
        let fresh: Vec<_> = kept.into_iter().map(Arc::new).collect();
        families.extend(fresh.iter().map(|kept| (kept.name.clone(), Arc::clone(kept))));
        let limits = &self.seat.groups.limits;
        let mut inner = self.seat.groups.lock();
        if limits.check {
            inner.index.check(self.id, old, &families, &fresh).map_err(inconsistent)?;
        }
        let state = Arc::new(State { families, pushed: Some(now), failed: old.and_then(|old| old.failed) });
        if state.length() > limits.group_size.0 {
            let reason =
                format!("the group would be larger than {}; `max_body_size` allows more", limits.group_size);
            return Err(Refusal::new(hyper::StatusCode::PAYLOAD_TOO_LARGE, reason));
        }
        let size: u64 = fresh.iter().map(|kept| kept.size()).sum();
        let freed: u64 = old.into_iter().flat_map(|old| old.replaced(&state)).map(|kept| kept.size()).sum();
        if inner.size.saturating_sub(freed) + size > limits.total_size.0 {
            let reason = format!(
                "all groups would take more than {}; `max_total_size` allows more",
                limits.total_size
            );
            return Err(unavailable(reason));
        }
        inner.size += size;
        fresh.iter().for_each(|kept| inner.index.add(self.id, kept));
        Ok(Claim { state, fresh })
    }

    /// Makes a change.
    pub(super) fn settle(&mut self, claim: Claim) {
        let old = self.state.replace(Arc::clone(&claim.state));
        let mut inner = self.seat.groups.lock();
        if let Some(old) = old {
            inner.forget(old.replaced(&claim.state));
        }
        self.publish(inner);
    }

    /// Takes a change back.
    pub(super) fn withdraw(&self, claim: Claim) {
        self.seat.groups.lock().forget(claim.fresh.iter());
    }

    /// Notes that a push was refused.
    pub(super) fn failed(&mut self, now: SystemTime) -> Arc<State> {
        let old = self.state.as_deref();
        let (families, pushed) = old.map(|old| (old.families.clone(), old.pushed)).unwrap_or_default();
        let state = Arc::new(State { families, pushed, failed: Some(now) });
        self.state = Some(Arc::clone(&state));
        self.publish(self.seat.groups.lock());
        state
    }

    /// Removes the group.
    pub(super) fn delete(&mut self) {
        let Some(old) = self.state.take() else { return };
        let mut inner = self.seat.groups.lock();
        inner.forget(old.families.values());
        self.publish(inner);
    }

    /// Shows to all what the group holds now, and sees to it that it is repeated as long as it is there.
    fn publish(&self, mut inner: MutexGuard<'_, Inner>) {
        let groups = &self.seat.groups;
        let entry = inner.entry(self.key());
        let was_there = std::mem::replace(&mut entry.state, self.state.clone()).is_some();
        match (&self.state, was_there) {
            (Some(_), false) => {
                let rhythm = Rhythm::new(self.key(), groups.limits.interval);
                inner.schedule.add(self.id, rhythm, unix_millis(groups.clock.now()));
                groups.metrics.groups.inc();
            }
            (None, true) => {
                inner.schedule.remove(self.id);
                groups.metrics.groups.dec();
            }
            _ => {}
        }
        groups.metrics.size.set(i64::try_from(inner.size).unwrap_or(i64::MAX));
    }
}

impl Inner {
    fn forget<'a>(&mut self, kept: impl Iterator<Item = &'a Arc<Kept>>) {
        for kept in kept {
            self.index.remove(kept);
            self.size -= kept.size();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.groups.lock();
        let inner = &mut *inner;
        let Some(entry) = inner.groups.get(&self.key) else { return };
        // The entry has one, and this seat.
        if entry.state.is_none() && Arc::strong_count(&entry.turn) == 2 {
            inner.by_id.remove(&entry.id);
            inner.groups.remove(&self.key);
        }
    }
}
