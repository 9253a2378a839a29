//! Serves the newest scrape of every target on one page, for a Prometheus at the centre and no gateway.
//!
//! ```yaml
//! sinks:
//!   - { type: exposition, listen: 127.0.0.1:10002 }
//! ```
//!
//! Prometheus reads it with
//!
//! ```yaml
//! scrape_configs:
//!   - job_name: prometheus-streams
//!     honor_labels: true
//!     static_configs: [ { targets: [ "127.0.0.1:10002" ] } ]
//! ```

mod entry;
mod page;
mod store;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::StatusCode;
use hyper::header::{self, HeaderMap};
use prometheus_streams_core::error::{BoxError, BuildError, SendError};
use prometheus_streams_core::event::{Event, Labels};
use prometheus_streams_core::health::Health;
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{Sink, SinkConfig, StageContext};
use prometheus_streams_core::values::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use self::entry::Entry;
use self::store::{Store, StoreMetrics};
use crate::exposition::{Family, apply_target_labels, as_text, is_plain_label_name};
use crate::support::server::{self, Listen, Request, Response, Server};
use crate::support::{report, scrape};

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT_WITH_QUOTES: &str = "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8";

/// Serves the newest scrape of every target on one page, for a Prometheus that reads it with
/// `honor_labels: true`.
///
/// Every sample carries the labels of its target; labels of the same name that the target exposed
/// itself become `exported_...`, unless the source was told to honour them. With each target come `up`,
/// `scrape_duration_seconds`, `scrape_samples_scraped`, `scrape_samples_post_metric_relabeling`,
/// `scrape_series_added` and `scrape_timestamp_seconds`; of a failed scrape nothing else is shown. A target that
/// its source has dropped leaves the page at once.
/// Where targets disagree on the type of a metric, the first of them decides, and the metric of the
/// others is left out and counted in `prometheus_streams_exposition_conflicts`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExpositionConfig {
    /// The address and port of the page.
    pub listen: Listen,

    /// The path of the page.
    pub path: String,

    /// The age at which a scrape leaves the page, as `5m`: the time since the target was scraped.
    pub expire_after: Span,

    /// The most targets on the page. Scrapes of further targets are rejected.
    pub max_targets: usize,
}

impl Default for ExpositionConfig {
    fn default() -> Self {
        Self {
            listen: Listen(([127, 0, 0, 1], 10002).into()),
            path: "/metrics".to_owned(),
            expire_after: Span::secs(300),
            max_targets: 10_000,
        }
    }
}

register!(sink: ExpositionConfig);

impl SinkConfig for ExpositionConfig {
    const TYPE: &'static str = "exposition";
    const NEWEST_ONLY: bool = true;

    fn build(self, cx: &StageContext) -> Result<Box<dyn Sink>, BuildError> {
        self.sink(cx).map(|sink| Box::new(sink) as Box<dyn Sink>)
    }
}

impl ExpositionConfig {
    fn sink(self, cx: &StageContext) -> Result<Exposition, BuildError> {
        let mut problems = BuildError::default();
        let is_path_char = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '%');
        if !self.path.starts_with('/') || !self.path.chars().all(is_path_char) {
            problems.add("path", "must start with / and be of plain characters, as /metrics");
        }
        if self.expire_after.0.is_zero() {
            problems.add("expire_after", "must be more than zero");
        }
        if self.max_targets == 0 {
            problems.add("max_targets", "must be at least 1");
        }
        let gauge = |name, help| {
            let gauges = cx.metrics.gauges(name, help, &["pipeline", "sink"]);
            gauges.with_label_values(&[cx.pipeline.as_str(), cx.name.as_str()])
        };
        let metrics = StoreMetrics {
            targets: gauge("exposition_targets", "Targets on the page of an exposition sink."),
            conflicts: gauge(
                "exposition_conflicts",
                "Metrics on whose type targets disagreed when the page was last read.",
            ),
        };
        problems.or(Exposition {
            listen: self.listen,
            path: self.path.into(),
            store: Arc::new(Store::new(
                self.expire_after.0,
                self.max_targets,
                Arc::clone(&cx.clock),
                metrics,
            )),
            health: cx.health.clone(),
        })
    }
}

/// Keeps the newest scrapes, and serves them.
struct Exposition {
    listen: Listen,
    path: Arc<str>,
    store: Arc<Store>,
    health: Health,
}

#[async_trait]
impl Sink for Exposition {
    async fn send(&self, event: Event) -> Result<(), SendError> {
        let labels = target_labels(&event.labels).map_err(SendError::permanent)?;
        if !self.store.wants(&event.labels, event.timestamp) {
            tracing::debug!(labels = %event.labels, "a scrape came too late for the page");
            return Ok(());
        }
        if scrape::is_tombstone(&event) {
            self.store.remove(event.labels, event.timestamp);
            return Ok(());
        }
        let (families, readable) = report::families(&event);
        let mut families = as_text(families);
        apply_target_labels(&mut families, &labels, scrape::honors_labels(&event));
        keep_away(&mut families);
        let entry = Entry::new(event.timestamp, &families);
        self.store.put(event.labels.clone(), entry).map_err(SendError::permanent)?;
        readable.map_err(SendError::permanent)
    }

    async fn run(&self, shutdown: CancellationToken) -> Result<(), BoxError> {
        let server = Server::bind(self.listen).await?;
        self.health.ready();
        self.serve(server, shutdown).await;
        Ok(())
    }
}

impl Exposition {
    async fn serve(&self, server: Server, shutdown: CancellationToken) {
        let (store, path) = (Arc::clone(&self.store), Arc::clone(&self.path));
        let handler = move |request| respond(Arc::clone(&store), Arc::clone(&path), request);
        let what = format!("the newest scrapes on {}", self.path);
        tokio::join!(server.serve(&what, handler, shutdown.clone()), self.sweep(shutdown));
    }

    /// Frees the memory of expired scrapes also when nobody reads the page.
    async fn sweep(&self, shutdown: CancellationToken) {
        let pause = self.store.expire_after.clamp(Duration::from_secs(1), Duration::from_secs(60));
        while shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            self.store.expire();
        }
    }
}

async fn respond(store: Arc<Store>, path: Arc<str>, request: Request) -> Response {
    if !server::reads(request.method()) {
        return server::method_not_allowed("GET, HEAD");
    }
    if request.uri().path() == &*path {
        let with_quotes = reads_quotes(request.headers());
        let content_type = if with_quotes { TEXT_WITH_QUOTES } else { TEXT };
        let write = move |out: &mut dyn std::io::Write| store.write_page(with_quotes, out);
        return server::large_page(request.headers(), content_type, write).await;
    }
    if request.uri().path() == "/" {
        return server::text(StatusCode::OK, format_args!("The newest scrape of every target: {path}"));
    }
    server::not_found()
}

/// Whether the reader says that it knows names in quotes, as Prometheus does from version 3 on.
fn reads_quotes(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.into_iter().any(|value| value.contains("escaping=allow-utf-8"))
}

/// Names without a value the labels that a reader would otherwise give every sample that lacks them: those of the
/// page itself.
fn keep_away(families: &mut [Family<'_>]) {
    for sample in families.iter_mut().flat_map(|family| &mut family.samples) {
        for name in [scrape::INSTANCE, scrape::JOB] {
            if !sample.labels.iter().any(|(own, _)| own == name) {
                sample.labels.push((name.into(), "".into()));
            }
        }
    }
}

/// The labels of a target that are not empty. They come from far away, and one that Prometheus does not
/// take would spoil the page for all.
fn target_labels(labels: &Labels) -> Result<Vec<(&str, &str)>, String> {
    let labels: Vec<_> = labels.iter().filter(|(_, value)| !value.is_empty()).collect();
    match labels.iter().find(|(name, _)| !is_plain_label_name(name) || *name == "__name__") {
        Some((name, _)) => Err(format!("{name:?} is not the name of a Prometheus label")),
        None => Ok(labels),
    }
}

#[cfg(test)]
mod tests;
