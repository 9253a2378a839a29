//! Connections that wait for their next request. What they may hold together is bounded for the whole
//! process, so that a poller of many hosts stays small: beyond that, connections are closed after use.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::connect::Io;
use crate::support::process;

/// Longer than the interval of most scrapes, so that their connections stay.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const SWEEP_EVERY: Duration = Duration::from_secs(10);
const MOST_IDLE_PER_HOST: usize = 64;
/// What all idle connections of the process may hold, in KiB.
const MOST_IDLE: u32 = 64 << 10;
/// What one holds, in KiB, measured: a socket, the state of TLS, and the buffers and the task of HTTP/2.
const PLAIN_COST: u32 = 1;
const TLS_COST: u32 = 9;
const HTTP2_COST: u32 = 38;

/// Room for the idle connections of the whole process.
static ROOM: LazyLock<Room> = LazyLock::new(|| {
    let files = process::max_open_files().unwrap_or(u64::MAX);
    Room::new(MOST_IDLE, files)
});

/// Memory and files for idle connections.
pub(super) struct Room {
    /// Memory, in KiB.
    free: Semaphore,
    /// What a connection takes at least: so much that all of them hold half of the files that the process
    /// may open, and no more.
    least: u32,
}

impl Room {
    /// So many KiB, for a process that may open so many files.
    pub(super) fn new(kib: u32, files: u64) -> Self {
        let least = u64::from(kib).div_ceil((files / 2).max(1));
        let least = u32::try_from(least).unwrap_or(u32::MAX);
        Self { free: Semaphore::new(kib as usize), least }
    }

    /// Room for a connection that holds so many KiB, if there is some.
    pub(super) fn take(&self, kib: u32) -> Option<SemaphorePermit<'_>> {
        self.free.try_acquire_many(kib.max(self.least)).ok()
    }
}

/// Whom a connection is good for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// `http` or `https`, of the far side.
    pub(super) is_https: bool,
    /// Host and port of the far side; of the proxy where that is told the rest in every request.
    pub(super) authority: String,
    /// The proxy that the connection goes through.
    pub(super) proxy: Option<String>,
    /// The TLS settings that it was made with, as they have a number.
    pub(super) generation: u64,
}

/// A connection that is ready for a request.
pub(super) enum Ready {
    Http1(Io),
    /// Many requests share it, so it stays in the pool.
    Http2(Shared),
}

/// A connection for many requests at a time.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) sender: SendRequest<Full<Bytes>>,
    pub(super) id: u64,
}

struct Idle<C> {
    connection: C,
    since: Instant,
    _room: SemaphorePermit<'static>,
}

/// What there is for one far side.
#[derive(Default)]
struct Host {
    http1: Vec<Idle<Io>>,
    http2: Option<Idle<Shared>>,
}

/// The idle connections of a client.
pub(super) struct Pool {
    room: &'static Room,
    hosts: Mutex<Hosts>,
    next_id: AtomicU64,
}

#[derive(Default)]
struct Hosts {
    by_key: HashMap<Key, Host>,
    swept: Option<Instant>,
}

impl Default for Pool {
    /// A pool that shares its room with all others.
    fn default() -> Self {
        Self::new(&ROOM)
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("hosts", &self.lock().by_key.len()).finish()
    }
}

impl Pool {
    /// A pool that keeps what there is `room` for.
    pub(super) fn new(room: &'static Room) -> Self {
        Self { room, hosts: Mutex::default(), next_id: AtomicU64::new(0) }
    }

    /// A connection that seems to be alive.
    pub(super) fn take(&self, key: &Key) -> Option<Ready> {
        let mut hosts = self.lock();
        let host = hosts.by_key.get_mut(key)?;
        if let Some(idle) = host.http2.as_mut().filter(|idle| !idle.connection.sender.is_closed()) {
            idle.since = Instant::now();
            return Some(Ready::Http2(idle.connection.clone()));
        }
        host.http2 = None;
        while let Some(mut idle) = host.http1.pop() {
            if idle.since.elapsed() < IDLE_TIMEOUT && idle.connection.is_quiet() {
                return Some(Ready::Http1(idle.connection));
            }
        }
        hosts.by_key.remove(key);
        None
    }

    /// Keeps a connection for the next request, if there is room.
    pub(super) fn put(&self, key: Key, connection: Io) {
        let cost = if key.is_https { TLS_COST } else { PLAIN_COST };
        let mut hosts = self.lock();
        hosts.sweep();
        let Some(room) = self.room.take(cost) else { return };
        let idle = &mut hosts.by_key.entry(key).or_default().http1;
        if idle.len() < MOST_IDLE_PER_HOST {
            idle.push(Idle { connection, since: Instant::now(), _room: room });
        }
    }

    /// Lets others share a connection, unless they share one already or there is no room.
    pub(super) fn share(&self, key: Key, sender: SendRequest<Full<Bytes>>) -> Shared {
        let connection = Shared { sender, id: self.next_id.fetch_add(1, Ordering::Relaxed) };
        let mut hosts = self.lock();
        hosts.sweep();
        if let Some(room) = self.room.take(HTTP2_COST) {
            let host = hosts.by_key.entry(key).or_default();
            if host.http2.as_ref().is_none_or(|idle| idle.connection.sender.is_closed()) {
                host.http2 =
                    Some(Idle { connection: connection.clone(), since: Instant::now(), _room: room });
            }
        }
        connection
    }

    /// Never gives a shared connection to anybody again.
    pub(super) fn forget(&self, key: &Key, id: u64) {
        if let Some(host) = self.lock().by_key.get_mut(key)
            && host.http2.as_ref().is_some_and(|idle| idle.connection.id == id)
        {
            host.http2 = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hosts {
    /// Closes what nobody has used for long.
    fn sweep(&mut self) {
        let now = Instant::now();
        if self.swept.is_some_and(|swept| now - swept < SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        self.by_key.retain(|_, host| {
            host.http1.retain(|idle| now - idle.since < IDLE_TIMEOUT);
            host.http2.take_if(|idle| now - idle.since >= IDLE_TIMEOUT);
            host.http2.is_some() || !host.http1.is_empty()
        });
    }
}
