//! What is known of each group, behind a lock that keeps pushes into one group apart.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Groups that are remembered at once; about 16 MB. Beyond it those unused for longest are forgotten,
/// which costs no more than that an old scrape of theirs may land once more.
const MOST_GROUPS: usize = 65_536;

/// How far a mark may lie ahead of our clock and still hold others back. Beyond it, it came from a clock
/// that was wrong, and holding to it would silence the group until the world has caught up.
const MOST_SKEW: Duration = Duration::from_secs(60);

/// The groups in use, by the path of their grouping key.
#[derive(Debug)]
pub(super) struct Groups {
    known: Mutex<Known>,
    most: usize,
}

#[derive(Debug, Default)]
struct Known {
    groups: HashMap<Box<str>, Used>,
    uses: u64,
}

#[derive(Debug)]
struct Used {
    group: Arc<Group>,
    /// The count of uses when this group was used last.
    last: u64,
}

/// One group. Whoever holds the lock may push into it.
pub(super) type Group = tokio::sync::Mutex<Mark>;

/// What the gateway has confirmed of a group.
#[derive(Debug, Default)]
pub(super) struct Mark {
    /// The time of the newest scrape.
    newest: Option<SystemTime>,
    /// A push has begun, and whether it landed, or will, is not known.
    is_open: bool,
}

impl Mark {
    /// Whether a scrape of this time has nothing to add: it, or a newer one, has landed.
    pub(super) fn covers(&self, timestamp: SystemTime, now: SystemTime) -> bool {
        self.newest.is_some_and(|newest| {
            let is_wrong = newest.duration_since(now).is_ok_and(|ahead| ahead > MOST_SKEW);
            timestamp <= newest && !is_wrong
        })
    }

    /// A push begins. True if one before it has not ended, as far as we know, and may still land.
    pub(super) fn begin(&mut self) -> bool {
        std::mem::replace(&mut self.is_open, true)
    }

    /// The gateway has confirmed the scrape of this time, and nothing older can land any more.
    pub(super) fn confirm(&mut self, timestamp: SystemTime) {
        *self = Self { newest: Some(timestamp), is_open: false };
    }
}

impl Default for Groups {
    fn default() -> Self {
        Self { known: Mutex::default(), most: MOST_GROUPS }
    }
}

impl Groups {
    /// The group at `path`.
    pub(super) fn group(&self, path: &str) -> Arc<Group> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = &mut *known;
        known.uses += 1;
        if let Some(used) = known.groups.get_mut(path) {
            used.last = known.uses;
            return Arc::clone(&used.group);
        }
        if known.groups.len() >= self.most {
            known.forget_some();
        }
        let group = Arc::<Group>::default();
        known.groups.insert(path.into(), Used { group: Arc::clone(&group), last: known.uses });
        group
    }

    /// How many groups are remembered.
    pub(super) fn len(&self) -> usize {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).groups.len()
    }
}

impl Known {
    /// Forgets the eighth that was not used for longest, so that the cost is spread over many pushes.
    /// A group that somebody holds stays: two locks for one group would be none.
    fn forget_some(&mut self) {
        let mut uses: Vec<u64> = self.groups.values().map(|used| used.last).collect();
        let eighth = uses.len() / 8;
        let (_, youngest_to_go, _) = uses.select_nth_unstable(eighth);
        let youngest_to_go = *youngest_to_go;
        self.groups.retain(|_, used| used.last > youngest_to_go || Arc::strong_count(&used.group) > 1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_mark_holds_back_what_is_not_newer() {
        let mut mark = Mark::default();
        assert!(!mark.covers(at(0), at(100)));
        mark.confirm(at(50));
        assert!(
            mark.covers(at(49), at(100)) && mark.covers(at(50), at(100)) && !mark.covers(at(51), at(100))
        );
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_silence_its_group() {
        let mut mark = Mark::default();
        mark.confirm(at(1_000_000));
        assert!(!mark.covers(at(101), at(100)));
        mark.confirm(at(101));
        assert!(mark.covers(at(101), at(100)) && !mark.covers(at(102), at(100)));
        mark.confirm(at(160));
        assert!(mark.covers(at(101), at(100)), "a minute ahead is a clock like any other");
    }

    #[test]
    fn the_groups_that_are_forgotten_are_old_and_idle() {
        let groups = Groups { most: 16, ..Groups::default() };
        let held = groups.group("held");
        let _guard = held.try_lock().unwrap();
        groups.group("kept").try_lock().unwrap().confirm(at(1));
        for n in 0..1_000 {
            assert!(groups.group("kept").try_lock().unwrap().covers(at(1), at(1)));
            groups.group(&format!("passing {n}"));
            assert!(groups.len() <= 16);
        }
        assert!(Arc::ptr_eq(&held, &groups.group("held")));
    }
}
