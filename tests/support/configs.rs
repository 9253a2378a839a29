//! The configurations that most tests start from, as JSON values, which are YAML too. A test changes what
//! it is about.

use serde_json::{Value, json};

/// The stream that carries the scrapes.
pub const STREAM: &str = "PROMETHEUS";

/// A pipeline `poller` of `site1`, which scrapes `jobs` every second into the broker at `nats`.
pub fn poller(nats: &str, jobs: Value) -> Value {
    json!({
        "identity": "site1",
        "pipelines": { "poller": {
            "source": { "type": "http_scrape", "interval": "1s", "jobs": jobs },
            "sinks": [{
                "type": "nats",
                "urls": [nats],
                "stream": { "name": STREAM },
                "subject": "prometheus.{publisher}.{job}.{instance}",
            }],
        } },
    })
}

/// A pipeline `receiver`, which lands what comes from the broker at `nats` in the Push Gateway at `gateway`.
pub fn receiver(nats: &str, gateway: &str) -> Value {
    json!({
        "identity": "centre",
        "pipelines": { "receiver": {
            "source": { "type": "nats", "urls": [nats], "stream": STREAM, "durable": "receiver" },
            "transforms": [{ "type": "age_filter", "max_age": "5m" }],
            "sinks": [{ "type": "push_gateway", "url": gateway }],
        } },
    })
}

/// A job `probes` of scripted targets: names and URLs.
pub fn probes<'a>(targets: impl IntoIterator<Item = (&'a str, String)>) -> Value {
    let targets: Vec<_> =
        targets.into_iter().map(|(name, url)| json!({ "name": name, "url": url })).collect();
    json!({ "probes": { "targets": targets } })
}
