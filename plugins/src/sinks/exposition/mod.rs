//! Serves the newest scrape of every target, for a Prometheus at the centre and no gateway: all on one page, and each by
//! itself.
//!
//! ```yaml
//! sinks:
//!   - { type: exposition, listen: 127.0.0.1:10002 }
//! ```
//!
//! Prometheus reads every target by itself, as if it scraped it where it is, with
//!
//! ```yaml
//! scrape_configs:
//!   - job_name: prometheus-streams
//!     honor_labels: true
//!     http_sd_configs: [ { url: "http://127.0.0.1:10002/sd" } ]
//! ```
//!
//! or all of them on one page with
//!
//! ```yaml
//! scrape_configs:
//!   - job_name: prometheus-streams
//!     honor_labels: true
//!     static_configs: [ { targets: [ "127.0.0.1:10002" ] } ]
//! ```
//!
//! | request | what it is |
//! | --- | --- |
//! | `GET /metrics` | the newest scrape of every target, as text, OpenMetrics or protobuf |
//! | `GET /sd` | the targets, for `http_sd_configs` |
//! | `GET /targets/PUBLISHER/JOB/INSTANCE/metrics` | the last scrape of one target as it was, or 503 if it failed or is too old |
//!
//! What is stored of a scrape is its body, and where in it the labels of the target go: [`rendering`]. Which scrape has
//! what of which family is kept while it stays: [`layout`]. A page is put together while it is sent: [`page`].

mod entry;
mod layout;
mod negotiate;
mod page;
mod pages;
mod rendering;
mod shape;
mod store;
mod targets;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
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
use self::pages::{Pages, SD};
use self::store::{Store, StoreMetrics};
use self::targets::Base;
use crate::exposition::is_plain_label_name;
use crate::support::scrape;
use crate::support::server::web::WebConfigFile;
use crate::support::server::{Listen, Server};

/// Serves the newest scrape of every target on one page, and each target by itself, for a Prometheus that reads it with
/// `honor_labels: true`.
///
/// `/sd` lists the targets for `http_sd_configs`, each with its own labels, and with its interval where that is known; at
/// `/targets/PUBLISHER/JOB/INSTANCE/metrics` is the last scrape of each as it was, or 503 if it failed or is too old, so
/// that `up`, staleness and native histograms are those of an ordinary scrape.
///
/// On the page of all targets every sample carries the labels of its target; labels of the same name that the target exposed
/// itself become `exported_...`, unless the source was told to honour them. With each target come `up`,
/// `scrape_duration_seconds`, `scrape_samples_scraped`, `scrape_samples_post_metric_relabeling`,
/// `scrape_series_added` and `scrape_timestamp_seconds`; of a failed scrape nothing else is shown. A target that
/// its source has dropped leaves the page at once.
/// Where targets disagree on the type of a metric, the page has all of its series and does not say what they are; such
/// metrics are counted in `prometheus_streams_exposition_conflicts`. The page is text, OpenMetrics or protobuf, as the
/// reader asks. A series that no format but protobuf can hold, as a native histogram, is in the others in its classic
/// form.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExpositionConfig {
    /// The address and port to listen on.
    pub listen: Listen,

    /// The path of the page of all targets.
    pub path: String,

    /// Gives each sample that has no timestamp that of its scrape, so that Prometheus stores it at the time at which it
    /// was measured. Prometheus then writes no staleness markers: series that end are seen for five minutes more, unless
    /// the reader sets `track_timestamps_staleness`; and what comes late, as after an outage, is out of order for
    /// it. For the page of all targets only. Default: false.
    pub timestamps: bool,

    /// A Prometheus web configuration file: `tls_server_config`, `basic_auth_users` and `http_server_config`, as for
    /// Prometheus and its exporters. It and the files that it names are read again when they change.
    pub web_config_file: Option<WebConfigFile>,

    /// The URL at which Prometheus reaches this sink, as `https://streams.example.net/centre`, for the targets in
    /// `/sd`. Default: where the request for `/sd` went.
    pub external_url: Option<String>,

    /// The age at which a scrape is not shown any more, as `5m`: the time since the target was scraped.
    pub expire_after: Span,

    /// The most targets. Scrapes of further targets are rejected.
    pub max_targets: usize,
}

impl Default for ExpositionConfig {
    fn default() -> Self {
        Self {
            listen: Listen(([127, 0, 0, 1], 10002).into()),
            path: "/metrics".to_owned(),
            timestamps: false,
            web_config_file: None,
            external_url: None,
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
        let web = problems.take("web_config_file", self.web_config_file.map(WebConfigFile::load).transpose());
        let base = problems.take("external_url", self.external_url.as_deref().map(external).transpose());
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
            timestamps: self.timestamps,
            pages: Arc::new(Pages { path: self.path, web: web.flatten(), base: base.flatten() }),
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
    timestamps: bool,
    pages: Arc<Pages>,
    store: Arc<Store>,
    health: Health,
}

#[async_trait]
impl Sink for Exposition {
    async fn send(&self, mut event: Event) -> Result<(), SendError> {
        event.labels = target_labels(&event.labels).map_err(SendError::permanent)?;
        if !self.store.wants(&event.labels, event.timestamp) {
            tracing::debug!(labels = %event.labels, "a scrape came too late for the page");
            return Ok(());
        }
        if scrape::is_tombstone(&event) {
            self.store.remove(event.labels, event.timestamp);
            return Ok(());
        }
        let store = &self.store;
        let known = store.get(&event.labels);
        let (entry, readable) =
            Entry::new(event, known.as_deref(), store.wanted(), self.timestamps, &store.names);
        store.put(entry).map_err(SendError::permanent)?;
        readable.map_err(SendError::permanent)
    }

    async fn run(&self, shutdown: CancellationToken) -> Result<(), BoxError> {
        let server = Server::bind(self.listen).await?.with_web_config(self.pages.web.clone());
        self.health.ready();
        self.serve(server, shutdown).await;
        Ok(())
    }
}

impl Exposition {
    async fn serve(&self, server: Server, shutdown: CancellationToken) {
        let (store, pages) = (Arc::clone(&self.store), Arc::clone(&self.pages));
        let handler = move |request| {
            let (store, pages) = (Arc::clone(&store), Arc::clone(&pages));
            async move { pages.answer(store, request).await }
        };
        let what = format!("the newest scrapes on {}, and the targets on {SD}", self.pages.path);
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

/// Where a URL leads.
fn external(url: &str) -> Result<Base, BuildError> {
    let wrong = || BuildError::at("", format!("{url:?} does not read like http://host:port/path"));
    let parsed = url::Url::parse(url).map_err(|_| wrong())?;
    let is_plain = parsed.query().is_none() && parsed.fragment().is_none() && parsed.username().is_empty();
    match (parsed.scheme(), parsed.host_str(), parsed.port_or_known_default()) {
        (scheme @ ("http" | "https"), Some(host), Some(port)) if is_plain => Ok(Base {
            scheme: scheme.to_owned(),
            address: format!("{host}:{port}"),
            prefix: parsed.path().trim_end_matches('/').to_owned(),
        }),
        _ => Err(wrong()),
    }
}

/// The labels of a target that are not empty. They come from far away, and one that Prometheus does not
/// take would spoil the page for all.
fn target_labels(labels: &Labels) -> Result<Labels, String> {
    let mut own = labels.iter().filter(|(_, value)| !value.is_empty());
    if let Some((name, _)) = own.find(|(name, _)| !is_plain_label_name(name) || *name == "__name__") {
        return Err(format!("{name:?} is not the name of a Prometheus label"));
    }
    if labels.iter().all(|(_, value)| !value.is_empty()) {
        return Ok(labels.clone());
    }
    Ok(labels.iter().filter(|(_, value)| !value.is_empty()).collect())
}

#[cfg(test)]
mod tests;
