//! Which record a consumer sends next. Records of equal labels form a lane and keep their order: once
//! one has failed, those behind it wait until it has been answered.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use prometheus_streams_core::event::Labels;
use tokio::time::Instant;

/// The longest pause before a record is sent again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The lanes in which something is open or waits.
pub struct Lanes {
    lanes: HashMap<Labels, Lane>,
    /// Lanes whose first waiting record may be sent, and from when on.
    due: BTreeSet<(Instant, Labels)>,
    waiting: usize,
    pause: Duration,
    one_by_one: bool,
}

#[derive(Default)]
struct Lane {
    /// Records that were sent and are not answered.
    open: usize,
    /// Records to send when the lane is free: those that failed, and those behind them.
    waiting: BTreeSet<u64>,
    /// True when one of those that are or were open has failed.
    failed: bool,
    /// How often the lane came to rest after a failure, since the last success.
    failures: u32,
}

impl Lanes {
    /// Lanes that wait `pause` before they send a failed record again, and twice as long after every
    /// further failure, up to half a minute.
    pub fn new(pause: Duration) -> Self {
        Self { lanes: HashMap::new(), due: BTreeSet::new(), waiting: 0, pause, one_by_one: false }
    }

    /// Sends a record only when the one before it has been answered, so that none is on its way behind one that fails.
    pub fn one_by_one(self) -> Self {
        Self { one_by_one: true, ..self }
    }

    /// True when a new record may be sent now. Otherwise it waits here for its turn.
    pub fn admit(&mut self, labels: &Labels, sequence: u64) -> bool {
        let lane = self.lanes.entry(labels.clone()).or_default();
        if lane.waiting.is_empty() && (lane.open == 0 || !self.one_by_one) {
            lane.open += 1;
            return true;
        }
        self.waiting += usize::from(lane.waiting.insert(sequence));
        false
    }

    /// Notes that a record will not be sent again.
    pub fn done(&mut self, labels: &Labels, now: Instant) {
        if let Some(lane) = self.lanes.get_mut(labels) {
            lane.failures = 0;
        }
        self.release(labels, now);
    }

    /// Notes that a record must be sent again.
    pub fn failed(&mut self, labels: &Labels, sequence: u64, now: Instant) {
        if let Some(lane) = self.lanes.get_mut(labels) {
            lane.failed = true;
            self.waiting += usize::from(lane.waiting.insert(sequence));
        }
        self.release(labels, now);
    }

    /// The next record that waits and may be sent; it counts as sent.
    pub fn next(&mut self, now: Instant) -> Option<(Labels, u64)> {
        while self.due()? <= now {
            let (_, labels) = self.due.pop_first()?;
            if let Some(lane) = self.lanes.get_mut(&labels)
                && let Some(sequence) = lane.waiting.pop_first()
            {
                lane.open += 1;
                self.waiting -= 1;
                return Some((labels, sequence));
            }
        }
        None
    }

    /// The time at which [`Lanes::next`] has something to give; nothing until something is answered.
    pub fn due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// How many records wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// One record less is open. A lane in which all are answered sends what waits, one by one; after
    /// a failure it rests first, however many failed together.
    fn release(&mut self, labels: &Labels, now: Instant) {
        let Some(lane) = self.lanes.get_mut(labels) else { return };
        lane.open = lane.open.saturating_sub(1);
        if lane.open > 0 {
            return;
        }
        if lane.waiting.is_empty() {
            self.lanes.remove(labels);
            return;
        }
        let mut pause = Duration::ZERO;
        if std::mem::take(&mut lane.failed) {
            pause = self.pause.saturating_mul(1 << lane.failures.min(16)).min(LONGEST_PAUSE);
            lane.failures = lane.failures.saturating_add(1);
        }
        self.due.insert((now + pause, labels.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(1);

    fn labels(name: &str) -> Labels {
        [("instance", name)].into_iter().collect()
    }

    #[test]
    fn what_is_behind_a_failed_record_waits_for_it() {
        let (mut lanes, now, a) = (Lanes::new(PAUSE), Instant::now(), labels("a"));
        assert!(lanes.admit(&a, 1) && lanes.admit(&a, 2));
        lanes.failed(&a, 1, now);
        assert!(!lanes.admit(&a, 3), "overtook a failed record");
        assert!(lanes.admit(&labels("b"), 4), "another lane waits too");
        assert_eq!((lanes.due(), lanes.waiting()), (None, 2));

        // The one that was open already fails as well, and takes its place between the others.
        lanes.failed(&a, 2, now);
        let due = now + PAUSE;
        assert_eq!(lanes.due(), Some(due), "two that failed together count as one");
        assert_eq!(lanes.next(now), None);
        for sequence in [1, 2, 3] {
            assert_eq!(lanes.next(due), Some((a.clone(), sequence)));
            assert_eq!(lanes.next(due), None, "two records of one lane at once");
            lanes.done(&a, due);
        }
        assert!(lanes.admit(&a, 5));
        assert_eq!(lanes.waiting(), 0);
    }

    #[test]
    fn one_by_one_a_record_waits_for_the_answer_to_the_one_before() {
        let (mut lanes, now, a) = (Lanes::new(PAUSE).one_by_one(), Instant::now(), labels("a"));
        assert!(lanes.admit(&a, 1));
        assert!(!lanes.admit(&a, 2), "on its way behind one that may fail");
        assert!(lanes.admit(&labels("b"), 3));
        assert_eq!(lanes.next(now), None);
        lanes.failed(&a, 1, now);
        for sequence in [1, 2] {
            assert_eq!(lanes.next(now + PAUSE), Some((a.clone(), sequence)));
            lanes.done(&a, now);
        }
    }

    #[test]
    fn the_pause_grows_to_a_bound_and_starts_again_after_a_success() {
        let (mut lanes, now, a) = (Lanes::new(PAUSE), Instant::now(), labels("a"));
        assert!(lanes.admit(&a, 1));
        let mut pauses = Vec::new();
        for _ in 0..40 {
            lanes.failed(&a, 1, now);
            let due = lanes.due().unwrap();
            pauses.push((due - now).as_secs());
            lanes.next(due).unwrap();
        }
        assert_eq!(pauses[..6], [1, 2, 4, 8, 16, 30]);
        assert_eq!(pauses[39], 30);
        lanes.done(&a, now);
        assert!(lanes.admit(&a, 2));
        lanes.failed(&a, 2, now);
        assert_eq!(lanes.due(), Some(now + PAUSE));
    }

    #[test]
    fn lanes_without_records_are_forgotten() {
        let mut lanes = Lanes::new(PAUSE);
        for name in 0..100 {
            let labels = labels(&name.to_string());
            lanes.admit(&labels, name);
            lanes.done(&labels, Instant::now());
        }
        assert!(lanes.lanes.is_empty());
    }
}
