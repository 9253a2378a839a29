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

/// What the gateway has confirmed of a group, and what it still may be up to.
#[derive(Debug, Default)]
pub(super) struct Mark {
    /// The time of the newest scrape that it has confirmed.
    newest: Option<SystemTime>,
    /// How often it must confirm until nothing older can land any more. A push that ended without an
    /// answer may still be lying there: one confirmation shows that the gateway is at work again, a second
    /// push follows whatever had been waiting.
    owed: u8,
}

/// A push that has begun. Left alone, it counts as one that may still land.
#[derive(Debug)]
pub(super) struct Begun {
    timestamp: SystemTime,
    owed_before: u8,
}

impl Mark {
    /// Whether a scrape of this time has nothing to add: it, or a newer one, has landed for good.
    pub(super) fn covers(&self, timestamp: SystemTime, now: SystemTime) -> bool {
        self.newest.is_some_and(|newest| {
            let is_wrong = newest.duration_since(now).is_ok_and(|ahead| ahead > MOST_SKEW);
            !is_wrong && (timestamp < newest || timestamp == newest && self.is_settled())
        })
    }

    /// The gateway says that it holds the scrape of this time.
    pub(super) fn recall(&mut self, timestamp: SystemTime) {
        self.newest = self.newest.max(Some(timestamp));
    }

    /// False while something older than the newest may still land.
    pub(super) fn is_settled(&self) -> bool {
        self.owed == 0
    }

    /// The push of a scrape of this time begins.
    pub(super) fn begin(&mut self, timestamp: SystemTime) -> Begun {
        let begun = Begun { timestamp, owed_before: self.owed };
        // Nothing is lost when the newest lands once more.
        if self.newest != Some(timestamp) {
            self.owed = 2;
        }
        begun
    }

    /// The gateway has confirmed it.
    pub(super) fn confirm(&mut self, begun: Begun) {
        self.newest = Some(begun.timestamp);
        self.owed = begun.owed_before.saturating_sub(1);
    }

    /// It will certainly not land.
    pub(super) fn withdraw(&mut self, begun: Begun) {
        self.owed = begun.owed_before;
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

    fn confirm(mark: &mut Mark, seconds: u64) {
        let begun = mark.begin(at(seconds));
        mark.confirm(begun);
    }

    #[test]
    fn a_mark_holds_back_what_is_not_newer() {
        let mut mark = Mark::default();
        assert!(!mark.covers(at(0), at(100)));
        confirm(&mut mark, 50);
        assert!(
            mark.covers(at(49), at(100)) && mark.covers(at(50), at(100)) && !mark.covers(at(51), at(100))
        );
    }

    #[test]
    fn after_a_push_without_an_answer_two_must_be_confirmed() {
        let mut mark = Mark::default();
        confirm(&mut mark, 1);
        let _given_up = mark.begin(at(2));
        confirm(&mut mark, 3);
        assert!(!mark.covers(at(3), at(100)) && mark.covers(at(2), at(100)));
        // That the second one is given up too changes nothing: it is the same scrape.
        let _given_up = mark.begin(at(3));
        confirm(&mut mark, 3);
        assert!(mark.covers(at(3), at(100)) && mark.is_settled());
    }

    #[test]
    fn a_push_that_was_answered_leaves_nothing_behind() {
        let mut mark = Mark::default();
        let refused = mark.begin(at(1));
        mark.withdraw(refused);
        confirm(&mut mark, 2);
        assert!(mark.is_settled());
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_silence_its_group() {
        let mut mark = Mark::default();
        confirm(&mut mark, 1_000_000);
        assert!(!mark.covers(at(101), at(100)));
        confirm(&mut mark, 101);
        assert!(mark.covers(at(101), at(100)) && !mark.covers(at(102), at(100)));
        confirm(&mut mark, 160);
        assert!(mark.covers(at(101), at(100)), "a minute ahead is a clock like any other");
    }

    #[test]
    fn the_groups_that_are_forgotten_are_old_and_idle() {
        let groups = Groups { most: 16, ..Groups::default() };
        let held = groups.group("held");
        let _guard = held.try_lock().unwrap();
        confirm(&mut groups.group("kept").try_lock().unwrap(), 1);
        for n in 0..1_000 {
            assert!(groups.group("kept").try_lock().unwrap().covers(at(1), at(1)));
            groups.group(&format!("passing {n}"));
            assert!(groups.len() <= 16);
        }
        assert!(Arc::ptr_eq(&held, &groups.group("held")));
    }
}
