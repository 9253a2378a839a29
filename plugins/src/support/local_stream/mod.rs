//! A stream on the disk of one machine, for the `local_stream` source and sink: records in order, with a
//! limit on their age and their size, and a durable cursor for every consumer. It promises what a
//! JetStream stream does: a record is there once [`Store::append`] has returned, and a consumer sees every
//! record until it has answered it, also after a kill.
//!
//! A process opens a directory once, and all its pipelines share it.

mod consumer;
mod cursor;
mod disk;
pub mod lanes;
mod segments;
mod standing;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus_streams_core::stage::Clock;
use tokio::sync::{OwnedMutexGuard, oneshot, watch};

use self::consumer::Consumer;
use self::cursor::Cursor;
use self::disk::Disk;
use super::scrape::unix_millis;

pub use self::consumer::{Page, Subscription};
pub use self::standing::Standing;

/// The pause before a stream that could not be opened, or written, is opened again.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// The open streams of this process, by their directory. The store locks its directory, so pipelines
/// that name the same one have to find each other.
static STORES: LazyLock<Mutex<HashMap<PathBuf, Weak<Store>>>> = LazyLock::new(Mutex::default);

/// What a stream keeps. The oldest records go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The time that a record is kept.
    pub max_age: Duration,
    /// Bytes of all records together.
    pub max_size: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_age: Duration::from_secs(600), max_size: 1 << 30 }
    }
}

/// Why a stream does not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A later try may succeed: the disk is full, or another process has the directory.
    #[error("{0}")]
    Unavailable(Arc<str>),
    /// No later try can: the configuration contradicts itself, or the record is larger than the stream.
    #[error("{0}")]
    Refused(Arc<str>),
}

impl StoreError {
    fn unavailable(error: impl Into<Arc<str>>) -> Self {
        Self::Unavailable(error.into())
    }

    fn refused(error: impl Into<Arc<str>>) -> Self {
        Self::Refused(error.into())
    }
}

/// A stream in a directory. Opened when it is first needed, and again after an error of the disk.
pub struct Store {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    limits: Mutex<Option<Limits>>,
    slot: Mutex<Slot>,
    /// Writes that wait for their turn; whoever has the turn carries out all of them.
    queue: Mutex<Vec<Queued>>,
    turn: Arc<tokio::sync::Mutex<()>>,
    usage: watch::Sender<Usage>,
    consumers: Mutex<HashSet<String>>,
}

/// What a stream holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The sequence of the next record; zero until the stream has been opened.
    pub next: u64,
    /// Records that are kept.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
}

#[derive(Default)]
struct Slot {
    disk: Option<Arc<Disk>>,
    failed: Option<(Instant, StoreError)>,
}

struct Queued {
    write: Write,
    done: oneshot::Sender<Result<(), StoreError>>,
}

enum Write {
    Append(Bytes),
    Save(Arc<Consumer>),
    Bury { consumer: Arc<Consumer>, sequence: u64, reason: Arc<str> },
}

/// A record that nobody could use, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Why, for a person.
    pub reason: String,
    /// The record as it was appended.
    pub message: Bytes,
}

impl DeadLetter {
    fn encode(&self) -> Vec<u8> {
        let length = u32::try_from(self.reason.len()).unwrap_or(u32::MAX).to_be_bytes();
        [&length[..], self.reason.as_bytes(), &self.message].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (reason, message) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        let reason = String::from_utf8_lossy(reason).into_owned();
        Some(Self { reason, message: Bytes::copy_from_slice(message) })
    }
}

impl Store {
    /// The stream in the directory `path`, which is made if it is not there. Whoever appends sets the
    /// limits; without, those hold that the stream was last given.
    ///
    /// # Errors
    /// The directory cannot be made, or the stream is open in this process with other limits.
    pub async fn at(
        path: &Path,
        limits: Option<Limits>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, StoreError> {
        let path = path.to_owned();
        blocking(move || {
            let made = std::fs::create_dir_all(&path).and_then(|()| path.canonicalize());
            let path = made.map_err(|error| {
                StoreError::unavailable(format!("cannot make the directory {}: {error}", path.display()))
            })?;
            let mut stores = held(&STORES);
            stores.retain(|_, store| store.strong_count() > 0);
            let known = stores.get(&path).and_then(Weak::upgrade);
            let store = known.unwrap_or_else(|| Arc::new(Self::new(path.clone(), clock)));
            store.limit(limits)?;
            stores.insert(path, Arc::downgrade(&store));
            Ok(store)
        })
        .await
    }

    fn new(path: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self {
            path,
            clock,
            limits: Mutex::default(),
            slot: Mutex::default(),
            queue: Mutex::default(),
            turn: Arc::default(),
            usage: watch::Sender::default(),
            consumers: Mutex::default(),
        }
    }

    fn limit(&self, limits: Option<Limits>) -> Result<(), StoreError> {
        let mut known = held(&self.limits);
        match (*known, limits) {
            (Some(known), Some(limits)) if known != limits => Err(StoreError::refused(format!(
                "two sinks give the stream at {} different limits",
                self.path.display()
            ))),
            (_, limits) => {
                *known = known.or(limits);
                Ok(())
            }
        }
    }

    /// What the stream holds, and every change of it.
    pub fn usage(&self) -> watch::Receiver<Usage> {
        self.usage.subscribe()
    }

    /// Appends a record, and returns when it is on the disk itself. Callers that wait at the same time
    /// share one write.
    ///
    /// # Errors
    /// The record is larger than the stream may be, or the disk does not take it now.
    pub async fn append(self: &Arc<Self>, message: Bytes) -> Result<(), StoreError> {
        let most = held(&self.limits).unwrap_or_default().max_size;
        if message.len() as u64 > most {
            return Err(StoreError::refused(format!(
                "the record has {} bytes, and the stream holds {most} at most",
                message.len()
            )));
        }
        self.write(Write::Append(message)).await
    }

    /// Lets go what is too old.
    ///
    /// # Errors
    /// The disk does not do its work now.
    pub async fn sweep(self: &Arc<Self>) -> Result<(), StoreError> {
        loop {
            let turn = Arc::clone(&self.turn).lock_owned().await;
            let before = self.usage.borrow().records;
            let store = Arc::clone(self);
            blocking(move || store.commit(&[], turn)).await?;
            if self.usage.borrow().records >= before {
                return Ok(());
            }
        }
    }

    /// The dead letters that are kept, oldest first: the last five hundred at least, a thousand at most.
    ///
    /// # Errors
    /// The disk does not do its work now.
    pub async fn dead_letters(self: &Arc<Self>) -> Result<Vec<DeadLetter>, StoreError> {
        self.read(|disk| Ok(disk.dead_letters())).await
    }

    /// How many records `consumer` has not answered, as far as its cursor on the disk knows.
    ///
    /// # Errors
    /// The disk does not do its work now.
    pub async fn unanswered(self: &Arc<Self>, consumer: &str) -> Result<u64, StoreError> {
        let consumer = consumer.to_owned();
        self.read(move |disk| {
            let (state, cursor) = (disk.state(), disk.cursor(&consumer)?);
            Ok(cursor.unwrap_or_default().skip(state.first, state.next))
        })
        .await
    }

    /// Begins to read as `name`, from the first record that this consumer has not answered; a new
    /// one begins with the oldest.
    ///
    /// # Errors
    /// Another part of this program reads as `name`, or the disk does not do its work now.
    pub async fn subscribe(self: &Arc<Self>, name: &str) -> Result<Subscription, StoreError> {
        if !held(&self.consumers).insert(name.to_owned()) {
            return Err(StoreError::refused(format!(
                "two sources read the stream at {} as consumer {name:?}",
                self.path.display()
            )));
        }
        let consumer = Arc::new(Consumer { name: name.to_owned(), cursor: Mutex::default() });
        let subscription = Subscription { store: Arc::clone(self), consumer };
        let key = name.to_owned();
        let cursor = self
            .read(move |disk| Ok(disk.cursor(&key)?.unwrap_or_else(|| Cursor::at(disk.state().first))))
            .await?;
        *subscription.consumer.cursor() = cursor;
        Ok(subscription)
    }

    /// Queues a write and waits for it. The first that gets the turn writes for all that wait, so many
    /// share one flush of the disk. Cancelling the wait withdraws a write that has not begun.
    async fn write(self: &Arc<Self>, write: Write) -> Result<(), StoreError> {
        let (done, mut answer) = oneshot::channel();
        {
            let mut queue = held(&self.queue);
            queue.retain(|queued| !queued.done.is_closed());
            queue.push(Queued { write, done });
        }
        let interrupted = |_| Err(StoreError::unavailable("the write was interrupted"));
        let turn = tokio::select! {
            biased;
            answer = &mut answer => return answer.unwrap_or_else(interrupted),
            turn = Arc::clone(&self.turn).lock_owned() => turn,
        };
        let group = std::mem::take(&mut *held(&self.queue));
        let store = Arc::clone(self);
        blocking(move || {
            store.write_group(group, turn);
            Ok(())
        })
        .await?;
        answer.await.unwrap_or_else(interrupted)
    }

    fn write_group(&self, group: Vec<Queued>, turn: OwnedMutexGuard<()>) {
        let (writes, waiting): (Vec<_>, Vec<_>) = group
            .into_iter()
            .filter(|queued| !queued.done.is_closed())
            .map(|queued| (queued.write, queued.done))
            .unzip();
        let result = self.commit(&writes, turn);
        for done in waiting {
            // Whoever does not wait any more asks again.
            let _ = done.send(result.clone());
        }
    }

    /// Writes, while it is our turn. After an error nothing is known of what the store holds in
    /// memory, so it is closed, and opened again when it is next needed.
    fn commit(&self, writes: &[Write], _turn: OwnedMutexGuard<()>) -> Result<(), StoreError> {
        let disk = self.disk()?;
        let (limits, now) = (*held(&self.limits), unix_millis(self.clock.now()));
        let state = disk.commit(writes, limits, now).map_err(|error| {
            let text =
                format!("cannot write to the stream at {}: {}", self.path.display(), disk::plain(&error));
            let error = StoreError::unavailable(text);
            *held(&self.slot) = Slot { disk: None, failed: Some((Instant::now(), error.clone())) };
            error
        })?;
        for write in writes {
            if let Write::Bury { consumer, sequence, .. } = write {
                consumer.cursor().answer(*sequence);
            }
        }
        self.publish(state);
        Ok(())
    }

    fn publish(&self, state: disk::State) {
        let usage = Usage { next: state.next, records: state.next - state.first, bytes: state.bytes };
        self.usage.send_if_modified(|known| std::mem::replace(known, usage) != usage);
    }

    /// The open store. Opens it if it is not; soon after a failure it gives the same failure again.
    fn disk(&self) -> Result<Arc<Disk>, StoreError> {
        let mut slot = held(&self.slot);
        if let Some(disk) = &slot.disk {
            return Ok(Arc::clone(disk));
        }
        if let Some((when, error)) = &slot.failed
            && when.elapsed() < REOPEN_PAUSE
        {
            return Err(error.clone());
        }
        match Disk::open(&self.path, unix_millis(self.clock.now())) {
            Ok(disk) => {
                self.publish(disk.state());
                *slot = Slot { disk: Some(Arc::new(disk)), failed: None };
                slot.disk.clone().ok_or_else(|| StoreError::unavailable("the stream is closed"))
            }
            Err(error) => {
                let error = StoreError::unavailable(error);
                slot.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Disk) -> fjall::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = Arc::clone(self);
        blocking(move || {
            work(&*store.disk()?).map_err(|error| {
                let path = store.path.display();
                StoreError::unavailable(format!("cannot read the stream at {path}: {}", disk::plain(&error)))
            })
        })
        .await
    }
}

/// Runs work that waits for the disk where it does not keep others waiting.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(StoreError::unavailable("work on the stream was interrupted")))
}

/// Locks what is whole between any two statements, so a panic elsewhere does not matter.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
