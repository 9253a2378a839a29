//! `jobs:`, the short form: URLs under the name of their job.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::event::Labels;
use prometheus_streams_core::values::{Secret, Size, Span};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use super::super::job::Pace;
use super::super::schedule::Rhythm;
use super::super::scraper::{Target, is_metrics_format};
use super::{Defaults, MOST_REDIRECTS, body_limit};
use crate::support::http::{Auth, BasicAuth, Endpoint, Limits};
use crate::support::scrape::{INSTANCE, JOB, PUBLISHER, is_label_name};
use crate::support::tls::TlsSettings;

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

impl JobSettings {
    pub(super) fn targets(
        &self,
        job: &str,
        publisher: &str,
        defaults: &mut Defaults,
    ) -> Result<Vec<Target>, BuildError> {
        let mut problems = BuildError::default();
        let pace =
            problems.take("", defaults.pace.refine(("interval", self.interval), ("timeout", self.timeout)));
        let pace = pace.unwrap_or(defaults.pace);
        let max_body = body_limit(&mut problems, self.body_size_limit).unwrap_or(defaults.body_size);
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
        let identity = [(JOB, job), (PUBLISHER, publisher)];
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
        let pace = problems.take("", pace.refine(("interval", self.interval), ("timeout", self.timeout)));
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
