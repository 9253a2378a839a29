//! Stages that keep everything in memory, for tests and benchmarks of the machine itself.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use crate::delivery::Outcome;
use crate::emitter::Emitter;
use crate::error::{BoxError, SendError};
use crate::event::Event;
use crate::stage::{Sink, Source};

/// A source that sends the events it was given, once each, collects their outcomes, and ends.
#[derive(Debug)]
pub struct MemorySource {
    events: Vec<Event>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
}

impl MemorySource {
    /// A source of these events, and the place where their outcomes gather, in the order of the answers.
    pub fn new(events: Vec<Event>) -> (Self, Arc<Mutex<Vec<Outcome>>>) {
        let outcomes = Arc::default();
        (Self { events, outcomes: Arc::clone(&outcomes) }, outcomes)
    }

    fn note(&self, outcome: Outcome) {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
    }
}

#[async_trait]
impl Source for MemorySource {
    async fn run(mut self: Box<Self>, out: Emitter, shutdown: CancellationToken) -> Result<(), BoxError> {
        let mut open = FuturesUnordered::new();
        let mut events = std::mem::take(&mut self.events).into_iter();
        let mut next = events.next();
        while next.is_some() || !open.is_empty() {
            tokio::select! {
                room = out.reserve(), if next.is_some() => {
                    if let Some(event) = next.take() {
                        open.push(room.send(event));
                        next = events.next();
                    }
                }
                Some(outcome) = open.next() => self.note(outcome),
                () = shutdown.cancelled(), if next.is_some() => next = None,
            }
        }
        Ok(())
    }
}

/// What a [`MemorySink`] has received.
pub type Received = Arc<Mutex<Vec<Event>>>;

/// Decides about each event before a [`MemorySink`] takes it.
type Judge = Box<dyn Fn(&Event) -> Result<(), SendError> + Send + Sync>;

/// A sink that keeps what it is sent.
pub struct MemorySink {
    received: Received,
    judge: Judge,
}

impl MemorySink {
    /// A sink that takes everything, and the place where it gathers.
    pub fn new() -> (Self, Received) {
        Self::judging(|_| Ok(()))
    }

    /// A sink that takes what `judge` lets pass.
    pub fn judging(
        judge: impl Fn(&Event) -> Result<(), SendError> + Send + Sync + 'static,
    ) -> (Self, Received) {
        let received = Received::default();
        (Self { received: Arc::clone(&received), judge: Box::new(judge) }, received)
    }
}

impl std::fmt::Debug for MemorySink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemorySink")
    }
}

#[async_trait]
impl Sink for MemorySink {
    async fn send(&self, event: Event) -> Result<(), SendError> {
        (self.judge)(&event)?;
        self.received.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        Ok(())
    }
}
