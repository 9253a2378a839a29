//! Numbered values in segments, each a keyspace of its own, so that old values leave the disk as whole
//! segments and never as tombstones that wait for a compaction.

use std::collections::VecDeque;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, UserValue};

/// Memory for values that are not in a table yet; they are in the journal.
const MEMTABLE: u64 = 4 << 20;

/// Opens a keyspace, or makes one.
pub(super) fn keyspace(db: &Database, name: &str) -> fjall::Result<Keyspace> {
    db.keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE))
}

/// A queue of segments, oldest first. Their names are a letter and the first number that they may hold.
#[derive(Clone)]
pub(super) struct Segments {
    letter: char,
    list: VecDeque<Segment>,
}

#[derive(Clone)]
struct Segment {
    first: u64,
    keyspace: Keyspace,
}

impl Segments {
    /// The segments of `letter` that hold numbers below `next`.
    pub(super) fn open(db: &Database, letter: char, next: u64) -> fjall::Result<Self> {
        let names = db.list_keyspace_names();
        let numbers = names.iter().filter_map(|name| name.strip_prefix(letter)?.parse::<u64>().ok());
        let mut numbers: Vec<u64> = numbers.filter(|first| *first <= next).collect();
        numbers.sort_unstable();
        let open = |first| Ok(Segment { first, keyspace: keyspace(db, &name(letter, first))? });
        Ok(Self { letter, list: numbers.into_iter().map(open).collect::<fjall::Result<_>>()? })
    }

    /// The first number that the newest segment may hold.
    pub(super) fn newest(&self) -> Option<u64> {
        self.list.back().map(|segment| segment.first)
    }

    /// The segment to write to.
    pub(super) fn writable(&self) -> Option<&Keyspace> {
        self.list.back().map(|segment| &segment.keyspace)
    }

    /// Begins a segment for the numbers from `next` on.
    pub(super) fn begin(&mut self, db: &Database, next: u64) -> fjall::Result<()> {
        if self.newest() == Some(next) {
            return Ok(());
        }
        // What a segment holds in memory would stay there, for nothing fills it up any more.
        if let Some(full) = self.writable() {
            full.rotate_memtable()?;
        }
        let keyspace = keyspace(db, &name(self.letter, next))?;
        self.list.push_back(Segment { first: next, keyspace });
        Ok(())
    }

    /// The value of `number`.
    pub(super) fn get(&self, number: u64) -> fjall::Result<Option<UserValue>> {
        let segment = self.list.iter().rev().find(|segment| segment.first <= number);
        segment.map_or(Ok(None), |segment| segment.keyspace.get(number.to_be_bytes()))
    }

    /// Removes the segments that hold nothing from `first` on, where `next` has not been written yet.
    pub(super) fn drop_before(&mut self, db: &Database, first: u64, next: u64) -> fjall::Result<()> {
        while let Some(oldest) = self.list.front() {
            let end = self.list.get(1).map_or(next, |after| after.first);
            if end > first || oldest.first == next {
                break;
            }
            let keyspace = oldest.keyspace.clone();
            self.list.pop_front();
            db.delete_keyspace(keyspace)?;
        }
        Ok(())
    }

    /// Removes all but the newest `most` segments.
    pub(super) fn keep(&mut self, db: &Database, most: usize) -> fjall::Result<()> {
        while self.list.len() > most
            && let Some(oldest) = self.list.pop_front()
        {
            db.delete_keyspace(oldest.keyspace)?;
        }
        Ok(())
    }

    /// All values, oldest first; those that cannot be read are left out.
    pub(super) fn values(&self) -> impl Iterator<Item = UserValue> {
        self.list.iter().flat_map(|segment| segment.keyspace.iter()).filter_map(|entry| entry.value().ok())
    }
}

/// Numbers have all digits, so that names sort as numbers do.
fn name(letter: char, first: u64) -> String {
    format!("{letter}{first:020}")
}
