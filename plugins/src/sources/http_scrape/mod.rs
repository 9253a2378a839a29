//! Scrapes targets over HTTP as Prometheus does, and sends every scrape on as one event: the exact
//! bytes that the target sent, labelled `job`, `instance` and `publisher`. A scrape that fails is an
//! event too, with an empty body and the attribute `error`, so that the far side can tell a target that is
//! down from a site that is cut off.
//!
//! ```yaml
//! source:
//!   type: http_scrape
//!   interval: 60s
//!   timeout: 10s
//!   jobs:
//!     node:
//!       labels: { site: dc1 }
//!       targets:
//!         - http://db1.example.net:9100/metrics
//!         - { name: db2, url: "https://db2.example.net:9100/metrics", interval: 15s }
//!       tls: { ca_file: /etc/prometheus-streams/ca.pem }
//! ```
//!
//! Every target has its own slots in the interval (see `schedule.rs`). A scrape takes room in the
//! pipeline before it asks anything of the target; where there is none, or the pipeline is paused, the slot is
//! skipped and counted. Nothing is sent a second time: the next slot brings newer data.

#[allow(dead_code, reason = "goes when the poller takes the targets of discoveries")]
mod before;
mod config;
#[allow(dead_code, reason = "the poller is about to use it")]
mod content_type;
#[allow(dead_code, reason = "the parts that use all of it land one by one")]
mod discovery;
#[allow(dead_code, reason = "the parts that use all of it land one by one")]
mod ingest;
#[allow(dead_code, reason = "the parts that use all of it land one by one")]
mod job;
mod metrics;
mod poller;
mod schedule;
#[allow(dead_code, reason = "the poller is about to use it")]
mod scraper;
#[allow(dead_code, unused_imports, reason = "the parts that use all of it land one by one")]
mod targets;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use prometheus_streams_core::emitter::Emitter;
use prometheus_streams_core::error::{BoxError, BuildError};
use prometheus_streams_core::metrics::Metrics;
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{Clock, Source, SourceConfig, StageContext};
use prometheus_streams_core::values::Span;
use tokio_util::sync::CancellationToken;

pub use self::config::{
    Flag, HttpScrapeConfig, JobSettings, PromDuration, PromSize, ScrapeConfig, StaticConfig, TargetEntry,
    TargetSettings, Text,
};
pub use self::discovery::{DnsSdSettings, FileSdSettings, HttpSdSettings, RecordKind};
use self::metrics::PollerMetrics;
use self::poller::Poller;
use self::scraper::Target;

register!(source: HttpScrapeConfig);

impl SourceConfig for HttpScrapeConfig {
    const TYPE: &'static str = "http_scrape";

    fn build(self, cx: &StageContext) -> Result<Box<dyn Source>, BuildError> {
        let targets = self.targets(&cx.identity)?;
        Ok(Box::new(HttpScrape { targets, metrics: cx.metrics.clone(), clock: Arc::clone(&cx.clock) }))
    }
}

/// The targets, ready to be polled.
struct HttpScrape {
    targets: Vec<Target>,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Source for HttpScrape {
    async fn run(self: Box<Self>, out: Emitter, shutdown: CancellationToken) -> Result<(), BoxError> {
        let metrics = PollerMetrics::new(&self.metrics, &self.targets);
        let jobs = PollerMetrics::announce(&self.metrics, &self.targets);
        tracing::info!(jobs, targets = self.targets.len(), intervals = self.intervals(), "polling");
        Poller::new(self.targets, metrics, self.clock, out).run(shutdown).await;
        Ok(())
    }
}

impl HttpScrape {
    /// The intervals that occur, shortest first, as `15s, 1m`.
    fn intervals(&self) -> String {
        let intervals: BTreeSet<_> = self.targets.iter().map(|target| target.rhythm.interval()).collect();
        let shown: Vec<_> = intervals.into_iter().map(|millis| Span::millis(millis).to_string()).collect();
        shown.join(", ")
    }
}
