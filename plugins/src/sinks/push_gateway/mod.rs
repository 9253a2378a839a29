//! Lands every scrape in a Prometheus Push Gateway, one group for each target, so that a Prometheus which
//! cannot reach the targets can read them there (with `honor_labels: true`).
//!
//! ```yaml
//! sinks:
//!   - type: push_gateway
//!     url: http://push.example.net:9091
//! ```
//!
//! What stands in the gateway is always one whole scrape: each push replaces its group (PUT), series that
//! are gone from the target are gone from the gateway, and a failed scrape leaves `up 0` and the other
//! notes on the scrape. The group of a target that its source has dropped is deleted. A gateway forgets when a sample was taken, so it comes along as a gauge,
//! `scrape_timestamp_seconds`; alert on its age.
//!
//! **Newest wins.** A scrape that is not newer than what its group already has is answered as delivered and
//! not pushed. One push into a group is in flight at a time. A push that ends without an answer, because its
//! timeout is over or its connection broke, may still be lying in a gateway that is slow to apply it, or in a
//! proxy, and then it would land after the newer one that found the gateway at work again. So the next scrape
//! of that group is pushed twice, with a pause between: the second push follows whatever had been waiting.
//! What a proxy holds back for longer than that can still land late; the next scrape puts it right. At its
//! start the sink asks the gateway once what it holds, so that of the scrapes which come again after a kill
//! none lands over a newer one.
//!
//! **Broken off.** A gateway before 1.6 takes a body that was cut at the end of a line for a whole one, even
//! when it was announced longer, and one of which only the head arrived for an empty one: tried with 1.5.1.
//! Such a push is not confirmed, so it is tried again and the whole replaces the part; until then the group
//! has lost series. With `compression: gzip` a bare head is refused, and so are cuts but for one in a
//! hundred or less (of plain text, one in fifty).

mod answer;
mod gateway;
mod groups;
mod key;
mod metrics;
mod page;
mod recall;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use prometheus_streams_core::error::{BoxError, BuildError, SendError};
use prometheus_streams_core::event::Event;
use prometheus_streams_core::health::Health;
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{Clock, Sink, SinkConfig, StageContext};
use prometheus_streams_core::values::Secret;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::RwLock;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::gateway::Compression;

use self::answer::Refusal;
use self::gateway::{Base, Gateway};
use self::groups::{Groups, Mark};
use self::key::GroupingKey;
use self::metrics::PushMetrics;
use crate::exposition::Canonical;
use crate::support::http::{Auth, BasicAuth, HttpClient};
use crate::support::scrape;
use crate::support::tls::TlsSettings;

/// Pushes every scrape into a Prometheus Push Gateway, where it replaces the one before of its group.
///
/// Adds `up`, `scrape_duration_seconds`, `scrape_samples_scraped`, `scrape_samples_post_metric_relabeling`,
/// `scrape_series_added` and `scrape_timestamp_seconds`. Let Prometheus read the gateway with
/// `honor_labels: true`. When a source drops a target, its group is deleted.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PushGatewayConfig {
    /// Base address of the gateway, as `http://push.example.net:9091`. If it is served below a path,
    /// with that path; without `/metrics`.
    pub url: String,
    /// The labels that name a group, beside `job`: `[instance, publisher]`. The other labels of the target
    /// go on its samples. Default: all labels. Targets that differ in none of these labels replace each
    /// other.
    #[serde(default)]
    pub grouping: Option<Vec<String>>,
    /// What happens when a scraped sample already has a label of the target. `false` renames that of
    /// the sample to `exported_<name>`; `true` keeps it, as far as a gateway lets us: labels that name the
    /// group are renamed in any case. Scrapes whose source honours labels are treated so in any case. Default:
    /// false.
    #[serde(default)]
    pub honor_labels: bool,
    /// `gzip` compresses what is pushed; gateways understand it from 1.5.0 on. Worth it over a slow or a
    /// bad line. Default: `none`.
    #[serde(default)]
    pub compression: Compression,
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

register!(sink: PushGatewayConfig);

impl SinkConfig for PushGatewayConfig {
    const TYPE: &'static str = "push_gateway";

    /// A gateway applies one push at a time; a few in flight keep it busy across the way there and back, and
    /// more would only wait in its queue.
    const MAX_IN_FLIGHT: usize = 4;

    /// A gateway holds one scrape of a group, and the newest is the one that matters.
    const NEWEST_ONLY: bool = true;

    fn build(self, cx: &StageContext) -> Result<Box<dyn Sink>, BuildError> {
        let mut problems = BuildError::default();
        let auth = Auth::from_keys(self.basic_auth, self.bearer_token, self.bearer_token_file);
        let auth = problems.take("", auth);
        let client = problems.take("tls", HttpClient::new(&self.tls));
        let base = problems.take("url", Base::parse(&self.url));
        check_grouping(self.grouping.as_deref().unwrap_or_default(), &mut problems);
        let (Some(auth), Some(client), Some(base)) = (auth, client, base) else {
            return Err(problems);
        };
        problems.or(Box::new(PushGateway {
            gateway: Gateway { client, auth, compression: self.compression, base },
            grouping: self.grouping,
            honor_labels: self.honor_labels,
            groups: Groups::default(),
            recalling: RwLock::default(),
            metrics: PushMetrics::new(cx),
            clock: Arc::clone(&cx.clock),
            health: cx.health.clone(),
        }))
    }
}

fn check_grouping(grouping: &[String], problems: &mut BuildError) {
    let mut seen = BTreeSet::new();
    for (index, name) in grouping.iter().enumerate() {
        if !scrape::is_label_name(name) {
            let message = format!("{name:?} is not a label name: letters, digits and _, without __ in front");
            problems.add(format!("grouping[{index}]"), message);
        } else if !seen.insert(name) {
            problems.add(format!("grouping[{index}]"), format!("{name} is in the list already"));
        }
    }
}

/// The pause before a group is pushed again, for the sake of pushes that were given up: as long as the push
/// before it took, for the gateway was about as slow with those, within these bounds.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

struct PushGateway {
    gateway: Gateway,
    grouping: Option<Vec<String>>,
    honor_labels: bool,
    groups: Groups,
    /// Held for writing while the gateway is asked what it holds; nothing is pushed meanwhile.
    recalling: RwLock<()>,
    metrics: PushMetrics,
    clock: Arc<dyn Clock>,
    health: Health,
}

#[async_trait]
impl Sink for PushGateway {
    async fn send(&self, event: Event) -> Result<(), SendError> {
        let attempt = Attempt::new(self, scrape::label(&event.labels, scrape::JOB));
        let result = self.land(&event).await;
        attempt.end(&result);
        result
    }

    async fn run(&self, shutdown: CancellationToken) -> Result<(), BoxError> {
        let _ = shutdown.run_until_cancelled(self.recall()).await;
        Ok(())
    }
}

impl PushGateway {
    async fn land(&self, event: &Event) -> Result<(), SendError> {
        drop(self.recalling.read().await);
        let key = GroupingKey::new(&event.labels, self.grouping.as_deref()).map_err(SendError::permanent)?;
        let (change, readable) = if scrape::is_tombstone(event) {
            (Change::Delete, Ok(()))
        } else {
            let (mut page, readable) = page::page(event, &key, self.honor_labels);
            let body = Bytes::from(std::mem::take(&mut page.body));
            (Change::Replace(page, body), readable)
        };
        let group = self.groups.group(&key.path);
        self.metrics.groups.set(i64::try_from(self.groups.len()).unwrap_or(i64::MAX));
        let mut mark = group.lock().await;
        if mark.covers(event.timestamp, self.clock.now()) {
            self.metrics.superseded.inc();
        } else {
            self.make(&change, &mut mark, event.timestamp, &key.path).await?;
        }
        readable.map_err(SendError::permanent)
    }

    /// Makes a change to a group until nothing older can land any more after it.
    async fn make(
        &self,
        change: &Change,
        mark: &mut Mark,
        timestamp: SystemTime,
        path: &str,
    ) -> Result<(), Refusal> {
        loop {
            let begun = mark.begin(timestamp);
            let started = Instant::now();
            if let Err(refusal) = self.make_once(change, path).await {
                if !refusal.may_still_land() {
                    mark.withdraw(begun);
                }
                return Err(refusal);
            }
            mark.confirm(begun);
            if mark.is_settled() {
                return Ok(());
            }
            tokio::time::sleep(started.elapsed().clamp(SHORTEST_PAUSE, LONGEST_PAUSE)).await;
        }
    }

    async fn make_once(&self, change: &Change, path: &str) -> Result<(), Refusal> {
        let _timer = self.metrics.time.start_timer();
        let made = match change {
            Change::Delete => self.gateway.delete(path).await,
            Change::Replace(page, body) => {
                let put = self.gateway.put(path, body).await;
                put.map(|length| self.metrics.confirmed(page, length))
            }
        };
        match &made {
            Err(Refusal::Unreachable(why) | Refusal::Unavailable { why, .. }) => self.health.degraded(why),
            _ => self.health.ready(),
        }
        made
    }
}

/// What an event does to its group.
enum Change {
    /// The page of a scrape, and its body, take the place of what is there.
    Replace(Canonical, Bytes),
    /// The target is gone.
    Delete,
}

/// One attempt to deliver. Dropped before its end, it was given up: its time was over.
struct Attempt<'a> {
    sink: &'a PushGateway,
    job: &'a str,
    has_ended: bool,
}

impl<'a> Attempt<'a> {
    fn new(sink: &'a PushGateway, job: &'a str) -> Self {
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
            self.sink.health.degraded("the push gateway does not answer in time");
        }
    }
}
