//! What can be read at the source: the page of all groups, and the same in the JSON of a gateway's API.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::SystemTime;

use prometheus_streams_core::event::Labels;
use serde_json::{Map, Value, json};

use super::state::{Kept, State};
use crate::exposition::{Family, encode, encode_json};
use crate::support::scrape::INSTANCE;

/// Writes all groups as a page of text: families by name, each with one type.
pub(super) fn write(groups: &[(Labels, Arc<State>)], out: &mut dyn Write) -> io::Result<()> {
    let mut by_name: BTreeMap<&str, Vec<(&Labels, &Kept)>> = BTreeMap::new();
    for (key, state) in groups {
        for kept in state.families.values() {
            by_name.entry(&kept.name).or_default().push((key, kept));
        }
    }
    let mut page = Vec::new();
    for parts in by_name.into_values() {
        let families = parts.into_iter().flat_map(|(key, kept)| labelled(kept.families(), key));
        encode(&merged(families), &mut page);
        out.write_all(&page)?;
        page.clear();
    }
    let times = groups.iter().flat_map(|(key, state)| labelled(state.times().into(), key));
    encode(&merged(times), &mut page);
    out.write_all(&page)
}

/// One family of each name. Where groups disagree on the type, as they may where they are not checked, the first
/// decides and the others are left out.
fn merged<'a>(families: impl Iterator<Item = Family<'a>>) -> Vec<Family<'a>> {
    let mut merged: Vec<Family<'a>> = Vec::new();
    for family in families {
        match merged.iter_mut().find(|known| known.name == family.name) {
            Some(known) if known.kind == family.kind => {
                known.samples.extend(family.samples);
                known.help = known.help.take().or(family.help);
            }
            Some(_) => {}
            None => merged.push(family),
        }
    }
    merged
}

/// Puts the labels of a group on its families, and an empty `instance` on what has none, so that a Prometheus that
/// reads them with `honor_labels` does not put its own there.
fn labelled<'a>(mut families: Vec<Family<'a>>, key: &'a Labels) -> Vec<Family<'a>> {
    for sample in families.iter_mut().flat_map(|family| &mut family.samples) {
        let labels = &mut sample.labels;
        labels.extend(key.iter().map(|(name, value)| (name.into(), value.into())));
        if !labels.iter().any(|(name, _)| name == INSTANCE) {
            labels.push((INSTANCE.into(), "".into()));
        }
        // A bucket's bound and a quantile stand last.
        labels.sort_unstable_by(|(one, _), (other, _)| {
            let is_bound = |name: &str| matches!(name, "le" | "quantile");
            (is_bound(one), one).cmp(&(is_bound(other), other))
        });
    }
    families
}

/// The groups as `/api/v1/metrics` has them.
pub(super) fn groups_json(groups: &[(Labels, Arc<State>)]) -> Value {
    let data: Vec<_> = groups.iter().map(|(key, state)| group_json(key, state)).collect();
    json!({ "status": "success", "data": data })
}

fn group_json(key: &Labels, state: &State) -> Value {
    let mut group = Map::new();
    let families = state.families.values().flat_map(|kept| labelled(kept.families(), key));
    let changed = state.pushed.max(state.failed);
    for family in families {
        group.insert(family.name.to_string(), family_json(&family, changed));
    }
    for family in labelled(state.times().into(), key) {
        group.insert(family.name.to_string(), family_json(&family, changed));
    }
    group.insert("labels".into(), json!(key));
    group.insert("last_push_successful".into(), state.is_successful().into());
    group.into()
}

fn family_json(family: &Family<'_>, changed: Option<SystemTime>) -> Value {
    let mut object =
        encode_json(std::slice::from_ref(family)).get_mut(0).map(Value::take).unwrap_or_default();
    if let Some(object) = object.as_object_mut() {
        object.remove("name");
        object.get_mut("metrics").and_then(Value::as_array_mut).into_iter().flatten().for_each(spell_bounds);
        object.insert("time_stamp".into(), time(changed.unwrap_or(SystemTime::UNIX_EPOCH)).into());
    }
    object
}

/// Writes the bounds of buckets and quantiles as a gateway does: `1` for `1.0`.
fn spell_bounds(metric: &mut Value) {
    for parts in ["buckets", "quantiles"] {
        let Some(bounds) = metric.get_mut(parts).and_then(Value::as_object_mut) else { continue };
        let spelt =
            |(bound, value): (String, Value)| (bound.strip_suffix(".0").unwrap_or(&bound).to_owned(), value);
        *bounds = std::mem::take(bounds).into_iter().map(spelt).collect();
    }
}

/// What `/api/v1/status` says: as much as clients look for.
pub(super) fn status_json(started: SystemTime, checks: bool) -> Value {
    json!({ "status": "success", "data": {
        "build_information": { "version": env!("CARGO_PKG_VERSION") },
        "flags": { "push.disable-consistency-check": (!checks).to_string() },
        "start_time": time(started),
    } })
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_nanos(time).to_string()
}
