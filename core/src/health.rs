//! What each stage says of itself: ready, or degraded and why. `/-/ready` is the sum of it. A stage may
//! also offer reports, for management interfaces to show: `/api/v1/targets` is made of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

/// The state of every stage that has spoken up.
#[derive(Clone, Debug, Default)]
pub struct HealthBoard(Arc<Board>);

#[derive(Default)]
struct Board {
    states: Mutex<BTreeMap<String, Option<String>>>,
    /// By topic, and then by stage.
    reports: Mutex<BTreeMap<&'static str, BTreeMap<String, Report>>>,
}

/// Makes a report when somebody asks for it.
type Report = Arc<dyn Fn() -> Value + Send + Sync>;

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("states", &self.states).finish_non_exhaustive()
    }
}

impl HealthBoard {
    /// The place of one stage on the board, named `pipeline/kind/stage`.
    pub fn stage(&self, name: impl Into<String>) -> Health {
        Health { board: self.clone(), name: name.into().into(), is_ready: Arc::default() }
    }

    /// The stages that are degraded, with their reasons; empty when all is well.
    pub fn degraded(&self) -> Vec<(String, String)> {
        let states = self.0.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.iter().filter_map(|(name, reason)| Some((name.clone(), reason.clone()?))).collect()
    }

    /// The reports on a topic as they are now, by the name of their stage.
    pub fn reports(&self, topic: &str) -> Vec<(String, Value)> {
        let reports = self.0.reports.lock().unwrap_or_else(PoisonError::into_inner).get(topic).cloned();
        reports.into_iter().flatten().map(|(stage, report)| (stage, report())).collect()
    }

    fn set(&self, name: &str, reason: Option<String>) -> bool {
        let mut states = self.0.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.insert(name.to_owned(), reason.clone()) != Some(reason)
    }
}

/// How one stage reports its state. A stage that never does counts as ready. Changes are logged here, once.
#[derive(Clone)]
pub struct Health {
    board: HealthBoard,
    name: Arc<str>,
    /// What the board says, so that a stage may call [`Health::ready`] for every event.
    is_ready: Arc<AtomicBool>,
}

impl Health {
    /// All is well.
    pub fn ready(&self) {
        if !self.is_ready.swap(true, Ordering::Relaxed) && self.board.set(&self.name, None) {
            tracing::info!(stage = &*self.name, "ready");
        }
    }

    /// The stage goes on trying, but does not do its work now.
    pub fn degraded(&self, reason: impl fmt::Display) {
        let reason = reason.to_string();
        self.is_ready.store(false, Ordering::Relaxed);
        if self.board.set(&self.name, Some(reason.clone())) {
            tracing::warn!(stage = &*self.name, reason, "degraded");
        }
    }
}

impl Health {
    /// Offers a report on a topic, in place of what this stage offered before. `report` is called
    /// whenever somebody asks, and must be quick; what it is about belongs to the stages of that topic.
    pub fn offer(&self, topic: &'static str, report: impl Fn() -> Value + Send + Sync + 'static) {
        let mut reports = self.board.0.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.entry(topic).or_default().insert(self.name.to_string(), Arc::new(report));
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Health({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reports_are_made_when_asked_for_and_the_last_offer_counts() {
        let board = HealthBoard::default();
        let (a, b) = (board.stage("a"), board.stage("b"));
        a.offer("targets", || json!("old"));
        let asked = AtomicBool::new(false);
        a.offer("targets", move || json!(asked.swap(true, Ordering::Relaxed)));
        b.offer("targets", || json!(7));
        assert!(board.reports("other").is_empty());
        assert_eq!(board.reports("targets"), [("a".to_owned(), json!(false)), ("b".to_owned(), json!(7))]);
        assert_eq!(board.reports("targets")[0].1, json!(true));
    }
}
