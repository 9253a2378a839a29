//! The settings, and everything that can be wrong with them. Both forms of them become [`Job`]s here, and
//! nothing behind this knows which form it was.

mod jobs;
mod prometheus;
mod scrape_configs;
mod unsupported;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::{Size, Span};
use schemars::JsonSchema;
use serde::Deserialize;

pub use self::jobs::{JobSettings, TargetEntry, TargetSettings};
pub use self::prometheus::{Flag, PromDuration, PromSize, Text};
pub use self::scrape_configs::{ScrapeConfig, StaticConfig};
pub use self::unsupported::scrape_config_lacks;
use super::job::{Job, Pace};
use crate::support::http::{HttpClient, HttpClientSettings};

/// As Prometheus has them.
const DEFAULT_PACE: Pace = Pace { interval: Duration::from_secs(60), timeout: Duration::from_secs(10) };
const DEFAULT_BODY_LIMIT: Size = Size(50 << 20);
const DEFAULT_SCHEME: &str = "http";
const DEFAULT_PATH: &str = "/metrics";

/// Scrapes targets over HTTP, each in a slot of its own within the interval, and sends every scrape
/// on as one event with the labels `job`, `instance` and `publisher`. A scrape that fails is an event too: it has an empty
/// body and the attribute `error`. When the pipeline is full or paused, slots are skipped and counted.
///
/// What to scrape stands in `scrape_configs`, which is that of Prometheus, or in `jobs`, which is shorter, or in both.
///
/// A scrape is a success when the status is 200, the `Content-Type` is a metrics format or
/// `fallback_scrape_protocol` says which one to assume, and every line of the body can be read.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpScrapeConfig {
    /// How often every target is scraped, at least 1ms. Default: 60s.
    #[serde(default)]
    pub interval: Option<Span>,
    /// The time for a whole scrape, no longer than the interval. Default: 10s, or the interval where
    /// that is shorter. (A timeout as long as the interval is cut a little, so that scrapes never overlap.)
    #[serde(default)]
    pub timeout: Option<Span>,
    /// The largest scrape, after decompression. Default: 50MiB.
    #[serde(default)]
    pub body_size_limit: Option<Size>,
    /// The targets, in jobs by name. The name becomes the label `job`.
    #[serde(default)]
    pub jobs: BTreeMap<String, JobSettings>,
    /// Jobs as they stand in a `prometheus.yml`, unchanged. A key that Prometheus has and this program does not
    /// have yet is a mistake, unless it asks for what is done anyway.
    #[serde(default)]
    pub scrape_configs: Vec<ScrapeConfig>,
}

impl Pace {
    /// What a level of the configuration makes of the level above it, by its keys and their values. A timeout from
    /// above gives way to a shorter interval; one that is set here must fit.
    fn refine(
        self,
        (interval_key, interval): (&str, Option<Span>),
        (timeout_key, timeout): (&str, Option<Span>),
    ) -> Result<Self, BuildError> {
        let mut problems = BuildError::default();
        let every = interval.map_or(self.interval, |span| span.0);
        if interval.is_some_and(|span| span.0 < Duration::from_millis(1)) {
            problems.add(interval_key, "must be at least 1ms");
        } else if let Some(span) = timeout.filter(|span| span.0 > every) {
            problems.add(timeout_key, format!("{span} is longer than the interval, {}", Span(every)));
        }
        if timeout.is_some_and(|span| span.0.is_zero()) {
            problems.add(timeout_key, "must be more than zero");
        }
        problems.or(Self { interval: every, timeout: timeout.map_or(self.timeout.min(every), |span| span.0) })
    }
}

impl HttpScrapeConfig {
    /// All jobs, ready to be scraped.
    ///
    /// # Errors
    /// Every mistake in the settings, each with its path.
    pub(super) fn jobs(&self) -> Result<Vec<Job>, BuildError> {
        let mut problems = BuildError::default();
        let mut defaults = self.defaults(&mut problems);
        if self.scrape_configs.is_empty() && self.jobs.values().all(|job| job.targets.is_empty()) {
            problems.add("jobs", "there are no targets, so nothing would be scraped");
        }
        let mut jobs = Vec::new();
        for (name, settings) in &self.jobs {
            if name.trim().is_empty() {
                problems.add("jobs", "the name of a job must not be empty");
            }
            let part = settings.jobs(name, &mut defaults);
            jobs.extend(problems.take(&format!("jobs.{name}"), part).unwrap_or_default());
        }
        problems.take("", self.check_names());
        for (index, settings) in self.scrape_configs.iter().enumerate() {
            jobs.extend(problems.take(&format!("scrape_configs[{index}]"), settings.job(&mut defaults)));
        }
        problems.or(jobs)
    }

    /// No two jobs have one name.
    fn check_names(&self) -> Result<(), BuildError> {
        let mut problems = BuildError::default();
        let mut names: BTreeSet<_> = self.jobs.keys().map(String::as_str).collect();
        for (index, settings) in self.scrape_configs.iter().enumerate() {
            let name = settings.job_name.as_str();
            if !name.is_empty() && !names.insert(name) {
                let path = format!("scrape_configs[{index}].job_name");
                problems.add(path, format!("another job is called {name:?} already"));
            }
        }
        problems.or(())
    }

    fn defaults(&self, problems: &mut BuildError) -> Defaults {
        let pace = DEFAULT_PACE.refine(("interval", self.interval), ("timeout", self.timeout));
        Defaults {
            pace: problems.take("", pace).unwrap_or(DEFAULT_PACE),
            body_size: body_limit(problems, self.body_size_limit).unwrap_or(DEFAULT_BODY_LIMIT),
            clients: Vec::new(),
        }
    }
}

/// What jobs inherit and share.
struct Defaults {
    pace: Pace,
    body_size: Size,
    /// One client for all jobs of equal settings.
    clients: Vec<(HttpClientSettings, HttpClient)>,
}

impl Defaults {
    fn client(&mut self, settings: &HttpClientSettings) -> Result<HttpClient, BuildError> {
        if let Some((_, client)) = self.clients.iter().find(|(known, _)| known == settings) {
            return Ok(client.clone());
        }
        let client = settings.client()?;
        self.clients.push((settings.clone(), client.clone()));
        Ok(client)
    }
}

fn body_limit(problems: &mut BuildError, limit: Option<Size>) -> Option<Size> {
    if limit == Some(Size(0)) {
        problems.add("body_size_limit", "must be more than zero");
    }
    limit
}

#[cfg(test)]
mod tests;
