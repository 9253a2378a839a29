//! What all groups hold together, so that a push is held against the others without reading them again: each series
//! once, each name with one type, and no name that a histogram or summary takes for its own series.
//!
//! A change that is not confirmed yet counts beside what it replaces.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::state::{Kept, State};
use crate::exposition::MetricKind;

/// A group, by its number. Never used again for another.
pub(super) type GroupId = u64;

#[derive(Default)]
pub(super) struct Index {
    series: HashMap<u64, Owner>,
    names: HashMap<Box<str>, Vec<(MetricKind, usize)>>,
}

/// Who has a series, and how often: twice while it is replaced by itself.
struct Owner {
    group: GroupId,
    times: u32,
}

impl Index {
    pub(super) fn add(&mut self, group: GroupId, kept: &Kept) {
        for series in &kept.series {
            self.series.entry(*series).or_insert(Owner { group, times: 0 }).times += 1;
        }
        let kinds = self.names.entry(kept.name.clone()).or_default();
        match kinds.iter_mut().find(|(kind, _)| *kind == kept.kind) {
            Some((_, times)) => *times += 1,
            None => kinds.push((kept.kind, 1)),
        }
    }

    pub(super) fn remove(&mut self, kept: &Kept) {
        for series in &kept.series {
            if let Some(owner) = self.series.get_mut(series) {
                owner.times -= 1;
                if owner.times == 0 {
                    self.series.remove(series);
                }
            }
        }
        let Some(kinds) = self.names.get_mut(&kept.name) else { return };
        for (_, times) in kinds.iter_mut().filter(|(kind, _)| *kind == kept.kind) {
            *times -= 1;
        }
        kinds.retain(|(_, times)| *times > 0);
        if kinds.is_empty() {
            self.names.remove(&kept.name);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.series.is_empty() && self.names.is_empty()
    }

    /// Whether a group may have `fresh` families, in place of what it has in `old`, so that it becomes `new`.
    ///
    /// # Errors
    /// What is in the way, in the words of a gateway.
    pub(super) fn check(
        &self,
        group: GroupId,
        old: Option<&State>,
        new: &BTreeMap<Box<str>, Arc<Kept>>,
        fresh: &[Arc<Kept>],
    ) -> Result<(), String> {
        let view = View { index: self, old, new };
        for kept in fresh {
            if let Some(kind) = view.others(&kept.name).find(|kind| *kind != kept.kind) {
                let kind = kind.as_str().to_uppercase();
                return Err(format!(
                    "collected metric {:?} is not a {kind}, as it is in another group",
                    kept.name
                ));
            }
            let is_foreign = |series| self.series.get(series).is_some_and(|owner| owner.group != group);
            if kept.series.iter().any(is_foreign) {
                return Err(format!(
                    "collected metric {:?} was collected before with the same name and label values, in another group",
                    kept.name
                ));
            }
            view.check_suffixes(kept)?;
        }
        Ok(())
    }
}

/// All names as they would be after a change of one group.
struct View<'a> {
    index: &'a Index,
    old: Option<&'a State>,
    new: &'a BTreeMap<Box<str>, Arc<Kept>>,
}

impl View<'_> {
    /// The types that a name has in other groups.
    fn others(&self, name: &str) -> impl Iterator<Item = MetricKind> {
        let own = self.old.and_then(|old| old.families.get(name)).map(|kept| kept.kind);
        let kinds = self.index.names.get(name).map(Vec::as_slice).unwrap_or_default();
        kinds
            .iter()
            .filter(move |(kind, times)| *times > usize::from(own == Some(*kind)))
            .map(|(kind, _)| *kind)
    }

    fn kinds(&self, name: &str) -> impl Iterator<Item = MetricKind> {
        self.others(name).chain(self.new.get(name).map(|kept| kept.kind))
    }

    fn check_suffixes(&self, kept: &Kept) -> Result<(), String> {
        for suffix in ["_count", "_sum", "_bucket"] {
            if let Some(base) = kept.name.strip_suffix(suffix)
                && let Some(kind) = self.kinds(base).find(|kind| takes(*kind, suffix))
            {
                let (name, kind) = (&kept.name, kind.as_str());
                return Err(format!(
                    "collected metric named {name:?} collides with previously collected {kind} named {base:?}"
                ));
            }
            let series = format!("{}{suffix}", kept.name);
            if takes(kept.kind, suffix) && self.kinds(&series).next().is_some() {
                return Err(format!(
                    "collected histogram or summary named {:?} collides with previously collected metric named \
                     {series:?}",
                    kept.name
                ));
            }
        }
        Ok(())
    }
}

/// Whether a family of this type has series with this suffix.
fn takes(kind: MetricKind, suffix: &str) -> bool {
    matches!(kind, MetricKind::Histogram | MetricKind::Summary | MetricKind::GaugeHistogram)
        && kind.suffixes().contains(&suffix)
}
