//! Groups on the disk, a file for each: written whole before a push is answered, and read at the start. A file is the
//! event of its group as it would go onto a stream, after a checksum.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus::IntGauge;
use prometheus_streams_core::event::Labels;
use prometheus_streams_core::health::Health;
use prometheus_streams_core::values::Size;
use xxhash_rust::xxh3::xxh3_64;

use super::state::{self, State};
use crate::support::envelope::{self, DEFAULT_LEVEL, Limits, labels_hash};

/// The end of the names of files with groups.
const GROUP: &str = "group";
/// The end of the names of files that are being written.
const UNFINISHED: &str = "unfinished";
/// What is added to the name of a file that cannot be read.
const CORRUPT: &str = "corrupt";
const CHECKSUM: usize = size_of::<u64>();

/// The directory of all groups. Only one source at a time has it.
pub(super) struct Archive {
    dir: PathBuf,
    limits: Limits,
    _lock: File,
}

impl Archive {
    /// Opens the directory, or creates it, for groups of at most `largest` bytes.
    ///
    /// # Errors
    /// It cannot be had; the message says why.
    pub(super) fn open(dir: &Path, largest: Size) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot keep groups in {}: {error}", dir.display()))
        };
        fs::create_dir_all(dir).map_err(named)?;
        let lock = File::create(dir.join("lock")).map_err(named)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::Error(error) => named(error),
            TryLockError::WouldBlock => {
                named(io::Error::new(io::ErrorKind::ResourceBusy, "another source of type push has it"))
            }
        })?;
        let size = usize::try_from(largest.0).unwrap_or(usize::MAX);
        let limits = Limits { message: size, body: size, ..Limits::default() };
        Ok(Self { dir: dir.to_owned(), limits, _lock: lock })
    }

    /// The groups that are there. What cannot be read is said in the log and put aside.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub(super) fn load(&self) -> io::Result<Vec<(Labels, State)>> {
        let mut groups = Vec::new();
        for file in fs::read_dir(&self.dir)? {
            let path = file?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(GROUP) => {}
                Some(UNFINISHED) => {
                    let _ = fs::remove_file(&path);
                    continue;
                }
                _ => continue,
            }
            match self.read(&path) {
                Ok(group) => groups.push(group),
                Err(error) => {
                    let file = path.display();
                    tracing::error!(%file, error, "cannot read a group of pushed metrics; the file is put aside");
                    let _ = fs::rename(&path, path.with_extension(CORRUPT));
                }
            }
        }
        Ok(groups)
    }

    fn read(&self, path: &Path) -> Result<(Labels, State), String> {
        let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
        if size > (self.limits.message + CHECKSUM) as u64 {
            return Err(format!("it has {size} bytes, which is more than `max_body_size`"));
        }
        let file = fs::read(path).map_err(|error| error.to_string())?;
        let (checksum, message) = file.split_first_chunk::<CHECKSUM>().ok_or("it is too short")?;
        if u64::from_le_bytes(*checksum) != xxh3_64(message) {
            return Err("its checksum is wrong".to_owned());
        }
        let event = envelope::decode(message, &self.limits).map_err(|error| error.to_string())?;
        let state = State::read(&event, &event.labels)?;
        Ok((event.labels, state))
    }

    /// Writes what a group holds, or that it is gone.
    ///
    /// # Errors
    /// The disk does not take it; then what was before is still there.
    pub(super) fn save(&self, key: &Labels, state: Option<&State>) -> io::Result<()> {
        let path = self.dir.join(format!("{:016x}.{GROUP}", labels_hash(key)));
        match state {
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
            Some(state) => self.write(&path, key, state)?,
        }
        File::open(&self.dir)?.sync_all()
    }

    fn write(&self, path: &Path, key: &Labels, state: &State) -> io::Result<()> {
        let mut event = state::event(key, "", Some(state), Duration::ZERO, SystemTime::UNIX_EPOCH);
        event.labels = key.clone();
        let message = envelope::encode(&event, DEFAULT_LEVEL).map_err(io::Error::other)?;
        let unfinished = path.with_extension(UNFINISHED);
        let mut file = File::create(&unfinished)?;
        file.write_all(&xxh3_64(&message).to_le_bytes())?;
        file.write_all(&message)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    }
}

/// Writes groups to the disk if they shall be there, and remembers those that it did not take.
pub(super) struct Keeper {
    archive: Option<Arc<Archive>>,
    unsaved: Mutex<BTreeSet<Labels>>,
    gauge: IntGauge,
    health: Health,
}

impl Keeper {
    pub(super) fn new(archive: Option<Archive>, gauge: IntGauge, health: Health) -> Self {
        Self { archive: archive.map(Arc::new), unsaved: Mutex::default(), gauge, health }
    }

    /// Writes what a group holds, or that it is gone; false if the disk does not take it. The stream has it already, so
    /// that is no reason to refuse a push: it is tried again later.
    pub(super) async fn save(&self, key: &Labels, state: Option<Arc<State>>) -> bool {
        let Some(archive) = self.archive.clone() else { return true };
        let group = key.clone();
        let saved = tokio::task::spawn_blocking(move || archive.save(&group, state.as_deref())).await;
        let saved = saved.unwrap_or_else(|error| Err(io::Error::other(error)));
        let mut unsaved = self.lock();
        match &saved {
            Ok(()) if unsaved.remove(key) && unsaved.is_empty() => self.health.ready(),
            Ok(()) => {}
            Err(error) => {
                unsaved.insert(key.clone());
                self.health.degraded(format!("cannot keep pushed groups on the disk: {error}"));
            }
        }
        self.gauge.set(i64::try_from(unsaved.len()).unwrap_or(i64::MAX));
        saved.is_ok()
    }

    /// The groups that the disk did not take.
    pub(super) fn unsaved(&self) -> Vec<Labels> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Labels>> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
