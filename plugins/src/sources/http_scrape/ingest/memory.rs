//! What is remembered of a target from scrape to scrape: a hash of each of its series, so that new ones can be
//! told, and what relabelling made of it, so that it need not be asked again.
//!
//! Most scrapes have the series of the one before, in the same order. They are compared with the list as they
//! come, and nothing is allocated; where a scrape differs, the list is made anew. It takes 8 bytes a series.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::mem;

use crate::exposition::rewrite::Fate;

/// One sample: a hash of its series, with what else is to be known of it in the lowest bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key(u64);

const TIMESTAMPED: u64 = 1;
const FUTURE: u64 = 2;
const FATE: u64 = 4 | 8;
const CHANGED: u64 = 4;
const DROPPED: u64 = 8;
const HASH: u64 = !(TIMESTAMPED | FUTURE | FATE);

impl Key {
    fn hash(self) -> u64 {
        self.0 & HASH
    }

    fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    fn fate(self) -> Fate {
        match self.0 & FATE {
            CHANGED => Fate::Changed,
            DROPPED => Fate::Dropped,
            _ => Fate::Kept,
        }
    }

    fn with(self, fate: Fate) -> Self {
        let bits = match fate {
            Fate::Kept => 0,
            Fate::Changed => CHANGED,
            Fate::Dropped => DROPPED,
        };
        Self(self.0 & !FATE | bits)
    }
}

/// What is hashed here is a hash already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        // The lowest bits of a key are no part of its hash.
        self.0 = number ^ number >> 32;
    }
}

type ByHash<V> = HashMap<u64, V, BuildHasherDefault<AsItIs>>;

/// What is remembered of a target. The default is that of a target which was never scraped.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Memory {
    /// The samples of the last scrape that succeeded and was not empty, and the series that failed ones
    /// have added since.
    keys: Box<[Key]>,
    /// How many there were after it.
    lasting: usize,
    /// How many of its samples were duplicates, if the list is just what it exposed.
    duplicates: Option<usize>,
}

/// Beyond twice what the last good scrape had, and this, series that come only with failed scrapes are forgotten,
/// as Prometheus does.
const MORE: usize = 1000;

/// What a scrape says of its series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Series that were not in the scrape before.
    pub(super) added: usize,
    /// Samples of a series that came before in this scrape, of which the first counts.
    pub(super) duplicates: usize,
    /// Whether there were more samples than may be.
    pub(super) over_limit: bool,
}

/// A scrape on its way along what is remembered.
pub(super) struct Walk<'m> {
    memory: &'m mut Memory,
    /// How many samples came just as before.
    same: usize,
    /// All samples, once one came that did not.
    own: Option<Vec<Key>>,
    /// What is remembered, by hash; made when it is first asked for.
    index: Option<ByHash<Fate>>,
}

/// A sample whose fate is open.
pub(super) struct Step {
    key: Key,
    /// The fate that its series had before, if it comes just as before.
    same: Option<Fate>,
}

impl<'m> Walk<'m> {
    pub(super) fn new(memory: &'m mut Memory) -> Self {
        Self { memory, same: 0, own: None, index: None }
    }

    /// The next sample. It counts once it was [taken](Self::take).
    #[inline]
    pub(super) fn step(&self, hash: u64, is_timestamped: bool, is_future: bool) -> Step {
        let bits = (u64::from(is_timestamped) * TIMESTAMPED) | (u64::from(is_future) * FUTURE);
        let key = Key(hash & HASH | bits);
        let expected = self.memory.keys.get(self.same).filter(|_| self.own.is_none());
        let same = expected.filter(|expected| expected.0 & !FATE == key.0).map(|expected| expected.fate());
        Step { key, same }
    }

    /// The fate that the series of a sample had before, if it is remembered.
    #[inline]
    pub(super) fn before(&mut self, step: &Step) -> Option<Fate> {
        step.same.or_else(|| self.look_up(step.key))
    }

    #[cold]
    fn look_up(&mut self, key: Key) -> Option<Fate> {
        let keys = &self.memory.keys;
        let index =
            self.index.get_or_insert_with(|| keys.iter().map(|known| (known.hash(), known.fate())).collect());
        index.get(&key.hash()).copied()
    }

    /// Counts a sample, now that its fate is known.
    #[inline]
    pub(super) fn take(&mut self, step: &Step, fate: Fate) {
        let key = step.key.with(fate);
        match &mut self.own {
            Some(own) => own.push(key),
            None if self.memory.keys.get(self.same) == Some(&key) => self.same += 1,
            None => {
                let mut own = self.memory.keys[..self.same].to_vec();
                own.push(key);
                self.own = Some(own);
            }
        }
    }

    /// The end of a scrape that may hold `limit` samples (0 for any number), and that failed on its way or did not.
    pub(super) fn end(self, limit: usize, failed: bool) -> Tally {
        let memory = self.memory;
        let is_as_before = self.own.is_none() && self.same == memory.keys.len();
        if let Some(duplicates) = memory.duplicates.filter(|_| is_as_before && !failed) {
            return Tally { duplicates, ..Tally::default() };
        }
        let own = self.own.unwrap_or_else(|| memory.keys[..self.same].to_vec());
        let mut count = Count::new(&memory.keys, limit);
        let mut kept = Vec::with_capacity(own.len());
        let mut is_plain = true;
        for key in own {
            let is_known = count.count(key);
            is_plain &= !key.has(FUTURE);
            if is_known {
                kept.push(Key(key.0 & !FUTURE));
            }
        }
        if failed || count.tally.over_limit {
            memory.add(&count, kept);
        } else {
            memory.lasting = kept.len();
            memory.duplicates = is_plain.then_some(count.tally.duplicates);
            memory.keys = kept.into();
        }
        count.tally
    }
}

impl Memory {
    /// How many series are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Remembers the series of a scrape that failed beside those of the last good one: when they come again, they
    /// are not new.
    fn add(&mut self, count: &Count, kept: Vec<Key>) {
        self.duplicates = None;
        let mut keys = if self.keys.len() + count.tally.added > 2 * self.lasting + MORE {
            Vec::new()
        } else {
            mem::take(&mut self.keys).into_vec()
        };
        let mut known: ByHash<()> = keys.iter().map(|key| (key.hash(), ())).collect();
        keys.extend(kept.into_iter().filter(|key| known.insert(key.hash(), ()).is_none()));
        self.keys = keys.into();
    }
}

/// The count of samples that differ from the scrape before.
struct Count {
    /// The series that are remembered, and whether they came in this scrape.
    known: ByHash<bool>,
    limit: usize,
    appended: usize,
    tally: Tally,
}

impl Count {
    fn new(keys: &[Key], limit: usize) -> Self {
        let limit = if limit == 0 { usize::MAX } else { limit };
        let known = keys.iter().filter(|key| !key.has(DROPPED)).map(|key| (key.hash(), false)).collect();
        Self { known, limit, appended: 0, tally: Tally::default() }
    }

    /// Counts a sample as Prometheus does that appends it to its storage. Whether it is to be remembered.
    fn count(&mut self, key: Key) -> bool {
        if key.has(DROPPED) {
            return true;
        }
        let before = self.known.get_mut(&key.hash());
        if let Some(true) = before
            && !key.has(TIMESTAMPED)
        {
            self.tally.duplicates += 1;
            return true;
        }
        self.appended += 1;
        let is_over = self.appended > self.limit;
        self.tally.over_limit |= is_over;
        match before {
            Some(seen) => *seen = true,
            None if is_over || key.has(FUTURE) => return false,
            None => {
                self.known.insert(key.hash(), true);
                self.tally.added += 1;
            }
        }
        true
    }
}
