//! The settings, and everything that can be wrong with them.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::event::Labels;
use prometheus_streams_core::values::{Secret, Size, Span};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::job::Pace;
use super::schedule::Rhythm;
use super::scraper::{Target, is_metrics_format};
use crate::support::http::{Auth, BasicAuth, Endpoint, HttpClient, Limits};
use crate::support::scrape::{INSTANCE, JOB, PUBLISHER, is_label_name};
use crate::support::tls::TlsSettings;

/// As Prometheus has them.
const DEFAULT_PACE: Pace = Pace { interval: Duration::from_secs(60), timeout: Duration::from_secs(10) };
const DEFAULT_BODY_LIMIT: Size = Size(50 << 20);
const MOST_REDIRECTS: usize = 10;

/// Scrapes targets over HTTP, each in a slot of its own within the interval, and sends every scrape
/// on as one event with the labels `job`, `instance` and `publisher`. A scrape that fails is an event too: it has an empty
/// body and the attribute `error`. When the pipeline is full or paused, slots are skipped and counted.
///
/// A scrape is a success when the status is 200 and the `Content-Type` is a metrics format or missing.
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
    pub jobs: BTreeMap<String, JobSettings>,
}

/// Targets that are one job, and how to reach them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobSettings {
    /// What to scrape: URLs, or maps with a `url` and more.
    pub targets: Vec<TargetEntry>,
    /// As above, for this job.
    #[serde(default)]
    pub interval: Option<Span>,
    /// As above, for this job.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// As above, for this job.
    #[serde(default)]
    pub body_size_limit: Option<Size>,
    /// Labels of all targets of this job.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// User name and password. At most one of `basic_auth`, `bearer_token`, `bearer_token_file`.
    #[serde(default)]
    pub basic_auth: Option<BasicAuth>,
    /// A bearer token; better in `bearer_token_file` or from `${env:NAME}`.
    #[serde(default)]
    pub bearer_token: Option<Secret>,
    /// A file with a bearer token, read again for every scrape.
    #[serde(default)]
    pub bearer_token_file: Option<PathBuf>,
    /// TLS for targets with `https` URLs.
    #[serde(default)]
    pub tls: TlsSettings,
    /// Whether redirects are followed, up to 10. Credentials do not go to another host. Default: true.
    #[serde(default = "yes")]
    pub follow_redirects: bool,
    /// The `Content-Type` to assume where a target sends one that is not a metrics format, as
    /// `text/plain`. Default: such a scrape fails.
    #[serde(default)]
    pub fallback_content_type: Option<String>,
}

fn yes() -> bool {
    true
}

/// One thing to scrape.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TargetSettings {
    /// Where its metrics are, as `http://db1.example.net:9100/metrics`.
    pub url: String,
    /// What it is called: the label `instance`. Default: host and port as they are in `url`.
    #[serde(default)]
    pub name: Option<String>,
    /// Labels of this target, before those of its job. An empty value takes a label of the job away.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// As above, for this target.
    #[serde(default)]
    pub interval: Option<Span>,
    /// As above, for this target.
    #[serde(default)]
    pub timeout: Option<Span>,
    /// User name and password for this target, instead of what its job has.
    #[serde(default)]
    pub basic_auth: Option<BasicAuth>,
}

/// A target as it stands in a list: a bare URL, or a map.
#[derive(Debug)]
pub struct TargetEntry(pub TargetSettings);

impl<'de> Deserialize<'de> for TargetEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UrlOrMap;

        impl<'de> Visitor<'de> for UrlOrMap {
            type Value = TargetEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a URL, or a map with url, name, labels, interval, timeout, basic_auth")
            }

            fn visit_str<E: Error>(self, url: &str) -> Result<TargetEntry, E> {
                Ok(TargetEntry(TargetSettings { url: url.to_owned(), ..TargetSettings::default() }))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TargetEntry, A::Error> {
                TargetSettings::deserialize(MapAccessDeserializer::new(map)).map(TargetEntry)
            }
        }

        deserializer.deserialize_any(UrlOrMap)
    }
}

impl JsonSchema for TargetEntry {
    fn schema_name() -> Cow<'static, str> {
        "target".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<TargetSettings>();
        json_schema!({ "anyOf": [{ "type": "string", "format": "uri" }, map] })
    }
}

impl Pace {
    /// What a level of the configuration makes of the level above it. A timeout from above gives way
    /// to a shorter interval; one that is set here must fit.
    fn refine(self, interval: Option<Span>, timeout: Option<Span>) -> Result<Self, BuildError> {
        let mut problems = BuildError::default();
        let every = interval.map_or(self.interval, |span| span.0);
        if interval.is_some_and(|span| span.0 < Duration::from_millis(1)) {
            problems.add("interval", "must be at least 1ms");
        } else if let Some(span) = timeout.filter(|span| span.0 > every) {
            problems.add("timeout", format!("{span} is longer than the interval, {}", Span(every)));
        }
        if timeout.is_some_and(|span| span.0.is_zero()) {
            problems.add("timeout", "must be more than zero");
        }
        problems.or(Self { interval: every, timeout: timeout.map_or(self.timeout.min(every), |span| span.0) })
    }
}

impl HttpScrapeConfig {
    /// All targets of all jobs, ready to be scraped.
    ///
    /// # Errors
    /// Every mistake in the settings, each with its path.
    pub(super) fn targets(&self, publisher: &str) -> Result<Vec<Target>, BuildError> {
        let mut problems = BuildError::default();
        let mut defaults = Defaults {
            publisher,
            pace: problems.take("", DEFAULT_PACE.refine(self.interval, self.timeout)).unwrap_or(DEFAULT_PACE),
            max_body: body_limit(&mut problems, self.body_size_limit).unwrap_or(DEFAULT_BODY_LIMIT),
            clients: Vec::new(),
        };
        if self.jobs.values().all(|job| job.targets.is_empty()) {
            problems.add("jobs", "there are no targets, so nothing would be scraped");
        }
        let mut targets = Vec::new();
        for (name, job) in &self.jobs {
            if name.trim().is_empty() {
                problems.add("jobs", "the name of a job must not be empty");
            }
            let part = job.targets(name, &mut defaults);
            targets.extend(problems.take(&format!("jobs.{name}"), part).unwrap_or_default());
        }
        problems.or(targets)
    }
}

/// What jobs inherit and share.
struct Defaults<'a> {
    publisher: &'a str,
    pace: Pace,
    max_body: Size,
    /// One client for all jobs of equal TLS settings.
    clients: Vec<(TlsSettings, HttpClient)>,
}

impl Defaults<'_> {
    fn client(&mut self, tls: &TlsSettings) -> Result<HttpClient, BuildError> {
        if let Some((_, client)) = self.clients.iter().find(|(known, _)| known == tls) {
            return Ok(client.clone());
        }
        let client = HttpClient::new(tls)?;
        self.clients.push((tls.clone(), client.clone()));
        Ok(client)
    }
}

impl JobSettings {
    fn targets(&self, job: &str, defaults: &mut Defaults<'_>) -> Result<Vec<Target>, BuildError> {
        let mut problems = BuildError::default();
        let pace = problems.take("", defaults.pace.refine(self.interval, self.timeout));
        let pace = pace.unwrap_or(defaults.pace);
        let max_body = body_limit(&mut problems, self.body_size_limit).unwrap_or(defaults.max_body);
        let keys = (self.basic_auth.clone(), self.bearer_token.clone(), self.bearer_token_file.clone());
        let auth = problems.take("", Auth::from_keys(keys.0, keys.1, keys.2)).flatten().map(Arc::new);
        let client = problems.take("tls", defaults.client(&self.tls));
        problems.take("labels", check_labels(&self.labels));
        if self.fallback_content_type.as_deref().is_some_and(|fallback| !is_metrics_format(fallback)) {
            problems.add("fallback_content_type", "is not that of a metrics format, as text/plain");
        }
        let checked = problems.take("", self.check_targets(pace)).unwrap_or_default();
        let Some(client) = client else { return Err(problems) };

        let redirects = if self.follow_redirects { MOST_REDIRECTS } else { 0 };
        let identity = [(JOB, job), (PUBLISHER, defaults.publisher)];
        let ready = checked.into_iter().map(|target| {
            let labels = target.labels(&self.labels, identity);
            Target {
                rhythm: Rhythm::new(&labels, target.pace.interval),
                labels,
                uri: target.endpoint.uri,
                limits: Limits { timeout: target.pace.timeout_within_slot(), max_body, redirects },
                client: client.clone(),
                auth: target.auth.or_else(|| auth.clone()),
                fallback_content_type: self.fallback_content_type.clone(),
            }
        });
        let ready = ready.collect();
        problems.or(ready)
    }

    /// The targets by themselves; and no two may be called the same.
    fn check_targets(&self, pace: Pace) -> Result<Vec<Checked<'_>>, BuildError> {
        let mut problems = BuildError::default();
        let mut instances = HashMap::new();
        let mut targets = Vec::with_capacity(self.targets.len());
        for (index, TargetEntry(settings)) in self.targets.iter().enumerate() {
            let path = format!("targets[{index}]");
            let Some(target) = problems.take(&path, settings.check(pace)) else { continue };
            match instances.entry(target.instance.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(index);
                    targets.push(target);
                }
                Entry::Occupied(first) => problems.add(
                    path,
                    format!(
                        "is the instance {:?}, as targets[{}] is already; give one of them another name",
                        first.key(),
                        first.get()
                    ),
                ),
            }
        }
        problems.or(targets)
    }
}

/// A target without what it gets from its job.
struct Checked<'a> {
    endpoint: Endpoint,
    instance: String,
    pace: Pace,
    auth: Option<Arc<Auth>>,
    own_labels: &'a BTreeMap<String, String>,
}

impl TargetSettings {
    fn check(&self, pace: Pace) -> Result<Checked<'_>, BuildError> {
        let mut problems = BuildError::default();
        let endpoint = problems.take("url", Endpoint::parse(&self.url));
        let pace = problems.take("", pace.refine(self.interval, self.timeout));
        let auth = problems.take("", Auth::from_keys(self.basic_auth.clone(), None, None));
        problems.take("labels", check_labels(&self.labels));
        if self.name.as_ref().is_some_and(|name| name.trim().is_empty()) {
            problems.add("name", "must not be empty; without it host and port of the URL are the name");
        }
        let (Some(endpoint), Some(pace), Some(auth)) = (endpoint, pace, auth) else { return Err(problems) };
        let instance = self.name.clone().unwrap_or_else(|| endpoint.authority.clone());
        problems.or(Checked { endpoint, instance, pace, auth: auth.map(Arc::new), own_labels: &self.labels })
    }
}

impl Checked<'_> {
    fn labels(&self, of_job: &BTreeMap<String, String>, identity: [(&str, &str); 2]) -> Labels {
        let mut labels: BTreeMap<&str, &str> = BTreeMap::new();
        labels.extend(
            of_job.iter().chain(self.own_labels).map(|(name, value)| (name.as_str(), value.as_str())),
        );
        labels.retain(|_, value| !value.is_empty());
        labels.extend(identity);
        labels.insert(INSTANCE, &self.instance);
        labels.into_iter().collect()
    }
}

fn body_limit(problems: &mut BuildError, limit: Option<Size>) -> Option<Size> {
    if limit == Some(Size(0)) {
        problems.add("body_size_limit", "must be more than zero");
    }
    limit
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), BuildError> {
    let mut problems = BuildError::default();
    for name in labels.keys() {
        if [JOB, INSTANCE, PUBLISHER].contains(&name.as_str()) {
            problems.add(
                name,
                "is set for every target: job by its job, instance by its name, publisher by the identity",
            );
        } else if !is_label_name(name) {
            problems
                .add(name, "is not a label name: letters, digits and _ only, not a digit first, no __ first");
        }
    }
    problems.or(())
}
