//! What tests of stages need: a clock that a test moves, a pipe to run a source against, a rig to run
//! a sink in with all its layers, memory stages, and the delivery laws that every source and sink must keep.

mod laws;
mod memory;
mod rig;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus::Registry;
use tokio::time::Instant;

use crate::health::HealthBoard;
use crate::metrics::Metrics;
use crate::stage::{Clock, StageContext, SystemClock};

pub use laws::{SinkBench, SourceBench, check_sink, check_source};
pub use memory::{MemorySink, MemorySource, Received};
pub use rig::{Inlet, SinkRig, pipe, pipe_with};

/// How long [`until`] waits before it says that a condition never came true.
const PATIENCE: Duration = Duration::from_secs(20);

/// A clock that stands still until it is told.
#[derive(Clone)]
pub struct ManualClock(Arc<Mutex<SystemTime>>);

impl ManualClock {
    /// A clock that shows `now`.
    pub fn new(now: SystemTime) -> Self {
        Self(Arc::new(Mutex::new(now)))
    }

    /// Shows `now`, be it later or earlier.
    pub fn set(&self, now: SystemTime) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Moves on.
    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ManualClock({:?})", self.now())
    }
}

/// What a stage named `name` is given in a pipeline `test` of the publisher `tester`, with the machine's clock.
pub fn context(name: &str) -> StageContext {
    context_with(name, Arc::new(SystemClock))
}

/// [`context`] with a clock of the test's own.
pub fn context_with(name: &str, clock: Arc<dyn Clock>) -> StageContext {
    StageContext {
        pipeline: "test".into(),
        name: name.into(),
        identity: "tester".into(),
        clock,
        metrics: Metrics::new(Registry::new()),
        health: HealthBoard::default().stage(format!("test/{name}")),
    }
}

/// Waits until a condition holds.
///
/// # Panics
/// It does not within 20 seconds; the message says `what`.
#[track_caller]
pub fn until<F, Fut>(what: &str, mut condition: F) -> impl Future<Output = ()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let caller = std::panic::Location::caller();
    let what = what.to_owned();
    async move {
        let deadline = Instant::now() + PATIENCE;
        while !condition().await {
            assert!(Instant::now() < deadline, "{caller}: waited in vain until {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
