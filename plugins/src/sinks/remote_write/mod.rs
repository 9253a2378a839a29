//! Writes every scrape into a database that takes Prometheus remote write: Prometheus itself, Mimir, Thanos,
//! VictoriaMetrics and others. What stands there then is the history, with the times at which things were
//! measured, as if the database's own Prometheus had scraped the targets.
//!
//! ```yaml
//! sinks:
//!   - type: remote_write
//!     url: http://prometheus.example.net:9090/api/v1/write
//! ```
//!
//! **In order.** Receivers take the samples of a series only in the order of time, unless they have an
//! out-of-order window. So a target's scrapes go through one queue, one request after the other, and what could not
//! be written is tried for ever; after an outage the backlog comes oldest first. With `order: fresh_first` what
//! is new comes at once and the past beside it, for receivers with such a window.
//!
//! **What is bad is cut out.** A request that the receiver refuses is halved until the series are known that it
//! will not have. The rest lands; the scrape becomes a dead letter that names the series, with the receiver's
//! words. From the thousandth bad series of a scrape on, what is refused with one is refused too. What asks for
//! another try (429 and 5xx) gets one, after `Retry-After`.
//!
//! **Series end.** As a Prometheus does, this writes a staleness marker when a series is gone from a scrape, when a
//! scrape fails, and when a target is dropped. When nothing more comes of a target for `stale_after`, its series end
//! right behind its last scrape; what arrives late is written all the same. Which series a target has is
//! remembered, but not across a restart. What was written before one and comes again, because it was not
//! acknowledged, a receiver refuses as out of order; until something is new it is counted and let pass.

mod answer;
mod catalogue;
mod client;
mod families;
mod metrics;
mod queue;
mod read;
mod series;
mod settings;
mod symbols;
mod targets;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use prometheus_streams_core::emitter::Backlog;
use prometheus_streams_core::error::{BoxError, SendError};
use prometheus_streams_core::event::{Event, Labels};
use prometheus_streams_core::health::Health;
use prometheus_streams_core::stage::Sink;
use tokio_util::sync::CancellationToken;

use self::client::SharedReceiver;
use self::queue::{Batching, Refused, Shards};
use self::read::Reading;
use self::series::Scrape;
pub use self::settings::{BackfillSettings, MetadataSettings, Order, QueueSettings, RemoteWriteConfig};
use self::targets::{Shared, Step, Targets};
pub use self::wire::MessageChoice;
use crate::support::envelope::labels_hash;
use crate::support::scrape;

/// Targets that are told to be silent at once.
const SILENT_AT_ONCE: usize = 256;

/// Series that a dead letter names; of the others it says how many there are.
const MOST_NAMED: usize = 5;

/// Of the name and the labels of such a series, as much as anybody reads.
const MOST_NAME: usize = 400;

struct RemoteWrite {
    receiver: SharedReceiver,
    reading: Reading,
    targets: Targets,
    shards: OnceLock<Shards>,
    shard_count: usize,
    batching: Batching,
    stale_after: Duration,
    backlog: Backlog,
    health: Health,
}

/// Whether a receiver has something newer of the series that comes with every scrape, the first. With strict order,
/// and of a target that nothing has been written of since the start, this is then a scrape that was written before
/// the start, and comes again because it was not acknowledged. What is too old for the receiver is not that.
fn is_known(refused: &Refused) -> bool {
    refused.iter().any(|(row, why)| *row == 0 && why.has_newer())
}

fn shorten(mut name: String) -> String {
    if let Some((end, _)) = name.char_indices().nth(MOST_NAME) {
        name.truncate(end);
        name.push('…');
    }
    name
}

#[async_trait]
impl Sink for RemoteWrite {
    async fn send(&self, event: Event) -> Result<(), SendError> {
        if let Some(trouble) = self.receiver.pause.left() {
            return Err(trouble.into());
        }
        let target = self.targets.target(&event.labels, &self.receiver.metrics);
        if scrape::is_tombstone(&event) {
            self.end(&event, &target).await
        } else {
            self.write(&event, &target).await
        }
    }

    fn backlog(&self) -> Backlog {
        self.backlog
    }

    async fn run(&self, shutdown: CancellationToken) -> Result<(), BoxError> {
        self.health.ready();
        let pause = (self.stale_after / 10).clamp(Duration::from_millis(100), Duration::from_secs(30));
        while shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            let _ = shutdown.run_until_cancelled(self.end_the_silent()).await;
        }
        Ok(())
    }
}

impl RemoteWrite {
    async fn write(&self, event: &Event, target: &Shared) -> Result<(), SendError> {
        let mut target = target.lock().await;
        let (mut scrape, readable) = self.reading.read(event);
        let step = target.follow(event, &mut scrape);
        if matches!(step, Step::Needless) {
            return Ok(());
        }
        let scrape = Arc::new(scrape);
        let refused = self.deliver(&event.labels, &scrape).await?;
        let readable = readable.map_err(SendError::permanent);
        if self.backlog == Backlog::Strict && target.is_new() && is_known(&refused) {
            self.receiver.metrics.known.inc();
            return readable;
        }
        if refused.is_empty() || refused.len() < scrape.rows.len() {
            target.take(step);
        }
        readable?;
        self.judge(&scrape, &refused)
    }

    /// The target is gone.
    async fn end(&self, event: &Event, target: &Shared) -> Result<(), SendError> {
        let target = target.lock().await;
        let Some(ends) = target.end(event, &self.reading) else { return Ok(()) };
        // What the receiver will not have of ends, it has no series for.
        self.deliver(&event.labels, &Arc::new(ends)).await?;
        self.targets.forget(&event.labels, &self.receiver.metrics);
        Ok(())
    }

    async fn deliver(&self, labels: &Labels, scrape: &Arc<Scrape>) -> Result<Refused, SendError> {
        let start = || Shards::start(self.shard_count, self.batching, &self.receiver);
        let shards = self.shards.get_or_init(start);
        let refused = shards.send(labels_hash(labels), Arc::clone(scrape)).await?;
        self.receiver.metrics.stale.inc_by(targets::ends(scrape));
        Ok(refused)
    }

    /// What the receiver refused of a scrape makes it a dead letter, but for samples with times of their own that
    /// are not the receiver's any more: those a Prometheus drops too, and goes on.
    fn judge(&self, scrape: &Scrape, refused: &Refused) -> Result<(), SendError> {
        let metrics = &self.receiver.metrics;
        let row = |index: &usize| scrape.rows.get(*index);
        let (left_out, bad): (Vec<_>, Vec<_>) = refused.iter().partition(|(index, why)| {
            let origin = row(index).map(|row| row.origin);
            why.is_about_time() && matches!(origin, Some(series::Origin::Timed | series::Origin::End))
        });
        metrics.left_out.inc_by(left_out.len() as u64);
        metrics.refused.inc_by(bad.len() as u64);
        let Some((_, first)) = bad.first() else { return Ok(()) };
        let named: Vec<_> = bad.iter().take(MOST_NAMED).filter_map(|(index, _)| row(index)).collect();
        let mut names = named.iter().map(|row| shorten(scrape.describe(row))).collect::<Vec<_>>().join(", ");
        if bad.len() > MOST_NAMED {
            names.push_str(&format!(" and {} more", bad.len() - MOST_NAMED));
        }
        let (count, all) = (bad.len(), scrape.rows.len());
        Err(SendError::permanent(format!("{}; refused {count} of {all} series: {names}", first.0)))
    }

    /// Ends the series of targets of which nothing comes any more.
    async fn end_the_silent(&self) {
        let last_trouble = self.receiver.pause.last_trouble();
        let all = futures_util::stream::iter(self.targets.all());
        let end = |(labels, target): (Labels, Shared)| async move {
            // Of one that is locked something comes right now.
            let Ok(target) = target.try_lock() else { return };
            if !target.is_silent(self.stale_after, last_trouble) {
                return;
            }
            let ended = match target.fall_silent(&labels, &self.reading) {
                Some(ends) => self.deliver(&labels, &Arc::new(ends)).await.is_ok(),
                None => true,
            };
            if ended {
                self.targets.forget(&labels, &self.receiver.metrics);
                tracing::debug!(%labels, "nothing comes of a target any more; its series end");
            }
        };
        all.for_each_concurrent(SILENT_AT_ONCE, end).await;
    }
}
