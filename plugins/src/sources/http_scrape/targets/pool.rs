//! All targets of one job, worked out anew from what its discoveries tell. What was worked out for an address
//! and its labels before is used again, so that a change costs what has changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Fate, Origin, Target};
use crate::sources::http_scrape::discovery::TargetGroup;
use crate::sources::http_scrape::job::Job;

/// What becomes of the addresses of one job.
pub(in crate::sources::http_scrape) struct Pool {
    pub(in crate::sources::http_scrape) job: Arc<Job>,
    publisher: Arc<str>,
    /// What each discovery told last.
    lists: Vec<Arc<Vec<TargetGroup>>>,
    known: Known,
}

/// By the labels of their groups, and then by address.
type Known = HashMap<Arc<BTreeMap<String, String>>, HashMap<Arc<str>, Made>>;

/// What became of an address before.
#[derive(Clone)]
enum Made {
    Kept(Arc<Target>),
    Dropped(Origin),
    Failed,
}

/// What a job comes to.
#[derive(Default)]
pub(in crate::sources::http_scrape) struct Yield {
    /// What is scraped, in the order in which it was found.
    pub(in crate::sources::http_scrape) kept: Vec<Arc<Target>>,
    /// What relabelling has dropped.
    pub(in crate::sources::http_scrape) dropped: Vec<Origin>,
    /// How many addresses were found for the first time and cannot be targets.
    pub(in crate::sources::http_scrape) failed: usize,
}

impl Pool {
    /// The pool of a job of which nothing has been found yet.
    pub(in crate::sources::http_scrape) fn new(job: Arc<Job>, publisher: Arc<str>) -> Self {
        let lists = vec![Arc::default(); job.discoveries.len()];
        Self { job, publisher, lists, known: Known::new() }
    }

    /// Takes the whole list of one discovery.
    pub(in crate::sources::http_scrape) fn tell(&mut self, discovery: usize, groups: Arc<Vec<TargetGroup>>) {
        if let Some(list) = self.lists.get_mut(discovery) {
            *list = groups;
        }
    }

    /// Works out the targets.
    pub(in crate::sources::http_scrape) fn work_out(&mut self) -> Yield {
        let mut result = Yield::default();
        let mut before = std::mem::take(&mut self.known);
        let mut known = Known::with_capacity(before.len());
        for group in self.lists.iter().flat_map(|list| list.iter()) {
            let mut old = before.get_mut(&group.labels);
            let new = known.entry(Arc::clone(&group.labels)).or_default();
            for address in &group.targets {
                if new.contains_key(address.as_str()) {
                    continue;
                }
                let kept = old.as_mut().and_then(|old| old.remove_entry(address.as_str()));
                let (address, made) = kept.unwrap_or_else(|| {
                    let address: Arc<str> = address.as_str().into();
                    (Arc::clone(&address), self.make(address, group, &mut result.failed))
                });
                match &made {
                    Made::Kept(target) => result.kept.push(Arc::clone(target)),
                    Made::Dropped(origin) => result.dropped.push(origin.clone()),
                    Made::Failed => {}
                }
                new.insert(address, made);
            }
        }
        self.known = known;
        result
    }

    fn make(&self, address: Arc<str>, group: &TargetGroup, failed: &mut usize) -> Made {
        let origin = Origin { address, labels: Arc::clone(&group.labels) };
        match origin.clone().fate(&self.job, &self.publisher) {
            Fate::Kept(target) => Made::Kept(Arc::new(target)),
            Fate::Dropped => Made::Dropped(origin),
            Fate::Failed(error) => {
                *failed += 1;
                let (job, address) = (self.job.name.as_str(), &*origin.address);
                tracing::error!(job, address, error, "cannot be a target");
                Made::Failed
            }
        }
    }
}
