//! The sink `exposition` before a real Prometheus: TLS and logins, native histograms, timestamps.

mod native;
mod web;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::prometheus::Prometheus;
use crate::support::server::free_port;
use crate::support::targets::Targets;
use crate::support::wait::{secs, wait_until};

/// A pipeline that scrapes every second and serves what it got; returns the address of the page too.
fn agent(scrape_configs: &Value, settings: Value, more: Value) -> (Agent, String) {
    let page = format!("127.0.0.1:{}", free_port());
    let mut sink = json!({ "type": "exposition", "listen": page });
    let add = |to: &mut Value, from: Value| {
        let (Some(to), Value::Object(from)) = (to.as_object_mut(), from) else { return };
        to.extend(from);
    };
    add(&mut sink, settings);
    let source = json!({
        "type": "http_scrape", "interval": "1s", "timeout": "1s", "scrape_configs": scrape_configs,
    });
    let mut config =
        json!({ "identity": "site1", "pipelines": { "all": { "source": source, "sinks": [sink] } } });
    add(&mut config, more);
    (Agent::start(config), page)
}

/// A job of scripted targets, whose instances are their names.
fn job(targets: &Targets, names: &[&str]) -> Value {
    let groups: Vec<_> = names
        .iter()
        .map(|name| {
            let labels = json!({ "__metrics_path__": format!("/{name}/metrics"), "instance": name });
            json!({ "targets": [targets.address()], "labels": labels })
        })
        .collect();
    json!({ "job_name": "probes", "static_configs": groups })
}

/// The samples of the last minutes of a selector that selects one series: milliseconds and values.
async fn samples(prometheus: &Prometheus, selector: &str) -> BTreeMap<i64, String> {
    let found = prometheus.query(&format!("{selector}[5m]")).await;
    let values = found.first().and_then(|series| series["values"].as_array().cloned()).unwrap_or_default();
    let sample = |sample: &Value| {
        let millis = (sample[0].as_f64().expect("a time") * 1000.0).round() as i64;
        (millis, sample[1].as_str().expect("a value").to_owned())
    };
    values.iter().map(sample).collect()
}

#[tokio::test]
async fn samples_are_stored_at_the_time_of_their_scrape_when_told_so() {
    let targets = Targets::start().await;
    let (_agent, page) = agent(&json!([job(&targets, &["p"])]), json!({ "timestamps": true }), json!({}));
    let centre = Prometheus::reading(&page).await;
    let of = |name: &str| format!("{name}{{job='probes',instance='p',publisher='site1'}}");
    let enough = async || samples(&centre, &of("probe_seq")).await.len() >= 4;
    wait_until("some samples", secs(30), enough).await;

    let times = samples(&centre, &of("scrape_timestamp_seconds")).await;
    for (millis, value) in &times {
        let said = value.parse::<f64>().expect("a time") * 1000.0;
        assert!((said - *millis as f64).abs() <= 1.0, "{value} is stored at {millis}");
    }
    // One sample for each scrape: the same value never comes at another time.
    let probes = samples(&centre, &of("probe_seq")).await;
    let distinct: std::collections::BTreeSet<_> = probes.values().collect();
    assert_eq!(distinct.len(), probes.len(), "{probes:?}");
    assert!(
        probes
            .keys()
            .all(|millis| times.contains_key(millis) || *millis > *times.keys().last().unwrap_or(&0))
    );
}
