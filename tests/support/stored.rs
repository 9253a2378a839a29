//! What a Prometheus has stored, in a form that can be compared: two servers that should have the same, and
//! the difference as a person wants to read it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::http;
use super::server::Server;

/// The newest sample of every series, by the series as PromQL writes it, and the types of the metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// Values as Prometheus writes them.
    pub series: BTreeMap<String, String>,
    /// Every type that a metric is said to have.
    pub types: BTreeMap<String, BTreeSet<String>>,
}

/// What a Prometheus has now of the series that `selector` selects, without the labels `without`.
pub async fn stored(prometheus: &Server, selector: &str, without: &[&str]) -> Stored {
    let url = format!("{}/api/v1/query?query={}", prometheus.url(), http::encode(selector));
    let answer = http::get(&url).await.expect("ask Prometheus").json();
    assert_eq!(answer["status"], "success", "{selector}: {answer}");
    let results = answer["data"]["result"].as_array().cloned().unwrap_or_default();
    let series = results.iter().map(|result| {
        let value = result["value"][1].as_str().unwrap_or("a native histogram").to_owned();
        (series(&result["metric"], without), value)
    });
    let metadata = http::get(&format!("{}/api/v1/metadata", prometheus.url())).await;
    let metadata = metadata.expect("ask Prometheus for metadata").json();
    let types = metadata["data"].as_object().into_iter().flatten().map(|(name, entries)| {
        let entries = entries.as_array().into_iter().flatten();
        let types = entries.filter_map(|entry| entry["type"].as_str().map(str::to_owned));
        (name.clone(), types.collect())
    });
    Stored { series: series.collect(), types: types.collect() }
}

fn series(metric: &Value, without: &[&str]) -> String {
    let labels: BTreeMap<_, _> = metric.as_object().into_iter().flatten().collect();
    let name = labels.get(&"__name__".to_owned()).and_then(|name| name.as_str()).unwrap_or_default();
    let pairs = labels.iter().filter(|(name, _)| **name != "__name__" && !without.contains(&name.as_str()));
    let pairs: Vec<_> = pairs.map(|(name, value)| format!("{name}={value}")).collect();
    format!("{name}{{{}}}", pairs.join(", "))
}

/// The lines in which `found` differs from `expected`: `-` what is missing, `+` what should not be there.
pub fn difference<V: PartialEq + std::fmt::Debug>(
    expected: &BTreeMap<String, V>,
    found: &BTreeMap<String, V>,
) -> Vec<String> {
    let keys: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let lines = keys.into_iter().flat_map(|key| {
        let (expected, found) = (expected.get(key), found.get(key));
        let line = |sign, value: Option<&V>| value.map(|value| format!("{sign} {key} {value:?}"));
        if expected == found { [None, None] } else { [line('-', expected), line('+', found)] }
    });
    lines.flatten().collect()
}
