//! The four kinds of stage, and what a stage is given when it is built.
//!
//! A stage is a config struct that implements one of the `*Config` traits and a type that implements
//! the trait of its kind. Building is pure: it parses, checks ranges and reads files that the config
//! names, and opens no socket and spawns no task, so that `check` needs no network. Work begins in
//! `run`, or in the first `send`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::control::Control;
use crate::emitter::{Backlog, Emitter};
use crate::error::{BoxError, BuildError, SendError};
use crate::event::Event;
use crate::health::Health;
use crate::metrics::Metrics;

/// Where events begin.
#[async_trait]
pub trait Source: Send {
    /// Sends events into `out` until `shutdown`, then stops taking new ones, waits for the receipts
    /// that are still open, answers upstream, and returns.
    ///
    /// What a source can mend by itself, as a broker that is away, it mends by itself, saying so
    /// through [`StageContext::health`].
    ///
    /// # Errors
    /// Something that trying again cannot mend; it ends the program.
    async fn run(self: Box<Self>, out: Emitter, shutdown: CancellationToken) -> Result<(), BoxError>;
}

/// What happens to events on the way. Pure and quick: it runs on the path of every event.
pub trait Transform: Send + Sync {
    /// The event to pass on, or `None` to drop it on purpose.
    ///
    /// # Errors
    /// The event is bad; it is answered `Rejected` with this error as the reason.
    fn apply(&self, event: Event) -> Result<Option<Event>, BoxError>;
}

/// Where events land.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Delivers one event, and returns when the far side has confirmed it. Called concurrently, but
    /// never for two events of equal labels at once. May be cancelled at any await (that is how the
    /// timeout works) and called again with the same event.
    ///
    /// # Errors
    /// Says whether a second try can help.
    async fn send(&self, event: Event) -> Result<(), SendError>;

    /// In which order the sink wants what has piled up. With any wish but [`Backlog::Any`], an event that a
    /// later try may help is tried for ever, unless `delivery` sets an end: what gives up is overtaken.
    fn backlog(&self) -> Backlog {
        Backlog::Any
    }

    /// How many events are in flight at once unless `delivery.max_in_flight` says otherwise, where that follows
    /// from the settings of the sink; else it is [`SinkConfig::MAX_IN_FLIGHT`].
    fn max_in_flight(&self) -> Option<usize> {
        None
    }

    /// What the sink does beside its sends: serve a port, expire entries, keep a connection. Runs
    /// from the start of the pipeline until `shutdown`, which comes after the last send has been answered.
    ///
    /// # Errors
    /// Something that trying again cannot mend, as an address in use; it ends the program.
    async fn run(&self, shutdown: CancellationToken) -> Result<(), BoxError> {
        shutdown.cancelled().await;
        Ok(())
    }
}

/// What runs beside the pipelines, as a management interface.
#[async_trait]
pub trait Extension: Send {
    /// Runs until `shutdown`.
    ///
    /// # Errors
    /// Something that trying again cannot mend, as an address in use; it ends the program.
    async fn run(self: Box<Self>, control: Control, shutdown: CancellationToken) -> Result<(), BoxError>;
}

/// The settings of a source. Its doc comment, and those of its fields, are the stage reference.
pub trait SourceConfig: DeserializeOwned + JsonSchema {
    /// The `type` in the configuration.
    const TYPE: &'static str;

    /// True where the source sends an event again that was answered `Failed`. Events of equal labels
    /// that wait behind a failed one then fail with it, so that all of them come again in their order.
    const REDELIVERS: bool = false;

    /// Checks the settings and builds the source, without I/O but for files that the settings name.
    ///
    /// # Errors
    /// Every mistake in the settings, each with its path.
    fn build(self, cx: &StageContext) -> Result<Box<dyn Source>, BuildError>;
}

/// The settings of a transform. See [`SourceConfig`].
pub trait TransformConfig: DeserializeOwned + JsonSchema {
    /// The `type` in the configuration.
    const TYPE: &'static str;

    /// Checks the settings and builds the transform.
    ///
    /// # Errors
    /// Every mistake in the settings, each with its path.
    fn build(self, cx: &StageContext) -> Result<Box<dyn Transform>, BuildError>;
}

/// The settings of a sink. See [`SourceConfig`].
pub trait SinkConfig: DeserializeOwned + JsonSchema {
    /// The `type` in the configuration.
    const TYPE: &'static str;

    /// How many events are in flight at once unless `delivery.max_in_flight` says otherwise.
    const MAX_IN_FLIGHT: usize = 8;

    /// How long one attempt may take unless `delivery.timeout` says otherwise.
    const TIMEOUT: Duration = Duration::from_secs(10);

    /// True where only the newest of several events of equal labels that *wait* is worth delivering,
    /// unless `delivery.newest_only` says otherwise. What is redelivered after a newer one has landed is
    /// for the sink itself to leave out.
    const NEWEST_ONLY: bool = false;

    /// Checks the settings and builds the sink.
    ///
    /// # Errors
    /// Every mistake in the settings, each with its path.
    fn build(self, cx: &StageContext) -> Result<Box<dyn Sink>, BuildError>;
}

/// The settings of an extension. See [`SourceConfig`].
pub trait ExtensionConfig: DeserializeOwned + JsonSchema {
    /// The `type` in the configuration, and the key under `extensions:`.
    const TYPE: &'static str;

    /// Checks the settings and builds the extension.
    ///
    /// # Errors
    /// Every mistake in the settings, each with its path.
    fn build(self, cx: &StageContext) -> Result<Box<dyn Extension>, BuildError>;
}

/// What a stage is given when it is built.
#[derive(Clone, Debug)]
pub struct StageContext {
    /// The name of its pipeline; empty for an extension.
    pub pipeline: String,
    /// Its own name: `name:` in the configuration, or else its type.
    pub name: String,
    /// Who we are: the publisher.
    pub identity: Arc<str>,
    /// The time of day. Stages read it here, so that tests can move it.
    pub clock: Arc<dyn Clock>,
    /// Where its own metrics are registered.
    pub metrics: Metrics,
    /// Where it says whether it does its work.
    pub health: Health,
}

/// The time of day.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now.
    fn now(&self) -> SystemTime;
}

/// The clock of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}
