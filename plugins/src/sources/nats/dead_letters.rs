//! Where bad messages go: a small stream of its own, each with the reason and its origin in the headers
//! and the data as it came, so that a person can look at it and publish it again.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use prometheus_streams_core::error::{BoxError, BuildError};
use prometheus_streams_core::values::{Size, Span};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::answers::Ticket;
use super::counts::Counts;
use crate::support::envelope::EnvelopeError;
use crate::support::nats::publish::{Outgoing, PublishError};
use crate::support::nats::{Connection, api, subject};

/// Why the message is bad.
const REASON: &str = "Prometheus-Streams-Reason";
/// The subject, the stream, the sequence and the number of deliveries that it had.
const SUBJECT: &str = "Prometheus-Streams-Subject";
const STREAM: &str = "Prometheus-Streams-Stream";
const SEQUENCE: &str = "Prometheus-Streams-Sequence";
const DELIVERIES: &str = "Prometheus-Streams-Deliveries";
/// The length that it had, where it had to be cut off.
const LENGTH: &str = "Prometheus-Streams-Length";

/// Left for the headers.
const HEADERS: usize = 4096;

/// The longest text in a header.
const LONGEST_TEXT: usize = 1024;

/// How long the dead-letter stream may take to acknowledge.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where bad messages go: to a stream of their own, with the reason in a header.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeadLetterSettings {
    /// The stream that takes them; created when it is missing. Default: the stream that is read, and `_DLQ`.
    stream: Option<String>,
    /// The subject that they get. No stream but that for dead letters may take it. Default: the stream
    /// that is read, and `.dlq`.
    subject: Option<String>,
    /// How long a new stream keeps them. Default: 7d.
    max_age: Option<Span>,
    /// How large a new stream may become; the oldest go first. Default: 64MiB.
    max_bytes: Option<Size>,
}

/// Settings of the dead-letter stream, checked.
pub(super) struct Checked {
    /// The stream that is read.
    origin: String,
    subject: String,
    config: Config,
}

impl DeadLetterSettings {
    pub(super) fn check(self, origin: &str) -> Result<Checked, BuildError> {
        let mut problems = BuildError::default();
        let name = self.stream.unwrap_or_else(|| format!("{origin}_DLQ"));
        let subject = self.subject.unwrap_or_else(|| format!("{origin}.dlq"));
        if let Err(reason) = subject::check_name(&name) {
            problems.add("stream", reason);
        }
        if name == origin {
            problems.add("stream", "must not be the stream that is read");
        }
        if let Err(reason) = subject::check_literal(&subject) {
            problems.add("subject", reason);
        }
        let max_bytes = self.max_bytes.map_or(64 << 20, |size| size.0);
        let config = Config {
            name,
            subjects: vec![subject.clone()],
            max_age: self.max_age.map_or(Duration::from_secs(7 * 24 * 3600), |age| age.0),
            max_bytes: i64::try_from(max_bytes).unwrap_or(i64::MAX),
            max_messages: -1,
            max_messages_per_subject: -1,
            max_consumers: -1,
            num_replicas: 1,
            discard: DiscardPolicy::Old,
            ..Config::default()
        };
        problems.or(Checked { origin: origin.to_owned(), subject, config })
    }
}

/// Why a message is a dead letter, as in the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// It is not an envelope, or is damaged.
    Garbage,
    /// A later program wrote it.
    Version,
    /// It is larger than the limits.
    TooLarge,
    /// A stage has rejected its event.
    Rejected,
    /// The other parts of its event never came.
    Incomplete,
}

impl Reason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Garbage => "garbage",
            Self::Version => "version",
            Self::TooLarge => "too_large",
            Self::Rejected => "rejected",
            Self::Incomplete => "incomplete",
        }
    }
}

impl From<&EnvelopeError> for Reason {
    fn from(error: &EnvelopeError) -> Self {
        match error {
            EnvelopeError::Version(_) | EnvelopeError::Encoding(_) => Self::Version,
            EnvelopeError::TooLarge { .. } => Self::TooLarge,
            EnvelopeError::Garbage(_) | EnvelopeError::Body(_) | EnvelopeError::Part(_) => Self::Garbage,
        }
    }
}

/// The dead-letter stream.
pub(super) struct DeadLetters {
    settings: Checked,
    connection: Arc<Connection>,
    counts: Arc<Counts>,
    /// True while there is no reason to doubt that the stream is there.
    ready: Mutex<bool>,
}

impl DeadLetters {
    pub(super) fn new(settings: Checked, connection: Arc<Connection>, counts: Arc<Counts>) -> Self {
        Self { settings, connection, counts, ready: Mutex::default() }
    }

    /// Stores a message; returns when the stream has acknowledged it.
    pub(super) async fn put(&self, ticket: &Ticket, kind: Reason, reason: &str) -> Result<(), BoxError> {
        self.prepare().await?;
        let context = self.connection.jetstream().await?;
        let message = self.letter(ticket, reason, context.client().max_payload());
        match self.connection.publish(message, PATIENCE).await {
            Ok(_) => {
                self.counts.dead_letter(kind);
                Ok(())
            }
            Err(error) => {
                if matches!(error, PublishError::NoStream(_)) {
                    *self.ready.lock().await = false;
                }
                Err(error.into())
            }
        }
    }

    fn letter(&self, ticket: &Ticket, reason: &str, limit: usize) -> Outgoing {
        let Checked { origin, subject, config } = &self.settings;
        let mut headers = HeaderMap::new();
        headers.insert(REASON, text(reason));
        headers.insert(SUBJECT, text(&ticket.subject));
        headers.insert(STREAM, text(origin));
        headers.insert(SEQUENCE, ticket.sequence.to_string());
        headers.insert(DELIVERIES, ticket.deliveries.to_string());
        let room = limit.saturating_sub(HEADERS).min(ticket.payload.len());
        if room < ticket.payload.len() {
            headers.insert(LENGTH, ticket.payload.len().to_string());
        }
        Outgoing {
            subject: subject.clone(),
            stream: config.name.clone(),
            id: format!("{origin}/{}", ticket.sequence),
            headers,
            payload: ticket.payload.slice(..room),
        }
    }

    async fn prepare(&self) -> Result<(), BoxError> {
        let mut ready = self.ready.lock().await;
        if !*ready {
            let context = self.connection.jetstream().await?;
            let config = &self.settings.config;
            match api::stream_info(context, &config.name).await {
                Ok(_) => {}
                Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => {
                    api::create_stream(context, config).await.map_err(|error| {
                        format!("cannot create the dead-letter stream {}: {error}", config.name)
                    })?;
                }
                // Whoever may not ask may still publish.
                Err(api::ApiError::Silent) => {}
                Err(error) => return Err(error.into()),
            }
            *ready = true;
        }
        Ok(())
    }
}

/// A text as a header can hold it.
fn text(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.chars().take(LONGEST_TEXT).map(safe).collect()
}
