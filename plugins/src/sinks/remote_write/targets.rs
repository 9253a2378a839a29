//! What the receiver has of each target, as far as it is needed to mark the ends of series as Prometheus does:
//! when a series is gone from a scrape, when a scrape fails, when a target is dropped, and when nothing more
//! comes.
//!
//! A target has two lines. On the line in front are the newest scrapes. One that is older than what is in front
//! fills a gap; what follows what there, is remembered by the line behind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus_streams_core::event::{Attributes, Event, Labels};
use tokio::time::Instant;

use super::catalogue::Catalogue;
use super::metrics::WriteMetrics;
use super::read::Reading;
use super::series::{Origin, Scrape};
use crate::support::scrape;

/// Targets whose series are remembered.
const MOST_TARGETS: usize = 65_536;

/// The targets, by their labels.
#[derive(Debug, Default)]
pub(super) struct Targets(Mutex<HashMap<Labels, Shared>>);

/// A target; whoever holds the lock may send of it.
pub(super) type Shared = Arc<tokio::sync::Mutex<Target>>;

/// What the receiver has of one target.
#[derive(Debug)]
pub(super) struct Target {
    front: Line,
    behind: Line,
    /// When the receiver last took a scrape of it.
    heard: Instant,
}

impl Default for Target {
    fn default() -> Self {
        Self { front: Line::default(), behind: Line::default(), heard: Instant::now() }
    }
}

/// The newest scrape of a row of them.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Its time in milliseconds since 1970; nothing if there was none.
    last: Option<i64>,
    /// What of its attributes says which facts it told.
    facts: Attributes,
    /// The slot that it was for, if it was good.
    good_slot: Option<u64>,
    /// Its series; nothing if it has none, or failed.
    catalogue: Option<Arc<Catalogue>>,
}

/// What is to be remembered once the receiver has taken a scrape.
#[derive(Debug)]
#[must_use = "a scrape that was taken must be remembered"]
pub(super) enum Step {
    Front(Line),
    Behind(Line),
    /// It is older than both.
    Nothing,
    /// It failed, and the other poller of a pair has a good one of the same slot.
    Needless,
}

impl Targets {
    /// The target of these labels. Beyond the bound it is one that nobody remembers.
    pub(super) fn target(&self, labels: &Labels, metrics: &WriteMetrics) -> Shared {
        let mut targets = self.lock();
        if let Some(known) = targets.get(labels) {
            return Arc::clone(known);
        }
        let target = Shared::default();
        if targets.len() < MOST_TARGETS {
            targets.insert(labels.clone(), Arc::clone(&target));
            metrics.targets.set(as_i64(targets.len()));
        } else {
            metrics.forgotten.inc();
        }
        target
    }

    /// Forgets a target that the caller holds, unless somebody else waits for it: two of one would not know of each
    /// other.
    pub(super) fn forget(&self, labels: &Labels, metrics: &WriteMetrics) {
        let mut targets = self.lock();
        if targets.get(labels).is_some_and(|target| Arc::strong_count(target) <= 2) {
            targets.remove(labels);
        }
        metrics.targets.set(as_i64(targets.len()));
    }

    pub(super) fn all(&self) -> Vec<(Labels, Shared)> {
        self.lock().iter().map(|(labels, target)| (labels.clone(), Arc::clone(target))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Labels, Shared>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn as_i64(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Target {
    /// Adds to a scrape the ends of the series that were in the one before it and are not in it.
    pub(super) fn follow(&self, event: &Event, scrape: &mut Scrape) -> Step {
        let timestamp = millis(event);
        let (line, is_front) = match self.front.last {
            Some(front) if timestamp < front => (&self.behind, false),
            _ => (&self.front, true),
        };
        if line.last.is_some_and(|last| timestamp < last) {
            return Step::Nothing;
        }
        let slot = scrape::number(&event.attributes, scrape::SLOT);
        if !scrape::is_up(event) && slot.is_some() && slot == line.good_slot {
            return Step::Needless;
        }
        let catalogue = match &line.catalogue {
            Some(known) if known.is_of(scrape) => Some(Arc::clone(known)),
            known => {
                if let Some(known) = known {
                    known.end(scrape, timestamp);
                }
                Catalogue::of(scrape).map(Arc::new)
            }
        };
        let facts = [scrape::DURATION, scrape::SERIES_ADDED, scrape::PUSHED].into_iter();
        let facts = facts.filter_map(|name| Some((name, event.attributes.get(name)?)));
        let good_slot = slot.filter(|_| scrape::is_up(event));
        let next = Line { last: Some(timestamp), facts: facts.collect(), good_slot, catalogue };
        if is_front { Step::Front(next) } else { Step::Behind(next) }
    }

    /// The ends of everything that a target has which its source has dropped at the time of `event`; nothing if
    /// there are newer scrapes of it.
    pub(super) fn end(&self, event: &Event, reading: &Reading) -> Option<Scrape> {
        let dropped = millis(event);
        match self.front.last {
            Some(last) if dropped < last => None,
            // The last scrape may have the same time.
            Some(last) => Some(self.ends(&event.labels, reading, dropped.max(last.saturating_add(1)))),
            None => Some(reading.report_ends(event, dropped)),
        }
    }

    /// The ends of everything that a target has of which nothing comes any more: right after its last scrape,
    /// so that what still comes, late, finds its place.
    pub(super) fn fall_silent(&self, labels: &Labels, reading: &Reading) -> Option<Scrape> {
        Some(self.ends(labels, reading, self.front.last?.saturating_add(1)))
    }

    fn ends(&self, labels: &Labels, reading: &Reading, timestamp: i64) -> Scrape {
        let mut report = Event::new(SystemTime::UNIX_EPOCH, "");
        (report.labels, report.attributes) = (labels.clone(), self.front.facts.clone());
        let mut scrape = reading.report_ends(&report, timestamp);
        if let Some(catalogue) = &self.front.catalogue {
            catalogue.end(&mut scrape, timestamp);
        }
        scrape
    }

    /// Whether nothing was written of it since the start.
    pub(super) fn is_new(&self) -> bool {
        self.front.last.is_none()
    }

    /// The receiver has taken a scrape.
    pub(super) fn take(&mut self, step: Step) {
        self.heard = Instant::now();
        match step {
            Step::Front(next) => self.front = next,
            Step::Behind(next) => self.behind = next,
            Step::Nothing | Step::Needless => {}
        }
    }

    /// Whether nothing came for longer than `time`, though the receiver took what there was.
    pub(super) fn is_silent(&self, time: Duration, last_trouble: Option<Instant>) -> bool {
        let since = last_trouble.map_or(self.heard, |trouble| trouble.max(self.heard));
        since.elapsed() > time
    }
}

fn millis(event: &Event) -> i64 {
    i64::try_from(scrape::unix_millis(event.timestamp)).unwrap_or(i64::MAX)
}

/// How many ends of series a scrape has.
pub(super) fn ends(scrape: &Scrape) -> u64 {
    scrape.rows.iter().filter(|row| row.origin == Origin::End).count() as u64
}
