//! What keeps the gateway true to us beside the pushes of events: groups of which nothing is heard go, and a
//! gateway that was restarted gets back what it has forgotten.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream;
use prometheus_streams_core::event::Labels;
use tokio::time::{Instant, sleep, timeout};

use super::groups::Group;
use super::push::{LONGEST_PUSH, Pusher};

/// How often the gateway is asked whether it is still the one that it was.
const EVERY: Duration = Duration::from_secs(2);
/// How often, when it was away a moment ago; and the shortest pause in any case.
const SOON: Duration = Duration::from_millis(500);
/// Groups that are pushed at once.
const AT_ONCE: usize = 4;

impl Pusher {
    /// Goes on until it is dropped.
    pub(super) async fn keep_up(self: &Arc<Self>) {
        while self.recall().await.is_err() {
            sleep(SOON).await;
        }
        let begun = Instant::now();
        loop {
            self.pause().await;
            // An error shows in the pushes of events, where there are any.
            if self.gateway.probe().await.is_err() {
                continue;
            }
            if begun.elapsed() > self.expire_after {
                self.press.ledger.forget_seen();
            }
            self.expire().await;
            self.push_due().await;
            self.groups.prune();
            self.metrics.groups.set(i64::try_from(self.groups.len()).unwrap_or(i64::MAX));
        }
    }

    async fn pause(&self) {
        if !self.gateway.is_known().await {
            return sleep(SOON).await;
        }
        tokio::select! {
            () = sleep(EVERY.min(self.expire_after / 2).max(SOON)) => {}
            () = self.gateway.changed() => {}
        }
    }

    /// Pushes the groups of which the gateway does not hold what it should.
    async fn push_due(self: &Arc<Self>) {
        let epoch = self.gateway.epoch();
        let due = self.groups.all().into_iter().filter(|group| group.is_due(epoch));
        stream::iter(due)
            .for_each_concurrent(AT_ONCE, |group| async move {
                // Whoever sent a scrape hears of it; what nobody waits for is due again.
                if matches!(timeout(LONGEST_PUSH, self.land(&group, 0)).await, Ok(Ok(()))) {
                    self.metrics.upkeep.inc();
                }
            })
            .await;
    }

    /// Takes out the targets of which nothing was heard for too long. Another receiver may feed them, so the
    /// gateway is asked first.
    async fn expire(&self) {
        let mut silent = Vec::new();
        for group in self.groups.all() {
            group.forget_gone(self.expire_after);
            let members = group.silent(self.expire_after);
            if !members.is_empty() {
                silent.push((group, members));
            }
        }
        if silent.is_empty() {
            return;
        }
        let alive = self.alive().await;
        for (group, members) in silent {
            let gone = members.into_iter().filter(|(member, is_fed)| match &alive {
                Some(alive) => !alive.has(&group, member),
                // Where it does not tell, what never came to us is left alone.
                None => *is_fed,
            });
            let gone: Vec<_> = gone.map(|(member, _)| member).collect();
            if gone.is_empty() {
                continue;
            }
            tracing::info!(labels = %group.labels, targets = gone.len(), "nothing was heard for too long; expired");
            self.metrics.expired.inc_by(gone.len() as u64);
            group.expire(&gone);
        }
    }

    /// The targets of which the gateway holds a scrape.
    async fn alive(&self) -> Option<Alive> {
        let page = timeout(LONGEST_PUSH, self.gateway.page()).await.ok()?.ok()?;
        let holdings = self.read(&page).await.ok()?;
        let mut alive = Alive::default();
        for target in holdings.targets {
            let Ok(key) = self.by.key(&target.labels) else { continue };
            let age = self.now().duration_since(target.time).unwrap_or_default();
            if age <= self.expire_after {
                alive.paths.extend(target.path);
            }
            alive.times.entry(key.path).or_default().insert(self.by.member(&target.labels), target.time);
        }
        Some(alive)
    }
}

#[derive(Default)]
struct Alive {
    /// By the path of their group, as we name it.
    times: HashMap<String, HashMap<Labels, SystemTime>>,
    /// The paths of the groups that hold something that is not old.
    paths: HashSet<String>,
}

impl Alive {
    /// Whether a member, or one that shares its group elsewhere, is fed by somebody.
    fn has(&self, group: &Group, member: &Labels) -> bool {
        let time = self.times.get(&*group.path).and_then(|members| members.get(member));
        time.is_some_and(|time| group.hear(member, *time))
            || group.elsewhere(member).is_some_and(|path| self.paths.contains(&*path))
    }
}
