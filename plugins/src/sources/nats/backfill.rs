//! Fresh first: what has lain in the stream for too long is left to a consumer of its own, which delivers it beside
//! what is new.
//!
//! The consumer of the past is there before the other one is moved behind it, and is deleted when all it had is answered;
//! so wherever the program is killed, some consumer has what was not delivered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::{Context, ErrorCode};
use prometheus_streams_core::emitter::Emitter;
use prometheus_streams_core::error::BoxError;
use serde_json::json;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::past::{Backfill, Past};
use super::reader::{Common, LOOK_AGAIN, Left, Reader};
use super::stretches::Stretches;
use crate::support::nats::api::{self, ApiError, ConsumerInfo};

/// How soon the past may be divided from the new once more.
const APART: Duration = Duration::from_secs(10);

/// How soon it is tried again where it could not be done.
const TRY_AGAIN: Duration = Duration::from_secs(300);

/// How often it is tried to delete a consumer that has nothing left to do.
const TRIES: usize = 3;

/// The source while it sends what is new first.
pub(super) struct FreshFirst<'a> {
    after: Duration,
    rate: u32,
    out: &'a Emitter,
    shutdown: &'a CancellationToken,
    /// Held while the past is divided from the new, and while a backfill ends.
    turn: Arc<Mutex<()>>,
    running: Option<Running>,
    /// True when it was said that the past cannot be left to a backfill.
    told: bool,
}

/// A backfill that runs.
struct Running {
    stretches: watch::Sender<Stretches>,
    is_over: Arc<AtomicBool>,
    task: AbortOnDropHandle<Result<(), BoxError>>,
}

impl<'a> FreshFirst<'a> {
    pub(super) fn new(after: Duration, rate: u32, out: &'a Emitter, shutdown: &'a CancellationToken) -> Self {
        Self { after, rate, out, shutdown, turn: Arc::default(), running: None, told: false }
    }

    pub(super) async fn run(mut self, mut live: Reader) -> Result<(), BoxError> {
        live.past = Past::left(self.after);
        while let Some(context) = live.connected(self.shutdown).await {
            match self.resume(&mut live, &context).await {
                Ok(()) => break,
                Err(error) => live.wait_after(error, self.shutdown).await,
            }
        }
        loop {
            match live.run(self.out, self.shutdown).await? {
                Left::Shutdown | Left::Finished => break,
                Left::Behind => self.divide(&mut live).await,
            }
        }
        let ended = live.finish().await;
        match self.running {
            Some(running) => running.task.await?.and(ended),
            None => ended,
        }
    }

    /// Takes up what an earlier life of the program has left.
    async fn resume(&mut self, live: &mut Reader, context: &Context) -> Result<(), BoxError> {
        let (stream, name) = (live.durable.stream.clone(), backfill_name(live));
        let info = match find(live, context).await {
            Ok(Some(info)) => info,
            Ok(None) => return Ok(()),
            // Who may not ask has made none.
            Err(ApiError::Silent) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let Some(stretches) = Stretches::parse(&info.config.description) else {
            return Err(format!("consumer {name} of stream {stream} is not a backfill of ours; delete it, or use another `durable`").into());
        };
        let behind = stretches.end() + 1;
        live.durable.not_before = Some(behind);
        match live.durable.info(context).await {
            Ok(info) if info.config.opt_start_seq < behind => live.durable.restart(context, behind).await?,
            Ok(_) => {}
            Err(error) if error.is(ErrorCode::CONSUMER_NOT_FOUND) => {}
            Err(error) => return Err(error.into()),
        }
        let messages = stretches.behind(info.ack_floor.stream_seq);
        tracing::info!(stream, consumer = name, messages, rate = self.rate, "going on with the backfill");
        self.start(live, context, stretches).await
    }

    /// Leaves what is in the stream by now to a backfill.
    async fn divide(&mut self, live: &mut Reader) {
        let (turn, common) = (Arc::clone(&self.turn), Arc::clone(&live.common));
        let _turn = turn.lock().await;
        let divided = match common.connection.jetstream().await {
            Ok(context) => self.try_to_divide(live, &context).await,
            Err(error) => Err(error.into()),
        };
        let Err(error) = divided else {
            self.told = false;
            live.past.rest(APART);
            return;
        };
        live.past.rest(TRY_AGAIN);
        let (stream, complaint) = (&live.durable.stream, common.connection.complaint());
        if std::mem::replace(&mut self.told, true) {
            tracing::debug!(stream, %error, "what is old still cannot be left to a backfill");
        } else {
            tracing::warn!(stream, %error, complaint, "cannot leave what is old to a backfill; sending the oldest first");
        }
    }

    async fn try_to_divide(&mut self, live: &mut Reader, context: &Context) -> Result<(), BoxError> {
        let (stream, name) = (live.durable.stream.clone(), backfill_name(live));
        let info = live.durable.info(context).await?;
        let state = api::stream_info(context, &stream).await?.state;
        let (first, last) = (info.first_unanswered(), state.last_seq);
        let messages = info.num_pending + info.num_ack_pending;
        let rate = self.rate;
        match self.running.as_ref().filter(|running| !running.is_over.load(Ordering::Acquire)) {
            Some(running) => {
                let mut stretches = running.stretches.borrow().clone();
                stretches.add(first, last);
                let mut config = api::consumer_config(context, &stream, &name).await?;
                config["description"] = json!(stretches.to_string());
                api::create_consumer(context, &stream, &name, &config).await?;
                running.stretches.send_replace(stretches);
                tracing::info!(stream, consumer = name, messages, rate, "backfilling more");
            }
            None => {
                let mut stretches = Stretches::default();
                stretches.add(first, last);
                let description = stretches.to_string();
                live.durable.copy(context, &name, first, &description).await?;
                tracing::info!(stream, consumer = name, messages, rate, "backfilling");
                self.start(live, context, stretches).await?;
            }
        }
        live.durable.restart(context, last + 1).await?;
        live.left_some = false;
        Ok(())
    }

    /// Starts the reader of the backfill, whose consumer is there.
    async fn start(
        &mut self,
        live: &Reader,
        context: &Context,
        stretches: Stretches,
    ) -> Result<(), BoxError> {
        let mut durable = live.durable.beside(backfill_name(live));
        durable.belongs_to(&api::stream_info(context, &live.durable.stream).await?);
        let mut reader = Reader::new(Arc::clone(&live.common), durable);
        reader.keep_order();
        let (stretches, watched) = watch::channel(stretches);
        reader.past = Past::Backfilled(Backfill::new(watched, self.rate));
        let is_over = Arc::<AtomicBool>::default();
        live.common.past_is_unread.store(true, Ordering::Release);
        let work = work(
            reader,
            self.out.clone(),
            self.shutdown.clone(),
            Arc::clone(&self.turn),
            Arc::clone(&is_over),
        );
        let task = AbortOnDropHandle::new(tokio::spawn(work));
        self.running = Some(Running { stretches, is_over, task });
        Ok(())
    }
}

/// Delivers the past, and deletes its consumer in the end.
async fn work(
    mut reader: Reader,
    out: Emitter,
    shutdown: CancellationToken,
    turn: Arc<Mutex<()>>,
    is_over: Arc<AtomicBool>,
) -> Result<(), BoxError> {
    loop {
        match reader.run(&out, &shutdown).await? {
            Left::Shutdown => return reader.finish().await,
            Left::Behind => {}
            Left::Finished => {
                let _turn = turn.lock().await;
                if reader.past.has_more() {
                    continue;
                }
                let (stream, consumer) = (&reader.durable.stream, &reader.durable.name);
                remove(&reader.common, stream, consumer).await;
                reader.common.past_is_unread.store(false, Ordering::Release);
                reader.common.counts.lag(stream, consumer, 0);
                tracing::info!(stream, consumer, "the backfill is done");
                is_over.store(true, Ordering::Release);
                return Ok(());
            }
        }
    }
}

/// Deletes the consumer of a backfill that is done. One that stays is found at the next start, and has nothing to do.
async fn remove(common: &Common, stream: &str, consumer: &str) {
    for _ in 0..TRIES {
        if let Ok(context) = common.connection.jetstream().await {
            match api::delete_consumer(&context, stream, consumer).await {
                Err(error) if !error.is(ErrorCode::CONSUMER_NOT_FOUND) => {
                    tracing::debug!(stream, consumer, %error, "cannot delete the consumer of a backfill");
                }
                _ => return,
            }
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Gives what a backfill has left, under another order, back to the one consumer.
pub(super) async fn take_back(reader: &mut Reader, shutdown: &CancellationToken) {
    while let Some(context) = reader.connected(shutdown).await {
        match try_to_take_back(reader, &context).await {
            Ok(()) => return,
            Err(error) => reader.wait_after(error, shutdown).await,
        }
    }
}

async fn try_to_take_back(reader: &mut Reader, context: &Context) -> Result<(), BoxError> {
    let info = match find(reader, context).await {
        Ok(Some(info)) => info,
        Ok(None) => return Ok(()),
        // Who may not ask has made none.
        Err(ApiError::Silent) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let (stream, name, start) =
        (reader.durable.stream.clone(), backfill_name(reader), info.first_unanswered());
    if Stretches::parse(&info.config.description).is_none() {
        return Ok(());
    }
    tracing::info!(stream, consumer = name, start, "what a backfill has left is read in its order");
    match reader.durable.info(context).await {
        Ok(info) if info.first_unanswered() > start => reader.durable.restart(context, start).await?,
        Ok(_) => {}
        Err(error) if error.is(ErrorCode::CONSUMER_NOT_FOUND) => {
            reader.durable.not_before = Some(start);
            reader.durable.ensure(context).await?;
        }
        Err(error) => return Err(error.into()),
    }
    api::delete_consumer(context, &stream, &name).await?;
    Ok(())
}

/// The consumer of the backfill, if there is one.
async fn find(reader: &Reader, context: &Context) -> Result<Option<ConsumerInfo>, ApiError> {
    let durable = reader.durable.beside(backfill_name(reader));
    match durable.find(context).await {
        Err(error) if error.is(ErrorCode::CONSUMER_NOT_FOUND) || error.is(ErrorCode::STREAM_NOT_FOUND) => {
            Ok(None)
        }
        found => found.map(Some),
    }
}

fn backfill_name(reader: &Reader) -> String {
    format!("{}-backfill", reader.durable.name)
}

impl Reader {
    /// JetStream, as soon as there is a connection; nothing on shutdown.
    async fn connected(&self, shutdown: &CancellationToken) -> Option<Context> {
        while !shutdown.is_cancelled() {
            match self.common.connection.jetstream().await {
                Ok(context) => return Some(context),
                Err(error) => self.wait_after(error.into(), shutdown).await,
            }
        }
        None
    }

    async fn wait_after(&self, error: BoxError, shutdown: &CancellationToken) {
        self.common.health.degraded(error);
        // Time or the end, both are fine.
        let _ = timeout(LOOK_AGAIN, shutdown.cancelled()).await;
    }
}
