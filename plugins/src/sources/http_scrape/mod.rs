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
//!   scrape_configs:                 # as they stand in a prometheus.yml
//!     - job_name: web
//!       file_sd_configs: [ { files: [ /etc/prometheus-streams/targets/*.yml ] } ]
//!       relabel_configs: [ { source_labels: [ __meta_filepath ], target_label: file } ]
//! ```
//!
//! The way of a target: `config/` makes jobs of the settings, `discovery/` finds addresses for them, `targets/` makes
//! targets of those, `poller/` scrapes each when its slot comes, and `scraper.rs` with `ingest/` makes an event of
//! the answer. Targets come and go while it runs; one that is gone is announced with a tombstone, an event without
//! a body, so that the far side need not wait until its entries expire.
//!
//! Every target has its own slots in the interval (see `support/schedule.rs`). A scrape takes room in the
//! pipeline before it asks anything of the target; where there is none, or the pipeline is paused, the slot is
//! skipped and counted. Nothing is sent a second time: the next slot brings newer data.

mod config;
mod content_type;
mod discovery;
mod ingest;
mod job;
mod metrics;
mod poller;
mod scraper;
mod status;
mod targets;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use prometheus_streams_core::emitter::Emitter;
use prometheus_streams_core::error::{BoxError, BuildError};
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{Source, SourceConfig, StageContext};
use prometheus_streams_core::values::Span;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::config::{
    Flag, HttpScrapeConfig, JobSettings, PromDuration, PromSize, ScrapeConfig, StaticConfig, TargetEntry,
    TargetSettings, Text, scrape_config_lacks,
};
use self::discovery::{DiscoverySettings, Found, Place, Teller};
pub use self::discovery::{DnsSdSettings, FileSdSettings, HttpSdSettings, RecordKind};
use self::job::Job;
use self::metrics::PollerMetrics;
use self::poller::{Fleet, Poller};
use crate::support::scrape::unix_millis;

register!(source: HttpScrapeConfig);

/// Lists that discoveries may have told and that are not yet taken in; then they wait.
const MOST_WAITING: usize = 64;
/// The reports of a source about its targets.
const TARGETS: &str = "targets";

impl SourceConfig for HttpScrapeConfig {
    const TYPE: &'static str = "http_scrape";

    fn build(self, cx: &StageContext) -> Result<Box<dyn Source>, BuildError> {
        let jobs = self.jobs()?.into_iter().map(Arc::new).collect();
        Ok(Box::new(HttpScrape { jobs, cx: cx.clone() }))
    }
}

/// The jobs, ready to be polled.
struct HttpScrape {
    jobs: Vec<Arc<Job>>,
    cx: StageContext,
}

#[async_trait]
impl Source for HttpScrape {
    async fn run(self: Box<Self>, out: Emitter, shutdown: CancellationToken) -> Result<(), BoxError> {
        let metrics = Arc::new(PollerMetrics::new(&self.cx.metrics));
        let now = unix_millis(self.cx.clock.now());
        let fleet = Fleet::new(&self.jobs, &self.cx.identity, Arc::clone(&metrics), now);
        let board = fleet.board().clone();
        self.cx.health.offer(TARGETS, move || board.report());
        tracing::info!(
            jobs = self.jobs.len(),
            targets = fleet.targets().len(),
            intervals = intervals(&fleet),
            "polling"
        );
        let (sender, found) = mpsc::channel(MOST_WAITING);
        let mut discoveries = self.discover(&sender, &shutdown);
        Poller::new(fleet, metrics, self.cx.clock, out).run(found, shutdown).await;
        discoveries.shutdown().await;
        Ok(())
    }
}

impl HttpScrape {
    /// Starts every discovery that is more than a list in the configuration.
    fn discover(&self, found: &mpsc::Sender<Found>, shutdown: &CancellationToken) -> JoinSet<()> {
        let mut running = JoinSet::new();
        for (job, settings) in self.jobs.iter().enumerate() {
            let dynamic = settings.discoveries.iter().enumerate();
            let dynamic = dynamic.filter(|(_, kind)| !matches!(kind, DiscoverySettings::Static(_)));
            for (discovery, kind) in dynamic {
                let place = Place { job, discovery };
                let teller = Teller::new(&self.cx.metrics, &settings.name, kind, place, found.clone());
                running.spawn(kind.clone().run(teller, shutdown.clone()));
            }
        }
        running
    }
}

/// The intervals that occur, shortest first, as `15s, 1m`.
fn intervals(fleet: &Fleet) -> String {
    let intervals: BTreeSet<_> = fleet.targets().map(|target| target.rhythm.interval()).collect();
    let shown: Vec<_> = intervals.into_iter().map(|millis| Span::millis(millis).to_string()).collect();
    shown.join(", ")
}
