//! What a stage says of its health, by what the stream tells it.

use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_streams_core::health::Health;

use super::StoreError;

/// Reports when the stream stops doing its work, and when it goes on.
pub struct Standing {
    health: Health,
    /// What was last said. Saying it for every event would cost more than the event.
    well: AtomicBool,
}

impl Standing {
    /// Nothing is said before there is something to tell.
    pub fn new(health: Health) -> Self {
        Self { health, well: AtomicBool::new(false) }
    }

    /// Passes a result on, and reports what it tells: a refusal says nothing of the stream.
    ///
    /// # Errors
    /// The error that was given.
    pub fn told<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match &result {
            Ok(_) if !self.well.swap(true, Ordering::Relaxed) => self.health.ready(),
            Err(StoreError::Unavailable(reason)) => {
                self.well.store(false, Ordering::Relaxed);
                self.health.degraded(reason);
            }
            Ok(_) | Err(StoreError::Refused(_)) => {}
        }
        result
    }
}
