//! The stream that the sink publishes into: created when it is missing, never changed when it exists.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode};
use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::{Size, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::support::nats::api::{self, ApiError, StreamInfo};
use crate::support::nats::subject;

/// The longest window in which the stream tells duplicates, unless told otherwise.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// The stream that takes the events. All but its name matters only when the sink creates it; one that
/// exists is used as it is.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamSettings {
    /// Its name, as `PROMETHEUS`.
    name: String,
    /// Whether to look for the stream, and to create it when it is missing. With `false` the sink
    /// needs no permission but to publish.
    #[serde(default = "yes")]
    create: bool,
    /// The subjects that it takes. Default: the tokens of `subject` before the first label, and `>`.
    #[serde(default)]
    subjects: Option<Vec<String>>,
    /// How long it keeps an event; `0s` for ever.
    #[serde(default = "default_max_age")]
    max_age: Span,
    /// How large it may become. Default: no limit.
    #[serde(default)]
    max_bytes: Option<Size>,
    /// What it does when it has reached `max_bytes`.
    #[serde(default)]
    discard: Discard,
    /// How many servers of a cluster keep a copy: 1 to 5.
    #[serde(default = "one")]
    replicas: usize,
    /// Where it keeps the events.
    #[serde(default)]
    storage: Storage,
    /// For how long it knows an event again that is published twice. Default: 2m, or `max_age` if that is less.
    #[serde(default)]
    duplicate_window: Option<Span>,
}

/// What a full stream does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Discard {
    /// It refuses new events, and the sink tries again: nothing is lost unseen.
    #[default]
    New,
    /// It deletes old events, whether they were read or not.
    Old,
}

/// Where a stream keeps its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Storage {
    /// On disk; they survive the server.
    #[default]
    File,
    /// In memory; they end with the server.
    Memory,
}

fn yes() -> bool {
    true
}

fn one() -> usize {
    1
}

fn default_max_age() -> Span {
    Span::secs(600)
}

/// Settings of a stream, checked.
pub(super) struct Checked {
    create: bool,
    config: Config,
}

impl StreamSettings {
    /// Checks the settings; `binding` is what the subjects of the sink need.
    pub(super) fn check(self, binding: Option<String>) -> Result<Checked, BuildError> {
        let mut problems = BuildError::default();
        if let Err(reason) = subject::check_name(&self.name) {
            problems.add("name", reason);
        }
        let subjects = self.subjects.or_else(|| Some(vec![binding?])).unwrap_or_default();
        if subjects.is_empty() {
            problems
                .add("subjects", "name them; `subject` begins with a label, so they do not follow from it");
        }
        for (index, subject) in subjects.iter().enumerate() {
            if let Err(reason) = subject::check_pattern(subject) {
                problems.add(format!("subjects[{index}]"), reason);
            }
        }
        if !(1..=5).contains(&self.replicas) {
            problems.add("replicas", "must be 1 to 5");
        }
        let max_age = self.max_age.0;
        let known = if max_age.is_zero() { DUPLICATE_WINDOW } else { DUPLICATE_WINDOW.min(max_age) };
        let duplicate_window = self.duplicate_window.map_or(known, |window| window.0);
        if !max_age.is_zero() && duplicate_window > max_age {
            problems.add("duplicate_window", "must not be longer than max_age");
        }
        let config = Config {
            name: self.name,
            subjects,
            retention: RetentionPolicy::Limits,
            max_age,
            max_bytes: self.max_bytes.map_or(-1, |size| i64::try_from(size.0).unwrap_or(i64::MAX)),
            max_messages: -1,
            max_messages_per_subject: -1,
            max_consumers: -1,
            discard: match self.discard {
                Discard::New => DiscardPolicy::New,
                Discard::Old => DiscardPolicy::Old,
            },
            storage: match self.storage {
                Storage::File => StorageType::File,
                Storage::Memory => StorageType::Memory,
            },
            num_replicas: self.replicas,
            duplicate_window,
            ..Config::default()
        };
        problems.or(Checked { create: self.create, config })
    }
}

/// Why the stream cannot take an event.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("cannot look for stream {name}: {source}")]
    Unknown { name: String, source: ApiError },
    #[error("cannot create stream {name}: {source}")]
    NotCreated { name: String, source: ApiError },
    #[error(
        "stream {name} exists and takes {bound}, but not {subject}; add the subject to the stream, or change `subject`"
    )]
    NotBound { name: String, bound: String, subject: String },
}

/// The stream, and whether it was seen.
pub(super) struct TargetStream {
    settings: Checked,
    /// What the stream said of itself last, until there is reason to doubt it.
    seen: Mutex<Option<(u64, StreamInfo)>>,
    /// Raised when there is reason to doubt.
    doubts: AtomicU64,
}

impl TargetStream {
    pub(super) fn new(settings: Checked) -> Self {
        Self { settings, seen: Mutex::default(), doubts: AtomicU64::new(0) }
    }

    pub(super) fn name(&self) -> &str {
        &self.settings.config.name
    }

    /// Looks for the stream anew before the next event.
    pub(super) fn forget(&self) {
        self.doubts.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes sure that the stream is there and takes `subject`. Returns the largest message that it takes.
    pub(super) async fn ready(&self, context: &Context, subject: Option<&str>) -> Result<usize, StreamError> {
        if !self.settings.create {
            return Ok(usize::MAX);
        }
        let doubts = self.doubts.load(Ordering::Relaxed);
        let mut seen = self.seen.lock().await;
        let info = match &*seen {
            Some((then, info)) if *then == doubts => info,
            _ => &seen.insert((doubts, self.look(context).await?)).1,
        };
        match subject {
            Some(subject) if !info.config.subjects.iter().any(|bound| subject::binds(bound, subject)) => {
                let error = StreamError::NotBound {
                    name: self.name().to_owned(),
                    bound: info.config.subjects.join(", "),
                    subject: subject.to_owned(),
                };
                // It may be mended any time.
                self.forget();
                Err(error)
            }
            _ => Ok(usize::try_from(info.config.max_msg_size)
                .ok()
                .filter(|max| *max > 0)
                .unwrap_or(usize::MAX)),
        }
    }

    async fn look(&self, context: &Context) -> Result<StreamInfo, StreamError> {
        let name = || self.name().to_owned();
        match api::stream_info(context, self.name()).await {
            Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => {
                let created = api::create_stream(context, &self.settings.config).await;
                let info = created.map_err(|source| StreamError::NotCreated { name: name(), source })?;
                tracing::info!(stream = self.name(), subjects = ?info.config.subjects, "created the stream");
                Ok(info)
            }
            found => found.map_err(|source| StreamError::Unknown { name: name(), source }),
        }
    }
}
