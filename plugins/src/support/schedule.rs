//! When each target has its turn, to be scraped or repeated: pure arithmetic on milliseconds since 1970.
//!
//! Time is divided into slots of one interval each. Where in the interval the slots of a target begin
//! follows from a hash of its labels, and they are anchored at 1970: the load is spread, a restart
//! keeps the rhythm, and two pollers of one target agree on its slots without talking.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use prometheus_streams_core::event::Labels;

/// The clock is asked this often even when nothing is due, so that a jump of it is noticed, in ms.
const LONGEST_WAIT: u64 = 1_000;
/// A clock that goes back by less than this, in ms, is being corrected and has not jumped.
const CORRECTION: u64 = 1_000;

/// The slots of one target, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// From slot to slot; never 0.
    interval: u64,
    /// Where in the interval slots begin; less than it.
    offset: u64,
}

impl Rhythm {
    /// The slots of the target with these labels, one in each `interval`.
    pub fn new(labels: &Labels, interval: Duration) -> Self {
        let interval = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
        Self { interval, offset: hash(labels) % interval }
    }

    /// From slot to slot, in milliseconds; never 0.
    pub fn interval(self) -> u64 {
        self.interval
    }

    /// The slot that `now` is in. Before the first slot of all, that one.
    fn current(self, now: u64) -> u64 {
        let into = now.saturating_sub(self.offset) % self.interval;
        now.saturating_sub(into).max(self.offset)
    }

    /// The first slot after `now` that is not `last`, which has had its turn.
    pub fn next(self, now: u64, last: Option<u64>) -> u64 {
        let next =
            if now < self.offset { self.offset } else { self.current(now).saturating_add(self.interval) };
        if last == Some(next) { next.saturating_add(self.interval) } else { next }
    }

    /// True when it is too late to begin with `slot`: it is over, or a good part of it is. What a
    /// suspended machine or a clock that was set has missed must not be made up for all at once.
    fn is_late(self, slot: u64, now: u64) -> bool {
        slot != self.current(now) || now - slot > (self.interval / 4).max(1_000)
    }
}

/// A target in the schedule. Never used again for another.
pub type Key = u64;

/// A slot that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Which target.
    pub target: Key,
    /// The start of the slot.
    pub slot: u64,
    /// True when it began too long ago to be used.
    pub late: bool,
}

/// The next slot of every target, soonest first. Whatever is done to one target costs the logarithm of
/// their number.
#[derive(Debug)]
pub struct Schedule {
    targets: HashMap<Key, Planned>,
    queue: BTreeSet<(u64, Key)>,
    /// The latest time that was seen, to notice when the clock goes back.
    seen: u64,
}

#[derive(Debug)]
struct Planned {
    rhythm: Rhythm,
    /// The slot that it had last.
    last: Option<u64>,
    /// The slot that it has next.
    next: u64,
}

impl Schedule {
    /// A schedule without targets, at the time `now`.
    pub fn new(now: u64) -> Self {
        Self { targets: HashMap::new(), queue: BTreeSet::new(), seen: now }
    }

    /// Plans a target from its first slot after `now` on; in place of what it had, if it was there.
    pub fn add(&mut self, target: Key, rhythm: Rhythm, now: u64) {
        let last = self.remove(target);
        let next = rhythm.next(now, last);
        self.targets.insert(target, Planned { rhythm, last, next });
        self.queue.insert((next, target));
    }

    /// Takes a target out, and returns the slot that it had last.
    pub fn remove(&mut self, target: Key) -> Option<u64> {
        let planned = self.targets.remove(&target)?;
        self.queue.remove(&(planned.next, target));
        planned.last
    }

    /// A slot that has begun by `now` and was not returned before, if there is one.
    pub fn due(&mut self, now: u64) -> Option<Due> {
        if now.saturating_add(CORRECTION) < self.seen {
            self.plan_anew(now);
        }
        self.seen = now;
        let (slot, target) = *self.queue.first().filter(|(slot, _)| *slot <= now)?;
        self.queue.pop_first();
        let planned = self.targets.get_mut(&target)?;
        planned.last = Some(slot);
        planned.next = planned.rhythm.next(now, Some(slot));
        self.queue.insert((planned.next, target));
        Some(Due { target, slot, late: planned.rhythm.is_late(slot, now) })
    }

    /// How long to wait before asking [`Schedule::due`] again.
    pub fn wait(&self, now: u64) -> Duration {
        let next = self.queue.first().map_or(u64::MAX, |(slot, _)| *slot);
        Duration::from_millis(next.saturating_sub(now).min(LONGEST_WAIT))
    }

    fn plan_anew(&mut self, now: u64) {
        self.queue.clear();
        for (target, planned) in &mut self.targets {
            planned.next = planned.rhythm.next(now, planned.last);
            self.queue.insert((planned.next, *target));
        }
    }
}

/// A hash of labels that is the same on every machine and in every version: FNV-1a of names and
/// values, each ended by a zero byte, with the bits mixed at the end (as MurmurHash3 does), because the
/// remainder of a division must depend on all of them.
fn hash(labels: &Labels) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for text in labels.iter().flat_map(|(name, value)| [name, value]) {
        for byte in text.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    /// Some time in 2026.
    const NOW: u64 = 1_790_000_000_000;

    fn labels(instance: &str) -> Labels {
        [("job", "node"), ("instance", instance), ("publisher", "USDC1")].into_iter().collect()
    }

    fn minute(instance: &str) -> Rhythm {
        Rhythm::new(&labels(instance), Duration::from_secs(60))
    }

    #[test]
    fn offsets_never_change() {
        // If this fails, every fleet that is upgraded changes its rhythm, and pairs of pollers disagree.
        let found = ["db1:9100", "db2:9100", "db3:9100"].map(|instance| minute(instance).offset);
        assert_eq!(found, [435, 51_208, 52_710]);
        assert_eq!(hash(&Labels::default()), 0xefd0_1f60_ba99_2926);
    }

    #[test]
    fn offsets_are_spread_over_the_interval() {
        let mut seconds = [0_u32; 60];
        for n in 0..6_000 {
            seconds[(minute(&format!("db{n}:9100")).offset / 1_000) as usize] += 1;
        }
        // 100 each on average; five standard deviations are 50.
        assert!(seconds.iter().all(|count| (50..150).contains(count)), "{seconds:?}");
    }

    #[test]
    fn slots_are_anchored_at_1970() {
        let rhythm = Rhythm { interval: 100, offset: 30 };
        for (now, current, next) in
            [(0, 30, 30), (29, 30, 30), (30, 30, 130), (129, 30, 130), (130, 130, 230)]
        {
            assert_eq!((rhythm.current(now), rhythm.next(now, None)), (current, next), "{now}");
        }
        assert_eq!(rhythm.next(129, Some(130)), 230);
        let longest = Rhythm::new(&labels("x"), Duration::MAX);
        assert!(longest.next(NOW, None) > NOW);
        assert_eq!(Rhythm::new(&labels("x"), Duration::ZERO).interval(), 1);
    }

    #[test]
    fn a_slot_is_late_when_a_quarter_of_it_or_more_than_a_second_is_over() {
        let rhythm = Rhythm { interval: 60_000, offset: 0 };
        let short = Rhythm { interval: 100, offset: 0 };
        for (rhythm, slot, now, late) in [
            (rhythm, 60_000, 60_000, false),
            (rhythm, 60_000, 75_000, false),
            (rhythm, 60_000, 75_001, true),
            (rhythm, 60_000, 120_000, true),
            (short, 100, 199, false),
            (short, 100, 200, true),
        ] {
            assert_eq!(rhythm.is_late(slot, now), late, "{slot} at {now}");
        }
    }

    /// Runs a schedule of these intervals from `NOW` on, with the clock at each of `times`.
    fn run(rhythms: &[Rhythm], times: &[u64]) -> Vec<Due> {
        let mut schedule = Schedule::new(NOW);
        for (target, rhythm) in rhythms.iter().enumerate() {
            schedule.add(target as Key, *rhythm, NOW);
        }
        let mut found = Vec::new();
        for &now in times {
            while let Some(due) = schedule.due(now) {
                found.push(due);
                assert!(found.len() < 1_000, "it spins");
            }
            assert!((1..=1_000).contains(&(schedule.wait(now).as_millis() as u64)));
        }
        found
    }

    #[test]
    fn every_target_has_every_slot_once_and_in_order() {
        let rhythms = [Rhythm { interval: 1_000, offset: 700 }, Rhythm { interval: 2_000, offset: 100 }];
        let found = run(&rhythms, &(NOW..NOW + 4_000).step_by(7).collect::<Vec<_>>());
        let found: Vec<_> = found.iter().map(|due| (due.target, due.slot - NOW, due.late)).collect();
        let expected = [(1, 100), (0, 700), (0, 1_700), (1, 2_100), (0, 2_700), (0, 3_700)];
        assert_eq!(found, expected.map(|(target, slot)| (target, slot, false)));
    }

    #[test]
    fn a_clock_that_jumps_ahead_loses_slots_and_makes_none_up() {
        let rhythm = Rhythm { interval: 60_000, offset: (NOW + 30_000) % 60_000 };
        let found = run(&[rhythm], &[NOW, NOW + HOUR, NOW + HOUR + 30_000]);
        let found: Vec<_> = found.iter().map(|due| (due.slot - NOW, due.late)).collect();
        assert_eq!(found, [(30_000, true), (HOUR + 30_000, false)]);
    }

    #[test]
    fn a_clock_that_jumps_back_goes_on_at_once() {
        let rhythm = Rhythm { interval: 60_000, offset: (NOW + 30_000) % 60_000 };
        let back = NOW - HOUR;
        let found = run(&[rhythm], &[NOW + 30_000, back, back + 30_000, back + 90_000]);
        let found: Vec<_> = found.iter().map(|due| due.slot).collect();
        assert_eq!(found, [NOW + 30_000, back + 30_000, back + 90_000]);
    }

    #[test]
    fn a_clock_that_is_put_back_a_little_gives_no_slot_twice() {
        let rhythm = Rhythm { interval: 60_000, offset: (NOW + 30_000) % 60_000 };
        let found = run(&[rhythm], &[NOW + 30_000, NOW + 10_000, NOW + 30_000, NOW + 90_000]);
        let found: Vec<_> = found.iter().map(|due| due.slot - NOW).collect();
        assert_eq!(found, [30_000, 90_000]);
    }

    #[test]
    fn targets_come_and_go_while_others_go_on() {
        let [a, b] = [300, 500].map(|after| Rhythm { interval: 1_000, offset: (NOW + after) % 1_000 });
        let mut schedule = Schedule::new(NOW);
        schedule.add(1, a, NOW);
        assert_eq!(schedule.due(NOW + 300).map(|due| due.slot), Some(NOW + 300));
        schedule.add(2, b, NOW + 400);
        assert_eq!(schedule.wait(NOW + 400), Duration::from_millis(100));
        assert_eq!(schedule.remove(1), Some(NOW + 300));
        let found: Vec<_> = (NOW + 400..NOW + 3_000).filter_map(|now| schedule.due(now)).collect();
        let found: Vec<_> = found.iter().map(|due| (due.target, due.slot - NOW)).collect();
        assert_eq!(found, [(2, 500), (2, 1_500), (2, 2_500)]);
        // One that is planned anew in the middle of a slot it had has it no second time.
        schedule.add(2, b, NOW + 2_400);
        assert_eq!(schedule.due(NOW + 2_500), None);
        assert_eq!(schedule.remove(2), Some(NOW + 2_500));
        assert_eq!((schedule.remove(2), schedule.due(NOW + HOUR)), (None, None));
    }

    #[test]
    fn no_targets_wait_and_do_nothing() {
        assert_eq!(run(&[], &[NOW, NOW + HOUR]), []);
    }
}
