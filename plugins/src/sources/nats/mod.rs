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
//! In which order a backlog comes is for the sinks to say. A sink that holds only the newest, as a gateway, takes
//! it as it comes: a message that failed comes again after a delay, and so behind those that were
//! delivered meanwhile.
//!
//! **Strict**, for a sink that keeps a history. An event is never delivered for the first time behind a later one of
//! its labels: not after a failure, a restart, a kill or a lost connection. The events of one
//! set of labels are in the pipeline one at a time; one that failed is sent again before those behind it. Where the server
//! waits for answers that nobody is going to give, as after a kill, the consumer is made anew behind the last
//! message up to which all are acknowledged. What was delivered behind that comes once more then, in its old order:
//! within one life of the program only what was not answered, after a kill all of it. A split event stands
//! where its last part does. Two programs that share a durable cannot keep an order together: they say so in the
//! log, and go on without.
//!
//! **Fresh first**, for a sink that keeps a history into which the past can be written later. When a message comes that has
//! lain in the stream for longer than `after`, all that the stream holds by then is left to a second consumer, named
//! `<durable>-backfill`, which delivers it oldest first at the limited rate, takes at most a quarter of the
//! pipeline's room, and is deleted when it has come to its end; the durable goes on behind it with what is new. Each of the
//! two keeps the strict order; between them there is none. The age is that in this stream: what another stream hands on
//! late is new here. It is told by the two clocks, which have to agree as closely as `after` needs.
//! The backfill outlives a restart, and another outage prolongs it.
//!
//! Both need to create and delete the consumers `<durable>`, `<durable>-next`, which stands by while another is
//! made anew, and for fresh first `<durable>-backfill` and `<durable>-backfill-next`, and for fresh first to ask for
//! the stream: publish to `$JS.API.CONSUMER.{CREATE,DELETE,INFO,MSG.NEXT}.<stream>.<consumer>`,
//! `$JS.API.STREAM.INFO.<stream>` and `$JS.ACK.<stream>.<consumer>.>`. Who may not is told so in the log; nothing is lost, but the order is kept only
//! between restarts, and a backlog is not overtaken.

mod answers;
mod backfill;
mod consumer;
mod counts;
mod dead_letters;
mod hands;
mod order;
mod parts;
mod past;
mod poison;
mod progress;
mod pull;
mod reader;
mod request;
mod stretches;

use std::sync::Arc;

use async_trait::async_trait;
use prometheus_streams_core::emitter::{Backlog, Emitter};
use prometheus_streams_core::error::{BoxError, BuildError};
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{Source, SourceConfig, StageContext};
use prometheus_streams_core::values::{Size, Span};
use tokio_util::sync::CancellationToken;

use crate::support::envelope::Limits;
use crate::support::nats::{Connection, nats_settings, subject};

use self::answers::Answers;
use self::backfill::FreshFirst;
use self::consumer::{Durable, Start};
use self::counts::Counts;
use self::dead_letters::{DeadLetterSettings, DeadLetters};
use self::hands::Hands;
use self::reader::{Common, Left, Reader};

nats_settings! {
    /// Reads events from a NATS JetStream stream. A message is acknowledged when its event has been
    /// delivered, delivered again when that failed, and moved to a dead-letter stream when it is bad.
    pub struct NatsSourceConfig {
        /// The stream to read from, as `PROMETHEUS`.
        pub stream: String,
        /// The durable consumer that remembers what was read; created when it is missing. Receivers with
        /// the same durable share the work, but a scrape that was split needs all its parts in one of
        /// them, and an order of events cannot be kept by several. Where a sink wants a backlog in strict
        /// order or the fresh first, as `remote_write`, there may be consumers beside it whose names begin
        /// with its own: `-next`, `-backfill`, `-backfill-next`; to keep the order the user must be permitted
        /// to create and delete them and it. Default: `prometheus-streams-<pipeline>`.
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
        let common = Common {
            limits: Limits { body: self.max_body.as_usize(), ..Limits::default() },
            parts: Default::default(),
            answers: Answers::new(dead_letters),
            hands: Arc::new(Hands::default()),
            health: cx.health.clone(),
            clock: Arc::clone(&cx.clock),
            past_is_unread: Default::default(),
            connection,
            counts,
        };
        let durable = Durable::new(&self, durable, Arc::clone(&cx.clock));
        problems.or(Box::new(NatsSource(Reader::new(Arc::new(common), durable))))
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

struct NatsSource(Reader);

#[async_trait]
impl Source for NatsSource {
    async fn run(self: Box<Self>, out: Emitter, shutdown: CancellationToken) -> Result<(), BoxError> {
        let mut reader = self.0;
        reader.common.health.degraded("connecting");
        reader.common.connection.open().await?;
        match out.backlog() {
            Backlog::Any => {}
            Backlog::Strict => {
                reader.keep_order();
                backfill::take_back(&mut reader, &shutdown).await;
            }
            Backlog::FreshFirst { after, rate } => {
                reader.keep_order();
                return FreshFirst::new(after, rate, &out, &shutdown).run(reader).await;
            }
        }
        while !matches!(reader.run(&out, &shutdown).await?, Left::Shutdown) {}
        reader.finish().await
    }
}

#[cfg(test)]
mod tests;
