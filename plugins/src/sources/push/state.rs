//! What a group holds, and the event that says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prometheus_streams_core::event::{Attributes, Event, Labels};

use super::judge;
use crate::exposition::{
    self, Family, Format, MetricKind, Mode, ParseError, Sample, encode, encode_protobuf, parse_pushed,
};
use crate::support::scrape::{self, PUBLISHER};

/// The name under which a group says when it was last pushed.
pub(super) const PUSHED: &str = "push_time_seconds";
/// The name under which a group says when a push into it was last refused.
pub(super) const FAILED: &str = "push_failure_time_seconds";

const PUSHED_HELP: &str = "Last Unix time when changing this group in the Pushgateway succeeded.";
const FAILED_HELP: &str = "Last Unix time when changing this group in the Pushgateway failed.";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PROTOBUF: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// A family of a group, as it goes into a body: without the labels of the group.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) name: Box<str>,
    pub(super) kind: MetricKind,
    /// A number for each metric, the same wherever its name and labels are the same.
    pub(super) series: Box<[u64]>,
    text: Box<[u8]>,
    /// In protobuf, where text cannot say it all.
    native: Option<Box<[u8]>>,
}

impl Kept {
    pub(super) fn new(family: &Family<'_>, series: Box<[u64]>) -> Self {
        let mut text = Vec::new();
        encode(std::slice::from_ref(family), &mut text);
        let native = (!family.histograms.is_empty()).then(|| {
            let mut native = Vec::new();
            encode_protobuf(std::slice::from_ref(family), &mut native);
            native.into()
        });
        Self { name: (*family.name).into(), kind: family.kind, series, text: text.into(), native }
    }

    /// Roughly the memory that it takes, in bytes.
    pub(super) fn size(&self) -> u64 {
        let native = self.native.as_ref().map_or(0, |native| native.len());
        // A series has its number here, and its place in the index.
        (self.text.len() + native + 40 * self.series.len() + 200) as u64
    }

    /// The bytes that it takes in a body.
    fn length(&self) -> u64 {
        self.native.as_ref().unwrap_or(&self.text).len() as u64
    }

    /// Its family in text, or the several that text has for it.
    pub(super) fn families(&self) -> Vec<Family<'_>> {
        exposition::parse(Format::Text, Mode::Compat, &self.text).unwrap_or_default()
    }
}

/// What a group holds.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) families: BTreeMap<Box<str>, Arc<Kept>>,
    /// When it was last pushed.
    pub(super) pushed: Option<SystemTime>,
    /// When a push into it was last refused.
    pub(super) failed: Option<SystemTime>,
}

impl State {
    /// Roughly the bytes of its body.
    pub(super) fn length(&self) -> u64 {
        self.families.values().map(|kept| kept.length()).sum()
    }

    /// The families of which nothing is left in the state that follows.
    pub(super) fn replaced<'a>(&'a self, next: &'a Self) -> impl Iterator<Item = &'a Arc<Kept>> {
        let is_left =
            |kept: &Arc<Kept>| next.families.get(&kept.name).is_some_and(|next| Arc::ptr_eq(next, kept));
        self.families.values().filter(move |kept| !is_left(kept))
    }

    /// Whether the last push was taken.
    pub(super) fn is_successful(&self) -> bool {
        self.pushed >= self.failed
    }

    /// The families that tell when the group was pushed.
    pub(super) fn times(&self) -> [Family<'static>; 2] {
        [gauge(FAILED, FAILED_HELP, self.failed), gauge(PUSHED, PUSHED_HELP, self.pushed)]
    }

    /// The body of an event: all families, and when the group was pushed.
    fn body(&self) -> (Vec<u8>, &'static str) {
        let times = self.times();
        let is_text = self.families.values().all(|kept| kept.native.is_none());
        let mut body = Vec::new();
        if is_text {
            self.families.values().for_each(|kept| body.extend_from_slice(&kept.text));
            encode(&times, &mut body);
            return (body, TEXT);
        }
        for kept in self.families.values() {
            match &kept.native {
                Some(native) => body.extend_from_slice(native),
                None => encode_protobuf(&kept.families(), &mut body),
            }
        }
        encode_protobuf(&times, &mut body);
        (body, PROTOBUF)
    }

    /// The state that an event of the group `key` tells of.
    pub(super) fn read(event: &Event, key: &Labels) -> Result<Self, String> {
        let content_type = event.attributes.get(scrape::CONTENT_TYPE).unwrap_or_default();
        let families = match Format::from_content_type(content_type) {
            Some(Format::Protobuf) => {
                let parsed = exposition::parse(Format::Protobuf, Mode::Compat, &event.body);
                parsed.map_err(|error: ParseError| error.to_string())?
            }
            _ => parse_pushed(&event.body).map_err(|error| error.to_string())?,
        };
        let time = |name: &str| {
            let family = families.iter().find(|family| family.name == name)?;
            let seconds = family.samples.first()?.value;
            let since = Duration::try_from_secs_f64(seconds).ok().filter(|since| !since.is_zero())?;
            UNIX_EPOCH.checked_add(since)
        };
        let (pushed, failed) = (time(PUSHED), time(FAILED));
        let kept = judge::keep(families, key).map_err(|refusal| refusal.reason)?;
        let families = kept.into_iter().map(|kept| (kept.name.clone(), Arc::new(kept))).collect();
        Ok(Self { families, pushed, failed })
    }
}

/// A gauge of a time, 0 for never, as a gateway rounds it.
fn gauge(name: &'static str, help: &'static str, time: Option<SystemTime>) -> Family<'static> {
    let nanos =
        time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_nanos());
    let samples = vec![Sample::new(name, nanos as f64 / 1e9)];
    Family { help: Some(help.into()), samples, ..Family::new(name, MetricKind::Gauge) }
}

/// The event that says what a group holds, or that it is gone.
pub(super) fn event(
    key: &Labels,
    publisher: &str,
    state: Option<&State>,
    interval: Duration,
    timestamp: SystemTime,
) -> Event {
    let mut event = Event::new(timestamp, Bytes::new());
    event.labels = event_labels(key, publisher);
    event.attributes = attributes(interval);
    match state {
        Some(state) => {
            let (body, content_type) = state.body();
            event.body = body.into();
            event.attributes.insert(scrape::CONTENT_TYPE, content_type);
        }
        None => drop(event.attributes.insert(scrape::TOMBSTONE, "true")),
    }
    event
}

/// No slot is among them: an event is told from others by its time, which no other event of this source has, so that
/// a broker takes none for another.
fn attributes(interval: Duration) -> Attributes {
    let facts = [
        (scrape::PUSHED, "true".to_owned()),
        (scrape::HONOR_LABELS, "true".to_owned()),
        (scrape::INTERVAL, interval.as_millis().to_string()),
    ];
    facts.into_iter().collect()
}

/// The labels of the key, and who publishes it. A publisher in the key is kept as Prometheus keeps such labels.
fn event_labels(key: &Labels, publisher: &str) -> Labels {
    let mut labels = key.clone();
    if let Some(pushed) = labels.insert(PUBLISHER, publisher) {
        let mut name = format!("exported_{PUBLISHER}");
        while labels.get(&name).is_some() {
            name.insert_str(0, "exported_");
        }
        labels.insert(name, pushed);
    }
    labels
}
