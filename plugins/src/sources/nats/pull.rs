//! Pulling: asks for as many messages as the pipeline has room for, one request after the other, and
//! turns them into deliveries. The server's idle heartbeats tell a quiet stream from a lost consumer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Message;
use async_nats::jetstream::{AckKind, Context};
use futures_util::StreamExt;
use prometheus_streams_core::delivery::Receipt;
use prometheus_streams_core::emitter::{Emitter, Room};
use prometheus_streams_core::error::BoxError;
use prometheus_streams_core::event::{Event, Labels};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::answers::Ticket;
use super::dead_letters::Reason;
use super::hands::Met;
use super::order::{Answered, Order, Waiting, until_due};
use super::past::Judged;
use super::reader::Reader;
use super::request::{Heard, Request, SILENCE};
use crate::support::envelope::{Envelope, EnvelopeError};
use crate::support::nats::api::{self, ApiError};
use crate::support::nats::{Link, is_up};

/// The most messages to ask for at once.
pub(super) const MOST_MESSAGES: usize = 256;

/// So many signs of life fit into the time that the server waits for one.
const SIGNS: u32 = 3;

/// How often the consumer is compared with its stream.
const LOOK: Duration = Duration::from_secs(10);

/// Why reading has ended.
pub(super) enum End {
    /// The program ends.
    Shutdown,
    /// The connection was lost.
    Disconnected,
    /// The consumer or the stream was lost.
    Lost(String),
    /// What comes is of the past.
    Behind,
    /// All that was to be read is read and answered.
    Finished,
    /// There is more to read than there was.
    Again,
}

/// Why no more messages are asked for.
pub(super) enum Stop {
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

impl Reader {
    /// Reads until the end, or until something is lost.
    pub(super) async fn read(
        &mut self,
        out: &Emitter,
        shutdown: &CancellationToken,
    ) -> Result<End, BoxError> {
        let context = &self.common.connection.jetstream().await?;
        let config = self.prepare(context, shutdown).await?.config;
        self.common.health.ready();
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
            let rest = request.close().await;
            match (stop, self.order.is_some()) {
                (Stop::Ended(end), ordered) => {
                    self.left_some = ordered;
                    self.give_back(context, rest).await;
                    return Ok(end);
                }
                (Stop::Paused, false) => {
                    self.give_back(context, rest).await;
                    self.common.parts.lock().await.give_back().await;
                }
                // What was given back would come behind what is held.
                (Stop::Paused, true) => {
                    for message in rest {
                        if let Some(Stop::Ended(end)) = self.take(&session, message, &mut Vec::new()).await {
                            self.left_some = true;
                            return Ok(end);
                        }
                    }
                }
            }
        }
    }

    /// Asks for messages again and again, until the pipeline is paused or something ends.
    async fn pull(&mut self, session: &mut Session<'_>, request: &mut Request) -> Stop {
        let mut rooms: Vec<Room> = Vec::new();
        loop {
            if let Some(stop) = self.make_room(session, &mut rooms).await {
                return stop;
            }
            let most = session.most.min(self.past.most(self.order.as_ref(), session.out.capacity()));
            while rooms.len() < most {
                let Ok(room) = session.out.try_reserve() else { break };
                rooms.push(room);
            }
            rooms.truncate(most);
            if session.out.is_paused() {
                return Stop::Paused;
            }
            if let Err(error) = request.ask(session.context, rooms.len()).await {
                return Stop::Ended(End::Lost(error.to_string()));
            }
            self.past.asked(rooms.len());
            if let Some(stop) = self.receive(session, request, &mut rooms).await {
                return stop;
            }
        }
    }

    /// Waits until there is room for a message, and it may be asked for.
    async fn make_room(&mut self, session: &mut Session<'_>, rooms: &mut Vec<Room>) -> Option<Stop> {
        loop {
            self.send_ready(session, rooms);
            if let Some(end) = self.past.end(&self.durable.progress) {
                return Some(Stop::Ended(end));
            }
            let full = self.order.as_ref().is_some_and(Order::is_full)
                || self.past.most(self.order.as_ref(), session.out.capacity()) == 0;
            let may_ask = !full && self.past.due().is_none_or(|due| due <= Instant::now());
            if may_ask && !rooms.is_empty() {
                return None;
            }
            rooms.clear();
            let is_ready = self.order.as_mut().is_some_and(Order::is_ready);
            let again = self.order.as_ref().and_then(Order::due);
            let pace = self.past.due().filter(|_| !full && !may_ask);
            tokio::select! {
                () = session.shutdown.cancelled() => return Some(Stop::Ended(End::Shutdown)),
                room = session.out.reserve(), if may_ask || is_ready => rooms.push(room),
                Some(answered) = next_answer(&mut self.order) => self.settle(answered),
                () = until_due(again) => {}
                () = until_due(pace) => {}
                _ = session.signs.tick() => self.tend(session).await,
                _ = session.looks.tick() => if let Some(reason) = self.look(session).await {
                    return Some(Stop::Ended(End::Lost(reason)));
                },
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
        let mut link = self.common.connection.link();
        link.mark_unchanged();
        while request.open > 0 {
            self.send_ready(session, rooms);
            let needs_room = rooms.is_empty() && self.order.as_mut().is_some_and(Order::is_ready);
            let again = self.order.as_ref().and_then(Order::due);
            tokio::select! {
                biased;
                () = session.shutdown.cancelled() => return Some(Stop::Ended(End::Shutdown)),
                () = session.out.paused() => return Some(Stop::Paused),
                message = request.messages.next() => match message.map(|message| request.hear(message)) {
                    Some(Heard::Message(message)) => if let Some(stop) = self.take(session, message, rooms).await {
                        return Some(stop);
                    },
                    Some(Heard::Heartbeat) => {}
                    Some(Heard::Done) => request.rest(session.shutdown).await,
                    Some(Heard::Lost(reason)) => return lost(&reason),
                    None => return Some(Stop::Ended(End::Disconnected)),
                },
                Some(answered) = next_answer(&mut self.order) => self.settle(answered),
                room = session.out.reserve(), if needs_room => rooms.push(room),
                () = until_due(again) => {}
                _ = link.changed() => if !is_up(&request.client) || *link.borrow_and_update() != Link::Up {
                    return Some(Stop::Ended(End::Disconnected));
                },
                () = sleep_until(request.heard + SILENCE) => return lost("the consumer has fallen silent"),
                _ = session.signs.tick() => self.tend(session).await,
                _ = session.looks.tick() => if let Some(reason) = self.look(session).await {
                    return lost(&reason);
                },
            }
            if self.past.has_ended() {
                return None;
            }
        }
        None
    }

    /// Turns a message into a delivery, a part or an event that waits, or a dead letter.
    async fn take(&mut self, session: &Session<'_>, message: Message, rooms: &mut Vec<Room>) -> Option<Stop> {
        // Whatever came here by another way has nobody who waits for an answer.
        let ticket = Ticket::new(session.context, &self.durable.progress, message)?;
        self.common.counts.message(ticket.deliveries);
        let ticket = if self.order.is_some() {
            if ticket.behind_gap && self.keeps_order {
                return Some(Stop::Ended(End::Lost("deliveries before this one did not come".to_owned())));
            }
            match self.past.judge(&ticket, self.common.clock.now()) {
                Judged::Wanted => {}
                Judged::Behind => return Some(Stop::Ended(End::Behind)),
                Judged::Beyond => {
                    ticket.leave();
                    return None;
                }
                Judged::Elsewhere => {
                    ticket.done(AckKind::Ack).await;
                    return None;
                }
            }
            match self.common.hands.meet(ticket) {
                Met::New(ticket) => ticket,
                Met::Held => return None,
                Met::Done(ticket) => {
                    ticket.done(AckKind::Ack).await;
                    return None;
                }
            }
        } else {
            ticket
        };
        match Envelope::parse(ticket.payload.clone(), &self.common.limits) {
            Ok(envelope) => match envelope.part() {
                Some(part) => {
                    let whole = self.common.parts.lock().await.add(part, envelope, ticket);
                    if let Some((parts, tickets)) = whole {
                        match Envelope::join(parts, &self.common.limits) {
                            Ok(envelope) => self.deliver(session, envelope, tickets, rooms).await,
                            Err(error) => self.bury(tickets, Reason::from(&error), error.to_string()),
                        }
                    }
                }
                None => self.deliver(session, envelope, vec![ticket], rooms).await,
            },
            Err(error) => self.bury(vec![ticket], Reason::from(&error), error.to_string()),
        }
        None
    }

    /// Sends an event at once, or lets it wait for its turn.
    async fn deliver(
        &mut self,
        session: &Session<'_>,
        envelope: Envelope,
        tickets: Vec<Ticket>,
        rooms: &mut Vec<Room>,
    ) {
        if let Some(order) = &mut self.order {
            order.add(Waiting { envelope, tickets, was_sent: false });
            self.send_ready(session, rooms);
            return;
        }
        match self.unpack(envelope) {
            Ok(event) => {
                self.count(&event, &tickets);
                match rooms.pop() {
                    Some(room) => self.follow(tickets, room.send(event), session.sign_of_life),
                    // More came than was asked for.
                    None => give_back(&tickets).await,
                }
            }
            Err(error) => self.bury(tickets, Reason::from(&error), error.to_string()),
        }
    }

    /// Sends the events whose turn it is, as there is room.
    fn send_ready(&mut self, session: &Session<'_>, rooms: &mut Vec<Room>) {
        while !rooms.is_empty()
            && let Some((labels, mut waiting)) = self.order.as_mut().and_then(Order::next)
        {
            match self.unpack(waiting.envelope.clone()) {
                Ok(event) => {
                    if !std::mem::replace(&mut waiting.was_sent, true) {
                        self.count(&event, &waiting.tickets);
                    }
                    let Some(room) = rooms.pop() else { return };
                    let body = event.body.len() as u64;
                    self.follow_in_order(labels, waiting, body, room.send(event), session.sign_of_life);
                }
                Err(error) => {
                    if let Some(order) = &mut self.order {
                        order.sent(0);
                        order.settle(Answered { labels, failed: None, bytes: waiting.bytes(), body: 0 });
                    }
                    self.bury(waiting.tickets, Reason::from(&error), error.to_string());
                }
            }
        }
    }

    fn unpack(&self, envelope: Envelope) -> Result<Event, EnvelopeError> {
        let _timer = self.common.counts.decompress_seconds.start_timer();
        envelope.open(&self.common.limits)
    }

    fn count(&self, event: &Event, tickets: &[Ticket]) {
        if tickets.iter().all(|ticket| ticket.deliveries == 1) {
            self.common.counts.event(event);
        }
    }

    fn follow(&self, tickets: Vec<Ticket>, receipt: Receipt, sign_of_life: Duration) {
        let common = Arc::clone(&self.common);
        self.tasks.spawn(async move {
            if !common.answers.follow(&tickets, receipt, sign_of_life).await {
                again(&tickets).await;
            }
        });
    }

    fn follow_in_order(
        &mut self,
        labels: Labels,
        waiting: Waiting,
        body: u64,
        receipt: Receipt,
        sign_of_life: Duration,
    ) {
        let Some(order) = &mut self.order else { return };
        order.sent(body);
        let (common, answer) = (Arc::clone(&self.common), order.answer.clone());
        self.tasks.spawn(async move {
            let is_answered = common.answers.follow(&waiting.tickets, receipt, sign_of_life).await;
            let bytes = waiting.bytes();
            let failed = (!is_answered).then_some(waiting);
            // Nobody hears it when the program ends.
            let _ = answer.send(Answered { labels, failed, bytes, body });
        });
    }

    fn settle(&mut self, answered: Answered) {
        if let Some(order) = &mut self.order {
            order.settle(answered);
        }
    }

    fn bury(&self, tickets: Vec<Ticket>, kind: Reason, reason: String) {
        let common = Arc::clone(&self.common);
        self.tasks.spawn(async move {
            if !common.answers.bury(&tickets, kind, &reason).await {
                again(&tickets).await;
            }
        });
    }

    /// Gives back what came when it was not asked for any more. Where the order matters the consumer is to
    /// go back instead.
    async fn give_back(&self, context: &Context, rest: Vec<Message>) {
        for message in rest {
            if self.order.is_none()
                && let Some(ticket) = Ticket::new(context, &self.durable.progress, message)
            {
                ticket.give_back().await;
            }
        }
    }

    /// Looks after what waits: parts for others, events for their turn.
    async fn tend(&mut self, session: &Session<'_>) {
        let lonely = self.common.parts.lock().await.tend(session.sign_of_life * SIGNS).await;
        if !lonely.is_empty() {
            self.bury(lonely, Reason::Incomplete, "the other parts of the event never came".to_owned());
        }
        if let Some(order) = &self.order {
            order.tend().await;
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
        let lag = self.past.lag(&consumer);
        self.common.counts.lag(&self.durable.stream, &self.durable.name, lag);
        self.durable.progress.told(&consumer);
        self.past.told(&consumer, &self.durable.progress);
        let past_is_read = !self.common.past_is_unread.load(Ordering::Acquire);
        if consumer.num_pending == 0 && past_is_read {
            self.common.parts.lock().await.all_was_read();
        }
        let stream = api::stream_info(context, &self.durable.stream).await.ok()?;
        (consumer.delivered.stream_seq > stream.state.last_seq)
            .then(|| "the consumer is ahead of its stream".to_owned())
    }
}

/// Ticks that are late rather than many.
fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The next event that was in the pipeline.
async fn next_answer(order: &mut Option<Order>) -> Option<Answered> {
    match order {
        Some(order) => order.answers.recv().await,
        None => std::future::pending().await,
    }
}

async fn again(tickets: &[Ticket]) {
    for ticket in tickets {
        ticket.again().await;
    }
}

async fn give_back(tickets: &[Ticket]) {
    for ticket in tickets {
        ticket.give_back().await;
    }
}
