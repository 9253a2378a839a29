//! Basic auth against bcrypt hashes. A hash is slow to compare with on purpose, so verdicts are remembered, and at
//! most one is computed at a time, away from the threads that serve others.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{self, HeaderMap};
use tokio::sync::Semaphore;

/// As many verdicts are remembered as the servers of Prometheus remember.
const MOST_VERDICTS: usize = 100;

/// What is compared with for users that there are not, so that the time of the answer does not tell them from
/// others. Of a random password that nobody knows, at the usual cost.
pub(super) const NOBODY: &str = "$2b$10$X3NORe023gXfgssLgjldFOyGCuqeMyl35h9hHK.MTER2PIwLf.EaW";

/// A name and a password, as a request has them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Login {
    user: String,
    password: Vec<u8>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({:?})", self.user)
    }
}

impl Login {
    /// The login in the header `Authorization`, if it is a basic one.
    pub(super) fn of(request: &HeaderMap) -> Option<Self> {
        let value = request.get(header::AUTHORIZATION)?.as_bytes();
        let (scheme, credentials) = value.split_at_checked(b"Basic ".len())?;
        if !scheme.eq_ignore_ascii_case(b"Basic ") {
            return None;
        }
        let decoded = STANDARD.decode(credentials).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let user = String::from_utf8(decoded[..colon].to_vec()).ok()?;
        Some(Self { user, password: decoded[colon + 1..].to_vec() })
    }
}

/// Remembers who was let in and who was not.
#[derive(Debug)]
pub(super) struct Verdicts {
    known: Mutex<HashMap<(Login, Arc<str>), bool>>,
    turn: Semaphore,
}

impl Default for Verdicts {
    fn default() -> Self {
        Self { known: Mutex::default(), turn: Semaphore::new(1) }
    }
}

impl Verdicts {
    /// Whether the password is that of the user.
    pub(super) async fn judge(&self, login: Login, users: &HashMap<String, Arc<str>>) -> bool {
        let hash = users.get(&login.user);
        let is_user = hash.is_some();
        let key = (login, hash.cloned().unwrap_or_else(|| NOBODY.into()));
        if let Some(verdict) = self.known(&key) {
            return verdict;
        }
        // The semaphore is never closed.
        let Ok(_turn) = self.turn.acquire().await else { return false };
        // Somebody may have asked the same while this one waited.
        if let Some(verdict) = self.known(&key) {
            return verdict;
        }
        let ((login, hash), kept) = (key.clone(), key);
        let compare = move || bcrypt::verify(&login.password, &hash).unwrap_or(false);
        let verdict = tokio::task::spawn_blocking(compare).await.unwrap_or(false) && is_user;
        self.remember(kept, verdict);
        verdict
    }

    fn known(&self, key: &(Login, Arc<str>)) -> Option<bool> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }

    fn remember(&self, key: (Login, Arc<str>), verdict: bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_VERDICTS {
            // Wrong passwords make room first: whoever guesses must not push out those who know.
            let victim = known.iter().min_by_key(|(_, verdict)| **verdict).map(|(key, _)| key.clone());
            victim.map(|key| known.remove(&key));
        }
        known.insert(key, verdict);
    }
}
