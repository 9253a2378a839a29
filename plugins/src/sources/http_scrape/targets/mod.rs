//! From what was found to what is scraped, as Prometheus goes that way: the labels that a target is found
//! with, those of its group and the defaults of its job together go through `relabel_configs`; what comes
//! out says where the target is, how often it is scraped, and as what its samples are known.

mod pool;
#[cfg(test)]
mod tests;
mod url;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use prometheus_streams_core::event::Labels;

pub(super) use self::pool::{Pool, Yield};
use super::config::PromDuration;
use super::job::{Job, Pace};
use crate::exposition::relabel::{LabelSet, apply};
use crate::support::schedule::Rhythm;
use crate::support::scrape::{INSTANCE, JOB, PUBLISHER};

const ADDRESS: &str = "__address__";
const SCHEME: &str = "__scheme__";
const METRICS_PATH: &str = "__metrics_path__";
const PARAM: &str = "__param_";
const INTERVAL: &str = "__scrape_interval__";
const TIMEOUT: &str = "__scrape_timeout__";
/// Labels of discoveries, which end with relabelling.
const META: &str = "__meta_";
/// Labels that are no part of a target's identity.
const RESERVED: &str = "__";

/// What is scraped.
#[derive(Debug)]
pub(super) struct Target {
    /// What it shares with others of its job.
    pub(super) job: Arc<Job>,
    /// The identity of its events.
    pub(super) labels: Labels,
    /// Where its metrics are.
    pub(super) uri: Uri,
    /// When it is scraped.
    pub(super) rhythm: Rhythm,
    /// The time for a whole scrape; it ends before the next slot begins.
    pub(super) timeout: Duration,
    /// As what it was found.
    pub(super) origin: Origin,
}

/// An address as it was found, with the labels of its group.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) address: Arc<str>,
    pub(super) labels: Arc<BTreeMap<String, String>>,
}

/// What becomes of an address.
enum Fate {
    Kept(Target),
    Dropped,
    /// It cannot be a target, for this reason.
    Failed(String),
}

impl Origin {
    /// The labels before relabelling.
    pub(super) fn discovered<'a>(&'a self, job: &'a Job) -> LabelSet<'a> {
        let mut labels: LabelSet<'a> =
            self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        labels.set(ADDRESS, &*self.address);
        let default = |labels: &mut LabelSet<'a>, name: &'a str, value: &'a str| {
            if labels.get(name).is_empty() {
                labels.set(name, value);
            }
        };
        default(&mut labels, JOB, &job.name);
        default(&mut labels, METRICS_PATH, &job.metrics_path);
        default(&mut labels, SCHEME, &job.scheme);
        for (name, duration) in [(INTERVAL, job.pace.interval), (TIMEOUT, job.pace.timeout)] {
            if labels.get(name).is_empty() {
                labels.set(name, PromDuration(duration).to_string());
            }
        }
        for (name, values) in &job.params {
            let name = format!("{PARAM}{name}");
            if let Some(first) = values.first().filter(|_| labels.get(&name).is_empty()) {
                labels.set(name, first.as_str());
            }
        }
        labels
    }

    /// The labels after relabelling, those that steer the scrape included; `None` where it drops the target.
    pub(super) fn relabelled<'a>(&'a self, job: &'a Job) -> Option<LabelSet<'a>> {
        let mut labels = self.discovered(job);
        if !apply(&job.relabel, &mut labels) {
            return None;
        }
        labels.retain(|name, _| !name.starts_with(META));
        if labels.get(INSTANCE).is_empty() {
            let address = labels.get(ADDRESS).to_owned();
            labels.set(INSTANCE, address);
        }
        Some(labels)
    }

    /// The target that this is in a job.
    fn fate(self, job: &Arc<Job>, publisher: &str) -> Fate {
        let Some(labels) = self.relabelled(job) else { return Fate::Dropped };
        let checked = pace(&labels).and_then(|pace| Ok((pace, url::of(job, &labels)?)));
        let (pace, uri) = match checked {
            Ok(checked) => checked,
            Err(error) => return Fate::Failed(error),
        };
        let own = labels.iter().filter(|(name, _)| !name.starts_with(RESERVED) && *name != PUBLISHER);
        let identity: Labels = own.chain([(PUBLISHER, publisher)]).collect();
        Fate::Kept(Target {
            rhythm: Rhythm::new(&identity, pace.interval),
            timeout: pace.timeout_within_slot(),
            labels: identity,
            uri,
            job: Arc::clone(job),
            origin: self,
        })
    }
}

impl Target {
    /// Whether a scrape of `other`, which has the same labels, says what one of this target would have said.
    pub(super) fn is_scraped_as(&self, other: &Self) -> bool {
        self.uri == other.uri && Arc::ptr_eq(&self.job, &other.job)
    }
}

/// How often a target is scraped, by its labels.
pub(super) fn shown_pace<'a>(labels: &'a LabelSet<'_>) -> (&'a str, &'a str) {
    (labels.get(INTERVAL), labels.get(TIMEOUT))
}

fn pace(labels: &LabelSet<'_>) -> Result<Pace, String> {
    let duration = |name, what| {
        let text = labels.get(name);
        match PromDuration::parse(text) {
            Some(PromDuration(Duration::ZERO)) => Err(format!("the scrape {what} cannot be 0")),
            Some(PromDuration(duration)) => Ok(duration),
            None => Err(format!("the scrape {what} {text:?} is not a duration")),
        }
    };
    let pace = Pace { interval: duration(INTERVAL, "interval")?, timeout: duration(TIMEOUT, "timeout")? };
    if pace.timeout > pace.interval {
        let (interval, timeout) = shown_pace(labels);
        return Err(format!("the scrape timeout {timeout} is longer than the scrape interval, {interval}"));
    }
    Ok(pace)
}
