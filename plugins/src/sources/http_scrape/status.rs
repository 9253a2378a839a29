//! What is known of every target, for whoever asks for `/api/v1/targets`: in the JSON of Prometheus 3,
//! and made only when somebody asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_streams_core::event::Labels;
use serde_json::{Map, Value, json};

use super::job::Job;
use super::targets::{Origin, Target, shown_pace};
use crate::exposition::relabel::LabelSet;
use crate::support::scrape::PUBLISHER;

/// A target, and how its last scrape went.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) target: Arc<Target>,
    last: Mutex<Option<Last>>,
}

/// How a scrape went.
#[derive(Clone, Debug)]
pub(super) struct Last {
    /// When it began.
    pub(super) at: SystemTime,
    /// How long it took.
    pub(super) took: Duration,
    /// Why it failed.
    pub(super) error: Option<Box<str>>,
}

impl Watched {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self { target, last: Mutex::default() }
    }

    /// The same scrapes, of a target that is found in another way now.
    pub(super) fn moved_to(&self, target: Arc<Target>) -> Self {
        Self { target, last: Mutex::new(lock(&self.last).clone()) }
    }

    /// Notes how a scrape went.
    pub(super) fn note(&self, last: Last) {
        *lock(&self.last) = Some(last);
    }

    /// Whether the last scrape failed; a target counts as up until one has.
    pub(super) fn is_down(&self) -> bool {
        lock(&self.last).as_ref().is_some_and(|last| last.error.is_some())
    }
}

/// The targets of one job, as they are now.
#[derive(Clone, Default)]
pub(super) struct JobStatus {
    pub(super) active: Vec<Arc<Watched>>,
    /// What relabelling has dropped, as much of it as is remembered.
    pub(super) dropped: Vec<Origin>,
    /// How much it was.
    pub(super) dropped_count: usize,
}

/// All jobs of a source, with what is known of their targets.
#[derive(Clone)]
pub(super) struct Board(Arc<Mutex<Vec<Known>>>);

type Known = (Arc<Job>, JobStatus);

impl Board {
    pub(super) fn new(jobs: impl Iterator<Item = Arc<Job>>) -> Self {
        Self(Arc::new(Mutex::new(jobs.map(|job| (job, JobStatus::default())).collect())))
    }

    /// Replaces what is known of a job, by its place among those of [`Board::new`].
    pub(super) fn set(&self, job: usize, status: JobStatus) {
        if let Some((_, known)) = lock(&self.0).get_mut(job) {
            *known = status;
        }
    }

    /// The data of Prometheus' answer.
    pub(super) fn report(&self) -> Value {
        // Scrapes need not wait while the answer is made.
        let jobs = lock(&self.0).clone();
        let active: Vec<_> = jobs
            .iter()
            .flat_map(|(_, status)| &status.active)
            .map(|watched| active(&watched.target, lock(&watched.last).as_ref()))
            .collect();
        let dropped: Vec<_> = jobs
            .iter()
            .flat_map(|(job, status)| status.dropped.iter().map(|origin| dropped(job, origin)))
            .collect();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (job, status) in &jobs {
            *counts.entry(&job.name).or_default() += status.dropped_count;
        }
        json!({ "activeTargets": active, "droppedTargets": dropped, "droppedTargetCounts": counts })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn active(target: &Target, last: Option<&Last>) -> Value {
    let (job, origin) = (&*target.job, &target.origin);
    let final_labels = origin.relabelled(job).unwrap_or_default();
    let (interval, timeout) = shown_pace(&final_labels);
    let url = target.uri.to_string();
    let error = last.and_then(|last| last.error.as_deref()).unwrap_or_default();
    let at = last.map_or("0001-01-01T00:00:00Z".to_owned(), |last| {
        humantime::format_rfc3339_nanos(last.at).to_string()
    });
    let health = match last {
        None => "unknown",
        Some(last) if last.error.is_some() => "down",
        Some(_) => "up",
    };
    json!({
        "discoveredLabels": object(&origin.discovered(job)),
        "labels": own_labels(&target.labels),
        "scrapePool": job.name,
        "scrapeUrl": url,
        "globalUrl": url,
        "lastError": error,
        "lastScrape": at,
        "lastScrapeDuration": last.map_or(0.0, |last| last.took.as_secs_f64()),
        "health": health,
        "scrapeInterval": interval,
        "scrapeTimeout": timeout,
    })
}

fn dropped(job: &Job, origin: &Origin) -> Value {
    json!({ "discoveredLabels": object(&origin.discovered(job)), "scrapePool": job.name })
}

fn object(labels: &LabelSet<'_>) -> Map<String, Value> {
    labels.iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

/// What Prometheus would have: `publisher` is ours.
fn own_labels(labels: &Labels) -> Map<String, Value> {
    let own = labels.iter().filter(|(name, _)| *name != PUBLISHER);
    own.map(|(name, value)| (name.to_owned(), value.into())).collect()
}
