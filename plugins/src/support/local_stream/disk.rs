//! How a stream lies on disk, and the blocking work on it. What is gone, because it is too old or there
//! is too much, is exact to the record: it lies below `first`. Its bytes leave with their segment.

use std::fmt::Display;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fjall::{Database, Error, Keyspace, LsmError, OwnedWriteBatch, PersistMode};

use super::cursor::Cursor;
use super::segments::{Segments, keyspace};
use super::{Consumer, DeadLetter, Limits, Write};

/// Memory for blocks that were read.
const CACHE: u64 = 4 << 20;
/// The journal is as large as this before it is written into tables.
const JOURNAL: u64 = 64 << 20;
/// A stream has about this many segments.
const SEGMENTS: u32 = 8;
/// Smaller segments would cost more than they give back.
const SMALLEST_SEGMENT: u64 = 1 << 20;
/// Shorter segments would, too.
const SHORTEST_SEGMENT: Duration = Duration::from_secs(10);
/// Records that one commit lets go at most, so that it does not hold up those who wait for it.
const MOST_EXPIRED: usize = 1_000;
/// Dead letters of one generation; the generation before it is kept as well.
const MOST_DEAD: u64 = 500;
/// Bytes of one generation of dead letters.
const MOST_DEAD_BYTES: u64 = 16 << 20;
/// The part of a reason that is kept with a dead letter, in characters.
const LONGEST_REASON: usize = 1_000;
/// Bytes that one page of records has at most, unless its only record is larger.
const PAGE: usize = 1 << 20;
/// Bytes before the message in a record: when it came, in milliseconds since 1970.
const STAMP: usize = 8;

/// A store in which so many programs in a row died while they opened it is damaged.
const MOST_DEATHS: u32 = 3;

const STATE: &str = "state";

/// An open stream. The lock of its directory is let go last.
pub(super) struct Disk {
    parts: Mutex<Parts>,
    meta: Keyspace,
    db: Database,
    _lock: File,
}

struct Parts {
    state: State,
    records: Segments,
    dead: Segments,
    /// Bytes in the newest segment of records, and when it was begun.
    filling: (u64, u64),
    /// Bytes in the newest segment of dead letters.
    dead_bytes: u64,
    /// The oldest record, once it has been looked at.
    oldest: Option<Oldest>,
}

#[derive(Clone, Copy)]
struct Oldest {
    sequence: u64,
    came: u64,
    size: u64,
}

/// What a stream holds. Written with every commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The first sequence that this stream ever gave; a stream that replaces another begins above it.
    pub(super) origin: u64,
    /// The oldest record that is kept.
    pub(super) first: u64,
    /// The sequence of the next record.
    pub(super) next: u64,
    /// Bytes of the records that are kept.
    pub(super) bytes: u64,
    /// The number of the next dead letter.
    dead: u64,
    pub(super) limits: Limits,
}

/// Records in order, as they were read from disk.
pub(super) struct Page {
    pub(super) state: State,
    /// Records with their sequences.
    pub(super) records: Vec<(u64, Bytes)>,
    /// Where the next page begins.
    pub(super) next: u64,
    /// Records that the disk did not give back.
    pub(super) unreadable: u64,
}

impl Disk {
    /// Opens the stream in the directory `path`, or makes one. A stream that is damaged beyond reading
    /// is moved aside, so that the work goes on.
    pub(super) fn open(path: &Path, now: u64) -> Result<Self, String> {
        let failed = |error: &dyn Display| format!("cannot open the stream at {}: {error}", path.display());
        let lock = lock(path).map_err(|error| failed(&error))?;
        let (home, marker) = (path.join("store"), path.join("opening"));
        let opened = if note_attempt(&marker) < MOST_DEATHS {
            open_store(&home, now)
        } else {
            Err(Error::Unrecoverable)
        };
        let opened = match opened {
            Err(error) if is_damage(&error) || is_incomplete(&error) => {
                let aside = set_aside(path, &home).map_err(|error| failed(&error))?;
                tracing::error!(%error, aside = %aside.display(), "a damaged stream was moved aside");
                open_store(&home, now)
            }
            opened => opened,
        };
        let _ = fs::remove_file(&marker);
        let (db, meta, parts) = opened.map_err(|error| failed(&plain(&error)))?;
        Ok(Self { parts: Mutex::new(parts), meta, db, _lock: lock })
    }

    /// After a commit that failed or panicked nobody writes any more, and reading does no harm.
    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> State {
        self.parts().state
    }

    /// Carries out `writes` together, and lets go what is too old or too much. Returns when records and
    /// dead letters are on the disk itself; cursors may still be with the operating system.
    pub(super) fn commit(&self, writes: &[Write], limits: Option<Limits>, now: u64) -> fjall::Result<State> {
        let mut parts = self.parts.lock().map_err(|_| Error::Poisoned)?;
        let mut state = State { limits: limits.unwrap_or(parts.state.limits), ..parts.state };
        let mut cursors: Vec<(&Arc<Consumer>, Cursor)> = Vec::new();
        let mut batch = self.db.batch();
        let mut sync = PersistMode::Buffer;
        for write in writes {
            match write {
                Write::Append(message) => {
                    parts.append(&self.db, &mut batch, &mut state, message, now)?;
                    sync = PersistMode::SyncData;
                }
                Write::Save(consumer) => drop(cursor_of(&mut cursors, consumer)),
                Write::Bury { consumer, sequence, reason } => {
                    parts.bury(&self.db, &mut batch, &mut state, *sequence, reason)?;
                    cursor_of(&mut cursors, consumer).answer(*sequence);
                    sync = PersistMode::SyncData;
                }
            }
        }
        for (consumer, cursor) in &cursors {
            batch.insert(&self.meta, cursor_key(&consumer.name), cursor.encode());
        }
        parts.expire(&mut state, now)?;
        if state != parts.state || !batch.is_empty() {
            batch.insert(&self.meta, STATE, state.encode());
            batch.durability(Some(sync)).commit()?;
        }
        parts.state = state;
        parts.records.drop_before(&self.db, state.first, state.next)?;
        parts.dead.keep(&self.db, 2)?;
        Ok(state)
    }

    /// Reads records from `sequence` on, or from the oldest that is kept.
    pub(super) fn read(&self, sequence: u64) -> fjall::Result<Page> {
        let (state, records) = {
            let parts = self.parts();
            (parts.state, parts.records.clone())
        };
        let next = sequence.clamp(state.first, state.next);
        let mut page = Page { state, records: Vec::new(), next, unreadable: 0 };
        let mut bytes = 0;
        while page.next < state.next && bytes < PAGE {
            match message(records.get(page.next))? {
                Some(message) => {
                    bytes += message.len();
                    page.records.push((page.next, message));
                }
                None => page.unreadable += 1,
            }
            page.next += 1;
        }
        Ok(page)
    }

    /// The record `sequence`, if it is still there.
    pub(super) fn get(&self, sequence: u64) -> fjall::Result<Option<Bytes>> {
        let records = {
            let parts = self.parts();
            (sequence >= parts.state.first).then(|| parts.records.clone())
        };
        records.map_or(Ok(None), |records| message(records.get(sequence)))
    }

    /// How far a consumer has come.
    pub(super) fn cursor(&self, consumer: &str) -> fjall::Result<Option<Cursor>> {
        Ok(self.meta.get(cursor_key(consumer))?.and_then(|bytes| Cursor::decode(&bytes)))
    }

    /// The dead letters that are kept, oldest first.
    pub(super) fn dead_letters(&self) -> Vec<DeadLetter> {
        let dead = self.parts().dead.clone();
        dead.values().filter_map(|value| DeadLetter::decode(&value)).collect()
    }
}

impl Parts {
    fn append(
        &mut self,
        db: &Database,
        batch: &mut OwnedWriteBatch,
        state: &mut State,
        message: &[u8],
        now: u64,
    ) -> fjall::Result<()> {
        // Only between commits: a segment must not begin above a record that was never written.
        let between = state.next == self.state.next;
        if self.records.newest().is_none() || (between && self.is_full(&state.limits, now)) {
            self.records.begin(db, state.next)?;
            self.filling = (0, now);
        }
        let value = [&now.to_be_bytes()[..], message].concat();
        let size = value.len() as u64;
        if let Some(segment) = self.records.writable() {
            batch.insert(segment, state.next.to_be_bytes(), value);
        }
        self.filling.0 += size;
        state.bytes += size;
        state.next += 1;
        Ok(())
    }

    fn is_full(&self, limits: &Limits, now: u64) -> bool {
        let (bytes, begun) = self.filling;
        let most = (limits.max_size / u64::from(SEGMENTS)).max(SMALLEST_SEGMENT);
        let longest = millis((limits.max_age / SEGMENTS).max(SHORTEST_SEGMENT));
        bytes >= most || now.saturating_sub(begun) >= longest
    }

    fn bury(
        &mut self,
        db: &Database,
        batch: &mut OwnedWriteBatch,
        state: &mut State,
        sequence: u64,
        reason: &str,
    ) -> fjall::Result<()> {
        let message = message(self.records.get(sequence))?.unwrap_or_default();
        let reason: String = reason.chars().take(LONGEST_REASON).collect();
        let letter = DeadLetter { reason, message }.encode();
        let between = state.dead == self.state.dead;
        let full = self.dead.newest().is_none_or(|first| {
            between && (state.dead - first >= MOST_DEAD || self.dead_bytes >= MOST_DEAD_BYTES)
        });
        if full {
            self.dead.begin(db, state.dead)?;
            self.dead_bytes = 0;
        }
        self.dead_bytes += letter.len() as u64;
        if let Some(segment) = self.dead.writable() {
            batch.insert(segment, state.dead.to_be_bytes(), letter);
        }
        state.dead += 1;
        Ok(())
    }

    /// Moves `first` over records that are too old, or too much. What is being written now stays.
    fn expire(&mut self, state: &mut State, now: u64) -> fjall::Result<()> {
        let longest = millis(state.limits.max_age);
        for _ in 0..MOST_EXPIRED {
            if state.first >= self.state.next {
                break;
            }
            let oldest = self.oldest(state)?;
            if now.saturating_sub(oldest.came) <= longest && state.bytes <= state.limits.max_size {
                break;
            }
            state.first += 1;
            state.bytes = state.bytes.saturating_sub(oldest.size);
        }
        if state.first == state.next {
            state.bytes = 0;
        }
        Ok(())
    }

    /// The oldest record. One that cannot be read is as old as can be, and of average size.
    fn oldest(&mut self, state: &State) -> fjall::Result<Oldest> {
        if let Some(oldest) = self.oldest.filter(|oldest| oldest.sequence == state.first) {
            return Ok(oldest);
        }
        let value = readable(self.records.get(state.first))?;
        let stamp = value.as_deref().and_then(|value| value.first_chunk::<STAMP>());
        let came = stamp.map_or(0, |stamp| u64::from_be_bytes(*stamp));
        let average = state.bytes / (state.next - state.first).max(1);
        let size = value.map_or(average, |value| value.len() as u64);
        let oldest = Oldest { sequence: state.first, came, size };
        self.oldest = Some(oldest);
        Ok(oldest)
    }
}

impl State {
    /// Eight bytes each, big end first.
    fn encode(&self) -> Vec<u8> {
        let limits = [millis(self.limits.max_age), self.limits.max_size];
        let numbers = [self.origin, self.first, self.next, self.bytes, self.dead];
        numbers.into_iter().chain(limits).flat_map(u64::to_be_bytes).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, _) = bytes.as_chunks::<8>();
        let numbers: Vec<u64> = numbers.iter().copied().map(u64::from_be_bytes).collect();
        let [origin, first, next, bytes, dead, max_age, max_size] = *numbers.first_chunk::<7>()?;
        let limits = Limits { max_age: Duration::from_millis(max_age), max_size };
        Some(Self { origin, first, next, bytes, dead, limits })
    }
}

/// One process at a time; the operating system frees the lock of a process that is gone.
fn lock(path: &Path) -> io::Result<File> {
    fs::create_dir_all(path)?;
    let file = File::options().create(true).truncate(false).write(true).open(path.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(io::Error::new(io::ErrorKind::WouldBlock, "another process has it open"))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn open_store(home: &Path, now: u64) -> fjall::Result<(Database, Keyspace, Parts)> {
    // A store has its version from the moment at which it was complete.
    if home.exists() && !home.join("version").exists() {
        fs::remove_dir_all(home)?;
    }
    let builder = Database::builder(home).cache_size(CACHE).max_journaling_size(JOURNAL);
    let db = builder.worker_threads(1).open()?;
    let meta = keyspace(&db, "meta")?;
    let state = meta.get(STATE)?.and_then(|bytes| State::decode(&bytes));
    // Sequences of stores that follow each other in one place must not meet.
    let origin = now.saturating_mul(1_000);
    let state = state.unwrap_or(State {
        origin,
        first: origin,
        next: origin,
        bytes: 0,
        dead: origin,
        limits: Limits::default(),
    });
    let records = Segments::open(&db, 'r', state.next)?;
    let dead = Segments::open(&db, 'd', state.dead)?;
    let parts =
        Parts { filling: filling(&records, &state, now)?, state, records, dead, dead_bytes: 0, oldest: None };
    Ok((db, meta, parts))
}

/// About how much is in the newest segment, and when it was begun.
fn filling(records: &Segments, state: &State, now: u64) -> fjall::Result<(u64, u64)> {
    let Some(first) = records.newest() else { return Ok((0, now)) };
    let average = state.bytes / (state.next - state.first).max(1);
    let value = readable(records.get(first))?;
    let stamp = value.as_deref().and_then(|value| value.first_chunk::<STAMP>());
    Ok((average * (state.next - first), stamp.map_or(now, |stamp| u64::from_be_bytes(*stamp))))
}

/// Moves a damaged store aside, in the place of one that was moved aside before.
fn set_aside(path: &Path, home: &Path) -> io::Result<PathBuf> {
    let aside = path.join("damaged");
    if aside.exists() {
        fs::remove_dir_all(&aside)?;
    }
    if home.exists() {
        fs::rename(home, &aside)?;
    }
    Ok(aside)
}

/// True where the bytes on disk are not what was written, and trying again reads the same.
fn is_damage(error: &Error) -> bool {
    match error {
        Error::Storage(error) => !matches!(error, LsmError::Io(_) | LsmError::InvalidVersion(_)),
        Error::JournalRecovery(_)
        | Error::Decompress(_)
        | Error::InvalidTrailer
        | Error::InvalidTag(_)
        | Error::Unrecoverable => true,
        _ => false,
    }
}

/// True where files of a store, or parts of them, are not there, or are where none should be.
fn is_incomplete(error: &Error) -> bool {
    let (Error::Io(error) | Error::Storage(LsmError::Io(error))) = error else { return false };
    use io::ErrorKind::{AlreadyExists, InvalidData, NotFound, UnexpectedEof};
    [AlreadyExists, InvalidData, NotFound, UnexpectedEof].contains(&error.kind())
}

/// Leaves a mark that is taken away when opening has ended in any orderly way. Returns how many opened the
/// store before without coming so far. A disk that does not take the mark has other troubles.
fn note_attempt(marker: &Path) -> u32 {
    let before = fs::read_to_string(marker).ok().and_then(|text| text.parse().ok()).unwrap_or(0u32);
    let _ = fs::write(marker, before.saturating_add(1).to_string());
    before
}

/// A value, or nothing where the bytes on disk are damaged.
fn readable<T>(value: fjall::Result<Option<T>>) -> fjall::Result<Option<T>> {
    match value {
        Err(error) if is_damage(&error) => Ok(None),
        value => value,
    }
}

/// The message in a record.
fn message(value: fjall::Result<Option<fjall::UserValue>>) -> fjall::Result<Option<Bytes>> {
    let value = readable(value)?.map(Bytes::from_owner);
    Ok(value.filter(|value| value.len() >= STAMP).map(|value| value.slice(STAMP..)))
}

/// The cursor as this commit will leave it.
fn cursor_of<'a, 'c>(
    cursors: &'c mut Vec<(&'a Arc<Consumer>, Cursor)>,
    consumer: &'a Arc<Consumer>,
) -> &'c mut Cursor {
    let known = cursors.iter().position(|(known, _)| Arc::ptr_eq(known, consumer));
    let index = known.unwrap_or_else(|| {
        cursors.push((consumer, consumer.cursor().clone()));
        cursors.len() - 1
    });
    &mut cursors[index].1
}

fn cursor_key(consumer: &str) -> String {
    format!("cursor/{consumer}")
}

/// An error of the store in the words of the operating system, where it has any.
pub(super) fn plain(error: &Error) -> String {
    match error {
        Error::Io(error) | Error::Storage(LsmError::Io(error)) => error.to_string(),
        Error::Poisoned => "an earlier write failed".to_owned(),
        Error::InvalidVersion(_) => "it was written by another version".to_owned(),
        error => error.to_string(),
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
