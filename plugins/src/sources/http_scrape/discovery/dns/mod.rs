//! Targets from DNS, as Prometheus' `dns_sd_configs`: one target for each record of a name.
//!
//! ```yaml
//! dns_sd_configs:
//!   - names: [ _metrics._tcp.example.net ]      # type: SRV
//!   - { names: [ db.example.net ], type: A, port: 9100, refresh_interval: 30s }
//! ```
//!
//! Servers and search domains are those of `/etc/resolv.conf`, which is read every time. A name that no server knows has
//! no targets; one of which no server says anything keeps those it had.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use prometheus_streams_core::error::BuildError;
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::config::PromDuration;
use super::{TargetGroup, Teller, ticks};

const NAME: &str = "__meta_dns_name";
const SRV_TARGET: &str = "__meta_dns_srv_record_target";
const SRV_PORT: &str = "__meta_dns_srv_record_port";
const MX_TARGET: &str = "__meta_dns_mx_record_target";
const NS_TARGET: &str = "__meta_dns_ns_record_target";

/// The time that one server has for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Targets from the records of names in DNS.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsSdSettings {
    /// The names to ask for.
    pub names: Vec<String>,
    /// The records to ask for: SRV, A, AAAA, MX or NS. Default: SRV.
    #[serde(default, rename = "type")]
    pub kind: RecordKind,
    /// The port of the targets. Needed unless the records are SRV, which have ports of their own.
    #[serde(default)]
    pub port: u16,
    /// How often the names are asked for. Default: 30s.
    #[serde(default = "half_a_minute")]
    pub refresh_interval: PromDuration,
}

fn half_a_minute() -> PromDuration {
    PromDuration(Duration::from_secs(30))
}

/// The records that can be targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "these are the names of DNS")]
pub enum RecordKind {
    #[default]
    #[serde(alias = "srv")]
    Srv,
    #[serde(alias = "a")]
    A,
    #[serde(alias = "aaaa")]
    Aaaa,
    #[serde(alias = "mx")]
    Mx,
    #[serde(alias = "ns")]
    Ns,
}

impl From<RecordKind> for RecordType {
    fn from(kind: RecordKind) -> Self {
        match kind {
            RecordKind::Srv => Self::SRV,
            RecordKind::A => Self::A,
            RecordKind::Aaaa => Self::AAAA,
            RecordKind::Mx => Self::MX,
            RecordKind::Ns => Self::NS,
        }
    }
}

impl DnsSdSettings {
    /// Checks the settings.
    ///
    /// # Errors
    /// There is no name, or what is no name, or no port where one is needed, or no refresh.
    pub(crate) fn check(&self) -> Result<(), BuildError> {
        let mut problems = BuildError::default();
        if self.names.is_empty() {
            problems.add("names", "there must be at least one name");
        }
        for (index, name) in self.names.iter().enumerate() {
            if let Err(error) = parse(name) {
                problems.add(format!("names[{index}]"), format!("{name:?} is not a name of DNS: {error}"));
            }
        }
        if self.port == 0 && self.kind != RecordKind::Srv {
            problems.add("port", "is required for all types except SRV");
        }
        if self.refresh_interval.0.is_zero() {
            problems.add("refresh_interval", "must be more than zero");
        }
        problems.or(())
    }
}

/// Tells the targets of all names, until it is dropped.
pub(super) async fn run(settings: DnsSdSettings, teller: Teller) {
    run_with(settings, Servers::of_the_system, teller).await;
}

async fn run_with(
    settings: DnsSdSettings,
    servers: impl Fn() -> Result<Servers, LookupError>,
    mut teller: Teller,
) {
    let mut known: BTreeMap<String, Vec<TargetGroup>> = BTreeMap::new();
    let mut ticks = ticks(settings.refresh_interval.0);
    loop {
        ticks.tick().await;
        for (name, answer) in ask(&settings, servers()).await {
            match answer {
                Ok(records) => {
                    teller.is_well(&name);
                    let groups = records.iter().filter_map(|record| group(&name, settings.port, record));
                    let mut groups: Vec<_> = groups.collect();
                    // Servers give the records in another order each time.
                    groups.sort_by(|a, b| a.targets.cmp(&b.targets));
                    known.insert(name, groups);
                }
                Err(error) => teller.failed(&name, error),
            }
        }
        teller.tell(known.values().flatten().cloned().collect()).await;
    }
}

/// What the servers answer to each name, all of them asked at once.
async fn ask(
    settings: &DnsSdSettings,
    servers: Result<Servers, LookupError>,
) -> Vec<(String, Result<Vec<RData>, LookupError>)> {
    let servers = servers.map(Arc::new);
    let answers = settings.names.iter().map(|name| {
        let (name, servers, kind) = (name.clone(), servers.clone(), settings.kind.into());
        async move {
            let answer = match servers {
                Ok(servers) => servers.lookup(&name, kind).await,
                Err(error) => Err(error),
            };
            (name, answer)
        }
    });
    join_all(answers).await
}

/// The target that a record is.
fn group(name: &str, port: u16, record: &RData) -> Option<TargetGroup> {
    let (address, about) = match record {
        RData::SRV(srv) => {
            let about = vec![(SRV_TARGET, srv.target.to_ascii()), (SRV_PORT, srv.port.to_string())];
            (host_port(&srv.target, srv.port), about)
        }
        RData::MX(mx) => (host_port(&mx.exchange, port), vec![(MX_TARGET, mx.exchange.to_ascii())]),
        RData::NS(ns) => (host_port(&ns.0, port), vec![(NS_TARGET, ns.0.to_ascii())]),
        RData::A(a) => (format!("{}:{port}", a.0), Vec::new()),
        RData::AAAA(aaaa) => (format!("[{}]:{port}", aaaa.0), Vec::new()),
        // The names on the way to the answer.
        _ => return None,
    };
    // What a record of another type would have said is there, and empty.
    let empty = [SRV_TARGET, SRV_PORT, MX_TARGET, NS_TARGET].map(|label| (label, String::new()));
    let labels = empty.into_iter().chain(about).chain([(NAME, name.to_owned())]);
    let labels: BTreeMap<_, _> = labels.map(|(label, value)| (label.to_owned(), value)).collect();
    Some(TargetGroup { targets: vec![address], labels: Arc::new(labels) })
}

fn host_port(name: &Name, port: u16) -> String {
    format!("{}:{port}", name.to_ascii().trim_end_matches('.'))
}

fn parse(name: &str) -> Result<Name, hickory_resolver::proto::ProtoError> {
    Name::from_str_relaxed(name)
}

/// Why nothing is known of a name.
#[derive(Clone, Debug, thiserror::Error)]
enum LookupError {
    #[error("cannot read the configuration of the resolver: {0}")]
    Configuration(NetError),
    #[error("no server gave an answer: {0}")]
    NoAnswer(String),
}

/// The servers to ask, and how names are completed.
struct Servers {
    resolvers: Vec<TokioResolver>,
    search: Vec<Name>,
    ndots: usize,
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servers").field("search", &self.search).finish_non_exhaustive()
    }
}

impl Servers {
    fn of_the_system() -> Result<Self, LookupError> {
        let (config, options) = read_system_conf().map_err(LookupError::Configuration)?;
        Self::new(&config, &options).map_err(LookupError::Configuration)
    }

    fn new(config: &ResolverConfig, options: &ResolverOpts) -> Result<Self, NetError> {
        let resolvers = config.name_servers().iter().map(|server| resolver(server.clone(), options));
        let mut search = config.search().to_vec();
        if search.is_empty() {
            search.extend(config.domain().cloned());
        }
        Ok(Self { resolvers: resolvers.collect::<Result<_, _>>()?, search, ndots: options.ndots })
    }

    /// The records of a name, completed by the search domains until a server knows it: none where all say that it
    /// does not exist.
    async fn lookup(&self, name: &str, kind: RecordType) -> Result<Vec<RData>, LookupError> {
        let wrong = |error: &dyn fmt::Display| LookupError::NoAnswer(error.to_string());
        let name = parse(name).map_err(|error| wrong(&error))?;
        let mut unanswered = None;
        for name in self.completions(&name) {
            match self.ask_all(&name, kind).await {
                Ok(Some(records)) => return Ok(records),
                Ok(None) => {}
                Err(error) => unanswered = Some(format!("{name}: {error}")),
            }
        }
        unanswered.map_or(Ok(Vec::new()), |error| Err(LookupError::NoAnswer(error)))
    }

    /// The names that `name` may stand for, in the order in which they are tried.
    fn completions(&self, name: &Name) -> Vec<Name> {
        let mut as_it_is = name.clone();
        as_it_is.set_fqdn(true);
        if name.is_fqdn() {
            return vec![as_it_is];
        }
        let mut names: Vec<_> =
            self.search.iter().filter_map(|domain| name.clone().append_domain(domain).ok()).collect();
        let has_dots = usize::from(name.num_labels()) > self.ndots;
        names.insert(if has_dots { 0 } else { names.len() }, as_it_is);
        names
    }

    /// The answer of the first server that has one; `None` where it says that there is no such name.
    async fn ask_all(&self, name: &Name, kind: RecordType) -> Result<Option<Vec<RData>>, String> {
        let mut last = "there is no server".to_owned();
        for resolver in &self.resolvers {
            match resolver.lookup(name.clone(), kind).await {
                Ok(lookup) => {
                    let records = lookup.answers().iter().map(|record| record.data.clone());
                    return Ok(Some(records.collect()));
                }
                Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, .. }))) => {
                    match response_code {
                        ResponseCode::NXDomain => return Ok(None),
                        ResponseCode::NoError => return Ok(Some(Vec::new())),
                        code => last = code.to_string(),
                    }
                }
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }
}

/// One server by itself, because who is asked next after which answer is Prometheus' to say. A truncated answer is asked
/// for again over TCP.
fn resolver(server: NameServerConfig, options: &ResolverOpts) -> Result<TokioResolver, NetError> {
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let mut options = options.clone();
    options.timeout = TIMEOUT;
    options.attempts = 1;
    options.edns0 = true;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    builder = builder.with_options(options);
    builder.build()
}
