//! How much the sink remembers. What is kept for a target holds a [`Charge`], and gives it back when it goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus::IntGauge;
use prometheus_streams_core::values::Size;

#[derive(Debug)]
pub(super) struct Memory {
    used: AtomicUsize,
    most: usize,
    gauge: IntGauge,
}

/// Some of the memory, in use until dropped.
#[derive(Debug)]
pub(super) struct Charge {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Memory {
    pub(super) fn new(most: Size, gauge: IntGauge) -> Self {
        Self { used: AtomicUsize::new(0), most: most.as_usize(), gauge }
    }

    /// Whether nothing more should be remembered. What is there may still be replaced.
    pub(super) fn is_full(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= self.most
    }

    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.gauge.add(bytes as i64);
        Charge { memory: Arc::clone(self), bytes }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.memory.gauge.sub(self.bytes as i64);
    }
}
