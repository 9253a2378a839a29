//! Who answers for an event: every delivery carries an acker, every acker gives exactly one verdict,
//! and an acker that is dropped without one says `Failed`. So losing an event anywhere, by a panic, a
//! cancelled task or a forgotten branch, reads as a failure upstream and never as a success.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};

use crate::event::Event;
use crate::metrics::PipelineMetrics;

/// What became of an event. Ordered from best to worst; of several sinks the worst counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// A transform said no, on purpose; or a newer event of the same labels took its place.
    Filtered,
    /// The far side of every sink has confirmed it.
    Delivered,
    /// The data is bad, and a second try cannot help: dead-letter it, with the reason.
    Rejected(Arc<str>),
    /// It did not land, for the reason given; a later try may.
    Failed(Arc<str>),
}

impl Outcome {
    /// A [`Outcome::Rejected`] with its reason.
    pub fn rejected(reason: impl fmt::Display) -> Self {
        Self::Rejected(reason.to_string().into())
    }

    /// A [`Outcome::Failed`] with its reason.
    pub fn failed(reason: impl fmt::Display) -> Self {
        Self::Failed(reason.to_string().into())
    }

    /// One word, as in the `outcome` label of the metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Filtered => "filtered",
            Self::Delivered => "delivered",
            Self::Rejected(_) => "rejected",
            Self::Failed(_) => "failed",
        }
    }
}

/// An event together with the one who must answer for it. Not `Clone`: one event, one answer.
#[must_use = "a dropped delivery is answered as failed"]
#[derive(Debug)]
pub struct Delivery {
    /// What is delivered.
    pub event: Event,
    /// The answer that is owed.
    pub acker: Acker,
}

impl Delivery {
    /// A delivery, and the receipt on which its outcome will be read.
    pub fn new(event: Event) -> (Self, Receipt) {
        let (sender, receiver) = oneshot::channel();
        let acker = Acker(Some(Verdict::Sole(sender, None)));
        (Self { event, acker }, Receipt(receiver))
    }
}

/// The duty to answer. Moved, never copied; dropping it answers `Failed`.
#[must_use = "a dropped acker answers failed"]
pub struct Acker(Option<Verdict>);

enum Verdict {
    /// The second is the room that the event takes in its pipeline; answering gives it back.
    Sole(oneshot::Sender<Outcome>, Option<Held>),
    Shared(Arc<Joint>),
}

impl Acker {
    /// Gives the verdict.
    pub fn finish(mut self, outcome: Outcome) {
        self.answer(outcome);
    }

    /// Divides the duty among `parts` ackers: the receipt is answered when all have, with the worst
    /// of their outcomes. Zero parts answer `Failed`.
    pub fn split(mut self, parts: usize) -> Vec<Acker> {
        if parts == 1 {
            return vec![self];
        }
        let Some(verdict) = self.0.take() else {
            return Vec::new();
        };
        let worst = Mutex::new((parts == 0).then(|| Outcome::failed("there was no sink")));
        let joint = Arc::new(Joint { upstream: Some(verdict), worst });
        (0..parts).map(|_| Acker(Some(Verdict::Shared(Arc::clone(&joint))))).collect()
    }

    /// Keeps `room` taken until the answer is given.
    pub(crate) fn hold(&mut self, room: Held) {
        if let Some(Verdict::Sole(_, held)) = &mut self.0 {
            *held = Some(room);
        }
    }

    fn answer(&mut self, outcome: Outcome) {
        match self.0.take() {
            // A receipt that nobody waits for any more has no use for the outcome.
            Some(Verdict::Sole(sender, held)) => {
                drop(held);
                drop(sender.send(outcome));
            }
            Some(Verdict::Shared(joint)) => joint.merge(outcome),
            None => {}
        }
    }
}

impl Drop for Acker {
    fn drop(&mut self) {
        if self.0.is_some() {
            self.answer(Outcome::failed("dropped without an answer"));
        }
    }
}

impl fmt::Debug for Acker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acker")
    }
}

/// The bytes of all bodies that a pipeline holds.
pub(crate) struct Weight {
    held: AtomicU64,
    limit: u64,
    lighter: Notify,
}

impl Weight {
    pub(crate) fn new(limit: u64) -> Self {
        Self { held: AtomicU64::new(0), limit: limit.max(1), lighter: Notify::new() }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.held.load(Ordering::Acquire) < self.limit
    }

    /// Waits until there is room.
    pub(crate) async fn room(&self) {
        loop {
            let lighter = self.lighter.notified();
            if self.has_room() {
                return;
            }
            lighter.await;
        }
    }

    fn add(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::AcqRel);
    }

    fn remove(&self, bytes: u64) {
        let before = self.held.fetch_sub(bytes, Ordering::AcqRel);
        if before >= self.limit {
            self.lighter.notify_waiters();
        }
    }
}

/// The room that an event takes in its pipeline until it is answered.
pub(crate) struct Held {
    metrics: Arc<PipelineMetrics>,
    weight: Arc<Weight>,
    bytes: u64,
    _permit: OwnedSemaphorePermit,
}

impl Held {
    pub(crate) fn new(
        permit: OwnedSemaphorePermit,
        bytes: u64,
        weight: Arc<Weight>,
        metrics: Arc<PipelineMetrics>,
    ) -> Self {
        metrics.held.inc();
        weight.add(bytes);
        Self { metrics, weight, bytes, _permit: permit }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.metrics.held.dec();
        self.weight.remove(self.bytes);
    }
}

/// The duty that several ackers share; the last one to let go passes the worst outcome on.
struct Joint {
    upstream: Option<Verdict>,
    worst: Mutex<Option<Outcome>>,
}

impl Joint {
    fn merge(&self, outcome: Outcome) {
        let mut worst = self.worst.lock().unwrap_or_else(PoisonError::into_inner);
        if worst.as_ref().is_none_or(|known| *known < outcome) {
            *worst = Some(outcome);
        }
    }
}

impl Drop for Joint {
    fn drop(&mut self) {
        let worst = self.worst.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let mut upstream = Acker(self.upstream.take());
        if let Some(outcome) = worst {
            upstream.answer(outcome);
        }
    }
}

/// The future of an outcome. Dropping it does not cancel the delivery.
#[must_use = "the outcome of an event is known only from its receipt"]
#[derive(Debug)]
pub struct Receipt(oneshot::Receiver<Outcome>);

impl Future for Receipt {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|answer| answer.unwrap_or_else(|_| Outcome::failed("dropped without an answer")))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn delivery() -> (Delivery, Receipt) {
        Delivery::new(Event::new(SystemTime::UNIX_EPOCH, "x"))
    }

    #[tokio::test]
    async fn a_dropped_delivery_has_failed() {
        let (delivery, receipt) = delivery();
        drop(delivery);
        assert_eq!(receipt.await.as_str(), "failed");
    }

    #[tokio::test]
    async fn shared_ackers_answer_once_with_the_worst() {
        let (delivery, mut receipt) = delivery();
        let mut parts = delivery.acker.split(3);
        parts.remove(0).finish(Outcome::Delivered);
        parts.remove(0).finish(Outcome::rejected("bad"));
        tokio_test_pending(&mut receipt).await;
        parts.remove(0).finish(Outcome::Filtered);
        assert_eq!(receipt.await, Outcome::rejected("bad"));
    }

    #[tokio::test]
    async fn one_dropped_part_fails_the_whole() {
        let (delivery, receipt) = delivery();
        let mut parts = delivery.acker.split(2);
        parts.remove(0).finish(Outcome::Delivered);
        drop(parts);
        assert_eq!(receipt.await.as_str(), "failed");
    }

    #[tokio::test]
    async fn no_parts_at_all_fail() {
        let (delivery, receipt) = delivery();
        assert!(delivery.acker.split(0).is_empty());
        assert_eq!(receipt.await, Outcome::failed("there was no sink"));
    }

    async fn tokio_test_pending(receipt: &mut Receipt) {
        let pending = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *receipt).poll(cx).is_pending()));
        assert!(pending.await, "answered before every part had");
    }
}
