//! The newest scrape of every target, until it is too old.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus::IntGauge;
use prometheus_streams_core::event::Labels;
use prometheus_streams_core::stage::Clock;

use super::entry::Entry;
use super::layout::Layout;
use super::negotiate::Wanted;
use super::page::Page;
use super::rendering::{DIALECTS, Dialect};
use super::shape::Names;

/// As many families as are named in the log for their conflicts.
const MOST_WARNINGS: usize = 1000;

/// A clock that goes back by less than this is being corrected and has not jumped.
const MOST_SKEW: Duration = Duration::from_secs(60);

/// A target came that the page has no room for.
#[derive(Debug, thiserror::Error)]
#[error("the page holds {0} targets already; raise `max_targets` to hold more")]
pub(super) struct Full(usize);

/// The targets, shared by sends and pages.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) expire_after: Duration,
    pub(super) max_targets: usize,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: StoreMetrics,
    pub(super) names: Names,
    targets: Mutex<Targets>,
    /// The layout of the last page in each format.
    layouts: Mutex<[Option<Arc<Layout>>; DIALECTS]>,
    /// The format of the last page of lines: what comes is made ready for it.
    wanted: AtomicU8,
}

/// What the store says of itself.
#[derive(Clone, Debug)]
pub(super) struct StoreMetrics {
    pub(super) targets: IntGauge,
    pub(super) conflicts: IntGauge,
}

#[derive(Debug, Default)]
struct Targets {
    by_labels: HashMap<Labels, Arc<Entry>>,
    /// When targets were dropped by their source: what is older must not bring them back. As many at most as
    /// there may be targets on the page.
    gone: HashMap<Labels, SystemTime>,
    next_rank: u64,
    warned: HashSet<Arc<str>>,
}

impl Store {
    pub(super) fn new(
        expire_after: Duration,
        max_targets: usize,
        clock: Arc<dyn Clock>,
        metrics: StoreMetrics,
    ) -> Self {
        Self {
            expire_after,
            max_targets,
            clock,
            metrics,
            names: Names::default(),
            targets: Mutex::default(),
            layouts: Mutex::default(),
            wanted: AtomicU8::new(Dialect::Text as u8),
        }
    }

    /// Whether a scrape of that time would come onto the page: it is not too old, and no newer one is there.
    pub(super) fn wants(&self, labels: &Labels, timestamp: SystemTime) -> bool {
        let targets = self.lock();
        !self.is_expired(timestamp)
            && targets.by_labels.get(labels).is_none_or(|known| !self.is_held_back(known, timestamp))
            && !self.is_gone(&targets, labels, timestamp)
    }

    /// Takes a target that was dropped at that time off the page, unless what is there is newer.
    pub(super) fn remove(&self, labels: Labels, timestamp: SystemTime) {
        let timestamp = timestamp.min(self.clock.now());
        let mut targets = self.lock();
        if targets.by_labels.get(&labels).is_some_and(|known| self.is_held_back(known, timestamp)) {
            return;
        }
        targets.by_labels.remove(&labels);
        if targets.gone.len() >= self.max_targets {
            targets.forget_longest_gone();
        }
        targets.gone.insert(labels, timestamp);
        self.count(&targets);
    }

    /// Puts a scrape in the place of the one before, unless that is newer.
    pub(super) fn put(&self, mut entry: Entry) -> Result<(), Full> {
        let labels = entry.labels().clone();
        // A clock that runs ahead would keep its scrapes on the page for longer than they are worth.
        entry.timestamp = entry.timestamp.min(self.clock.now());
        let mut targets = self.lock();
        // It may have been dropped since it was asked whether the scrape is wanted.
        if self.is_gone(&targets, &labels, entry.timestamp) {
            return Ok(());
        }
        if let Some(known) = targets.by_labels.get_mut(&labels) {
            if !self.is_held_back(known, entry.timestamp) {
                entry.rank = known.rank;
                *known = Arc::new(entry);
            }
            return Ok(());
        }
        if targets.by_labels.len() >= self.max_targets {
            self.drop_expired(&mut targets);
        }
        if targets.by_labels.len() >= self.max_targets {
            return Err(Full(self.max_targets));
        }
        entry.rank = targets.next_rank;
        targets.next_rank += 1;
        targets.gone.remove(&labels);
        targets.by_labels.insert(labels, Arc::new(entry));
        self.count(&targets);
        Ok(())
    }

    /// Drops the scrapes that are too old.
    pub(super) fn expire(&self) {
        self.drop_expired(&mut self.lock());
    }

    /// What is known of a target that is not too old.
    pub(super) fn get(&self, labels: &Labels) -> Option<Arc<Entry>> {
        let entry = self.lock().by_labels.get(labels).cloned();
        entry.filter(|entry| !self.is_expired(entry.timestamp) && !self.is_ahead(entry.timestamp))
    }

    /// The page of all targets as it is now. Makes ready what is not yet, which may take a while.
    pub(super) fn page(&self, wanted: Wanted) -> Page {
        let dialect = wanted.dialect;
        if dialect != Dialect::Protobuf {
            self.wanted.store(dialect as u8, Ordering::Relaxed);
        }
        let entries = self.entries().into_iter();
        let scrapes: Vec<_> = entries
            .map(|entry| {
                let rendering = entry.rendering(dialect, &self.names);
                (entry, rendering)
            })
            .collect();
        let mut layouts = self.layouts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = &mut layouts[dialect as usize];
        let shapes = || scrapes.iter().map(|(_, rendering)| &rendering.shape);
        let layout = match known.take().filter(|known| known.is_of(shapes())) {
            Some(layout) => layout,
            None => Arc::new(Layout::new(shapes().cloned().collect(), dialect, &self.names)),
        };
        *known = Some(Arc::clone(&layout));
        drop(layouts);
        self.warn(&layout.conflicts);
        Page::new(scrapes, layout, wanted)
    }

    /// The format for which a scrape is best made ready.
    pub(super) fn wanted(&self) -> Dialect {
        let wanted = self.wanted.load(Ordering::Relaxed);
        if wanted == Dialect::OpenMetrics as u8 { Dialect::OpenMetrics } else { Dialect::Text }
    }

    /// The newest scrapes, the target that came first at the front.
    pub(super) fn entries(&self) -> Vec<Arc<Entry>> {
        let mut targets = self.lock();
        self.drop_expired(&mut targets);
        let mut entries: Vec<_> = targets.by_labels.values().cloned().collect();
        drop(targets);
        entries.sort_unstable_by_key(|entry| entry.rank);
        entries
    }

    fn warn(&self, conflicts: &[Arc<str>]) {
        self.metrics.conflicts.set(i64::try_from(conflicts.len()).unwrap_or(i64::MAX));
        let mut targets = self.lock();
        for family in conflicts {
            if targets.warned.len() < MOST_WARNINGS && targets.warned.insert(Arc::clone(family)) {
                tracing::warn!(
                    %family,
                    "targets disagree on the type of a metric; the page says nothing of it, and has all its series"
                );
            }
        }
    }

    /// Whether a target was dropped at `timestamp` or later.
    fn is_gone(&self, targets: &Targets, labels: &Labels, timestamp: SystemTime) -> bool {
        targets.gone.get(labels).is_some_and(|gone| *gone >= timestamp && !self.is_ahead(*gone))
    }

    /// Whether what is known of a target is newer than `timestamp`.
    fn is_held_back(&self, known: &Entry, timestamp: SystemTime) -> bool {
        known.timestamp > timestamp && !self.is_ahead(known.timestamp)
    }

    /// Whether a scrape came before our clock was set back, for nothing is put here from the future. It
    /// would hold back what is newer, and never expire, until the clock has caught up.
    fn is_ahead(&self, known: SystemTime) -> bool {
        known.duration_since(self.clock.now()).is_ok_and(|ahead| ahead > MOST_SKEW)
    }

    fn is_expired(&self, timestamp: SystemTime) -> bool {
        self.clock.now().duration_since(timestamp).is_ok_and(|age| age > self.expire_after)
    }

    fn drop_expired(&self, targets: &mut Targets) {
        targets
            .by_labels
            .retain(|_, entry| !self.is_expired(entry.timestamp) && !self.is_ahead(entry.timestamp));
        targets.gone.retain(|_, gone| !self.is_expired(*gone) && !self.is_ahead(*gone));
        self.count(targets);
    }

    fn count(&self, targets: &Targets) {
        self.metrics.targets.set(i64::try_from(targets.by_labels.len()).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Targets> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Targets {
    fn forget_longest_gone(&mut self) {
        let longest = self.gone.iter().min_by_key(|(_, gone)| **gone).map(|(labels, _)| labels.clone());
        if let Some(labels) = longest {
            self.gone.remove(&labels);
        }
    }
}
