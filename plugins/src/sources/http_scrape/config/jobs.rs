//! `jobs:`, the short form: URLs under the name of their job.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::{Secret, Size, Span};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use url::form_urlencoded;

use super::super::discovery::{DiscoverySettings, TargetGroup};
use super::super::job::{Job, Pace, ScrapeLimits, ScrapeProtocol};
use super::prometheus::{PromDuration, Text};
use super::scrape_configs::fallback_protocol;
use super::{DEFAULT_PATH, DEFAULT_SCHEME, Defaults, body_limit};
use crate::support::http::{Auth, BasicAuth, Endpoint, HttpClient, HttpClientSettings};
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
    /// The format of an answer whose `Content-Type` is missing or unknown, as `PrometheusText0.0.4`;
    /// `scrape_configs[].scrape_protocols` has them all. Default: such a scrape fails.
    #[serde(default)]
    pub fallback_scrape_protocol: Option<Text>,
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
    /// The jobs that this is: one for all targets that are reached in the same way with the same query.
    ///
    /// # Errors
    /// Every mistake, with its path.
    pub(super) fn jobs(&self, name: &str, defaults: &mut Defaults) -> Result<Vec<Job>, BuildError> {
        let mut problems = BuildError::default();
        let pace =
            problems.take("", defaults.pace.refine(("interval", self.interval), ("timeout", self.timeout)));
        let pace = pace.unwrap_or(defaults.pace);
        let body_size = body_limit(&mut problems, self.body_size_limit).unwrap_or(defaults.body_size);
        let keys = (self.basic_auth.clone(), self.bearer_token.clone(), self.bearer_token_file.clone());
        problems.take("", Auth::from_keys(keys.0, keys.1, keys.2));
        problems.take("", self.client(None, defaults));
        problems.take("labels", check_labels(&self.labels));
        let fallback_protocol = problems.take("", fallback_protocol(self.fallback_scrape_protocol.as_ref()));
        let targets = problems.take("", self.check_targets(pace)).unwrap_or_default();
        problems.or(())?;

        let mut alike: Vec<(Way<'_>, Vec<Checked<'_>>)> = Vec::new();
        for target in targets {
            match alike.iter_mut().find(|(way, _)| *way == target.way) {
                Some((_, others)) => others.push(target),
                None => alike.push((target.way.clone(), vec![target])),
            }
        }
        let limits =
            ScrapeLimits { body_size, samples: 0, labels: 0, label_name_length: 0, label_value_length: 0 };
        let job = |(way, targets): (Way<'_>, Vec<Checked<'_>>)| {
            Ok(Job {
                name: name.to_owned(),
                pace,
                scheme: DEFAULT_SCHEME.to_owned(),
                metrics_path: DEFAULT_PATH.to_owned(),
                params: way.params,
                client: self.client(way.basic_auth, defaults)?,
                honor_labels: false,
                honor_timestamps: true,
                enable_compression: true,
                protocols: ScrapeProtocol::defaults(false),
                fallback_protocol: fallback_protocol.flatten(),
                limits,
                always_scrape_classic_histograms: false,
                scrape_native_histograms: false,
                target_limit: 0,
                keep_dropped_targets: 0,
                relabel: Vec::new(),
                metric_relabel: Vec::new(),
                discoveries: vec![DiscoverySettings::Static(groups(&targets, &self.labels, pace))],
            })
        };
        alike.into_iter().map(job).collect()
    }

    /// The client of a target that has these credentials, or of one that has none of its own.
    fn client(
        &self,
        of_target: Option<&BasicAuth>,
        defaults: &mut Defaults,
    ) -> Result<HttpClient, BuildError> {
        let mut settings = HttpClientSettings {
            tls_config: self.tls.clone(),
            follow_redirects: self.follow_redirects,
            // A connection that many targets share takes all of them with it when it is stuck.
            enable_http2: false,
            ..HttpClientSettings::default()
        };
        match of_target {
            Some(basic_auth) => settings.basic_auth = Some(basic_auth.clone()),
            None => {
                settings.basic_auth = self.basic_auth.clone();
                settings.bearer_token = self.bearer_token.clone();
                settings.bearer_token_file = self.bearer_token_file.clone();
            }
        }
        defaults.client(&settings).map_err(|error| {
            // Its credentials have been checked under the names that they have here.
            let mut problems = BuildError::default();
            for problem in error.problems() {
                if let Some(rest) = problem.path.strip_prefix("tls_config") {
                    problems.add(format!("tls{rest}"), &problem.message);
                }
            }
            problems
        })
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

/// What targets of one job must have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way<'a> {
    /// Its own credentials.
    basic_auth: Option<&'a BasicAuth>,
    /// The query of its URL.
    params: BTreeMap<String, Vec<String>>,
}

/// A target without what it gets from its job.
struct Checked<'a> {
    endpoint: Endpoint,
    instance: String,
    pace: Pace,
    way: Way<'a>,
    own_labels: &'a BTreeMap<String, String>,
}

impl TargetSettings {
    fn check(&self, pace: Pace) -> Result<Checked<'_>, BuildError> {
        let mut problems = BuildError::default();
        let endpoint = problems.take("url", Endpoint::parse(&self.url));
        let pace = problems.take("", pace.refine(("interval", self.interval), ("timeout", self.timeout)));
        problems.take("", Auth::from_keys(self.basic_auth.clone(), None, None));
        problems.take("labels", check_labels(&self.labels));
        if self.name.as_ref().is_some_and(|name| name.trim().is_empty()) {
            problems.add("name", "must not be empty; without it host and port of the URL are the name");
        }
        let (Some(endpoint), Some(pace)) = (endpoint, pace) else { return Err(problems) };
        let instance = self.name.clone().unwrap_or_else(|| endpoint.authority.clone());
        let mut params = BTreeMap::<_, Vec<_>>::new();
        for (name, value) in form_urlencoded::parse(endpoint.uri.query().unwrap_or_default().as_bytes()) {
            params.entry(name.into_owned()).or_default().push(value.into_owned());
        }
        let way = Way { basic_auth: self.basic_auth.as_ref(), params };
        problems.or(Checked { endpoint, instance, pace, way, own_labels: &self.labels })
    }
}

/// The targets as a discovery would have found them.
fn groups(targets: &[Checked<'_>], of_job: &BTreeMap<String, String>, pace: Pace) -> Vec<TargetGroup> {
    let mut groups: Vec<TargetGroup> = Vec::new();
    for target in targets {
        let (labels, address) = (target.labels(of_job, pace), target.endpoint.authority.clone());
        match groups.last_mut().filter(|group| *group.labels == labels) {
            Some(group) => group.targets.push(address),
            None => groups.push(TargetGroup { targets: vec![address], labels: Arc::new(labels) }),
        }
    }
    groups
}

impl Checked<'_> {
    /// The labels before relabelling, as far as they are not those that the address and the job give it.
    fn labels(&self, of_job: &BTreeMap<String, String>, pace: Pace) -> BTreeMap<String, String> {
        let mut labels = of_job.clone();
        labels.extend(self.own_labels.clone());
        labels.retain(|_, value| !value.is_empty());
        let uri = &self.endpoint.uri;
        let path = percent_decode_str(uri.path()).decode_utf8_lossy();
        let duration = |duration| PromDuration(duration).to_string();
        for (name, value, usual) in [
            (INSTANCE, self.instance.clone(), self.endpoint.authority.clone()),
            ("__scheme__", uri.scheme_str().unwrap_or_default().to_owned(), DEFAULT_SCHEME.to_owned()),
            ("__metrics_path__", path.into_owned(), DEFAULT_PATH.to_owned()),
            ("__scrape_interval__", duration(self.pace.interval), duration(pace.interval)),
            ("__scrape_timeout__", duration(self.pace.timeout), duration(pace.timeout)),
        ] {
            if value != usual {
                labels.insert(name.to_owned(), value);
            }
        }
        labels
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
