//! The settings of the sink, under the names that Prometheus has for them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_streams_core::emitter::Backlog;
use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{Sink, SinkConfig, StageContext};
use prometheus_streams_core::values::{Secret, Span};
use schemars::JsonSchema;
use serde::Deserialize;

use super::RemoteWrite;
use super::client::{Language, Pause, Receiver};
use super::families::Families;
use super::metrics::WriteMetrics;
use super::queue::Batching;
use super::read::Reading;
use super::symbols::Seed;
use super::targets::Targets;
use super::wire::MessageChoice;
use crate::exposition::is_plain_label_name;
use crate::exposition::relabel::{self, RelabelSettings, Rule, RuleError};
use crate::support::http::{
    Authorization, BasicAuth, Endpoint, HeaderSettings, HttpClient, HttpClientSettings, OAuth2,
};
use crate::support::tls::TlsSettings;

/// Writes every scrape to a receiver of Prometheus remote write, with its original time.
///
/// With the samples go `up`, `scrape_duration_seconds`, `scrape_samples_scraped`,
/// `scrape_samples_post_metric_relabeling` and `scrape_series_added`, and staleness markers where series end. What the
/// receiver refuses is cut down to the series that it will not have; the scrape becomes a dead letter that names
/// them, and the rest lands. Tried for ever is what may be taken later, unless `delivery` says otherwise.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoteWriteConfig {
    /// Where to write, as `http://prometheus.example.net:9090/api/v1/write`.
    pub url: String,
    /// How long one request may take. Default: `30s`.
    #[serde(default = "default_remote_timeout")]
    pub remote_timeout: Span,
    /// Headers for every request, as a tenant: `X-Scope-OrgID: site1`.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// `prometheus.WriteRequest` for remote write 1.0, `io.prometheus.write.v2.Request` for 2.0, or `auto`: 2.0 if
    /// the receiver takes it, else 1.0. Default: `auto`.
    #[serde(default)]
    pub protobuf_message: MessageChoice,
    /// Labels for every series that does not have them itself.
    #[serde(default)]
    pub external_labels: BTreeMap<String, String>,
    /// Rules for what is written, applied last. They must not make one series of those of two targets: such a series
    /// has no order.
    #[serde(default)]
    pub write_relabel_configs: Vec<RelabelSettings>,
    /// Whether exemplars are written. Default: true.
    #[serde(default = "default_true")]
    pub send_exemplars: bool,
    /// Whether native histograms are written as such, in place of the classic ones of the same name. The receiver
    /// must take them; a Prometheus 2 does with `--enable-feature=native-histograms`. Default: false.
    #[serde(default)]
    pub send_native_histograms: bool,
    /// Types, help and units.
    #[serde(default)]
    pub metadata_config: MetadataSettings,
    /// How scrapes are put together into requests.
    #[serde(default)]
    pub queue_config: QueueSettings,
    /// The order after an outage. `strict`: oldest first. `fresh_first`: what is new at once, and the past
    /// beside it; the receiver must have an out-of-order window as long as an outage. Default: `strict`.
    #[serde(default)]
    pub order: Order,
    /// How the past comes with `order: fresh_first`.
    #[serde(default)]
    pub backfill: Option<BackfillSettings>,
    /// When nothing came of a target for so long, its series end behind its last scrape. Default: `5m`.
    #[serde(default = "default_stale_after")]
    pub stale_after: Span,
    /// User name and password. At most one of `basic_auth`, `authorization`, `oauth2`, `bearer_token`,
    /// `bearer_token_file`.
    #[serde(default)]
    pub basic_auth: Option<BasicAuth>,
    /// Credentials of another kind, as a bearer token.
    #[serde(default)]
    pub authorization: Option<Authorization>,
    /// A bearer token that is fetched from an OAuth 2.0 server.
    #[serde(default)]
    pub oauth2: Option<OAuth2>,
    /// A bearer token; better in `bearer_token_file` or from `${env:NAME}`.
    #[serde(default)]
    pub bearer_token: Option<Secret>,
    /// A file with the bearer token, read again for every request.
    #[serde(default)]
    pub bearer_token_file: Option<PathBuf>,
    /// TLS for `https` addresses.
    #[serde(default)]
    pub tls_config: TlsSettings,
    /// Whether HTTP/2 is used where the receiver has it, over TLS only. Default: true.
    #[serde(default = "default_true")]
    pub enable_http2: bool,
    /// The proxy to go through: an URL with the scheme `http`, `https` or `socks5`.
    #[serde(default)]
    pub proxy_url: Option<Secret>,
    /// What is reached without the proxy, separated by commas. Needs `proxy_url`.
    #[serde(default)]
    pub no_proxy: Option<String>,
    /// Takes the proxy from `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` in the environment. Default: false.
    #[serde(default)]
    pub proxy_from_environment: bool,
}

fn default_remote_timeout() -> Span {
    Span::secs(30)
}

fn default_true() -> bool {
    true
}

fn default_stale_after() -> Span {
    Span::secs(300)
}

/// The order in which a backlog is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Oldest first.
    #[default]
    Strict,
    /// What is new at once, and the past beside it.
    FreshFirst,
}

/// How the past is written beside what is new.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BackfillSettings {
    /// The age at which a scrape is of the past. Default: `1m`.
    pub after: Span,
    /// The most scrapes of the past that are written in a second. Default: 100.
    pub rate: u32,
}

impl Default for BackfillSettings {
    fn default() -> Self {
        Self { after: Span::secs(60), rate: 100 }
    }
}

/// How scrapes are put together into requests.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSettings {
    /// How many requests are under way at once; those of one target never are. Default: 4.
    pub max_shards: usize,
    /// The most samples in one request. Default: 2000.
    pub max_samples_per_send: usize,
    /// How long a scrape waits for others to go with it. Default: `100ms`.
    pub batch_send_deadline: Span,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self { max_shards: 4, max_samples_per_send: 2000, batch_send_deadline: Span::millis(100) }
    }
}

/// What is said of types, help and units. Remote write 2.0 says it with every series.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MetadataSettings {
    /// Whether it is said at all in remote write 1.0. Default: true.
    pub send: bool,
    /// How often it is said in remote write 1.0. Default: `1m`.
    pub send_interval: Span,
}

impl Default for MetadataSettings {
    fn default() -> Self {
        Self { send: true, send_interval: Span::secs(60) }
    }
}

register!(sink: RemoteWriteConfig);

impl SinkConfig for RemoteWriteConfig {
    const TYPE: &'static str = "remote_write";

    /// Scrapes of many small targets make up one request.
    const MAX_IN_FLIGHT: usize = 256;

    /// Waiting in the queue, and as many requests as a large scrape takes, each of which has its own limit,
    /// `remote_timeout`. Whoever is cut off begins again with the first of them, so this must be enough for all.
    const TIMEOUT: Duration = Duration::from_secs(3600);

    fn build(self, cx: &StageContext) -> Result<Box<dyn Sink>, BuildError> {
        let mut problems = BuildError::default();
        let client = self.client(&mut problems);
        let endpoint = problems.take("url", Endpoint::parse(&self.url));
        let relabel = problems.take("", self.rules());
        self.check(&mut problems);
        let (Some(client), Some(endpoint), Some(relabel)) = (client, endpoint, relabel) else {
            return Err(problems);
        };
        let metadata = self.metadata_config.send.then_some(self.metadata_config.send_interval.0);
        let receiver = Receiver {
            client,
            uri: endpoint.uri,
            timeout: self.remote_timeout.0,
            language: Language::new(self.protobuf_message),
            families: Families::new(metadata),
            metrics: WriteMetrics::new(cx),
            health: cx.health.clone(),
            pause: Pause::default(),
        };
        let external_labels = self.external_labels.clone().into_iter();
        problems.or(Box::new(RemoteWrite {
            receiver: Arc::new(receiver),
            reading: Reading {
                seed: Seed::default(),
                exemplars: self.send_exemplars,
                native_histograms: self.send_native_histograms,
                relabel,
                external_labels: external_labels.filter(|(_, value)| !value.is_empty()).collect(),
            },
            targets: Targets::default(),
            shards: OnceLock::new(),
            shard_count: self.queue_config.max_shards,
            batching: Batching {
                most: self.queue_config.max_samples_per_send,
                deadline: self.queue_config.batch_send_deadline.0,
            },
            stale_after: self.stale_after.0,
            backlog: self.backlog(),
            health: cx.health.clone(),
        }))
    }
}

impl RemoteWriteConfig {
    fn check(&self, problems: &mut BuildError) {
        let queue = &self.queue_config;
        let backfill = self.backfill.clone().unwrap_or_default();
        for (path, is_positive) in [
            ("remote_timeout", !self.remote_timeout.0.is_zero()),
            ("stale_after", !self.stale_after.0.is_zero()),
            ("queue_config.max_shards", queue.max_shards > 0),
            ("queue_config.max_samples_per_send", queue.max_samples_per_send > 0),
            ("metadata_config.send_interval", !self.metadata_config.send_interval.0.is_zero()),
            ("backfill.after", !backfill.after.0.is_zero()),
            ("backfill.rate", backfill.rate > 0),
        ] {
            if !is_positive {
                problems.add(path, "must be more than zero");
            }
        }
        if queue.max_shards > 1000 {
            problems.add("queue_config.max_shards", "must not be more than 1000");
        }
        if self.backfill.is_some() && self.order != Order::FreshFirst {
            problems.add("backfill", "is for `order: fresh_first`; with strict order the past comes first");
        }
        for name in self
            .headers
            .keys()
            .filter(|name| name.to_ascii_lowercase().starts_with("x-prometheus-remote-write"))
        {
            problems.add(format!("headers.{name}"), "is set by the protocol; remove it");
        }
        for name in self.external_labels.keys() {
            if !is_plain_label_name(name) || name == "__name__" {
                problems.add(
                    format!("external_labels.{name}"),
                    format!("{name:?} is not a label name: letters, digits and _"),
                );
            }
        }
    }

    fn backlog(&self) -> Backlog {
        let backfill = self.backfill.clone().unwrap_or_default();
        match self.order {
            Order::Strict => Backlog::Strict,
            Order::FreshFirst => Backlog::FreshFirst { after: backfill.after.0, rate: backfill.rate },
        }
    }

    fn rules(&self) -> Result<Vec<Rule>, BuildError> {
        relabel::compile(self.write_relabel_configs.clone()).map_err(|errors| {
            let mut problems = BuildError::default();
            for RuleError { path, message } in errors {
                problems.add(format!("write_relabel_configs{path}"), message);
            }
            problems
        })
    }

    fn client(&self, problems: &mut BuildError) -> Option<HttpClient> {
        let header = |(name, value): (&String, &Secret)| {
            (name.clone(), HeaderSettings { secrets: vec![value.clone()], ..HeaderSettings::default() })
        };
        let settings = HttpClientSettings {
            basic_auth: self.basic_auth.clone(),
            authorization: self.authorization.clone(),
            oauth2: self.oauth2.clone(),
            bearer_token: self.bearer_token.clone(),
            bearer_token_file: self.bearer_token_file.clone(),
            tls_config: self.tls_config.clone(),
            follow_redirects: false,
            enable_http2: self.enable_http2,
            proxy_url: self.proxy_url.clone(),
            no_proxy: self.no_proxy.clone(),
            proxy_from_environment: self.proxy_from_environment,
            proxy_connect_header: BTreeMap::new(),
            http_headers: self.headers.iter().map(header).collect(),
        };
        let client = settings.client();
        for problem in client.as_ref().err().map(BuildError::problems).unwrap_or_default() {
            // Prometheus has two names for them, too.
            problems.add(problem.path.replace("http_headers", "headers"), &problem.message);
        }
        client.ok()
    }
}
