//! Appends events to a stream on the disk of this machine, from which a `local_stream` source of the same
//! program reads them. It does what a broker does where there is none.
//!
//! ```yaml
//! sinks:
//!   - { type: local_stream, path: /var/lib/prometheus-streams/stream, max_age: 10m, max_size: 1GiB }
//! ```
//!
//! An event is delivered when it is on the disk itself. Events that arrive together share one flush.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prometheus::IntGauge;
use prometheus_streams_core::error::{BoxError, BuildError, SendError};
use prometheus_streams_core::event::Event;
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{Clock, Sink, SinkConfig, StageContext};
use prometheus_streams_core::values::{Size, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::support::envelope;
use crate::support::local_stream::{Limits, Standing, Store, StoreError};

/// Appends events to a stream on the disk of this machine, for pipelines of the same program: only one
/// program at a time can have the stream open.
///
/// The oldest events go when they are older than `max_age`, or when all together are larger than
/// `max_size`, whether they have been read or not. The directory may take a quarter more than `max_size`,
/// and 200 MB for the journal.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocalStreamSinkConfig {
    /// The directory of the stream. It is made if it is not there.
    pub path: PathBuf,

    /// How long events are kept.
    #[serde(default = "ten_minutes")]
    pub max_age: Span,

    /// The size of all events that are kept, compressed.
    #[serde(default = "one_gibibyte")]
    pub max_size: Size,
}

fn ten_minutes() -> Span {
    Span(Limits::default().max_age)
}

fn one_gibibyte() -> Size {
    Size(Limits::default().max_size)
}

register!(sink: LocalStreamSinkConfig);

impl SinkConfig for LocalStreamSinkConfig {
    const TYPE: &'static str = "local_stream";
    // Those that are in flight together share a flush of the disk.
    const MAX_IN_FLIGHT: usize = 64;

    fn build(self, cx: &StageContext) -> Result<Box<dyn Sink>, BuildError> {
        let mut problems = BuildError::default();
        if self.path.as_os_str().is_empty() {
            problems.add("path", "must name a directory");
        }
        if self.max_age.0.is_zero() {
            problems.add("max_age", "must be more than zero");
        }
        if self.max_size.0 == 0 {
            problems.add("max_size", "must be more than zero");
        }
        let gauge = |name, help| {
            let gauges = cx.metrics.gauges(name, help, &["pipeline", "sink"]);
            gauges.with_label_values(&[&cx.pipeline, &cx.name])
        };
        problems.or(Box::new(LocalStreamSink {
            path: self.path,
            limits: Limits { max_age: self.max_age.0, max_size: self.max_size.0 },
            store: OnceCell::new(),
            standing: Standing::new(cx.health.clone()),
            records: gauge("local_stream_records", "Events that a local stream holds."),
            bytes: gauge("local_stream_bytes", "Bytes of the events that a local stream holds."),
            clock: Arc::clone(&cx.clock),
        }))
    }
}

/// Appends to a stream that all stages of this process share.
struct LocalStreamSink {
    clock: Arc<dyn Clock>,
    path: PathBuf,
    limits: Limits,
    store: OnceCell<Arc<Store>>,
    standing: Standing,
    records: IntGauge,
    bytes: IntGauge,
}

#[async_trait]
impl Sink for LocalStreamSink {
    async fn send(&self, event: Event) -> Result<(), SendError> {
        let message = envelope::encode(&event, envelope::DEFAULT_LEVEL).map_err(SendError::permanent)?;
        let appended = async { self.store().await?.append(message).await };
        self.standing.told(appended.await).map_err(|error| match error {
            StoreError::Unavailable(_) => SendError::transient(error),
            StoreError::Refused(_) => SendError::permanent(error),
        })
    }

    /// Lets old events go also while none come, and says what the stream holds.
    async fn run(&self, shutdown: CancellationToken) -> Result<(), BoxError> {
        let pause = (self.limits.max_age / 10).clamp(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            match self.standing.told(self.sweep().await) {
                Err(error @ StoreError::Refused(_)) => return Err(error.into()),
                Err(StoreError::Unavailable(_)) | Ok(()) => {}
            }
            if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return Ok(());
            }
        }
    }
}

impl LocalStreamSink {
    async fn store(&self) -> Result<&Arc<Store>, StoreError> {
        let open = || Store::at(&self.path, Some(self.limits), Arc::clone(&self.clock));
        self.store.get_or_try_init(open).await
    }

    async fn sweep(&self) -> Result<(), StoreError> {
        let store = self.store().await?;
        store.sweep().await?;
        let usage = *store.usage().borrow();
        self.records.set(usage.records.cast_signed());
        self.bytes.set(usage.bytes.cast_signed());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use prometheus_streams_core::testing::{SinkBench, check_sink, context};
    use tempfile::TempDir;

    use super::*;

    /// A stream in a directory of its own.
    struct Bench(TempDir);

    fn config(path: PathBuf) -> LocalStreamSinkConfig {
        LocalStreamSinkConfig { path, max_age: ten_minutes(), max_size: Size(64 << 10) }
    }

    #[async_trait]
    impl SinkBench for Bench {
        fn sink(&self) -> Box<dyn Sink> {
            config(self.0.path().into()).build(&context("local_stream")).unwrap()
        }

        fn event(&self, thing: usize, number: u64) -> Event {
            let mut event = Event::new(SystemTime::now(), number.to_string());
            event.labels.insert("instance", thing.to_string());
            event
        }

        /// Larger than the whole stream, also when it is compressed.
        fn bad_event(&self) -> Option<Event> {
            let mut state = 1u64;
            let noise = std::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state.to_be_bytes()[0]
            });
            Some(Event::new(SystemTime::now(), noise.take(70_000).collect::<Vec<_>>()))
        }

        async fn landed(&self, thing: usize) -> Vec<u64> {
            let cx = context("local_stream");
            let store = Store::at(self.0.path(), None, cx.clock).await.unwrap();
            let reader = store.subscribe(&format!("thing {thing}")).await.unwrap();
            let records = reader.page(reader.floor()).await.unwrap().records;
            let events = records
                .into_iter()
                .map(|(_, message)| envelope::decode(message, &envelope::Limits::default()).unwrap());
            let of_thing = events.filter(|event| event.labels.get("instance") == Some(&thing.to_string()));
            of_thing.map(|event| std::str::from_utf8(&event.body).unwrap().parse().unwrap()).collect()
        }

        /// The disk of a test does not fail on demand.
        async fn take_away(&self) -> bool {
            false
        }

        async fn bring_back(&self) {}
    }

    #[tokio::test]
    async fn it_keeps_the_delivery_laws() {
        check_sink(&Bench(tempfile::tempdir().unwrap())).await;
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_made_is_an_error_that_may_pass() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "").unwrap();
        let sink = config(path.clone()).build(&context("local_stream")).unwrap();
        let event = || Event::new(SystemTime::now(), "x");
        let error = sink.send(event()).await.unwrap_err();
        assert!(
            error.is_transient() && error.to_string().starts_with("cannot make the directory "),
            "{error}"
        );
        std::fs::remove_file(path).unwrap();
        sink.send(event()).await.unwrap();
    }

    #[test]
    fn settings_are_checked() {
        let config = LocalStreamSinkConfig { path: "".into(), max_age: Span::secs(0), max_size: Size(0) };
        let error = config.build(&context("local_stream")).err().unwrap();
        let paths: Vec<_> = error.problems().iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["path", "max_age", "max_size"]);
    }
}
