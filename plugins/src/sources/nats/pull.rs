//! Pulling: asks for as many messages as the pipeline has room for, one request after the other, and
//! turns them into deliveries. The server's idle heartbeats tell a quiet stream from a lost consumer.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::{Client, Message, StatusCode, Subscriber};
use futures_util::StreamExt;
use prometheus_streams_core::delivery::Receipt;
use prometheus_streams_core::emitter::{Emitter, Room};
use prometheus_streams_core::error::BoxError;
use serde_json::json;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::NatsSource;
use super::answers::{Answers, Ticket};
use super::consumer::Progress;
use super::dead_letters::Reason;
use crate::support::envelope::Envelope;
use crate::support::nats::api::{self, ApiError};
use crate::support::nats::{Link, REQUEST_TIMEOUT, is_up};

/// The most messages to ask for at once.
const MOST_MESSAGES: usize = 256;

/// The most bytes to ask for at once, unless one message may be larger.
const MOST_BYTES: usize = 16 << 20;

/// How long a request waits at the server for messages to come.
const EXPIRES: Duration = Duration::from_secs(30);

/// How often the server shows that it remembers the request.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// Silence for that long means that the server has forgotten the request, or the consumer.
const SILENCE: Duration = Duration::from_secs(7);

/// So many signs of life fit into the time that the server waits for one.
const SIGNS: u32 = 3;

/// How often the consumer is compared with its stream.
const LOOK: Duration = Duration::from_secs(10);

/// How long messages may take that are on their way when we stop asking.
const DRAIN: Duration = Duration::from_secs(1);

/// A request that ends sooner than this without a message is not repeated at once.
const SHORTEST_REQUEST: Duration = Duration::from_millis(100);

/// Why reading has ended.
pub(super) enum End {
    /// The program ends.
    Shutdown,
    /// The connection was lost.
    Disconnected,
    /// The consumer or the stream was lost.
    Lost(String),
}

/// Why no more messages are asked for.
enum Stop {
    /// The pipeline was paused.
    Paused,
    Ended(End),
}

/// What reading needs besides the source.
struct Session<'a> {
    context: &'a Context,
    out: &'a Emitter,
    shutdown: &'a CancellationToken,
    /// How often the server is told that a message is being worked on.
    sign_of_life: Duration,
    /// The most messages to ask for at once.
    most: usize,
    signs: Interval,
    looks: Interval,
}

impl NatsSource {
    /// Reads until the end, or until something is lost.
    pub(super) async fn read(
        &mut self,
        out: &Emitter,
        shutdown: &CancellationToken,
    ) -> Result<End, BoxError> {
        let context = &self.connection.jetstream().await?;
        let config = self.durable.ensure(context).await?.config;
        if std::mem::replace(&mut self.has_read, true) {
            // Whatever ended the last reading may have been a message.
            self.remove_poison(context).await?;
        }
        self.health.ready();
        let sign_of_life = Duration::from_nanos(config.ack_wait.max(1_000_000_000)) / SIGNS;
        let most = usize::try_from(config.max_batch).ok().filter(|most| *most > 0);
        let mut session = Session {
            context,
            out,
            shutdown,
            sign_of_life,
            most: most.unwrap_or(MOST_MESSAGES).min(MOST_MESSAGES),
            signs: every(sign_of_life),
            looks: every(LOOK),
        };
        loop {
            let mut request = Request::open(context, &self.durable.stream, &self.durable.name).await?;
            let stop = self.pull(&mut session, &mut request).await;
            request.close(context, &self.durable.progress).await;
            match stop {
                Stop::Ended(end) => return Ok(end),
                Stop::Paused => self.parts.give_back().await,
            }
        }
    }

    /// Asks for messages again and again, until the pipeline is paused or something ends.
    async fn pull(&mut self, session: &mut Session<'_>, request: &mut Request) -> Stop {
        let mut rooms: Vec<Room> = Vec::new();
        loop {
            while rooms.is_empty() {
                tokio::select! {
                    () = session.shutdown.cancelled() => return Stop::Ended(End::Shutdown),
                    room = session.out.reserve() => rooms.push(room),
                    _ = session.signs.tick() => self.tend(session).await,
                    _ = session.looks.tick() => if let Some(reason) = self.look(session).await {
                        return Stop::Ended(End::Lost(reason));
                    },
                }
            }
            while rooms.len() < session.most {
                let Ok(room) = session.out.try_reserve() else { break };
                rooms.push(room);
            }
            if session.out.is_paused() {
                return Stop::Paused;
            }
            if let Err(error) = request.ask(session.context, rooms.len()).await {
                return Stop::Ended(End::Lost(error.to_string()));
            }
            if let Some(stop) = self.receive(session, request, &mut rooms).await {
                return stop;
            }
        }
    }

    /// Takes in the messages of one request.
    async fn receive(
        &mut self,
        session: &mut Session<'_>,
        request: &mut Request,
        rooms: &mut Vec<Room>,
    ) -> Option<Stop> {
        let lost = |reason: &str| Some(Stop::Ended(End::Lost(reason.to_owned())));
        let mut link = self.connection.link();
        link.mark_unchanged();
        while request.open > 0 {
            tokio::select! {
                biased;
                () = session.shutdown.cancelled() => return Some(Stop::Ended(End::Shutdown)),
                () = session.out.paused() => return Some(Stop::Paused),
                message = request.messages.next() => match message.map(|message| request.hear(message)) {
                    Some(Heard::Message(message)) => self.take(session, message, rooms).await,
                    Some(Heard::Heartbeat) => {}
                    Some(Heard::Done) => request.rest(session.shutdown).await,
                    Some(Heard::Lost(reason)) => return lost(&reason),
                    None => return Some(Stop::Ended(End::Disconnected)),
                },
                _ = link.changed() => if !is_up(&request.client) || *link.borrow_and_update() != Link::Up {
                    return Some(Stop::Ended(End::Disconnected));
                },
                () = sleep_until(request.heard + SILENCE) => return lost("the consumer has fallen silent"),
                _ = session.signs.tick() => self.tend(session).await,
                _ = session.looks.tick() => if let Some(reason) = self.look(session).await {
                    return lost(&reason);
                },
            }
        }
        None
    }

    /// Turns a message into a delivery, a part that waits, or a dead letter.
    async fn take(&mut self, session: &Session<'_>, message: Message, rooms: &mut Vec<Room>) {
        // Whatever came here by another way has nobody who waits for an answer.
        let Some(ticket) = Ticket::new(session.context, &self.durable.progress, message) else { return };
        self.counts.message(ticket.deliveries);
        let unpacked = match Envelope::parse(ticket.payload.clone(), &self.limits) {
            Ok(envelope) => match envelope.part() {
                Some(part) => match self.parts.add(part, envelope, ticket) {
                    Some((parts, tickets)) => (Envelope::join(parts, &self.limits), tickets),
                    None => return,
                },
                None => (Ok(envelope), vec![ticket]),
            },
            Err(error) => (Err(error), vec![ticket]),
        };
        let (envelope, tickets) = unpacked;
        let event = {
            let _timer = self.counts.decompress_seconds.start_timer();
            envelope.and_then(|envelope| envelope.open(&self.limits))
        };
        match event {
            Ok(event) => {
                if tickets.iter().all(|ticket| ticket.deliveries == 1) {
                    self.counts.event(&event);
                }
                match rooms.pop() {
                    Some(room) => self.follow(tickets, room.send(event), session.sign_of_life),
                    // More came than was asked for.
                    None => give_back(&tickets).await,
                }
            }
            Err(error) => self.bury(tickets, Reason::from(&error), error.to_string()),
        }
    }

    fn follow(&self, tickets: Vec<Ticket>, receipt: Receipt, sign_of_life: Duration) {
        let answers = Arc::clone(&self.answers);
        self.tasks.spawn(async move { answers.follow(tickets, receipt, sign_of_life).await });
    }

    fn bury(&self, tickets: Vec<Ticket>, kind: Reason, reason: String) {
        let answers: Arc<Answers> = Arc::clone(&self.answers);
        self.tasks.spawn(async move {
            for ticket in &tickets {
                answers.bury(ticket, kind, &reason).await;
            }
        });
    }

    /// Looks after the parts that wait for others.
    async fn tend(&mut self, session: &Session<'_>) {
        let lonely = self.parts.tend(session.sign_of_life * SIGNS).await;
        if !lonely.is_empty() {
            self.bury(lonely, Reason::Incomplete, "the other parts of the event never came".to_owned());
        }
    }

    /// Compares the consumer with its stream; says what is wrong.
    async fn look(&mut self, session: &Session<'_>) -> Option<String> {
        tokio::select! {
            wrong = self.compare(session.context) => wrong,
            () = session.shutdown.cancelled() => None,
        }
    }

    async fn compare(&mut self, context: &Context) -> Option<String> {
        // In this order: the stream may go on between the two answers, and the consumer behind it.
        let consumer = match self.durable.info(context).await {
            Ok(consumer) => consumer,
            Err(ApiError::Refused(error)) => return Some(error.to_string()),
            Err(_) => return None,
        };
        let lag = consumer.num_pending.saturating_add(consumer.num_ack_pending);
        self.counts.lag(&self.durable.stream, &self.durable.name, lag);
        self.durable.progress.told(&consumer);
        if consumer.num_pending == 0 {
            self.parts.all_was_read();
        }
        let stream = api::stream_info(context, &self.durable.stream).await.ok()?;
        (consumer.delivered.stream_seq > stream.state.last_seq)
            .then(|| "the consumer is ahead of its stream".to_owned())
    }
}

/// What a message on the inbox is.
enum Heard {
    Message(Message),
    Heartbeat,
    /// The request has ended.
    Done,
    Lost(String),
}

/// The requests for messages, one after the other, and the inbox on which they are answered.
struct Request {
    messages: Subscriber,
    client: Client,
    inbox: String,
    subject: String,
    /// How many messages are still to come.
    open: usize,
    asked: Instant,
    heard: Instant,
}

impl Request {
    /// Opens the inbox; asks for nothing yet.
    async fn open(context: &Context, stream: &str, consumer: &str) -> Result<Self, BoxError> {
        let client = context.client();
        let inbox = client.new_inbox();
        let messages = timeout(REQUEST_TIMEOUT, client.subscribe(inbox.clone())).await??;
        let subject = format!("CONSUMER.MSG.NEXT.{stream}.{consumer}");
        let now = Instant::now();
        Ok(Self { messages, client, inbox, subject, open: 0, asked: now, heard: now })
    }

    async fn ask(&mut self, context: &Context, messages: usize) -> Result<(), BoxError> {
        let payload = json!({
            "batch": messages,
            "max_bytes": MOST_BYTES.max(2 * self.client.max_payload()),
            "expires": u64::try_from(EXPIRES.as_nanos())?,
            "idle_heartbeat": u64::try_from(HEARTBEAT.as_nanos())?,
        });
        let request =
            async_nats::Request::new().inbox(self.inbox.clone()).payload(payload.to_string().into());
        timeout(REQUEST_TIMEOUT, context.send_request(self.subject.clone(), request)).await??;
        self.open = messages;
        self.asked = Instant::now();
        self.heard = self.asked;
        Ok(())
    }

    fn hear(&mut self, message: Message) -> Heard {
        self.heard = Instant::now();
        // Anybody can write a status into a message; only those without a place in the stream are the server's.
        let stored = message.reply.as_ref().is_some_and(|reply| reply.starts_with("$JS.ACK."));
        match message.status.filter(|_| !stored) {
            None | Some(StatusCode::OK) => {
                self.open = self.open.saturating_sub(1);
                Heard::Message(message)
            }
            Some(StatusCode::IDLE_HEARTBEAT) => Heard::Heartbeat,
            Some(StatusCode::NO_RESPONDERS) => Heard::Lost("the consumer does not answer".to_owned()),
            Some(status) => {
                self.open = 0;
                let reason = message.description.unwrap_or_default();
                tracing::debug!(%status, reason, "a request for messages has ended");
                if is_refusal(status, &reason) { Heard::Lost(reason) } else { Heard::Done }
            }
        }
    }

    /// Keeps requests that end at once from becoming a storm of them.
    async fn rest(&self, shutdown: &CancellationToken) {
        if self.asked.elapsed() < SHORTEST_REQUEST {
            // The time is up, or the program ends; both end the rest.
            let _ = timeout(SHORTEST_REQUEST, shutdown.cancelled()).await;
        }
    }

    /// Takes the request back, and gives back what was on its way.
    async fn close(mut self, context: &Context, progress: &Arc<Progress>) {
        if !is_up(&self.client) || self.messages.drain().await.is_err() {
            return;
        }
        // What does not come in time is delivered again by and by.
        let _ = timeout(DRAIN, async {
            while let Some(message) = self.messages.next().await {
                if let Some(ticket) = Ticket::new(context, progress, message) {
                    ticket.give_back().await;
                }
            }
        })
        .await;
    }
}

/// True where the next request would end in the same way.
fn is_refusal(status: StatusCode, reason: &str) -> bool {
    let deleted = ["Consumer Deleted", "Consumer is push based"].contains(&reason);
    deleted || status.as_u16() == 400 || reason.starts_with("Exceeded Max")
}

/// Ticks that are late rather than many.
fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn give_back(tickets: &[Ticket]) {
    for ticket in tickets {
        ticket.give_back().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_will_never_be_granted_is_told_from_one_that_has_ended() {
        let refused = |code: u16, reason: &str| is_refusal(StatusCode::try_from(code).unwrap(), reason);
        assert!(refused(400, "Bad Request"));
        for reason in ["Consumer Deleted", "Exceeded MaxRequestExpires of 1s", "Exceeded MaxWaiting"] {
            assert!(refused(409, reason), "{reason}");
        }
        assert!(!refused(408, "Request Timeout"));
        for reason in ["Message Size Exceeds MaxBytes", "Leadership Change", "Server Shutdown"] {
            assert!(!refused(409, reason), "{reason}");
        }
    }
}
