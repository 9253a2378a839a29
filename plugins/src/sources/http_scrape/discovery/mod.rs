//! Who is to be scraped, as it is found: in the configuration, in files, from an HTTP server, in DNS. A
//! discovery tells the whole list of its target groups whenever that has changed; what it cannot find out
//! it leaves as it was, says so once in the log, and tries again at its next turn.

pub(super) mod dns;
pub(super) mod file;
pub(super) mod http;
mod list;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;
use prometheus_streams_core::metrics::Metrics;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

pub use self::dns::{DnsSdSettings, RecordKind};
pub use self::file::FileSdSettings;
pub(super) use self::http::HttpSd;
pub use self::http::HttpSdSettings;

/// Targets that were found together, as Prometheus' `file_sd` and `http_sd` list them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TargetGroup {
    /// The addresses, as `host:port`.
    #[serde(default)]
    pub(super) targets: Vec<String>,
    /// Labels of all of them, meta labels included.
    #[serde(default)]
    pub(super) labels: Arc<BTreeMap<String, String>>,
}

/// One way to find targets.
#[derive(Clone, Debug)]
pub(super) enum DiscoverySettings {
    /// As they stand in the configuration.
    Static(Vec<TargetGroup>),
    /// From files.
    File(FileSdSettings),
    /// From an HTTP server.
    Http(HttpSd),
    /// From DNS.
    Dns(DnsSdSettings),
}

/// The whole list of one discovery, as it is now.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Whose list it is, as [`Teller::new`] was told.
    pub(super) place: Place,
    pub(super) groups: Arc<Vec<TargetGroup>>,
}

/// Which discovery of which job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) job: usize,
    pub(super) discovery: usize,
}

impl DiscoverySettings {
    fn mechanism(&self) -> &'static str {
        match self {
            Self::Static(_) => "static",
            Self::File(_) => "file",
            Self::Http(_) => "http",
            Self::Dns(_) => "dns",
        }
    }

    /// Tells what it finds until `shutdown`.
    pub(super) async fn run(self, mut teller: Teller, shutdown: CancellationToken) {
        let work = async {
            match self {
                Self::Static(groups) => teller.tell(groups).await,
                Self::File(settings) => file::run(settings, teller).await,
                Self::Http(discovery) => http::run(discovery, teller).await,
                Self::Dns(settings) => dns::run(settings, teller).await,
            }
        };
        shutdown.run_until_cancelled(work).await;
    }
}

/// Through which a discovery says what it finds, and what goes wrong.
pub(super) struct Teller {
    place: Place,
    job: String,
    mechanism: &'static str,
    found: mpsc::Sender<Found>,
    failures: IntCounter,
    told: Option<Arc<Vec<TargetGroup>>>,
    /// What goes wrong now, by file, name or address.
    wrong: BTreeMap<String, String>,
}

impl Teller {
    /// For the discovery at `place`, which is of the job called `job`.
    pub(super) fn new(
        metrics: &Metrics,
        job: &str,
        settings: &DiscoverySettings,
        place: Place,
        found: mpsc::Sender<Found>,
    ) -> Self {
        let mechanism = settings.mechanism();
        let failures = metrics.counters(
            "poller_sd_failures_total",
            "Attempts to find targets that failed, by mechanism; the targets stay as they were.",
            &["poller_job", "mechanism"],
        );
        Self {
            place,
            job: job.to_owned(),
            mechanism,
            found,
            failures: failures.with_label_values(&[job, mechanism]),
            told: None,
            wrong: BTreeMap::new(),
        }
    }

    /// Tells the whole list, if it is another than the last.
    async fn tell(&mut self, groups: Vec<TargetGroup>) {
        if self.told.as_deref() == Some(&groups) {
            return;
        }
        let groups = Arc::new(groups);
        self.told = Some(Arc::clone(&groups));
        // Nobody listens any more only when the source ends.
        let _ = self.found.send(Found { place: self.place, groups }).await;
    }

    /// Notes that nothing could be found out about `subject`, a file, name or address.
    fn failed(&mut self, subject: &str, error: impl std::fmt::Display) {
        self.failures.inc();
        let error = error.to_string();
        let before = self.wrong.insert(subject.to_owned(), error.clone());
        if before.as_ref() != Some(&error) {
            let (job, mechanism) = (self.job.as_str(), self.mechanism);
            tracing::warn!(
                job,
                mechanism,
                subject,
                error,
                "cannot find out the targets; they stay as they were"
            );
        }
    }

    /// Notes that all is well with `subject`.
    fn is_well(&mut self, subject: &str) {
        if self.wrong.remove(subject).is_some() {
            tracing::info!(job = self.job, mechanism = self.mechanism, subject, "targets are found again");
        }
    }
}

/// A tick now, and then one every `interval`.
fn ticks(interval: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
pub(super) mod testing {
    use prometheus_streams_core::testing;

    use super::*;

    /// A discovery that runs, and what it tells.
    pub(crate) struct Rig {
        pub(crate) metrics: Metrics,
        found: mpsc::Receiver<Found>,
        _running: tokio_util::task::AbortOnDropHandle<()>,
    }

    impl Rig {
        pub(crate) fn start(settings: DiscoverySettings) -> Self {
            Self::start_with(&settings.clone(), |teller| settings.run(teller, CancellationToken::new()))
        }

        /// Runs `discovery` in place of what `settings` would do.
        pub(crate) fn start_with<F: Future<Output = ()> + Send + 'static>(
            settings: &DiscoverySettings,
            discovery: impl FnOnce(Teller) -> F,
        ) -> Self {
            let metrics = testing::context("http_scrape").metrics;
            let (sender, found) = mpsc::channel(1);
            let teller = Teller::new(&metrics, "j", settings, Place { job: 0, discovery: 0 }, sender);
            let running = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(discovery(teller)));
            Self { metrics, found, _running: running }
        }

        /// The next list: each target as its address and its labels.
        pub(crate) async fn next(&mut self) -> Vec<String> {
            let found = tokio::time::timeout(Duration::from_secs(20), self.found.recv());
            let groups = found.await.expect("nothing was told in time").expect("the discovery ended").groups;
            groups
                .iter()
                .flat_map(|group| {
                    group.targets.iter().map(|target| {
                        let labels: Vec<_> =
                            group.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
                        format!("{target} {}", labels.join(","))
                    })
                })
                .collect()
        }

        /// How often something could not be found out.
        pub(crate) fn failures(&self) -> f64 {
            let families = self.metrics.registry().gather();
            let family = families.iter().find(|family| family.name().ends_with("poller_sd_failures_total"));
            family.map_or(0.0, |family| family.get_metric()[0].get_counter().get_value())
        }
    }
}
