//! What each stage says of itself: ready, or degraded and why. `/-/ready` is the sum of it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The state of every stage that has spoken up.
#[derive(Clone, Debug, Default)]
pub struct HealthBoard(Arc<Mutex<BTreeMap<String, Option<String>>>>);

impl HealthBoard {
    /// The place of one stage on the board, named `pipeline/kind/stage`.
    pub fn stage(&self, name: impl Into<String>) -> Health {
        Health { board: self.clone(), name: name.into().into(), is_ready: Arc::default() }
    }

    /// The stages that are degraded, with their reasons; empty when all is well.
    pub fn degraded(&self) -> Vec<(String, String)> {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.iter().filter_map(|(name, reason)| Some((name.clone(), reason.clone()?))).collect()
    }

    fn set(&self, name: &str, reason: Option<String>) -> bool {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.insert(name.to_owned(), reason.clone()) != Some(reason)
    }
}

/// How one stage reports its state. A stage that never does counts as ready. Changes are logged here, once.
#[derive(Clone)]
pub struct Health {
    board: HealthBoard,
    name: Arc<str>,
    /// What the board says, so that a stage may call [`Health::ready`] for every event.
    is_ready: Arc<AtomicBool>,
}

impl Health {
    /// All is well.
    pub fn ready(&self) {
        if !self.is_ready.swap(true, Ordering::Relaxed) && self.board.set(&self.name, None) {
            tracing::info!(stage = &*self.name, "ready");
        }
    }

    /// The stage goes on trying, but does not do its work now.
    pub fn degraded(&self, reason: impl fmt::Display) {
        let reason = reason.to_string();
        self.is_ready.store(false, Ordering::Relaxed);
        if self.board.set(&self.name, Some(reason.clone())) {
            tracing::warn!(stage = &*self.name, reason, "degraded");
        }
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Health({})", self.name)
    }
}
