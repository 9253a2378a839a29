//! How a source hands its events over, and the whole of backpressure: a pipeline holds at most so many
//! events, and so many bytes of their bodies, that are not yet answered ([`Capacity`]), and an [`Emitter`]
//! waits for room, or says that there is none. A paused pipeline gives no room at all, so its source stops
//! asking for more.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::delivery::{Delivery, Held, Receipt, Weight};
use crate::event::Event;
use crate::metrics::PipelineMetrics;

/// What a pipeline may hold that is not yet answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Events.
    pub events: usize,
    /// Bytes of their bodies. Once they are reached there is no room until some are answered; room that
    /// was given before may still be used, since nobody knows how large an event will be.
    pub bytes: u64,
}

/// In which order the sinks of a pipeline want what has piled up while they, or what lies before them, were
/// away. A source that keeps a backlog asks [`Emitter::backlog`] and keeps to it; one that has none, as one that
/// scrapes, need not ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backlog {
    /// As it comes: an event that failed may come again behind later ones of its labels. For sinks that
    /// hold only the newest.
    #[default]
    Any,
    /// Oldest first, and never an event behind a later one of its labels, not after a restart either. For sinks
    /// that keep a history to which nothing can be added later.
    Strict,
    /// What is new comes at once; what is older than `after` comes beside it, oldest first, at most `rate`
    /// events a second. For sinks that keep a history into which the past can be written later.
    FreshFirst {
        /// The age at which an event is of the past.
        after: Duration,
        /// The most events of the past in a second.
        rate: u32,
    },
}

impl Backlog {
    /// The order that suits both: the stricter of the two. Of two rates the slower, of two ages the larger.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Any, wish) | (wish, Self::Any) => wish,
            (Self::Strict, _) | (_, Self::Strict) => Self::Strict,
            (Self::FreshFirst { after, rate }, Self::FreshFirst { after: older, rate: slower }) => {
                Self::FreshFirst { after: after.max(older), rate: rate.min(slower) }
            }
        }
    }
}

/// The entrance of a pipeline. Clones share its room.
#[derive(Clone)]
pub struct Emitter {
    capacity: Capacity,
    backlog: Backlog,
    room: Arc<Semaphore>,
    weight: Arc<Weight>,
    paused: watch::Receiver<bool>,
    ended: CancellationToken,
    queue: mpsc::UnboundedSender<Delivery>,
    metrics: Arc<PipelineMetrics>,
}

/// Why there is no room now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// The pipeline holds as many events, or bytes, as it may.
    #[error("the pipeline is full")]
    Full,
    /// The pipeline is paused.
    #[error("the pipeline is paused")]
    Paused,
}

impl Emitter {
    /// The entrance and the queue behind it. The queue needs no bound of its own: an event keeps its
    /// room until it is answered.
    pub(crate) fn new(
        capacity: Capacity,
        backlog: Backlog,
        paused: watch::Receiver<bool>,
        ended: CancellationToken,
        metrics: Arc<PipelineMetrics>,
    ) -> (Self, mpsc::UnboundedReceiver<Delivery>) {
        let (queue, deliveries) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(capacity.events.clamp(1, Semaphore::MAX_PERMITS)));
        let weight = Arc::new(Weight::new(capacity.bytes));
        (Self { capacity, backlog, room, weight, paused, ended, queue, metrics }, deliveries)
    }

    /// What the pipeline may hold. For sources that must not let one part of their work take the room of another.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// The order in which the sinks want what has piled up.
    pub fn backlog(&self) -> Backlog {
        self.backlog
    }

    /// Waits for room, sends, and returns the receipt of the outcome. Once the pipeline has ended,
    /// the outcome is `Failed`.
    ///
    /// Cancelling the wait loses the event, so whoever may be cancelled should [`Emitter::reserve`] first.
    pub async fn send(&self, event: Event) -> Receipt {
        self.reserve().await.send(event)
    }

    /// Waits until the pipeline is not paused and has room for one event; or until it has ended, and
    /// then the event will be answered `Failed`.
    ///
    /// Cancelling the wait loses nothing but the place in the queue. Room in hand may still be used when
    /// the pipeline is paused.
    pub async fn reserve(&self) -> Room {
        tokio::select! {
            biased;
            permit = self.permit() => self.room_with(permit),
            () = self.ended.cancelled() => self.room_with(None),
        }
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let mut paused = self.paused.clone();
        loop {
            // An error means that nobody is left to pause or resume.
            let _ = paused.wait_for(|paused| !paused).await;
            self.weight.room().await;
            let permit = Arc::clone(&self.room).acquire_owned().await.ok();
            if !self.weight.has_room() {
                continue;
            }
            if !*paused.borrow() || paused.has_changed().is_err() {
                return permit;
            }
        }
    }

    /// Room for one event, if there is some now. For sources that would rather skip than wait.
    ///
    /// # Errors
    /// The pipeline is full, or paused.
    pub fn try_reserve(&self) -> Result<Room, NoRoom> {
        if *self.paused.borrow() {
            return Err(NoRoom::Paused);
        }
        if !self.weight.has_room() {
            return Err(NoRoom::Full);
        }
        let permit = Arc::clone(&self.room).try_acquire_owned().map_err(|_| NoRoom::Full)?;
        Ok(self.room_with(Some(permit)))
    }

    /// True while the pipeline is paused.
    pub fn is_paused(&self) -> bool {
        *self.paused.borrow()
    }

    /// Waits until the pipeline is paused. For sources that have asked upstream for events before they
    /// come, and should take that back.
    pub async fn paused(&self) {
        let mut paused = self.paused.clone();
        if paused.wait_for(|paused| *paused).await.is_err() {
            // The pipeline has ended; it will never be paused again.
            std::future::pending::<()>().await;
        }
    }

    fn room_with(&self, permit: Option<OwnedSemaphorePermit>) -> Room {
        let (weight, metrics) = (Arc::clone(&self.weight), Arc::clone(&self.metrics));
        Room { permit, weight, queue: self.queue.clone(), metrics }
    }
}

/// Room for one event. Dropping it gives it back.
#[must_use = "room that is not used keeps others waiting"]
pub struct Room {
    /// Nothing once the pipeline has ended.
    permit: Option<OwnedSemaphorePermit>,
    weight: Arc<Weight>,
    queue: mpsc::UnboundedSender<Delivery>,
    metrics: Arc<PipelineMetrics>,
}

impl Room {
    /// Sends the event that this room was for.
    pub fn send(self, event: Event) -> Receipt {
        self.metrics.events.inc();
        let bytes = event.body.len() as u64;
        let (mut delivery, receipt) = Delivery::new(event);
        if let Some(permit) = self.permit {
            delivery.acker.hold(Held::new(permit, bytes, self.weight, self.metrics));
        }
        // A closed queue drops the delivery, which answers `Failed`.
        let _ = self.queue.send(delivery);
        receipt
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use futures_util::FutureExt;
    use prometheus::Registry;

    use super::*;
    use crate::delivery::Outcome;
    use crate::metrics::Metrics;

    #[test]
    fn of_two_wishes_for_a_backlog_the_stricter_counts() {
        let fresh = |secs, rate| Backlog::FreshFirst { after: Duration::from_secs(secs), rate };
        assert_eq!(Backlog::Any.and(fresh(1, 2)), fresh(1, 2));
        assert_eq!(fresh(1, 2).and(Backlog::Strict), Backlog::Strict);
        assert_eq!(fresh(1, 2).and(fresh(3, 4)), fresh(3, 2));
    }

    #[tokio::test]
    async fn heavy_events_take_the_room_of_many() {
        let (_pause, paused) = watch::channel(false);
        let metrics = Arc::new(PipelineMetrics::new(&Metrics::new(Registry::new()), "test"));
        let capacity = Capacity { events: 10, bytes: 10 };
        let (emitter, mut queue) =
            Emitter::new(capacity, Backlog::Any, paused, CancellationToken::new(), metrics);
        let event = |bytes| Event::new(SystemTime::UNIX_EPOCH, vec![0; bytes]);

        let (first, second) = (emitter.try_reserve().unwrap(), emitter.try_reserve().unwrap());
        let _receipts = (first.send(event(9)), emitter.send(event(0)).await);
        assert!(emitter.try_reserve().is_ok(), "one byte is left");
        let _receipt = second.send(event(20));
        assert_eq!(emitter.try_reserve().err(), Some(NoRoom::Full));
        let mut waiting = Box::pin(emitter.reserve());
        assert!((&mut waiting).now_or_never().is_none());

        queue.recv().await.unwrap().acker.finish(Outcome::Delivered);
        assert!((&mut waiting).now_or_never().is_none(), "20 of 10 bytes are taken");
        let _nothing = queue.recv().await.unwrap();
        queue.recv().await.unwrap().acker.finish(Outcome::Delivered);
        let _room = waiting.await;
        assert!(emitter.try_reserve().is_ok());
    }
}
