//! A reader of one consumer: reads until something is lost, and takes up again where it was.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_nats::jetstream::Context;
use prometheus_streams_core::emitter::Emitter;
use prometheus_streams_core::error::BoxError;
use prometheus_streams_core::health::Health;
use prometheus_streams_core::stage::Clock;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answers::Answers;
use super::consumer::{ConsumerError, Durable};
use super::counts::Counts;
use super::hands::Hands;
use super::order::Order;
use super::parts::Parts;
use super::past::Past;
use super::pull::End;
use super::request::EXPIRES;
use crate::support::envelope::Limits;
use crate::support::nats::Connection;
use crate::support::nats::api::ConsumerInfo;

/// How long to wait before looking again for a stream or a consumer that could not be had.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long the last acknowledgements may take to leave on shutdown.
const FLUSH: Duration = Duration::from_secs(2);

/// A request for messages that is older than this is not of a program that has died.
const DEAD_REQUEST: Duration = EXPIRES.saturating_add(Duration::from_secs(3));

/// What the readers of a source have in common.
pub(super) struct Common {
    pub(super) connection: Arc<Connection>,
    pub(super) limits: Limits,
    /// The parts of split events that wait for the others.
    pub(super) parts: Mutex<Parts>,
    pub(super) answers: Answers,
    pub(super) hands: Arc<Hands>,
    pub(super) health: Health,
    pub(super) counts: Arc<Counts>,
    pub(super) clock: Arc<dyn Clock>,
    /// True while a backfill has messages that it has not read.
    pub(super) past_is_unread: AtomicBool,
}

/// A reader of one consumer.
pub(super) struct Reader {
    pub(super) common: Arc<Common>,
    pub(super) durable: Durable,
    /// Nothing where the order does not matter.
    pub(super) order: Option<Order>,
    /// What it does with the past.
    pub(super) past: Past,
    /// One task for every open receipt.
    pub(super) tasks: TaskTracker,
    /// True once there was something to read from.
    has_read: bool,
    /// False while the order cannot be kept.
    pub(super) keeps_order: bool,
    /// True where messages were left that had come.
    pub(super) left_some: bool,
}

/// Why a reader has left off.
pub(super) enum Left {
    /// The program ends.
    Shutdown,
    /// What comes is of the past.
    Behind,
    /// It has come to its end.
    Finished,
}

impl Reader {
    pub(super) fn new(common: Arc<Common>, durable: Durable) -> Self {
        Self {
            common,
            durable,
            order: None,
            past: Past::Delivered,
            tasks: TaskTracker::new(),
            has_read: false,
            keeps_order: true,
            left_some: false,
        }
    }

    /// Keeps events of equal labels in their order from now on.
    pub(super) fn keep_order(&mut self) {
        self.order = Some(Order::new());
    }

    /// Reads until there is a reason to leave off, which a lost connection is not.
    pub(super) async fn run(
        &mut self,
        out: &Emitter,
        shutdown: &CancellationToken,
    ) -> Result<Left, BoxError> {
        let common = Arc::clone(&self.common);
        let mut link = common.connection.link();
        while !shutdown.is_cancelled() {
            link.mark_unchanged();
            match self.read(out, shutdown).await {
                Ok(End::Shutdown) => break,
                Ok(End::Behind) => return Ok(Left::Behind),
                Ok(End::Finished) => return Ok(Left::Finished),
                Ok(End::Again) => continue,
                Ok(End::Disconnected) => common.health.degraded(common.connection.lost()),
                Ok(End::Lost(reason)) => common.health.degraded(reason),
                Err(error) if is_gone(&error) => {
                    tracing::warn!(%error, "what was left to do in it is gone with the old one");
                    return Ok(Left::Finished);
                }
                Err(error) => common.health.degraded(error),
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                _ = link.changed() => {}
                () = sleep(LOOK_AGAIN) => {}
            }
        }
        Ok(Left::Shutdown)
    }

    /// Waits for the answers that are still owed, and sees them off.
    pub(super) async fn finish(self) -> Result<(), BoxError> {
        self.common.parts.lock().await.give_back().await;
        self.tasks.close();
        self.tasks.wait().await;
        // What could not be sent is delivered again; there is nothing else to do about it.
        let _ = timeout(FLUSH, self.common.connection.open().await?.client().flush()).await;
        Ok(())
    }

    /// Finds the consumer as it has to be to read on.
    pub(super) async fn prepare(
        &mut self,
        context: &Context,
        shutdown: &CancellationToken,
    ) -> Result<ConsumerInfo, BoxError> {
        let info = self.durable.ensure(context).await?;
        if std::mem::replace(&mut self.has_read, true) {
            // Whatever ended the last reading may have been a message.
            self.remove_poison(context).await?;
        }
        let left_some = std::mem::take(&mut self.left_some);
        let owed = info.num_ack_pending > 0 && (left_some || self.durable.progress.has_gap());
        if self.order.is_some() && owed {
            self.keeps_order = self.rewind(context, shutdown).await;
        }
        Ok(info)
    }

    /// Goes back to where all is acknowledged, because what is not would come again behind what is newer. False
    /// where that cannot be done.
    async fn rewind(&mut self, context: &Context, shutdown: &CancellationToken) -> bool {
        let (stream, consumer) = (self.durable.stream.clone(), self.durable.name.clone());
        let Some(info) = self.alone(context, shutdown).await else {
            tracing::warn!(
                stream,
                consumer,
                "another program reads with this consumer, so the order of events cannot be kept; use another `durable`"
            );
            return false;
        };
        let start = info.first_unanswered();
        match self.durable.restart(context, start).await {
            Ok(()) => {
                tracing::info!(
                    stream,
                    consumer,
                    start,
                    "reading again from the first message that is not acknowledged"
                );
                true
            }
            Err(error) => {
                let complaint = self.common.connection.complaint();
                tracing::warn!(
                    stream, consumer, %error, complaint,
                    "what was not acknowledged may come behind newer events, as the consumer cannot be made anew"
                );
                false
            }
        }
    }

    /// What the consumer says of itself, once nobody else asks it for messages; nothing if somebody goes on to.
    async fn alone(&self, context: &Context, shutdown: &CancellationToken) -> Option<ConsumerInfo> {
        let patience = Instant::now() + DEAD_REQUEST;
        loop {
            let info = self.durable.info(context).await.ok()?;
            if info.num_waiting == 0 {
                return Some(info);
            }
            if Instant::now() >= patience || shutdown.is_cancelled() {
                return None;
            }
            self.common.health.degraded("another program still asks for messages of this consumer");
            let _ = timeout(LOOK_AGAIN, shutdown.cancelled()).await;
        }
    }
}

/// True where the stream is gone to which the work belongs.
fn is_gone(error: &BoxError) -> bool {
    matches!(error.downcast_ref(), Some(ConsumerError::OtherStream(_)))
}
