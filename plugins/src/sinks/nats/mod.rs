//! Publishes events into a JetStream stream, one message each, and calls an event delivered when the
//! stream has acknowledged it. Up to 256 are on the way at once. A message carries an id that depends
//! on the data only, so a second try, or a second poller of the same targets, is stored once.
//!
//! ```yaml
//! sinks:
//!   - type: nats
//!     urls: [ "nats://nats.dc1.example.net:4222" ]
//!     stream: { name: PROMETHEUS, max_age: 10m }
//!     subject: "prometheus.{publisher}.{job}.{instance}"
//! ```

mod messages;
mod stream;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_trait::async_trait;
use futures_util::future::try_join_all;
use prometheus::{Histogram, IntCounter};
use prometheus_streams_core::error::{BoxError, BuildError, SendError};
use prometheus_streams_core::event::Event;
use prometheus_streams_core::health::Health;
use prometheus_streams_core::metrics::Metrics;
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{Clock, Sink, SinkConfig, StageContext};
use prometheus_streams_core::values::Span;
use tokio_util::sync::CancellationToken;

use crate::support::envelope::{self, EnvelopeError};
use crate::support::nats::publish::{Outgoing, PublishError};
use crate::support::nats::subject::Template;
use crate::support::nats::{Connection, Link, nats_settings};
use crate::support::scrape::{self, TooManyHops};

use self::stream::{StreamError, StreamSettings, TargetStream};

/// How long to leave a stream alone that says it is full.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// How often a stream that is missing or unsuitable is looked for while nothing is published.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

nats_settings! {
    /// Publishes events into a NATS JetStream stream. An event is delivered when the stream has
    /// acknowledged it. What is larger than a message may be is split, and put together by the source.
    pub struct NatsSinkConfig {
        /// The stream that takes the events.
        pub stream: StreamSettings,
        /// The subject of an event, with the values of labels between braces. What a subject cannot
        /// hold becomes `_`; the labels themselves travel inside the message.
        #[serde(default = "default_subject")]
        pub subject: String,
        /// How hard the body is compressed with zstd: 1 (quick) to 19 (small), 0 for not at all.
        #[serde(default = "default_level")]
        pub compression_level: i32,
        /// How long to wait for the acknowledgement of the stream.
        #[serde(default = "default_ack_timeout")]
        pub ack_timeout: Span,
    }
}

fn default_subject() -> String {
    "prometheus.{publisher}.{job}.{instance}".to_owned()
}

fn default_level() -> i32 {
    envelope::DEFAULT_LEVEL
}

fn default_ack_timeout() -> Span {
    Span::secs(5)
}

register!(sink: NatsSinkConfig);

impl SinkConfig for NatsSinkConfig {
    const TYPE: &'static str = "nats";
    const MAX_IN_FLIGHT: usize = 256;

    fn build(self, cx: &StageContext) -> Result<Box<dyn Sink>, BuildError> {
        let mut problems = BuildError::default();
        let client_name = format!("{} {}/{}", cx.identity, cx.pipeline, cx.name);
        let endpoint = problems.take("", self.connection().check(&client_name));
        let template = Template::parse(&self.subject).map_err(|reason| BuildError::at("subject", reason));
        let template = problems.take("", template);
        let binding = template.as_ref().and_then(Template::binding);
        let stream = problems.take("stream", self.stream.check(binding));
        if !(0..=19).contains(&self.compression_level) {
            problems.add("compression_level", "must be 0 to 19");
        }
        if self.ack_timeout.0.is_zero() {
            problems.add("ack_timeout", "must be more than zero");
        }
        let (Some(endpoint), Some(template), Some(stream)) = (endpoint, template, stream) else {
            return Err(problems);
        };
        problems.or(Box::new(NatsSink {
            connection: Connection::new(endpoint),
            stream: TargetStream::new(stream),
            template,
            level: self.compression_level,
            ack_timeout: self.ack_timeout.0,
            identity: Arc::clone(&cx.identity),
            clock: Arc::clone(&cx.clock),
            health: cx.health.clone(),
            unwell: Mutex::default(),
            counts: Counts::new(&cx.metrics),
        }))
    }
}

struct NatsSink {
    connection: Connection,
    stream: TargetStream,
    template: Template,
    level: i32,
    ack_timeout: Duration,
    identity: Arc<str>,
    clock: Arc<dyn Clock>,
    health: Health,
    /// What is wrong now, by kind, so that a thousand failures of one kind are told once.
    unwell: Mutex<Option<&'static str>>,
    counts: Counts,
}

#[async_trait]
impl Sink for NatsSink {
    async fn send(&self, event: Event) -> Result<(), SendError> {
        let timer = self.counts.publish_seconds.start_timer();
        match self.publish(event).await {
            Ok(()) => {
                timer.observe_duration();
                self.well();
                Ok(())
            }
            Err(failure) => {
                timer.stop_and_discard();
                self.unwell(&failure);
                Err(failure.into())
            }
        }
    }

    async fn run(&self, shutdown: CancellationToken) -> Result<(), BoxError> {
        tokio::select! {
            result = self.tend() => result,
            () = shutdown.cancelled() => Ok(()),
        }
    }
}

impl NatsSink {
    async fn publish(&self, mut event: Event) -> Result<(), Failure> {
        let subject = self.template.subject(&event.labels);
        let context = self.connection.jetstream().await.map_err(PublishError::from)?;
        let stream_limit = self.stream.ready(&context, Some(&subject)).await?;
        let limit = context.client().max_payload().min(stream_limit);
        let id = messages::id(&event);
        scrape::add_hop(&mut event.attributes, &self.identity, self.clock.now())?;
        let timer = self.counts.compress_seconds.start_timer();
        let messages = messages::pack(&event, &id, self.level, limit)?;
        timer.observe_duration();
        let sends = messages.into_iter().map(|(id, payload)| {
            let (subject, stream) = (subject.clone(), self.stream.name().to_owned());
            let message = Outgoing { subject, stream, id, headers: Default::default(), payload };
            self.connection.publish(message, self.ack_timeout)
        });
        let taken = try_join_all(sends).await.inspect_err(|error| {
            if matches!(error, PublishError::NoStream(_)) {
                self.stream.forget();
            }
        })?;
        if taken.iter().all(|taken| taken.duplicate) {
            self.counts.duplicates.inc();
        }
        Ok(())
    }

    /// Connects, looks for the stream and creates it, and tells how that goes; for ever.
    async fn tend(&self) -> Result<(), BoxError> {
        let mut link = self.connection.link();
        self.health.degraded("connecting");
        self.connection.open().await?;
        loop {
            let state = link.borrow_and_update().clone();
            let look_again = match state {
                Link::Up => !self.look().await,
                Link::Connecting(None) => false,
                Link::Connecting(Some(_)) | Link::Down(_) => {
                    self.unwell(&Failure::Publish(self.connection.lost().into()));
                    false
                }
            };
            tokio::select! {
                _ = link.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN), if look_again => {}
            }
        }
    }

    /// True when the stream is there.
    async fn look(&self) -> bool {
        let found = match self.connection.jetstream().await {
            Ok(context) => self.stream.ready(&context, None).await.map_err(Failure::from),
            Err(error) => Err(Failure::Publish(error.into())),
        };
        match found {
            Ok(_) => {
                self.unwell.lock().unwrap_or_else(PoisonError::into_inner).take();
                self.health.ready();
                true
            }
            Err(failure) => {
                self.unwell(&failure);
                false
            }
        }
    }

    fn well(&self) {
        if self.unwell.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            self.health.ready();
        }
    }

    fn unwell(&self, failure: &Failure) {
        if failure.is_about_the_data() {
            return;
        }
        let kind = failure.kind();
        let before = self.unwell.lock().unwrap_or_else(PoisonError::into_inner).replace(kind);
        if before != Some(kind) {
            self.health.degraded(failure);
        }
    }
}

/// Why an event was not published.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("cannot pack the event: {0}")]
    Envelope(#[from] EnvelopeError),
    #[error(transparent)]
    Hops(#[from] TooManyHops),
}

impl Failure {
    /// True when the event is to blame, and no other time or place could help.
    fn is_about_the_data(&self) -> bool {
        match self {
            Self::Publish(error) => error.code() == Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM),
            Self::Stream(_) => false,
            Self::Envelope(_) | Self::Hops(_) => true,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Publish(PublishError::NotConnected(_) | PublishError::Lost) => "connection",
            Self::Publish(PublishError::Timeout { .. }) => "timeout",
            Self::Publish(_) => "publish",
            Self::Stream(StreamError::NotBound { .. }) => "binding",
            Self::Stream(_) => "stream",
            Self::Envelope(_) | Self::Hops(_) => "data",
        }
    }

    fn is_full(&self) -> bool {
        let full = [ErrorCode::STREAM_STORE_FAILED, ErrorCode::INSUFFICIENT_RESOURCES];
        matches!(self, Self::Publish(error) if error.code().is_some_and(|code| full.contains(&code)))
    }
}

impl From<Failure> for SendError {
    fn from(failure: Failure) -> Self {
        if failure.is_about_the_data() {
            return Self::permanent(failure);
        }
        let full = failure.is_full();
        let error = Self::transient(failure);
        if full { error.retry_after(FULL_PAUSE) } else { error }
    }
}

/// What is counted; the names are those of prometheus-streams 1.0 where it had the same thing.
struct Counts {
    duplicates: IntCounter,
    publish_seconds: Histogram,
    compress_seconds: Histogram,
}

impl Counts {
    fn new(metrics: &Metrics) -> Self {
        const NONE: &[&str] = &[];
        let counter = |name, help| metrics.counters(name, help, NONE).with_label_values(NONE);
        let seconds = |name, help| metrics.seconds(name, help, NONE).with_label_values(NONE);
        Self {
            duplicates: counter(
                "nats_duplicates_total",
                "Published events that the stream had already: second tries, and those of a second poller.",
            ),
            publish_seconds: seconds("poller_publish_time", "Time from publish to acknowledgement."),
            compress_seconds: seconds("poller_compress_time", "Time to pack and compress an event."),
        }
    }
}

#[cfg(test)]
mod tests;
