//! The verdict on one push by itself, as a gateway gives it, and the families that are left to be kept.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use prometheus_streams_core::event::Labels;
use xxhash_rust::xxh3::xxh3_64;

use super::answer::{Refusal, inconsistent};
use super::state::{FAILED, Kept, PUSHED};
use crate::exposition::{
    self, Family, Format, LabelPair, MetricKind, Mode, Sample, bound_as_pushed, is_plain_metric_name,
    parse_pushed,
};
use crate::support::scrape::is_label_name;

/// The families of a push.
///
/// # Errors
/// The body is not of its format.
pub(super) fn parse<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<Vec<Family<'a>>, Refusal> {
    let parsed = if is_protobuf(headers) {
        parse_protobuf(body)
    } else {
        parse_pushed(body).map_err(|error| error.to_string())
    };
    parsed.map_err(|reason| Refusal::new(StatusCode::BAD_REQUEST, reason))
}

/// Whether the body is said to be protobuf, delimited; everything else is text.
fn is_protobuf(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = content_type.split(';').map(str::trim);
    let is_type =
        parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/vnd.google.protobuf"));
    let parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
    let says = |name: &str, value: &str| {
        let is = |(key, text): &(&str, &str)| {
            key.trim().eq_ignore_ascii_case(name) && text.trim().trim_matches('"') == value
        };
        parameters.iter().any(is)
    };
    is_type && says("encoding", "delimited") && says("proto", "io.prometheus.client.MetricFamily")
}

/// Every message by itself: of two families of one name the last counts.
fn parse_protobuf(body: &[u8]) -> Result<Vec<Family<'_>>, String> {
    let mut by_name = BTreeMap::new();
    let mut rest = body;
    while !rest.is_empty() {
        let length = prost::decode_length_delimiter(rest).map_err(|_| "unexpected EOF")?;
        let whole = prost::length_delimiter_len(length).saturating_add(length);
        let (message, after) = rest.split_at_checked(whole).ok_or("unexpected EOF")?;
        let families = exposition::parse(Format::Protobuf, Mode::Compat, message);
        let families = families.map_err(|error| format!("protobuf parsing error: {error}"))?;
        by_name.extend(families.into_iter().map(|family| (family.name.clone(), family)));
        rest = after;
    }
    let mut families: Vec<Family<'_>> = by_name.into_values().collect();
    families.retain(|family| !family.samples.is_empty());
    families.iter_mut().for_each(spell_bounds);
    Ok(families)
}

/// Writes the bounds of buckets and quantiles as a gateway does.
fn spell_bounds(family: &mut Family<'_>) {
    let Some(bound_label) = bound_label(family.kind) else { return };
    let labels = family.samples.iter_mut().flat_map(|sample| &mut sample.labels);
    for (_, value) in labels.filter(|(name, _)| name == bound_label) {
        if let Ok(bound) = value.parse() {
            *value = bound_as_pushed(bound).into();
        }
    }
}

/// What a group keeps of the families of a push: without the labels of its key, which are the same on all. The times
/// of pushes are ours to tell.
///
/// # Errors
/// A gateway would not take them.
pub(super) fn keep(families: Vec<Family<'_>>, key: &Labels) -> Result<Vec<Kept>, Refusal> {
    if families.iter().flat_map(|family| &family.samples).any(|sample| sample.timestamp.is_some()) {
        return Err(inconsistent("pushed metrics must not have timestamps"));
    }
    let mut kept = Vec::with_capacity(families.len());
    for mut family in families.into_iter().filter(|family| family.name != PUSHED && family.name != FAILED) {
        check_names(&family, key).map_err(inconsistent)?;
        let is_own = |(name, _): &LabelPair<'_>| key.get(name).is_none();
        family.samples.iter_mut().for_each(|sample| sample.labels.retain(is_own));
        // On the page of a gateway there is no -0, and adding zero makes it one.
        family.samples.iter_mut().for_each(|sample| sample.value += 0.0);
        family.histograms.iter_mut().for_each(|histogram| histogram.labels.retain(is_own));
        let series = series(&family, key).map_err(inconsistent)?;
        kept.push(Kept::new(&family, series));
    }
    Ok(kept)
}

fn check_names(family: &Family<'_>, key: &Labels) -> Result<(), String> {
    if !is_plain_metric_name(&family.name) {
        return Err(format!("{:?} is not a valid metric name", family.name));
    }
    // The labels of the key take the place of those of the samples, and these would be lost.
    let bound = bound_label(family.kind).filter(|bound| key.get(bound).is_some());
    if let Some(bound) = bound {
        return Err(format!("collected metric {:?} must not have an explicit {bound:?} label", family.name));
    }
    for sample in &family.samples {
        let mut seen = HashSet::new();
        for (label, _) in &sample.labels {
            let shown = || metric(family, sample);
            if !is_label_name(label) {
                return Err(format!("{} has a label with an invalid name: {label}", shown()));
            }
            if !seen.insert(label) {
                return Err(format!("{} has two or more labels with the same name: {label}", shown()));
            }
        }
    }
    Ok(())
}

/// The label that a histogram or summary takes for itself.
fn bound_label(kind: MetricKind) -> Option<&'static str> {
    match kind {
        MetricKind::Histogram | MetricKind::GaugeHistogram => Some("le"),
        MetricKind::Summary => Some("quantile"),
        _ => None,
    }
}

/// A number for each metric of a family: its name and all its labels. A label that is empty is none.
fn series(family: &Family<'_>, key: &Labels) -> Result<Box<[u64]>, String> {
    let is_whole = bound_label(family.kind).is_some();
    let is_count =
        |sample: &Sample<'_>| matches!(sample.name.strip_prefix(&*family.name), Some("_count" | "_gcount"));
    let stands_for_metric = |sample: &&Sample<'_>| !is_whole || is_count(sample);
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for sample in family.samples.iter().filter(stands_for_metric) {
        let identity = identity(&family.name, sample, key);
        if !seen.insert(identity) {
            return Err(format!(
                "{} was collected before with the same name and label values",
                metric(family, sample)
            ));
        }
        found.push(identity);
    }
    Ok(found.into())
}

fn identity(name: &str, sample: &Sample<'_>, key: &Labels) -> u64 {
    let own = sample.labels.iter().map(|(name, value)| (name.as_ref(), value.as_ref()));
    let mut labels: Vec<(&str, &str)> =
        own.chain(key.iter()).filter(|(_, value)| !value.is_empty()).collect();
    labels.sort_unstable();
    let mut text = name.as_bytes().to_vec();
    for part in labels.into_iter().flat_map(|(name, value)| [name, value]) {
        // No text in UTF-8 has this byte.
        text.push(0xff);
        text.extend_from_slice(part.as_bytes());
    }
    xxh3_64(&text)
}

/// A metric as the messages of a gateway name it.
fn metric(family: &Family<'_>, sample: &Sample<'_>) -> String {
    let labels = sample.labels.iter().map(|(name, value)| (Cow::as_ref(name), Cow::as_ref(value)));
    format!("collected metric {:?} {}", family.name, labels.collect::<Labels>())
}
