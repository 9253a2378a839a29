//! Where bad messages go: a small stream of its own, each with the reason and its origin in the headers
//! and the data as it came, so that a person can look at it and publish it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use bytes::Bytes;
use prometheus_streams_core::error::{BoxError, BuildError};
use prometheus_streams_core::values::{Size, Span};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::counts::Counts;
use crate::support::envelope::{EnvelopeError, stable_hash};
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

/// A message that goes to the dead letters.
pub(super) struct Letter<'a> {
    /// The subject that it was published to.
    pub(super) subject: &'a str,
    /// Its place in the stream.
    pub(super) sequence: u64,
    /// How often it was delivered.
    pub(super) deliveries: u64,
    /// The data, as it came.
    pub(super) payload: &'a Bytes,
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
    /// Its headers or its subject would break the connection.
    Poison,
}

impl Reason {
    pub(super) const ALL: [Self; 6] =
        [Self::Garbage, Self::Version, Self::TooLarge, Self::Rejected, Self::Incomplete, Self::Poison];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Garbage => "garbage",
            Self::Version => "version",
            Self::TooLarge => "too_large",
            Self::Rejected => "rejected",
            Self::Incomplete => "incomplete",
            Self::Poison => "poison",
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
    /// True after a failure, so that a thousand of them are told once.
    failing: AtomicBool,
}

impl DeadLetters {
    pub(super) fn new(settings: Checked, connection: Arc<Connection>, counts: Arc<Counts>) -> Self {
        Self { settings, connection, counts, ready: Mutex::default(), failing: AtomicBool::new(false) }
    }

    /// Stores a message; returns when the stream has acknowledged it.
    pub(super) async fn put(&self, letter: &Letter<'_>, kind: Reason, reason: &str) -> Result<(), BoxError> {
        let stored = self.store(letter, reason).await;
        match &stored {
            Ok(()) => self.counts.dead_letter(kind),
            Err(error) => {
                tracing::debug!(sequence = letter.sequence, reason, %error, "cannot dead-letter a message")
            }
        }
        if let (false, Err(error)) = (self.failing.swap(stored.is_err(), Ordering::Relaxed), &stored) {
            tracing::warn!(reason, %error, "cannot dead-letter a bad message; it stays and is tried again");
        }
        stored
    }

    async fn store(&self, letter: &Letter<'_>, reason: &str) -> Result<(), BoxError> {
        self.prepare().await?;
        let context = self.connection.jetstream().await?;
        let message = self.outgoing(letter, reason, context.client().max_payload());
        if let Err(error) = self.connection.publish(message, PATIENCE).await {
            if matches!(error, PublishError::NoStream(_)) {
                *self.ready.lock().await = false;
            }
            return Err(error.into());
        }
        Ok(())
    }

    fn outgoing(&self, letter: &Letter<'_>, reason: &str, limit: usize) -> Outgoing {
        let Checked { origin, subject, config } = &self.settings;
        let mut headers = HeaderMap::new();
        headers.insert(REASON, text(reason));
        headers.insert(SUBJECT, text(letter.subject));
        headers.insert(STREAM, text(origin));
        headers.insert(SEQUENCE, letter.sequence.to_string());
        headers.insert(DELIVERIES, letter.deliveries.to_string());
        let room = limit.saturating_sub(HEADERS).min(letter.payload.len());
        if room < letter.payload.len() {
            headers.insert(LENGTH, letter.payload.len().to_string());
        }
        Outgoing {
            subject: subject.clone(),
            stream: config.name.clone(),
            // A stream that was made again counts from 1 again, so the place alone is no identity.
            id: format!("{origin}/{}/{:016x}", letter.sequence, stable_hash([&letter.payload[..]])),
            headers,
            payload: letter.payload.slice(..room),
        }
    }

    async fn prepare(&self) -> Result<(), BoxError> {
        let mut ready = self.ready.lock().await;
        if !*ready {
            let context = self.connection.jetstream().await?;
            let config = &self.settings.config;
            match api::stream_info(&context, &config.name).await {
                Ok(_) => {}
                Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => {
                    api::create_stream(&context, config).await.map_err(|error| {
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
