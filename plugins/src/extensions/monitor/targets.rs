//! `/api/v1/targets` and `/api/v1/scrape_pools` as Prometheus 3 answers them, over the reports of all
//! sources that scrape.

use std::collections::BTreeSet;

use prometheus_streams_core::control::Control;
use serde_json::{Map, Value, json};

const REPORTS: &str = "targets";
const POOL: &str = "scrapePool";
const ACTIVE: &str = "activeTargets";
const DROPPED: &str = "droppedTargets";
const COUNTS: &str = "droppedTargetCounts";

/// Which targets are asked for.
#[derive(Default)]
pub(super) struct Selection {
    state: String,
    pool: String,
}

impl Selection {
    /// Reads the query of a request: `state=active|dropped|any`, `scrapePool=NAME`.
    pub(super) fn parse(query: &str) -> Self {
        let mut selection = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "state" => selection.state = value.to_ascii_lowercase(),
                POOL => selection.pool = value.into_owned(),
                _ => {}
            }
        }
        selection
    }

    fn wants(&self, state: &str) -> bool {
        ["", "any", state].contains(&self.state.as_str())
    }

    /// The targets of one kind, by their jobs.
    fn list(&self, reports: &mut [Value], kind: &str) -> Vec<Value> {
        let lists = reports.iter_mut().map(|report| report[kind].take());
        let lists = lists.flat_map(|list| if let Value::Array(list) = list { list } else { Vec::new() });
        let mut list: Vec<_> =
            lists.filter(|target| self.pool.is_empty() || target[POOL] == self.pool).collect();
        list.sort_by(|a, b| a[POOL].as_str().cmp(&b[POOL].as_str()));
        list
    }
}

/// The targets of all sources. With thousands of them it takes a while to make.
pub(super) fn targets(control: &Control, selection: &Selection) -> Value {
    let mut reports = reports(control);
    let (mut active, mut dropped, mut counts) = (Vec::new(), Vec::new(), Value::Null);
    if selection.wants("active") {
        active = selection.list(&mut reports, ACTIVE);
    }
    if selection.wants("dropped") {
        counts = add_up(&reports).into();
        dropped = selection.list(&mut reports, DROPPED);
    }
    success(&json!({ ACTIVE: active, DROPPED: dropped, COUNTS: counts }))
}

/// The names of all jobs.
pub(super) fn scrape_pools(control: &Control) -> Value {
    let reports = reports(control);
    let names: BTreeSet<_> =
        reports.iter().filter_map(|report| report[COUNTS].as_object()).flat_map(Map::keys).collect();
    success(&json!({ "scrapePools": names }))
}

fn reports(control: &Control) -> Vec<Value> {
    control.reports(REPORTS).into_iter().map(|(_, report)| report).collect()
}

fn add_up(reports: &[Value]) -> Map<String, Value> {
    let mut sums = Map::new();
    for (job, count) in reports.iter().filter_map(|report| report[COUNTS].as_object()).flatten() {
        let before = sums.get(job).and_then(Value::as_u64).unwrap_or(0);
        sums.insert(job.clone(), (before + count.as_u64().unwrap_or(0)).into());
    }
    sums
}

fn success(data: &Value) -> Value {
    json!({ "status": "success", "data": data })
}
