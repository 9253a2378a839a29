//! Reads events from a JetStream stream through a durable consumer. A message is acknowledged when the
//! pipeline has delivered its event; until then the server is told that it is being worked on. The
//! source asks for as many messages as the pipeline has room for, so a paused or a slow pipeline leaves
//! the rest in the stream.
//!
//! ```yaml
//! source:
//!   type: nats
//!   urls: [ "nats://nats.dc1.example.net:4222" ]
//!   stream: PROMETHEUS
//!   durable: receiver
//! ```
//!
//! Messages of one target come in the order of the stream. One that failed comes again after a delay,
//! and so behind those that were delivered meanwhile: a sink that must not go back in time, as a
//! gateway, keeps the newest time per target and lets the older one pass as delivered.

mod answers;
mod consumer;
mod counts;
mod dead_letters;
mod parts;
mod poison;
mod pull;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prometheus_streams_core::emitter::Emitter;
use prometheus_streams_core::error::{BoxError, BuildError};
use prometheus_streams_core::health::Health;
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{Source, SourceConfig, StageContext};
use prometheus_streams_core::values::{Size, Span};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::envelope::Limits;
use crate::support::nats::{Connection, nats_settings, subject};

use self::answers::Answers;
use self::consumer::{Durable, Start};
use self::counts::Counts;
use self::dead_letters::{DeadLetterSettings, DeadLetters};
use self::parts::Parts;
use self::pull::End;

/// How long to wait before looking again for a stream or a consumer that could not be had.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long the last acknowledgements may take to leave on shutdown.
const FLUSH: Duration = Duration::from_secs(2);

nats_settings! {
    /// Reads events from a NATS JetStream stream. A message is acknowledged when its event has been
    /// delivered, delivered again when that failed, and moved to a dead-letter stream when it is bad.
    pub struct NatsSourceConfig {
        /// The stream to read from, as `PROMETHEUS`.
        pub stream: String,
        /// The durable consumer that remembers what was read; created when it is missing. Receivers with
        /// the same durable share the work, but a scrape that was split needs all its parts in one of
        /// them. Default: `prometheus-streams-<pipeline>`.
        #[serde(default)]
        pub durable: Option<String>,
        /// Reads only messages with these subjects; `*` and `>` are wildcards. Default: all. More than
        /// one needs nats-server 2.10.
        #[serde(default)]
        pub filter_subjects: Vec<String>,
        /// Where a new consumer starts: `all` of the stream, only `new` messages, or those of the last
        /// `10m` (any duration). A consumer that was lost starts behind the last message that was
        /// acknowledged, where that is known, or else at `all`.
        #[serde(default)]
        pub start: Start,
        /// How long the server waits for a sign of life before it delivers a message again. The source
        /// gives one every third of it. Only for a new consumer.
        #[serde(default = "default_ack_wait")]
        pub ack_wait: Span,
        /// How many messages may be delivered and not yet acknowledged. Only for a new consumer.
        #[serde(default = "default_max_ack_pending")]
        pub max_ack_pending: u32,
        /// The largest body that is accepted, decompressed.
        #[serde(default = "default_max_body")]
        pub max_body: Size,
        /// Where bad messages go.
        #[serde(default)]
        pub dead_letter: DeadLetterSettings,
    }
}

fn default_ack_wait() -> Span {
    Span::secs(30)
}

fn default_max_ack_pending() -> u32 {
    1000
}

fn default_max_body() -> Size {
    Size(64 << 20)
}

register!(source: NatsSourceConfig);

impl SourceConfig for NatsSourceConfig {
    const TYPE: &'static str = "nats";
    const REDELIVERS: bool = true;

    fn build(self, cx: &StageContext) -> Result<Box<dyn Source>, BuildError> {
        let mut problems = BuildError::default();
        let client_name = format!("{} {}/{}", cx.identity, cx.pipeline, cx.name);
        let endpoint = problems.take("", self.connection().check(&client_name));
        problems.take("", self.check());
        let dead_letters = problems.take("dead_letter", self.dead_letter.clone().check(&self.stream));
        let (Some(endpoint), Some(dead_letters)) = (endpoint, dead_letters) else { return Err(problems) };

        let durable = self.durable.clone();
        let durable =
            durable.unwrap_or_else(|| subject::token(&format!("prometheus-streams-{}", cx.pipeline)));
        let connection = Arc::new(Connection::new(endpoint));
        let counts = Arc::new(Counts::new(&cx.metrics, Arc::clone(&cx.clock)));
        let dead_letters = DeadLetters::new(dead_letters, Arc::clone(&connection), Arc::clone(&counts));
        problems.or(Box::new(NatsSource {
            durable: Durable::new(&self, durable, Arc::clone(&cx.clock)),
            limits: Limits { body: self.max_body.as_usize(), ..Limits::default() },
            parts: Parts::default(),
            answers: Arc::new(Answers::new(dead_letters)),
            tasks: TaskTracker::new(),
            has_read: false,
            health: cx.health.clone(),
            connection,
            counts,
        }))
    }
}

impl NatsSourceConfig {
    fn check(&self) -> Result<(), BuildError> {
        let mut problems = BuildError::default();
        let names = [("stream", Some(&self.stream)), ("durable", self.durable.as_ref())];
        for (path, name) in names {
            if let Some(Err(reason)) = name.map(|name| subject::check_name(name)) {
                problems.add(path, reason);
            }
        }
        for (index, filter) in self.filter_subjects.iter().enumerate() {
            if let Err(reason) = subject::check_pattern(filter) {
                problems.add(format!("filter_subjects[{index}]"), reason);
            }
        }
        if self.ack_wait < Span::secs(1) {
            problems.add("ack_wait", "must be 1s or more");
        }
        if self.max_ack_pending == 0 {
            problems.add("max_ack_pending", "must be more than zero");
        }
        problems.or(())
    }
}

struct NatsSource {
    connection: Arc<Connection>,
    durable: Durable,
    limits: Limits,
    /// The parts of split events that wait for the others.
    parts: Parts,
    answers: Arc<Answers>,
    /// One task for every open receipt.
    tasks: TaskTracker,
    /// True once there was something to read from.
    has_read: bool,
    health: Health,
    counts: Arc<Counts>,
}

#[async_trait]
impl Source for NatsSource {
    async fn run(mut self: Box<Self>, out: Emitter, shutdown: CancellationToken) -> Result<(), BoxError> {
        self.health.degraded("connecting");
        self.connection.open().await?;
        let mut link = self.connection.link();
        while !shutdown.is_cancelled() {
            link.mark_unchanged();
            match self.read(&out, &shutdown).await {
                Ok(End::Shutdown) => break,
                Ok(End::Disconnected) => self.health.degraded(self.connection.lost()),
                Ok(End::Lost(reason)) => self.health.degraded(reason),
                Err(error) => self.health.degraded(error),
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                _ = link.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
        self.parts.give_back().await;
        self.tasks.close();
        self.tasks.wait().await;
        // What could not be sent is delivered again; there is nothing else to do about it.
        let _ = timeout(FLUSH, self.connection.open().await?.client().flush()).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
