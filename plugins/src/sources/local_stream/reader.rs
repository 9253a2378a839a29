//! One run of the source: one half sends events as the pipeline has room, the other takes the answers.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use prometheus_streams_core::delivery::{Outcome, Receipt};
use prometheus_streams_core::emitter::Emitter;
use prometheus_streams_core::error::BoxError;
use prometheus_streams_core::event::{Event, Labels};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::LocalStreamSource;
use crate::support::envelope;
use crate::support::local_stream::lanes::Lanes;
use crate::support::local_stream::{StoreError, Subscription, Usage};

/// Records that may wait for others of equal labels. With so many, nothing new is read.
const MOST_WAITING: usize = 10_000;

/// A source that has its stream.
pub(super) struct Reader {
    source: LocalStreamSource,
    subscription: Subscription,
    lanes: Mutex<Lanes>,
    /// Something was answered, so something else may be due.
    answered: Notify,
    /// The cursor has moved since it was last written.
    unsaved: Notify,
}

/// Records that were read and not looked at yet.
struct Unread {
    records: VecDeque<(u64, Bytes)>,
    /// Where to read on.
    next: u64,
    /// True when we have said that records were lost, until we have caught up.
    told: bool,
}

/// An event in the pipeline.
struct Sent {
    labels: Labels,
    sequence: u64,
    receipt: Receipt,
}

impl Sent {
    async fn outcome(self) -> (Labels, u64, Outcome) {
        (self.labels, self.sequence, self.receipt.await)
    }
}

impl Reader {
    /// `one_by_one` where an event must not be on its way behind one of its labels that may fail.
    pub(super) fn new(source: LocalStreamSource, subscription: Subscription, one_by_one: bool) -> Self {
        let lanes = Lanes::new(source.redelivery_delay);
        let lanes = Mutex::new(if one_by_one { lanes.one_by_one() } else { lanes });
        Self { source, subscription, lanes, answered: Notify::new(), unsaved: Notify::new() }
    }

    /// Delivers until `shutdown`, then waits for the answers that are owed.
    pub(super) async fn run(
        self,
        usage: watch::Receiver<Usage>,
        out: Emitter,
        shutdown: CancellationToken,
    ) -> Result<(), BoxError> {
        // Its bound is the room of the pipeline.
        let (sender, sent) = mpsc::unbounded_channel();
        let delivering = shutdown.run_until_cancelled(self.deliver(usage.clone(), out, sender));
        let answering = async {
            tokio::select! {
                () = self.answer(sent) => {}
                () = self.keep_saving(usage.clone()) => {}
            }
        };
        let (delivered, ()) = tokio::join!(delivering, answering);
        if let Err(error) = self.subscription.save().await {
            tracing::warn!(%error, "what was answered last will be sent again after the next start");
        }
        Ok(delivered.unwrap_or(Ok(()))?)
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what is due, and what is new, as the pipeline has room.
    async fn deliver(
        &self,
        mut usage: watch::Receiver<Usage>,
        out: Emitter,
        sent: mpsc::UnboundedSender<Sent>,
    ) -> Result<(), StoreError> {
        let mut unread = Unread { records: VecDeque::new(), next: self.subscription.floor(), told: false };
        loop {
            self.wait_for_work(&mut unread, &mut usage).await?;
            let room = out.reserve().await;
            if let Some((sequence, event)) = self.take(&mut unread).await? {
                let labels = event.labels.clone();
                let _ = sent.send(Sent { labels, sequence, receipt: room.send(event) });
            }
        }
    }

    /// Waits until there is something to send, as far as can be told without looking into it.
    async fn wait_for_work(
        &self,
        unread: &mut Unread,
        usage: &mut watch::Receiver<Usage>,
    ) -> Result<(), StoreError> {
        loop {
            let (due, waiting) = {
                let lanes = self.lanes();
                (lanes.due(), lanes.waiting())
            };
            if due.is_some_and(|due| due <= Instant::now()) {
                return Ok(());
            }
            if waiting < MOST_WAITING {
                // A page in which all is answered is empty, and nothing tells when to read the next.
                while unread.records.is_empty() && unread.next != usage.borrow_and_update().next {
                    self.read(unread).await?;
                }
                if !unread.records.is_empty() {
                    return Ok(());
                }
            }
            let due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = usage.changed() => {}
                () = self.answered.notified() => {}
                () = due => {}
            }
        }
    }

    async fn read(&self, unread: &mut Unread) -> Result<(), StoreError> {
        let page = self.source.patiently(|| self.subscription.page(unread.next)).await?;
        if page.lost > 0 {
            self.source.metrics.lost.inc_by(page.lost);
            if !unread.told {
                tracing::warn!(
                    pipeline = self.source.pipeline,
                    lost = page.lost,
                    "events left the stream before they were read; further ones are only counted"
                );
            }
        }
        unread.told = page.lost > 0 || (unread.told && !page.records.is_empty());
        unread.next = page.next;
        unread.records = page.records.into();
        Ok(())
    }

    /// The next event to send, or nothing if all that there is has to wait.
    async fn take(&self, unread: &mut Unread) -> Result<Option<(u64, Event)>, StoreError> {
        loop {
            let due = self.lanes().next(Instant::now());
            if let Some((labels, sequence)) = due {
                match self.again(sequence).await? {
                    Some(event) => return Ok(Some((sequence, event))),
                    None => self.lanes().done(&labels, Instant::now()),
                }
                continue;
            }
            if self.lanes().waiting() >= MOST_WAITING {
                return Ok(None);
            }
            let Some((sequence, message)) = unread.records.pop_front() else { return Ok(None) };
            if let Some(event) = self.decode(sequence, message).await?
                && self.lanes().admit(&event.labels, sequence)
            {
                return Ok(Some((sequence, event)));
            }
        }
    }

    /// An event that has waited, or nothing if it has left the stream since.
    async fn again(&self, sequence: u64) -> Result<Option<Event>, StoreError> {
        match self.source.patiently(|| self.subscription.fetch(sequence)).await? {
            Some(message) => self.decode(sequence, message).await,
            None => {
                self.source.metrics.lost.inc();
                self.subscription.answer(sequence);
                Ok(None)
            }
        }
    }

    /// The event in a record. A record without one goes to the dead letters.
    async fn decode(&self, sequence: u64, message: Bytes) -> Result<Option<Event>, StoreError> {
        match envelope::decode(message, &envelope::Limits::default()) {
            Ok(event) => Ok(Some(event)),
            Err(error) => {
                let reason = error.to_string();
                self.source.patiently(|| self.subscription.bury(sequence, &reason)).await?;
                self.source.metrics.dead.inc();
                tracing::debug!(sequence, reason, "a record that is no event went to the dead letters");
                Ok(None)
            }
        }
    }

    /// Takes the answers, until all that was sent is answered and nothing more can come.
    async fn answer(&self, mut sent: mpsc::UnboundedReceiver<Sent>) {
        let (mut open, mut more) = (FuturesUnordered::new(), true);
        while more || !open.is_empty() {
            tokio::select! {
                next = sent.recv(), if more => match next {
                    Some(sent) => open.push(sent.outcome()),
                    None => more = false,
                },
                Some((labels, sequence, outcome)) = open.next() => {
                    self.settle(&labels, sequence, outcome).await;
                }
            }
        }
    }

    async fn settle(&self, labels: &Labels, sequence: u64, outcome: Outcome) {
        let settled = match outcome {
            Outcome::Delivered | Outcome::Filtered => {
                self.subscription.answer(sequence);
                true
            }
            Outcome::Rejected(reason) => self.bury(sequence, &reason).await,
            Outcome::Failed(reason) => {
                tracing::debug!(%labels, sequence, %reason, "will be sent again");
                false
            }
        };
        if settled {
            self.lanes().done(labels, Instant::now());
        } else {
            self.source.metrics.redelivered.inc();
            self.lanes().failed(labels, sequence, Instant::now());
        }
        self.unsaved.notify_one();
        self.answered.notify_one();
    }

    /// Moves a rejected record to the dead letters; false if that cannot be done now.
    async fn bury(&self, sequence: u64, reason: &str) -> bool {
        let buried = self.source.standing.told(self.subscription.bury(sequence, reason).await).is_ok();
        self.source.metrics.dead.inc_by(u64::from(buried));
        buried
    }

    /// Writes the cursor whenever it has moved; answers that come meanwhile share the next write.
    async fn keep_saving(&self, mut usage: watch::Receiver<Usage>) {
        loop {
            self.source.metrics.pending.set(self.subscription.pending().cast_signed());
            // A cursor is never refused.
            tokio::select! {
                _ = usage.changed() => {}
                () = self.unsaved.notified() => {
                    let _ = self.source.patiently(|| self.subscription.save()).await;
                }
            }
        }
    }
}
