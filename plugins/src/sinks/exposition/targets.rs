//! The virtual targets: the path at which each is found, and the list of them for `http_sd_configs`.
//!
//! A path is `/targets/PUBLISHER/JOB/INSTANCE/metrics`; the labels that a target has besides stand before the last part
//! as `/NAME/VALUE`, sorted by name. A label that a target does not have is an empty part.
//!
//! Prometheus takes a `__metrics_path__` for a path that has not been encoded yet. A `/` in a label must not be one in
//! the path, so there it stands as `%2F`, and `%` as `%25`, and Prometheus encodes that once more. Whoever encodes
//! only once is understood too, except that a `%` of a label before two hexadecimal digits must be encoded twice.

use std::borrow::Cow;
use std::fmt::Write;

use percent_encoding::{AsciiSet, percent_decode_str, utf8_percent_encode};
use prometheus_streams_core::event::Labels;
use serde_json::{Map, Value};

use crate::support::scrape::{self, INSTANCE, JOB, PUBLISHER};

/// What every path of a target begins with.
pub(super) const PREFIX: &str = "/targets/";
const LAST: &str = "metrics";
/// The labels that are always in a path, in this order.
const ALWAYS: [&str; 3] = [PUBLISHER, JOB, INSTANCE];
const IN_THE_WAY: &AsciiSet = &AsciiSet::EMPTY.add(b'/').add(b'%');

/// The scrape timeout of Prometheus, where the interval is not shorter.
const TIMEOUT_MILLIS: u64 = 10_000;

/// The path of a target, as a `__metrics_path__`.
pub(super) fn path(labels: &Labels) -> String {
    let mut path = PREFIX.trim_end_matches('/').to_owned();
    let encoded = |text| utf8_percent_encode(text, IN_THE_WAY);
    // Writing to a String cannot fail.
    for name in ALWAYS {
        let _ = write!(path, "/{}", encoded(scrape::label(labels, name)));
    }
    for (name, value) in labels.iter().filter(|(name, _)| !ALWAYS.contains(name)) {
        let _ = write!(path, "/{name}/{}", encoded(value));
    }
    path + "/" + LAST
}

/// The labels of the target at a path, as it stands in a request; `None` if it is not such a path.
pub(super) fn labels(path: &str) -> Option<Labels> {
    let parts: Option<Vec<_>> = path.strip_prefix(PREFIX)?.split('/').map(decoded).collect();
    let parts = parts?;
    let (last, parts) = parts.split_last()?;
    let (always, others) = parts.split_at_checked(ALWAYS.len())?;
    if last != LAST || !others.len().is_multiple_of(2) {
        return None;
    }
    let always = ALWAYS.iter().copied().zip(always.iter().map(String::as_str));
    let others = others.chunks_exact(2).map(|pair| (pair[0].as_str(), pair[1].as_str()));
    Some(always.chain(others).filter(|(_, value)| !value.is_empty()).collect())
}

fn decoded(part: &str) -> Option<String> {
    let once: Cow<'_, str> = percent_decode_str(part).decode_utf8().ok()?;
    percent_decode_str(&once).decode_utf8().ok().map(Cow::into_owned)
}

/// Where readers reach this sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) scheme: String,
    /// `host:port`
    pub(super) address: String,
    /// What stands before every path; empty, or begins with `/` and does not end with it.
    pub(super) prefix: String,
}

/// A target as `http_sd_configs` take it. Its own labels come with it, so that whoever scrapes it here ends with those
/// that a scrape of the target itself would have.
pub(super) fn discovered(labels: &Labels, interval_millis: Option<u64>, base: &Base) -> Value {
    // Those are for Prometheus itself, which would do things with them.
    let own = labels.iter().filter(|(name, _)| !name.starts_with("__"));
    let own = own.map(|(name, value)| (name.to_owned(), value.into()));
    let mut all: Map<String, Value> = own.collect();
    let mut set = |name: &str, value: String| all.insert(name.to_owned(), value.into());
    set("__scheme__", base.scheme.clone());
    set("__metrics_path__", base.prefix.clone() + &path(labels));
    if let Some(interval) = interval_millis.filter(|interval| *interval > 0) {
        set("__scrape_interval__", duration(interval));
        set("__scrape_timeout__", duration(interval.min(TIMEOUT_MILLIS)));
    }
    serde_json::json!({ "targets": [base.address], "labels": all })
}

/// A duration as Prometheus writes it.
fn duration(millis: u64) -> String {
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(labels: &[(&str, &str)]) -> Labels {
        labels.iter().copied().collect()
    }

    #[test]
    fn a_path_names_one_target() {
        let plain = target(&[(PUBLISHER, "s1"), (JOB, "node"), (INSTANCE, "db1:9100")]);
        assert_eq!(path(&plain), "/targets/s1/node/db1:9100/metrics");
        let more = target(&[(PUBLISHER, "s1"), (JOB, "node"), (INSTANCE, "i"), ("rack", "r7"), ("a", "b")]);
        assert_eq!(path(&more), "/targets/s1/node/i/a/b/rack/r7/metrics");
        assert_eq!(path(&target(&[(JOB, "node")])), "/targets//node//metrics");
    }

    #[test]
    fn every_target_is_found_again() {
        // As the client of Go encodes a path that is not encoded yet.
        const GO: &AsciiSet = &percent_encoding::CONTROLS
            .add(b' ')
            .add(b'"')
            .add(b'#')
            .add(b'%')
            .add(b'<')
            .add(b'>')
            .add(b'?')
            .add(b'[')
            .add(b'\\')
            .add(b']')
            .add(b'^')
            .add(b'`')
            .add(b'{')
            .add(b'|')
            .add(b'}');
        for value in
            ["i", "https://example.com/?a=b#c", "50%", "%2F", "%252F", "a b", "Z\u{fc}rich", "..", "%", "+"]
        {
            let labels = target(&[(PUBLISHER, "s/1"), (JOB, "metrics"), (INSTANCE, value), ("x", value)]);
            let sent = utf8_percent_encode(&path(&labels), GO).to_string();
            assert_eq!(super::labels(&sent).as_ref(), Some(&labels), "{sent}");
        }
        let by_hand = "/targets/s1/node/https%3A%2F%2Fexample.com%2F/metrics";
        let found = super::labels(by_hand).unwrap();
        assert_eq!(found.get(INSTANCE), Some("https://example.com/"));
    }

    #[test]
    fn other_paths_are_none() {
        for path in [
            "/targets/",
            "/targets/a/b/metrics",
            "/targets/a/b/c",
            "/targets/a/b/c/d/metrics",
            "/targets/a/b/%FF/metrics",
            "/target/a/b/c/metrics",
        ] {
            assert_eq!(labels(path), None, "{path}");
        }
    }

    #[test]
    fn a_timeout_is_never_longer_than_its_interval() {
        let base = Base { scheme: "http".to_owned(), address: "h:1".to_owned(), prefix: "/p".to_owned() };
        let labels = target(&[(JOB, "j"), (INSTANCE, "i"), (PUBLISHER, "s")]);
        for (interval, interval_text, timeout) in [(60_000, "60s", "10s"), (1_500, "1500ms", "1500ms")] {
            let found = discovered(&labels, Some(interval), &base);
            assert_eq!(found["labels"]["__scrape_interval__"], interval_text);
            assert_eq!(found["labels"]["__scrape_timeout__"], timeout);
            assert_eq!(found["labels"]["__metrics_path__"], "/p/targets/s/j/i/metrics");
            assert_eq!((&found["targets"][0], &found["labels"]["job"]), (&"h:1".into(), &"j".into()));
        }
        assert!(discovered(&labels, None, &base)["labels"].get("__scrape_interval__").is_none());
    }
}
