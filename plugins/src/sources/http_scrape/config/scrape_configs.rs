//! `scrape_configs:`, as they stand in a `prometheus.yml`. A null is as good as no key, and so is a zero
//! where Prometheus takes it for its default.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::Secret;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::super::discovery::{
    DiscoverySettings, DnsSdSettings, FileSdSettings, HttpSdSettings, TargetGroup,
};
use super::super::job::{Job, Pace, ScrapeLimits, ScrapeProtocol};
use super::prometheus::{Flag, PromDuration, PromSize, Text};
use super::{DEFAULT_PATH, DEFAULT_SCHEME, Defaults, unsupported};
use crate::exposition::relabel::{self, RelabelSettings, Rule};
use crate::support::http::{Authorization, BasicAuth, HeaderSettings, HttpClientSettings, OAuth2};
use crate::support::tls::TlsSettings;

/// A job in the syntax of Prometheus. Its keys have the names, the values and the meaning that they have there.
///
/// Paths of files are relative to the working directory of the program.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ScrapeConfig {
    /// The label `job` of the targets. No two jobs have one name.
    #[schemars(required)]
    pub job_name: Text,
    /// How often. Default: the `interval` of the source.
    pub scrape_interval: Option<PromDuration>,
    /// The time for a whole scrape. Default: the `timeout` of the source, or the interval where that is shorter.
    pub scrape_timeout: Option<PromDuration>,
    /// The formats to ask for, the most wanted first: `PrometheusProto`, `OpenMetricsText1.0.0`,
    /// `OpenMetricsText0.0.1`, `PrometheusText1.0.0`, `PrometheusText0.0.4`. Default: the last four of them,
    /// or all with `scrape_native_histograms`.
    pub scrape_protocols: Option<Vec<Text>>,
    /// The format of an answer whose `Content-Type` is missing or unknown. Default: such a scrape fails.
    pub fallback_scrape_protocol: Option<Text>,
    /// Whether native histograms are scraped. Default: false.
    pub scrape_native_histograms: Option<Flag>,
    /// Whether the classic buckets of a histogram are kept beside its native ones. Default: false.
    pub always_scrape_classic_histograms: Option<Flag>,
    /// The name that `always_scrape_classic_histograms` had in Prometheus 2.
    pub scrape_classic_histograms: Option<Flag>,
    /// The path of the metrics. Default: `/metrics`.
    pub metrics_path: Option<Text>,
    /// `http` or `https`. Default: http.
    pub scheme: Option<Text>,
    /// The query of the URL.
    pub params: Option<BTreeMap<String, Option<Vec<Text>>>>,
    /// Whether a label of a sample wins against a label of the target. Default: false.
    pub honor_labels: Option<Flag>,
    /// Whether the timestamps of samples are kept. Default: true.
    pub honor_timestamps: Option<Flag>,
    /// Whether targets are asked for gzip. Default: true.
    pub enable_compression: Option<Flag>,
    /// The largest scrape, after decompression. Default: the `body_size_limit` of the source.
    pub body_size_limit: Option<PromSize>,
    /// The most samples of a scrape after relabelling. Default: any number.
    pub sample_limit: Option<u64>,
    /// The most labels of a sample. Default: any number.
    pub label_limit: Option<u64>,
    /// The longest name of a label, in bytes. Default: any length.
    pub label_name_length_limit: Option<u64>,
    /// The longest value of a label, in bytes. Default: any length.
    pub label_value_length_limit: Option<u64>,
    /// The most targets after relabelling; with more, all of them fail. Default: any number.
    pub target_limit: Option<u64>,
    /// How many targets that relabelling dropped are shown. Default: all.
    pub keep_dropped_targets: Option<u64>,
    /// User name and password. At most one of `basic_auth`, `authorization`, `oauth2`, `bearer_token`,
    /// `bearer_token_file`.
    pub basic_auth: Option<BasicAuth>,
    /// Credentials of another kind, as a bearer token.
    pub authorization: Option<Authorization>,
    /// A bearer token that is fetched from an OAuth 2.0 server.
    pub oauth2: Option<OAuth2>,
    /// The old form of `authorization: { credentials: ... }`.
    pub bearer_token: Option<Secret>,
    /// The old form of `authorization: { credentials_file: ... }`.
    pub bearer_token_file: Option<PathBuf>,
    /// TLS for the scheme `https`.
    pub tls_config: Option<TlsSettings>,
    /// Whether redirects are followed, up to 10. Credentials do not go to another host. Default: true.
    pub follow_redirects: Option<Flag>,
    /// Whether HTTP/2 is used where the target has it, over TLS only. Default: true.
    pub enable_http2: Option<Flag>,
    /// The proxy to go through: an URL with the scheme `http`, `https` or `socks5`, with credentials if
    /// the proxy wants some.
    pub proxy_url: Option<Secret>,
    /// What is reached without the proxy: hosts, domains, addresses, networks as `10.0.0.0/8`, each with
    /// a port or without, separated by commas; or `*`. Needs `proxy_url`.
    pub no_proxy: Option<String>,
    /// Takes the proxy from `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` in the environment. Default: false.
    pub proxy_from_environment: Option<Flag>,
    /// Headers for the proxy, where a tunnel through it is asked for.
    pub proxy_connect_header: Option<BTreeMap<String, Vec<Secret>>>,
    /// Headers for every request.
    pub http_headers: Option<BTreeMap<String, HeaderSettings>>,
    /// Rules for the labels of targets, which begin as what discovery knows of them.
    pub relabel_configs: Option<Vec<RelabelSettings>>,
    /// Rules for every sample of a scrape.
    pub metric_relabel_configs: Option<Vec<RelabelSettings>>,
    /// Targets that stand here.
    pub static_configs: Option<Vec<StaticConfig>>,
    /// Targets from files, which are read again when they change.
    pub file_sd_configs: Option<Vec<FileSdSettings>>,
    /// Targets from an HTTP server that lists them.
    pub http_sd_configs: Option<Vec<HttpSdSettings>>,
    /// Targets from DNS.
    pub dns_sd_configs: Option<Vec<DnsSdSettings>>,
    /// All other keys.
    #[serde(flatten)]
    #[schemars(skip)]
    pub others: BTreeMap<String, Value>,
}

/// Targets, and labels of all of them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StaticConfig {
    /// Addresses, as `db1.example.net:9100`.
    pub targets: Option<Vec<Text>>,
    /// Labels of these targets.
    pub labels: Option<BTreeMap<String, Text>>,
}

impl StaticConfig {
    fn group(&self) -> TargetGroup {
        let targets = self.targets.iter().flatten().map(|Text(target)| target.clone());
        let labels = self.labels.iter().flatten().map(|(name, Text(value))| (name.clone(), value.clone()));
        TargetGroup { targets: targets.collect(), labels: Arc::new(labels.collect()) }
    }
}

impl ScrapeConfig {
    /// The job that this is.
    ///
    /// # Errors
    /// Every mistake, with its path.
    pub(super) fn job(&self, defaults: &mut Defaults) -> Result<Job, BuildError> {
        let mut problems = BuildError::default();
        problems.take("", unsupported::check(&self.others));
        if self.job_name.as_str().is_empty() {
            problems.add("job_name", "must not be empty");
        }
        let pace = problems.take("", self.pace(defaults.pace)).unwrap_or(defaults.pace);
        let protocols = problems.take("", self.protocols()).unwrap_or_default();
        let fallback_protocol = problems.take("", self.fallback_protocol()).flatten();
        let classic = problems.take("", self.classic_histograms()).unwrap_or_default();
        let scheme = self.scheme.as_ref().map_or(DEFAULT_SCHEME, Text::as_str);
        if !matches!(scheme, "http" | "https") {
            problems.add("scheme", format!("{scheme:?} is not a scheme; there are http and https"));
        }
        let relabel = problems.take("relabel_configs", rules(self.relabel_configs.as_deref()));
        let metric_relabel =
            problems.take("metric_relabel_configs", rules(self.metric_relabel_configs.as_deref()));
        problems.take("static_configs", self.check_static_configs());
        let discoveries = problems.take("", self.discoveries()).unwrap_or_default();
        let limits = ScrapeLimits {
            body_size: self.body_size_limit.and_then(PromSize::size).unwrap_or(defaults.body_size),
            samples: count(self.sample_limit),
            labels: count(self.label_limit),
            label_name_length: count(self.label_name_length_limit),
            label_value_length: count(self.label_value_length_limit),
        };
        let Some(client) = problems.take("", defaults.client(&self.client())) else {
            return Err(problems);
        };
        problems.or(Job {
            name: self.job_name.as_str().to_owned(),
            pace,
            scheme: scheme.to_owned(),
            metrics_path: self.metrics_path.as_ref().map_or(DEFAULT_PATH, Text::as_str).to_owned(),
            params: self.params(),
            client,
            honor_labels: flag(self.honor_labels, false),
            honor_timestamps: flag(self.honor_timestamps, true),
            enable_compression: flag(self.enable_compression, true),
            protocols,
            fallback_protocol,
            limits,
            always_scrape_classic_histograms: classic,
            scrape_native_histograms: self.native_histograms(),
            target_limit: count(self.target_limit),
            keep_dropped_targets: count(self.keep_dropped_targets),
            relabel: relabel.unwrap_or_default(),
            metric_relabel: metric_relabel.unwrap_or_default(),
            discoveries,
        })
    }

    fn pace(&self, of_source: Pace) -> Result<Pace, BuildError> {
        let interval = self.scrape_interval.and_then(PromDuration::span);
        let timeout = self.scrape_timeout.and_then(PromDuration::span);
        of_source.refine(("scrape_interval", interval), ("scrape_timeout", timeout))
    }

    fn client(&self) -> HttpClientSettings {
        HttpClientSettings {
            basic_auth: self.basic_auth.clone(),
            authorization: self.authorization.clone(),
            oauth2: self.oauth2.clone(),
            bearer_token: self.bearer_token.clone(),
            bearer_token_file: self.bearer_token_file.clone(),
            tls_config: self.tls_config.clone().unwrap_or_default(),
            follow_redirects: flag(self.follow_redirects, true),
            enable_http2: flag(self.enable_http2, true),
            proxy_url: self.proxy_url.clone(),
            no_proxy: self.no_proxy.clone(),
            proxy_from_environment: flag(self.proxy_from_environment, false),
            proxy_connect_header: self.proxy_connect_header.clone().unwrap_or_default(),
            http_headers: self.http_headers.clone().unwrap_or_default(),
        }
    }

    fn discoveries(&self) -> Result<Vec<DiscoverySettings>, BuildError> {
        let mut problems = BuildError::default();
        let mut discoveries = Vec::new();
        let groups: Vec<_> = self.static_configs.iter().flatten().map(StaticConfig::group).collect();
        if !groups.is_empty() {
            discoveries.push(DiscoverySettings::Static(groups));
        }
        for (index, settings) in self.file_sd_configs.iter().flatten().enumerate() {
            problems.take(&format!("file_sd_configs[{index}]"), settings.check());
            discoveries.push(DiscoverySettings::File(settings.clone()));
        }
        for (index, settings) in self.http_sd_configs.iter().flatten().enumerate() {
            let discovery = problems.take(&format!("http_sd_configs[{index}]"), settings.discovery());
            discoveries.extend(discovery.map(DiscoverySettings::Http));
        }
        for (index, settings) in self.dns_sd_configs.iter().flatten().enumerate() {
            problems.take(&format!("dns_sd_configs[{index}]"), settings.check());
            discoveries.push(DiscoverySettings::Dns(settings.clone()));
        }
        problems.or(discoveries)
    }

    fn params(&self) -> BTreeMap<String, Vec<String>> {
        let params = self.params.iter().flatten();
        params
            .map(|(name, values)| {
                let values = values.iter().flatten().map(|Text(value)| value.clone());
                (name.clone(), values.collect())
            })
            .collect()
    }

    fn native_histograms(&self) -> bool {
        flag(self.scrape_native_histograms, false)
    }

    /// One setting with two names.
    fn classic_histograms(&self) -> Result<bool, BuildError> {
        match (self.always_scrape_classic_histograms, self.scrape_classic_histograms) {
            (Some(_), Some(_)) => Err(BuildError::at(
                "scrape_classic_histograms",
                "is the old name of always_scrape_classic_histograms, which is there already",
            )),
            (new, old) => Ok(flag(new.or(old), false)),
        }
    }

    fn protocols(&self) -> Result<Vec<ScrapeProtocol>, BuildError> {
        let Some(names) = &self.scrape_protocols else {
            return Ok(ScrapeProtocol::defaults(self.native_histograms()));
        };
        let mut problems = BuildError::default();
        let mut protocols = Vec::new();
        for (index, Text(name)) in names.iter().enumerate() {
            match name.parse() {
                Ok(protocol) if protocols.contains(&protocol) => {
                    problems
                        .add(format!("scrape_protocols[{index}]"), format!("{protocol} is there already"));
                }
                Ok(protocol) => protocols.push(protocol),
                Err(message) => problems.add(format!("scrape_protocols[{index}]"), message),
            }
        }
        if names.is_empty() {
            problems.add("scrape_protocols", "must not be empty");
        }
        problems.or(protocols)
    }

    fn fallback_protocol(&self) -> Result<Option<ScrapeProtocol>, BuildError> {
        fallback_protocol(self.fallback_scrape_protocol.as_ref())
    }

    fn check_static_configs(&self) -> Result<(), BuildError> {
        let mut problems = BuildError::default();
        // Only without relabelling an address has to be by now what it is in the end.
        let is_final = self.relabel_configs.as_ref().is_none_or(Vec::is_empty);
        for (group, settings) in self.static_configs.iter().flatten().enumerate() {
            for (index, Text(target)) in settings.targets.iter().flatten().enumerate() {
                if is_final && target.contains('/') {
                    let message = format!(
                        "{target:?} is not an address; it is host:port, and scheme and metrics_path are keys of the job"
                    );
                    problems.add(format!("[{group}].targets[{index}]"), message);
                }
            }
            for name in settings.labels.iter().flatten().map(|(name, _)| name).filter(|name| name.is_empty())
            {
                problems.add(format!("[{group}].labels"), format!("{name:?} is not the name of a label"));
            }
        }
        problems.or(())
    }
}

/// Reads the key `fallback_scrape_protocol`; an empty text is as good as none.
pub(super) fn fallback_protocol(text: Option<&Text>) -> Result<Option<ScrapeProtocol>, BuildError> {
    let name = text.map(Text::as_str).filter(|name| !name.is_empty());
    let protocol = name.map(str::parse).transpose();
    protocol.map_err(|message: String| BuildError::at("fallback_scrape_protocol", message))
}

fn rules(settings: Option<&[RelabelSettings]>) -> Result<Vec<Rule>, BuildError> {
    relabel::compile(settings.unwrap_or_default().to_vec()).map_err(|errors| {
        let mut problems = BuildError::default();
        for error in errors {
            problems.add(error.path, error.message);
        }
        problems
    })
}

fn flag(flag: Option<Flag>, default: bool) -> bool {
    flag.map_or(default, |Flag(flag)| flag)
}

fn count(limit: Option<u64>) -> usize {
    limit.map_or(0, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
