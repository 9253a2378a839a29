//! All targets of a source as they are now, and the schedule of their scrapes. What is found is compared
//! with what is there: a target that did not change goes on as it was, one that is gone is remembered until
//! that has been announced, and one that comes back before then was never gone.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use prometheus_streams_core::event::Labels;
use tokio::task::{self, AbortHandle};

use crate::sources::http_scrape::discovery::{DiscoverySettings, Found};
use crate::sources::http_scrape::ingest::Memory;
use crate::sources::http_scrape::job::Job;
use crate::sources::http_scrape::metrics::PollerMetrics;
use crate::sources::http_scrape::status::{Board, JobStatus, Watched};
use crate::sources::http_scrape::targets::{Origin, Pool, Target, Yield};
use crate::support::schedule::{Due, Key, Schedule};

/// Targets that may wait to be announced as gone; beyond that the oldest go unannounced, and their entries on
/// the far side expire.
const MOST_GRAVES: usize = 100_000;

/// A target and what changes about it.
pub(super) struct Polled {
    pub(super) watched: Arc<Watched>,
    /// Its place among the jobs.
    job: usize,
    /// How many slots it has had.
    pub(super) sequence: u64,
    /// The slot that it had last.
    pub(super) last_slot: Option<u64>,
    /// What is remembered of its last scrape; with the scrape while one is running.
    pub(super) memory: Memory,
    /// The scrape that was started last, until its end was noticed.
    pub(super) running: Option<AbortHandle>,
}

impl Polled {
    fn new(target: Arc<Target>, job: usize) -> Self {
        Self {
            watched: Arc::new(Watched::new(target)),
            job,
            sequence: 0,
            last_slot: None,
            memory: Memory::default(),
            running: None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.as_ref().is_some_and(|scrape| !scrape.is_finished())
    }

    /// A scrape of the target, as that was in `scraped`, has ended. The next one may have begun before that was
    /// noticed; and what was remembered of another place, or under other rules, is of no use.
    pub(super) fn ended(&mut self, scrape: task::Id, scraped: &Target, memory: Memory) {
        if self.running.as_ref().is_none_or(|running| running.id() != scrape) {
            return;
        }
        self.running = None;
        if self.watched.target.is_scraped_as(scraped) {
            self.memory = memory;
        }
    }
}

/// One job, and what it came to last.
struct Member {
    pool: Pool,
    result: Yield,
    is_stale: bool,
    /// Why none of its targets is scraped.
    refusal: Option<Arc<str>>,
}

/// See the module.
pub(in crate::sources::http_scrape) struct Fleet {
    jobs: Vec<Member>,
    targets: HashMap<Key, Polled>,
    /// The targets that are there.
    present: HashMap<Labels, Key>,
    /// The targets that are gone and not yet announced so.
    gone: HashMap<Labels, Key>,
    /// Those of them whose scrape has ended, oldest first.
    graves: BTreeSet<Key>,
    schedule: Schedule,
    next_key: Key,
    /// Targets that were turned away because another has their labels.
    clashes: HashSet<(Labels, Uri)>,
    /// Targets by the name of their job, as the metrics have them.
    counted: BTreeMap<String, i64>,
    board: Board,
    metrics: Arc<PollerMetrics>,
}

impl Fleet {
    /// The targets of these jobs that stand in the configuration.
    pub(in crate::sources::http_scrape) fn new(
        jobs: &[Arc<Job>],
        publisher: &str,
        metrics: Arc<PollerMetrics>,
        now: u64,
    ) -> Self {
        let publisher: Arc<str> = publisher.into();
        let members = jobs.iter().map(|job| {
            let mut pool = Pool::new(Arc::clone(job), Arc::clone(&publisher));
            for (index, discovery) in job.discoveries.iter().enumerate() {
                if let DiscoverySettings::Static(groups) = discovery {
                    pool.tell(index, Arc::new(groups.clone()));
                }
            }
            Member { pool, result: Yield::default(), is_stale: true, refusal: None }
        });
        let mut fleet = Self {
            jobs: members.collect(),
            targets: HashMap::new(),
            present: HashMap::new(),
            gone: HashMap::new(),
            graves: BTreeSet::new(),
            schedule: Schedule::new(now),
            next_key: 0,
            clashes: HashSet::new(),
            counted: BTreeMap::new(),
            board: Board::new(jobs.iter().cloned()),
            metrics,
        };
        // Nothing runs yet that would have to be cancelled.
        drop(fleet.sort_out(now));
        fleet
    }

    pub(in crate::sources::http_scrape) fn board(&self) -> &Board {
        &self.board
    }

    /// The targets that are there.
    pub(in crate::sources::http_scrape) fn targets(&self) -> impl ExactSizeIterator<Item = &Arc<Target>> {
        self.present.values().map(|key| &self.targets[key].watched.target)
    }

    pub(super) fn get(&self, target: Key) -> Option<&Polled> {
        self.targets.get(&target)
    }

    pub(super) fn get_mut(&mut self, target: Key) -> Option<&mut Polled> {
        self.targets.get_mut(&target)
    }

    /// Why a target is not to be scraped, if it is not.
    pub(super) fn refusal(&self, target: Key) -> Option<Arc<str>> {
        self.jobs[self.targets.get(&target)?.job].refusal.clone()
    }

    /// A slot that has begun, if there is one. It is one in the sequence of its target, whatever becomes of it.
    pub(super) fn due(&mut self, now: u64) -> Option<Due> {
        let due = self.schedule.due(now)?;
        if let Some(polled) = self.targets.get_mut(&due.target) {
            polled.sequence += 1;
            polled.last_slot = Some(due.slot);
        }
        Some(due)
    }

    /// How long to wait before asking [`Fleet::due`] again.
    pub(super) fn wait(&self, now: u64) -> Duration {
        self.schedule.wait(now)
    }

    /// Takes the list of one discovery; [`Fleet::sort_out`] makes targets of it.
    pub(super) fn tell(&mut self, found: Found) {
        if let Some(member) = self.jobs.get_mut(found.place.job) {
            member.pool.tell(found.place.discovery, found.groups);
            member.is_stale = true;
        }
    }

    /// Compares what was found with what is there. Returns the scrapes that have become useless, with their
    /// targets: when they have ended, [`Fleet::is_idle`] wants to know.
    pub(super) fn sort_out(&mut self, now: u64) -> Vec<(Key, AbortHandle)> {
        self.work_out();
        let mut before = std::mem::take(&mut self.present);
        let clashes = std::mem::take(&mut self.clashes);
        for job in 0..self.jobs.len() {
            let kept = std::mem::take(&mut self.jobs[job].result.kept);
            let mut active = Vec::with_capacity(kept.len());
            let mut dropped = self.jobs[job].result.dropped.clone();
            for target in &kept {
                match self.present.entry(target.labels.clone()) {
                    Entry::Vacant(place) => {
                        let known = before.remove(&target.labels);
                        let key = known.or_else(|| self.gone.get(&target.labels).copied());
                        let key = key.unwrap_or_else(|| {
                            self.next_key += 1;
                            self.next_key
                        });
                        place.insert(key);
                        self.join(key, target, job, now);
                        active.push(Arc::clone(&self.targets[&key].watched));
                    }
                    Entry::Occupied(place) => {
                        if self.targets[place.get()].watched.target.uri != target.uri {
                            self.turn_away(target, &clashes);
                            dropped.push(target.origin.clone());
                        }
                    }
                }
            }
            self.jobs[job].result.kept = kept;
            self.show(job, active, dropped);
        }
        let useless = before.into_iter().filter_map(|(labels, key)| self.leave(labels, key)).collect();
        self.count();
        useless
    }

    /// Works out anew what the jobs come to that were told something.
    fn work_out(&mut self) {
        for member in self.jobs.iter_mut().filter(|member| member.is_stale) {
            member.is_stale = false;
            member.result = member.pool.work_out();
            if member.result.failed > 0 {
                self.metrics.refused(&member.pool.job.name, member.result.failed);
            }
        }
    }

    /// A target is there: for the first time, as before, in another way, or again.
    fn join(&mut self, key: Key, target: &Arc<Target>, job: usize, now: u64) {
        let is_back = self.gone.remove(&target.labels).is_some();
        self.graves.remove(&key);
        let polled = match self.targets.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                self.metrics.joined(&target.labels);
                self.schedule.add(key, target.rhythm, now);
                new.insert(Polled::new(Arc::clone(target), job));
                return;
            }
        };
        let before = Arc::clone(&polled.watched.target);
        if is_back || before.rhythm != target.rhythm {
            self.schedule.add(key, target.rhythm, now);
        }
        polled.job = job;
        if !Arc::ptr_eq(&before, target) {
            polled.watched = Arc::new(polled.watched.moved_to(Arc::clone(target)));
            if !before.is_scraped_as(target) {
                polled.memory = Memory::default();
            }
        }
    }

    /// A target is no longer there. Returns its scrape, if one is running.
    fn leave(&mut self, labels: Labels, key: Key) -> Option<(Key, AbortHandle)> {
        self.schedule.remove(key);
        self.gone.insert(labels, key);
        let running = self.targets.get(&key).filter(|polled| polled.is_running());
        let scrape = running.and_then(|polled| polled.running.clone());
        if scrape.is_none() {
            self.dig(key);
        }
        scrape.map(|scrape| (key, scrape))
    }

    /// The scrape of a target that was gone has ended.
    pub(super) fn is_idle(&mut self, key: Key) {
        // It may have come back and gone again with another scrape, which will end too.
        let idle = self.targets.get(&key).filter(|polled| !polled.is_running());
        if idle.is_some_and(|polled| self.gone.get(&polled.watched.target.labels) == Some(&key)) {
            self.dig(key);
        }
    }

    fn dig(&mut self, key: Key) {
        if let Some(polled) = self.targets.get_mut(&key) {
            polled.memory = Memory::default();
        }
        self.graves.insert(key);
        if self.graves.len() > MOST_GRAVES && self.bury().is_some() {
            self.metrics.buried_unannounced();
        }
    }

    /// Whether there are targets to announce as gone.
    pub(super) fn has_graves(&self) -> bool {
        !self.graves.is_empty()
    }

    /// Forgets the target that has waited longest to be announced as gone.
    pub(super) fn bury(&mut self) -> Option<(Key, Polled)> {
        let key = self.graves.pop_first()?;
        let polled = self.targets.remove(&key)?;
        let labels = &polled.watched.target.labels;
        self.gone.remove(labels);
        self.metrics.left(labels);
        Some((key, polled))
    }

    /// Two things of one name would be taken for one on the far side, so the first has it.
    fn turn_away(&mut self, target: &Target, before: &HashSet<(Labels, Uri)>) {
        let clash = (target.labels.clone(), target.uri.clone());
        if !before.contains(&clash) {
            let (labels, url) = (&clash.0, &clash.1);
            tracing::warn!(%labels, %url, "not scraped: another target has these labels");
            self.metrics.refused(&target.job.name, 1);
        }
        self.clashes.insert(clash);
    }

    fn show(&mut self, job: usize, active: Vec<Arc<Watched>>, mut dropped: Vec<Origin>) {
        let member = &mut self.jobs[job];
        let (count, limit) = (active.len(), member.pool.job.target_limit);
        member.refusal = (limit > 0 && count > limit)
            .then(|| format!("target_limit exceeded (number of targets: {count}, limit: {limit})").into());
        let dropped_count = dropped.len();
        let kept = member.pool.job.keep_dropped_targets;
        if kept > 0 {
            dropped.truncate(kept);
        }
        self.board.set(job, JobStatus { active, dropped, dropped_count });
    }

    /// Brings the metrics up to date.
    fn count(&mut self) {
        let mut counts: BTreeMap<String, i64> = BTreeMap::new();
        for polled in self.present.values().map(|key| &self.targets[key]) {
            let job = &self.jobs[polled.job].pool.job.name;
            match counts.get_mut(job) {
                Some(count) => *count += 1,
                None => drop(counts.insert(job.clone(), 1)),
            }
        }
        let jobs = |counts: &BTreeMap<String, i64>| i64::try_from(counts.len()).unwrap_or(i64::MAX);
        self.metrics.jobs_changed(jobs(&counts) - jobs(&self.counted));
        for name in counts.keys().chain(self.counted.keys()).collect::<BTreeSet<_>>() {
            let count = |counts: &BTreeMap<String, i64>| counts.get(name).copied().unwrap_or(0);
            self.metrics.targets_changed(name, count(&counts) - count(&self.counted));
        }
        self.counted = counts;
    }
}
