//! Lands scrapes in a Prometheus Push Gateway, so that a Prometheus which cannot reach the targets can read them
//! there (with `honor_labels: true`).
//!
//! ```yaml
//! sinks:
//!   - type: push_gateway
//!     url: http://push.example.net:9091
//!     group_by: [ publisher ]
//! ```
//!
//! What stands in the gateway is always whole scrapes: each push replaces its group (PUT), series that
//! are gone from the target are gone from the gateway, and a failed scrape leaves `up 0` and the other
//! notes on the scrape. A gateway forgets when a sample was taken, so it comes along as a gauge,
//! `scrape_timestamp_seconds`; alert on its age.
//!
//! **Groups.** A gateway checks with every push everything that it holds, so a push costs by what is there and
//! not by what comes. Without `group_by` each target has a group, and is pushed with each scrape. With it, targets
//! share a group: one push brings the newest scrapes of all of them, and those that come meanwhile gather for
//! the next. An event is answered when a push that has it is confirmed. One push into a group is in flight
//! at a time. There must be one receiver for each group: two would take each other's targets out.
//!
//! **A life.** The targets that a source has dropped, and those of which nothing is heard for `expire_after`,
//! leave their group, and with the last one the group is deleted. At its start the sink asks the gateway once
//! what it holds: so that of the scrapes which come again after a kill none lands over a newer one, that groups
//! which nobody feeds any more expire like others, and that a shared group keeps the targets that have not
//! been scraped since. Before something expires the gateway is asked again, for another receiver may feed it. A
//! group with another grouping, of an earlier configuration, is deleted when a scrape of its target comes.
//! A gateway that was restarted, as its status page tells, or that was away and does not tell, gets all groups back
//! from what the sink remembers.
//!
//! **Newest wins.** A scrape that is not newer than what its target already has is answered as delivered and
//! not pushed. A push that ends without an answer, because its
//! timeout is over or its connection broke, may still be lying in a gateway that is slow to apply it, or in a
//! proxy, and then it would land after the newer one that found the gateway at work again. So the next scrape
//! of that group is pushed twice, with a pause between: the second push follows whatever had been waiting.
//! What a proxy holds back for longer than that can still land late; the next scrape puts it right.
//!
//! **Broken off.** A gateway before 1.6 takes a text that was cut at the end of a line for a whole one, even
//! when it was announced longer, and one of which only the head arrived for an empty one: tried with 1.5.1.
//! Protobuf it takes whole or not at all, so it gets protobuf.
//!
//! **Peace.** Families that do not go with what others have are left out: those of which we know it before the
//! push (`families`), those that the gateway refuses after it (`heal`).

mod answer;
mod families;
mod gateway;
mod groups;
mod heal;
mod key;
mod memory;
mod metrics;
mod page;
mod probe;
mod push;
mod recall;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prometheus_streams_core::error::{BoxError, BuildError, SendError};
use prometheus_streams_core::event::Event;
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{Sink, SinkConfig, StageContext};
use prometheus_streams_core::values::{Secret, Size, Span};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;

pub use self::probe::{Compression, Encoding};

use self::families::Ledger;
use self::gateway::{Base, Gateway, Life};
use self::groups::{Content, Groups, News};
use self::memory::Memory;
use self::metrics::PushMetrics;
use self::page::Press;
use self::push::{By, MOST_PUSHES, NOT_IN_TIME, Pusher};
use crate::support::http::{Auth, BasicAuth, HttpClient};
use crate::support::scrape;
use crate::support::tls::TlsSettings;

/// Pushes every scrape into a Prometheus Push Gateway, where it replaces the one before of its target.
///
/// Adds `up`, `scrape_duration_seconds`, `scrape_samples_scraped`, `scrape_samples_post_metric_relabeling`,
/// `scrape_series_added` and `scrape_timestamp_seconds`. Let Prometheus read the gateway with
/// `honor_labels: true`. A target that its source has dropped, or of which nothing is heard for `expire_after`,
/// is deleted. Metrics whose type is not that which others have are left out, and named in the log. A gateway that
/// was restarted gets everything back.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushGatewayConfig {
    /// Base address of the gateway, as `http://push.example.net:9091`. If it is served below a path,
    /// with that path; without `/metrics`.
    pub url: String,
    /// The labels that targets of one group have in common, beside `job`: `[publisher]`, or `[]` for one group
    /// for each job. A push then brings the newest scrapes of all targets of a group, and costs the gateway as
    /// much as one of a single target. Worth it from a few dozen targets on. Only one receiver may push into a
    /// group. Default: every target has a group of its own.
    #[serde(default)]
    pub group_by: Option<Vec<String>>,
    /// The labels that name a group, beside `job`, where targets that differ in none of them replace each other.
    /// The other labels of the target go on its samples. Not together with `group_by`. Default: all labels.
    #[serde(default)]
    pub grouping: Option<Vec<String>>,
    /// Targets of which nothing is heard for so long, not even that a scrape failed, are deleted. Make it some
    /// times the longest interval. Default `10m`.
    #[serde(default = "default_expire_after")]
    pub expire_after: Span,
    /// The memory in which the newest scrapes are kept, compressed, for gateways that are restarted and for groups
    /// of several targets; about 1 to 10 KB for a target. When it is full, groups of one target that were not
    /// used for longest are forgotten: they neither expire nor come back. With `group_by`, scrapes of further
    /// targets are rejected. Default `256MiB`.
    #[serde(default = "default_max_memory")]
    pub max_memory: Size,
    /// What happens when a scraped sample already has a label of the target. `false` renames that of
    /// the sample to `exported_<name>`; `true` keeps it, as far as a gateway lets us: labels that name the
    /// group are renamed in any case. Scrapes whose source honours labels are treated so in any case. Default:
    /// false.
    #[serde(default)]
    pub honor_labels: bool,
    /// `gzip` compresses what is pushed; gateways understand it from 1.5.0 on. `auto` does so where the gateway
    /// says that it is one of those. Default: `auto`.
    #[serde(default)]
    pub compression: Compression,
    /// `text` or `protobuf`. `auto` is protobuf for a gateway that says that it is older than 1.6.0, where a text
    /// that was cut off leaves half a group, and text for all others. Default: `auto`.
    #[serde(default)]
    pub encoding: Encoding,
    /// User name and password for the gateway.
    #[serde(default)]
    pub basic_auth: Option<BasicAuth>,
    /// A bearer token for the gateway; better in `bearer_token_file` or from `${env:NAME}`.
    #[serde(default)]
    pub bearer_token: Option<Secret>,
    /// A file with the bearer token, read again for every push.
    #[serde(default)]
    pub bearer_token_file: Option<PathBuf>,
    /// Certificates, for `https`.
    #[serde(default)]
    pub tls: TlsSettings,
}

fn default_expire_after() -> Span {
    Span::secs(600)
}

fn default_max_memory() -> Size {
    Size(256 << 20)
}

register!(sink: PushGatewayConfig);

impl SinkConfig for PushGatewayConfig {
    const TYPE: &'static str = "push_gateway";

    /// A gateway applies one push at a time; a few in flight keep it busy across the way there and back, and
    /// more would only wait in its queue.
    const MAX_IN_FLIGHT: usize = 4;

    /// A gateway holds one scrape of a target, and the newest is the one that matters.
    const NEWEST_ONLY: bool = true;

    fn build(self, cx: &StageContext) -> Result<Box<dyn Sink>, BuildError> {
        let mut problems = BuildError::default();
        let auth = Auth::from_keys(self.basic_auth, self.bearer_token, self.bearer_token_file);
        let auth = problems.take("", auth);
        let client = problems.take("tls", HttpClient::new(&self.tls));
        let base = problems.take("url", Base::parse(&self.url));
        check_names("grouping", self.grouping.as_deref(), &mut problems);
        check_names("group_by", self.group_by.as_deref(), &mut problems);
        if self.grouping.is_some() && self.group_by.is_some() {
            problems.add("group_by", "set group_by or grouping, not both");
        }
        if self.expire_after.0.is_zero() {
            problems.add("expire_after", "must be more than zero");
        }
        let (Some(auth), Some(client), Some(base)) = (auth, client, base) else {
            return Err(problems);
        };
        let by = match (self.group_by, self.grouping) {
            (Some(names), _) => By::Members(names),
            (None, Some(names)) => By::Replacing(names),
            (None, None) => By::Target,
        };
        let metrics = PushMetrics::new(cx);
        let (encoding, compression, restarts) = (self.encoding, self.compression, metrics.restarts.clone());
        let memory = Arc::new(Memory::new(self.max_memory, metrics.memory.clone()));
        let ledger = Arc::new(Ledger::new(metrics.conflicting.clone()));
        problems.or(Box::new(PushGateway(Arc::new(Pusher {
            gateway: Gateway { client, auth, encoding, compression, base, restarts, life: Life::default() },
            groups: Groups::new(Arc::clone(&memory), by.coalesces()),
            by,
            press: Press { honor_labels: self.honor_labels, ledger, memory },
            expire_after: self.expire_after.0,
            recalled: OnceCell::new(),
            permits: Semaphore::new(MOST_PUSHES),
            metrics,
            clock: Arc::clone(&cx.clock),
            health: cx.health.clone(),
        }))))
    }
}

fn check_names(key: &str, names: Option<&[String]>, problems: &mut BuildError) {
    let mut seen = BTreeSet::new();
    for (index, name) in names.unwrap_or_default().iter().enumerate() {
        if !scrape::is_label_name(name) {
            let message = format!("{name:?} is not a label name: letters, digits and _, without __ in front");
            problems.add(format!("{key}[{index}]"), message);
        } else if !seen.insert(name) {
            problems.add(format!("{key}[{index}]"), format!("{name} is in the list already"));
        }
    }
}

/// Events in flight where a push takes many: as many as any pipeline is likely to hold.
const GATHERING: usize = 10_000;

struct PushGateway(Arc<Pusher>);

#[async_trait]
impl Sink for PushGateway {
    async fn send(&self, event: Event) -> Result<(), SendError> {
        let attempt = Attempt::new(&self.0, scrape::label(&event.labels, scrape::JOB));
        let result = self.land(&event).await;
        attempt.end(&result);
        result
    }

    fn max_in_flight(&self) -> Option<usize> {
        self.0.groups.coalesces.then_some(GATHERING)
    }

    async fn run(&self, shutdown: CancellationToken) -> Result<(), BoxError> {
        let _ = shutdown.run_until_cancelled(self.0.keep_up()).await;
        Ok(())
    }
}

impl PushGateway {
    async fn land(&self, event: &Event) -> Result<(), SendError> {
        let pusher = &self.0;
        pusher.recall().await.inspect_err(|refusal| pusher.health.degraded(refusal))?;
        let key = pusher.by.key(&event.labels).map_err(SendError::permanent)?;
        let (group, member) = pusher.place(&event.labels).map_err(SendError::permanent)?;
        let is_covered = group.covers(&member, event.timestamp, pusher.now());
        if is_covered {
            pusher.metrics.superseded.inc();
        }
        let (content, readable) = if scrape::is_tombstone(event) {
            (Content::Nothing, Ok(()))
        } else {
            let (before, refused) = (group.page(&member), group.quarantined());
            let page = pusher.press.page(event, &key, before.as_deref(), &refused, &pusher.metrics);
            let (page, readable) = page.map_err(SendError::transient)?;
            (Content::Page(Arc::new(page)), readable)
        };
        if !is_covered {
            if pusher.groups.is_full() && !group.has(&member) {
                return Err(SendError::permanent(
                    "no room for another target; raise `max_memory` to hold more",
                ));
            }
            let interval = scrape::number(&event.attributes, scrape::INTERVAL).map(Duration::from_millis);
            let news = News { content, timestamp: event.timestamp, interval };
            let version = group.record(&member, news, pusher.now(), pusher.groups.charge(&member));
            pusher.metrics.groups.set(i64::try_from(pusher.groups.len()).unwrap_or(i64::MAX));
            pusher.land(&group, version).await?;
        }
        readable.map_err(SendError::permanent)
    }
}

/// One attempt to deliver. Dropped before its end, it was given up: its time was over.
struct Attempt<'a> {
    sink: &'a Pusher,
    job: &'a str,
    has_ended: bool,
}

impl<'a> Attempt<'a> {
    fn new(sink: &'a Pusher, job: &'a str) -> Self {
        Self { sink, job, has_ended: false }
    }

    fn end(mut self, result: &Result<(), SendError>) {
        self.has_ended = true;
        if result.is_err() {
            self.sink.metrics.failed(self.job);
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.sink.metrics.failed(self.job);
            self.sink.health.degraded(NOT_IN_TIME);
        }
    }
}
