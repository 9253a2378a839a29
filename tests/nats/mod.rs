//! The nats source and the nats sink against a real nats-server: what happens on the night when a link
//! is down, a broker dies, a consumer or a stream is deleted, or somebody writes garbage.

mod faults;
mod hostile;
mod laws;
mod order;
mod security;
mod size;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::jetstream;
use prometheus_streams_core::delivery::{Delivery, Outcome};
use prometheus_streams_core::emitter::Backlog;
use prometheus_streams_core::error::{BoxError, SendError};
use prometheus_streams_core::event::Event;
use prometheus_streams_core::stage::{Sink, SinkConfig, Source, SourceConfig};
use prometheus_streams_core::testing::{Inlet, context, pipe_with};
use prometheus_streams_plugins::sinks::nats::NatsSinkConfig;
use prometheus_streams_plugins::sources::nats::NatsSourceConfig;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::wait::{secs, wait_until};

const STREAM: &str = "S";
const DURABLE: &str = "receiver";

/// Settings, with more or other keys.
fn with(mut settings: Value, more: Value) -> Value {
    if let (Some(settings), Value::Object(more)) = (settings.as_object_mut(), more) {
        settings.extend(more);
    }
    settings
}

fn sink(url: &str, more: Value) -> Box<dyn Sink> {
    let settings = json!({ "urls": [url], "stream": { "name": STREAM }, "subject": "s.{job}.{instance}" });
    let config: NatsSinkConfig = serde_json::from_value(with(settings, more)).unwrap();
    config.build(&context("nats")).unwrap()
}

fn source(url: &str, more: Value) -> Box<dyn Source> {
    let settings = json!({ "urls": [url], "stream": STREAM, "durable": DURABLE, "ack_wait": "2s" });
    let config: NatsSourceConfig = serde_json::from_value(with(settings, more)).unwrap();
    config.build(&context("nats")).unwrap()
}

/// Observation `number` of `thing`.
fn event(thing: usize, number: u64) -> Event {
    let instance = format!("t{thing}");
    Event {
        labels: [("job", "j"), ("instance", &instance), ("publisher", "p")].into_iter().collect(),
        attributes: [("slot", (number * 1000).to_string()), ("sequence", number.to_string())]
            .into_iter()
            .collect(),
        ..Event::new(UNIX_EPOCH + Duration::from_secs(1_700_000_000 + number), format!("seq {number}\n"))
    }
}

/// Which observation an event is.
fn identify(event: &Event) -> (usize, u64) {
    let thing = event.labels.get("instance").unwrap().trim_start_matches('t').parse().unwrap();
    let number = event.timestamp.duration_since(UNIX_EPOCH).unwrap().as_secs() - 1_700_000_000;
    (thing, number)
}

/// Sends until it is confirmed, as the core does, only quicker.
async fn deliver(sink: &dyn Sink, event: Event) {
    let deadline = tokio::time::Instant::now() + secs(30);
    while let Err(error) = sink.send(event.clone()).await {
        assert!(error.is_transient() && tokio::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a send that must not succeed says.
async fn refusal(sink: &dyn Sink, event: Event) -> SendError {
    sink.send(event).await.expect_err("a send that must not succeed")
}

/// A source that runs.
struct Reader {
    inlet: Inlet,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), BoxError>>,
}

impl Reader {
    fn start(source: Box<dyn Source>, capacity: usize) -> Self {
        Self::start_with(source, capacity, Backlog::Any)
    }

    /// A source whose sinks want a backlog in this order.
    fn start_with(source: Box<dyn Source>, capacity: usize, backlog: Backlog) -> Self {
        let (out, inlet) = pipe_with(capacity, backlog);
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(source.run(out, shutdown.clone()));
        Self { inlet, shutdown, running }
    }

    async fn next(&mut self) -> Delivery {
        self.inlet.next().await.expect("the source has ended")
    }

    /// The next event, which is delivered.
    async fn read(&mut self) -> Event {
        let Delivery { event, acker } = self.next().await;
        acker.finish(Outcome::Delivered);
        event
    }

    /// Answers what comes until all is acknowledged: an acknowledgement that was lost with a connection
    /// is asked for once more.
    async fn settle(&mut self, jetstream: &jetstream::Context) {
        let settled = async || {
            while let Some(delivery) = self.inlet.try_next() {
                delivery.acker.finish(Outcome::Delivered);
            }
            unacknowledged(jetstream).await == 0
        };
        wait_until("all to be acknowledged", secs(15), settled).await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        drop(self.inlet);
        let ended = tokio::time::timeout(secs(10), self.running).await;
        ended.expect("the source ends").unwrap().unwrap();
    }
}

async fn consumer_info(jetstream: &jetstream::Context) -> Option<jetstream::consumer::Info> {
    let consumer: jetstream::consumer::PullConsumer =
        jetstream.get_consumer_from_stream(DURABLE, STREAM).await.ok()?;
    Some(consumer.cached_info().clone())
}

/// Messages of the stream that are not acknowledged.
async fn unacknowledged(jetstream: &jetstream::Context) -> usize {
    match consumer_info(jetstream).await {
        Some(info) => info.num_ack_pending + info.num_pending as usize,
        None => match jetstream.get_stream(STREAM).await {
            Ok(stream) => stream.cached_info().state.messages as usize,
            Err(_) => 0,
        },
    }
}

fn now() -> SystemTime {
    SystemTime::now()
}
