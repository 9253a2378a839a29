//! What the gateway held before we began. Scrapes that were pushed and whose acknowledgement was lost in a
//! kill come again, and perhaps after newer ones; the time of each target's scrape stands in the gateway. Groups
//! that nobody feeds any more are found by it too. And where a group stands for several targets, what it holds of
//! each is read back, so that the first push does not drop those that are not scraped yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prometheus_streams_core::event::Labels;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::answer::Refusal;
use super::groups::{Content, Recalled};
use super::key::GroupingKey;
use super::push::Pusher;
use crate::exposition::{self, Family, Format, MetricKind, Mode, Sample};
use crate::support::http::HttpError;
use crate::support::report::TIMESTAMP;
use crate::support::scrape;

/// How long pushes wait for the gateway to tell. One that takes longer has more to do than we.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a gateway notes of each group; its labels are those of the group.
const PUSH_TIME: &str = "push_time_seconds";
const PUSH_FAILURE_TIME: &str = "push_failure_time_seconds";

/// What a gateway holds.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    pub(super) targets: Vec<Target>,
    own: HashMap<Arc<str>, MetricKind>,
    seen: HashMap<Arc<str>, MetricKind>,
}

/// A target on the page of a gateway.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) labels: Labels,
    /// When it was scraped.
    pub(super) time: SystemTime,
    /// The path of the group that it is in.
    pub(super) path: Option<String>,
}

impl Pusher {
    /// Asks the gateway once what it holds. Where it will not tell, we go on without; where it cannot be
    /// reached, the next one asks.
    pub(super) async fn recall(&self) -> Result<(), Refusal> {
        self.recalled
            .get_or_try_init(|| async {
                let why = match timeout(PATIENCE, self.gateway.page()).await {
                    Ok(Ok(page)) => match self.read_back(page).await {
                        Ok(()) => return Ok(()),
                        Err(error) => error,
                    },
                    Ok(Err(error @ (HttpError::Connect(_) | HttpError::Broken(_)))) => {
                        return Err(self.gateway.unanswered(&error));
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => format!("no answer within {PATIENCE:?}"),
                };
                tracing::info!(
                    why,
                    "the push gateway did not tell what it holds; an old scrape may land once more, and groups \
                     that nobody feeds stay"
                );
                Ok(())
            })
            .await
            .copied()
    }

    async fn read_back(&self, page: Bytes) -> Result<(), String> {
        let holdings = self.read(&page).await?;
        let mut here = Vec::new();
        for target in &holdings.targets {
            // What has no key here is a group of somebody else.
            let Ok(key) = self.by.key(&target.labels) else { continue };
            let elsewhere = target.path.as_deref().filter(|path| *path != key.path);
            if elsewhere.is_none() {
                here.push(&target.labels);
            }
        }
        self.press.ledger.note(holdings.own.clone(), holdings.seen.clone());
        let mut pages = if self.by.coalesces() { self.pages(&page, &here)? } else { HashMap::new() };
        for Target { labels, time, path } in holdings.targets {
            let Ok(key) = self.by.key(&labels) else { continue };
            let elsewhere = path.filter(|path| *path != key.path).map(Into::into);
            let Ok((group, member)) = self.place(&labels) else { continue };
            let recalled = Recalled {
                content: pages.remove(&labels).unwrap_or(Content::Unknown),
                timestamp: time,
                elsewhere,
            };
            let charge = self.groups.charge(&member);
            group.recall(member, recalled, charge);
        }
        Ok(())
    }

    /// Reads the page of the gateway.
    pub(super) async fn read(&self, page: &Bytes) -> Result<Holdings, String> {
        let page = page.clone();
        let read = spawn_blocking(move || Holdings::read(&page).map_err(|error| error.to_string())).await;
        read.map_err(|error| error.to_string())?
    }

    /// What the gateway holds of each of these targets. A sample that does not carry the labels of its target,
    /// because they were honoured, is not found, and comes back with the next scrape.
    fn pages(&self, page: &[u8], targets: &[&Labels]) -> Result<HashMap<Labels, Content>, String> {
        let families =
            exposition::parse(Format::Text, Mode::Compat, page).map_err(|error| error.to_string())?;
        let index = Index::new(targets.iter().copied());
        let mut found: HashMap<&Labels, Vec<Family<'_>>> = HashMap::new();
        for family in families.iter().filter(|family| !is_of_gateway(family)) {
            let mut by_target: BTreeMap<&Labels, Vec<Sample<'_>>> = BTreeMap::new();
            for sample in &family.samples {
                if let Some(target) = index.find(sample) {
                    by_target.entry(target).or_default().push(sample.clone());
                }
            }
            for (target, samples) in by_target {
                let help = family.help.clone();
                let family = Family { help, samples, ..Family::new(family.name.clone(), family.kind) };
                found.entry(target).or_default().push(family);
            }
        }
        let mut pages = HashMap::new();
        for (target, mut families) in found {
            let Ok(key) = self.by.key(target) else { continue };
            for sample in families.iter_mut().flat_map(|family| &mut family.samples) {
                sample.labels.retain(|(name, _)| !key.groups_by(name));
            }
            let families = exposition::normalize(families).families;
            let page = self.press.print(families, None).map_err(|error| error.to_string())?;
            pages.insert(target.clone(), Content::Page(Arc::new(page)));
        }
        Ok(pages)
    }
}

impl Holdings {
    fn read(page: &[u8]) -> Result<Self, exposition::ParseError> {
        let families = exposition::parse(Format::Text, Mode::Compat, page)?;
        let mut holdings = Self::default();
        let (mut groups, mut times) = (Vec::new(), Vec::new());
        for family in &families {
            let kinds = if is_of_gateway(family) { &mut holdings.own } else { &mut holdings.seen };
            kinds.insert((&*family.name).into(), family.kind);
            match &*family.name {
                PUSH_TIME => groups.extend(family.samples.iter().map(labels)),
                TIMESTAMP => {
                    let seconds = |sample: &Sample<'_>| Duration::try_from_secs_f64(sample.value).ok();
                    let time = |sample| UNIX_EPOCH.checked_add(seconds(sample)?);
                    times.extend(family.samples.iter().filter_map(|s| Some((s, labels(s), time(s)?))));
                }
                _ => {}
            }
        }
        let index = Index::new(groups.iter());
        holdings.targets = times
            .into_iter()
            .map(|(sample, labels, time)| {
                let key = index.find(sample).and_then(|group| GroupingKey::new(group, None).ok());
                Target { labels, time, path: key.map(|key| key.path) }
            })
            .collect();
        Ok(holdings)
    }
}

/// Whether the gateway shows a family of its own accord, and not of a group alone: what is pushed has a job.
fn is_of_gateway(family: &Family<'_>) -> bool {
    matches!(&*family.name, PUSH_TIME | PUSH_FAILURE_TIME)
        || family.samples.iter().any(|sample| sample.label(scrape::JOB).is_empty())
}

/// The labels of a sample, without the empty one that a gateway adds.
fn labels(sample: &Sample<'_>) -> Labels {
    let labels = sample.labels.iter().filter(|(_, value)| !value.is_empty());
    labels.map(|(name, value)| (&**name, &**value)).collect()
}

/// Finds, among sets of labels, the largest one that a sample has all of.
struct Index<'a> {
    /// By the names of the labels, the longest first; there are few of those.
    by_names: Vec<(Vec<&'a str>, ByValues<'a>)>,
}

type ByValues<'a> = HashMap<Vec<&'a str>, &'a Labels>;

impl<'a> Index<'a> {
    fn new(sets: impl Iterator<Item = &'a Labels>) -> Self {
        let mut by_names: BTreeMap<Vec<&str>, ByValues<'_>> = BTreeMap::new();
        for labels in sets {
            let (names, values) = labels.iter().unzip();
            by_names.entry(names).or_default().insert(values, labels);
        }
        let mut by_names: Vec<_> = by_names.into_iter().collect();
        by_names.sort_by_key(|(names, _)| std::cmp::Reverse(names.len()));
        Self { by_names }
    }

    fn find(&self, sample: &Sample<'_>) -> Option<&'a Labels> {
        self.by_names.iter().find_map(|(names, sets)| {
            let values: Vec<_> = names.iter().map(|name| sample.label(name)).collect();
            sets.get(&values).copied()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_types_are_read_from_the_page_and_nothing_else() {
        let page =
            b"# TYPE go_goroutines gauge\ngo_goroutines 7\ngo_goroutines{instance=\"a\",job=\"j\"} 8\n\
            # TYPE scrape_timestamp_seconds gauge\n\
            scrape_timestamp_seconds{instance=\"a\",job=\"j\"} 1.5e+09\n\
            scrape_timestamp_seconds{instance=\"b\",job=\"j\"} NaN\n\
            scrape_timestamp_seconds{instance=\"c\",job=\"k\"} 5\n\
            # TYPE push_time_seconds gauge\n\
            push_time_seconds{instance=\"\",job=\"j\"} 1.6e+09\n\
            push_time_seconds{instance=\"a\",job=\"j\"} 1.6e+09\n\
            # TYPE x counter\nx{instance=\"a\",job=\"j\"} 1\n";
        let Holdings { targets, own, seen } = Holdings::read(page).unwrap();
        let shown: Vec<_> = targets.iter().map(|t| (t.labels.to_string(), t.path.as_deref())).collect();
        let found = Some("/metrics/job/j/instance/a");
        assert_eq!(
            shown,
            [
                (r#"{instance="a", job="j"}"#.to_owned(), found),
                (r#"{instance="c", job="k"}"#.to_owned(), None)
            ]
        );
        assert_eq!(targets[0].time, UNIX_EPOCH + Duration::from_secs(1_500_000_000));
        let mut own: Vec<_> = own.keys().map(|name| &**name).collect();
        own.sort_unstable();
        assert_eq!(own, ["go_goroutines", "push_time_seconds"]);
        let seen: HashMap<_, _> = seen.iter().map(|(name, kind)| (&**name, *kind)).collect();
        assert_eq!(seen, HashMap::from([("x", MetricKind::Counter), (TIMESTAMP, MetricKind::Gauge)]));
    }
}
