//! What Prometheus has in a scrape config and this program does not have yet. Such a key is never ignored,
//! and its error is not that of a key that nobody knows.

use std::collections::BTreeMap;

use prometheus_streams_core::error::BuildError;
use serde_json::Value;

/// The keys, each with the value that asks for what is done anyway, where that is not empty, zero or false.
const KEYS: [(&str, &str); 41] = [
    ("aws_sd_configs", ""),
    ("azure_sd_configs", ""),
    ("consul_sd_configs", ""),
    ("convert_classic_histograms_to_nhcb", ""),
    ("digitalocean_sd_configs", ""),
    ("docker_sd_configs", ""),
    ("dockerswarm_sd_configs", ""),
    ("ec2_sd_configs", ""),
    ("ecs_sd_configs", ""),
    ("elasticache_sd_configs", ""),
    ("eureka_sd_configs", ""),
    ("extra_scrape_metrics", ""),
    ("gce_sd_configs", ""),
    ("hetzner_sd_configs", ""),
    ("ionos_sd_configs", ""),
    ("kubernetes_sd_configs", ""),
    ("kuma_sd_configs", ""),
    ("lightsail_sd_configs", ""),
    ("linode_sd_configs", ""),
    ("marathon_sd_configs", ""),
    ("metric_name_escaping_scheme", "allow-utf-8"),
    ("metric_name_validation_scheme", "utf8"),
    ("msk_sd_configs", ""),
    ("native_histogram_bucket_limit", ""),
    ("native_histogram_min_bucket_factor", ""),
    ("nerve_sd_configs", ""),
    ("nomad_sd_configs", ""),
    ("oci_sd_configs", ""),
    ("openstack_sd_configs", ""),
    ("outscale_sd_configs", ""),
    ("ovhcloud_sd_configs", ""),
    ("puppetdb_sd_configs", ""),
    ("rds_sd_configs", ""),
    ("scaleway_sd_configs", ""),
    ("scrape_failure_log_file", ""),
    ("serverset_sd_configs", ""),
    ("stackit_sd_configs", ""),
    ("track_timestamps_staleness", ""),
    ("triton_sd_configs", ""),
    ("uyuni_sd_configs", ""),
    ("vultr_sd_configs", ""),
];

/// Whether Prometheus has a key in a scrape config that this program does not have yet, and `value` asks for what
/// only Prometheus does.
pub fn scrape_config_lacks(key: &str, value: &Value) -> bool {
    KEYS.iter().find(|(known, _)| *known == key).is_some_and(|(_, usual)| !asks_for_nothing(value, usual))
}

/// What is wrong with the keys of a scrape config that are no settings here.
///
/// # Errors
/// Every one, unless it asks for what is done anyway.
pub(super) fn check(keys: &BTreeMap<String, Value>) -> Result<(), BuildError> {
    let mut problems = BuildError::default();
    for (key, value) in keys {
        if scrape_config_lacks(key, value) {
            problems.add(key, "Prometheus has this, prometheus-streams does not yet");
        } else if !KEYS.iter().any(|(known, _)| known == key) {
            problems.add(key, "is not a key of a scrape config");
        }
    }
    problems.or(())
}

fn asks_for_nothing(value: &Value, usual: &str) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        // A number with a fraction comes as a text.
        Value::String(text) => text.is_empty() || text == usual || text.parse() == Ok(0.0),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_of_prometheus_is_told_from_one_that_nobody_knows() {
        let keys = json!({
            "consul_sd_configs": [{ "server": "localhost:8500" }],
            "consul_sd_config": [],
            "extra_scrape_metrics": true,
            "kubernetes_sd_configs": null,
            "metric_name_escaping_scheme": "allow-utf-8",
            "metric_name_validation_scheme": "legacy",
            "native_histogram_bucket_limit": 0,
            "native_histogram_min_bucket_factor": "0.0",
            "scrape_failure_log_file": "",
            "track_timestamps_staleness": false,
        });
        let error = check(&serde_json::from_value(keys).unwrap()).unwrap_err().to_string();
        assert_eq!(
            error.lines().collect::<Vec<_>>(),
            [
                "consul_sd_config: is not a key of a scrape config",
                "consul_sd_configs: Prometheus has this, prometheus-streams does not yet",
                "extra_scrape_metrics: Prometheus has this, prometheus-streams does not yet",
                "metric_name_validation_scheme: Prometheus has this, prometheus-streams does not yet",
            ]
        );
    }
}
