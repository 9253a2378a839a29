use std::sync::Arc;

use serde_json::{Value, json};

use super::super::discovery::DiscoverySettings;
use super::super::job::ScrapeProtocol;
use super::super::targets::{Pool, Target};
use super::*;

fn jobs(config: Value) -> Vec<Job> {
    serde_json::from_value::<HttpScrapeConfig>(config).unwrap().jobs().unwrap()
}

fn mistakes(config: Value) -> Vec<String> {
    let read = prometheus_streams_core::settings::build(config, |config: HttpScrapeConfig| config.jobs());
    read.unwrap_err().to_string().lines().map(str::to_owned).collect()
}

/// The targets that stand in the settings.
fn targets(config: Value) -> Vec<Arc<Target>> {
    let of_job = |job: Job| {
        let mut pool = Pool::new(Arc::new(job), "tester".into());
        let discoveries = pool.job.discoveries.clone();
        for (index, discovery) in discoveries.into_iter().enumerate() {
            if let DiscoverySettings::Static(groups) = discovery {
                pool.tell(index, Arc::new(groups));
            }
        }
        pool.work_out().kept
    };
    jobs(config).into_iter().flat_map(of_job).collect()
}

#[test]
fn a_scrape_config_says_what_it_says_in_prometheus() {
    let job = jobs(json!({ "timeout": "20s", "scrape_configs": [{
        "job_name": 7,
        "scrape_interval": "1m30s",
        "scrape_timeout": 0,
        "metrics_path": "/m",
        "scheme": "https",
        "params": { "a": [1, "x"], "b": null },
        "honor_labels": "yes",
        "honor_timestamps": false,
        "enable_compression": "off",
        "body_size_limit": "10MB",
        "sample_limit": 1,
        "label_limit": 2,
        "label_name_length_limit": 3,
        "label_value_length_limit": 4,
        "target_limit": 5,
        "keep_dropped_targets": 6,
        "fallback_scrape_protocol": "PrometheusText0.0.4",
        "scrape_native_histograms": true,
        "scrape_classic_histograms": true,
        "relabel_configs": null,
        "metric_relabel_configs": [{ "action": "labeldrop", "regex": "a" }],
        "kubernetes_sd_configs": [],
        "static_configs": [{ "targets": ["a:1"], "labels": { "rack": 7, "none": null } }, { "targets": null }],
        "file_sd_configs": [{ "files": ["x.json"] }],
        "http_sd_configs": [{ "url": "http://x/y" }],
        "dns_sd_configs": [{ "names": ["x.y"] }],
    }]}))
    .remove(0);
    assert_eq!((job.name.as_str(), job.scheme.as_str(), job.metrics_path.as_str()), ("7", "https", "/m"));
    assert_eq!(job.pace, Pace { interval: Duration::from_secs(90), timeout: Duration::from_secs(20) });
    assert_eq!(job.params["a"], ["1", "x"]);
    assert!(job.params["b"].is_empty());
    assert!(job.honor_labels && !job.honor_timestamps && !job.enable_compression);
    let limits = job.limits;
    let numbers = [limits.samples, limits.labels, limits.label_name_length, limits.label_value_length];
    assert_eq!((limits.body_size, numbers), (Size(10 << 20), [1, 2, 3, 4]));
    assert_eq!((job.target_limit, job.keep_dropped_targets), (5, 6));
    assert_eq!(job.fallback_protocol, Some(ScrapeProtocol::PrometheusText0_0_4));
    assert!(job.scrape_native_histograms && job.always_scrape_classic_histograms);
    assert_eq!(job.protocols, ScrapeProtocol::ALL);
    assert_eq!((job.relabel.len(), job.metric_relabel.len(), job.discoveries.len()), (0, 1, 4));

    let plain = jobs(json!({ "scrape_configs": [{ "job_name": "j" }] })).remove(0);
    assert_eq!(plain.pace, DEFAULT_PACE);
    assert_eq!((plain.scheme.as_str(), plain.metrics_path.as_str()), ("http", "/metrics"));
    assert!(!plain.honor_labels && plain.honor_timestamps && plain.enable_compression);
    assert_eq!((plain.limits.body_size, plain.limits.samples), (DEFAULT_BODY_LIMIT, 0));
    assert_eq!((plain.protocols, plain.fallback_protocol), (ScrapeProtocol::ALL[1..].to_vec(), None));
    assert!(plain.discoveries.is_empty());
}

#[test]
fn every_mistake_has_its_place() {
    let found = mistakes(
        json!({ "interval": "1m", "jobs": { "node": { "targets": [] } }, "scrape_configs": [
            { "job_name": "node", "scrape_timeout": "2m", "scheme": "ftp", "kubernetes_sd_configs": [{ "role": "pod" }] },
            { "scrape_intervall": "5s", "scrape_interval": "1.5m", "sample_limit": -1, "honor_labels": "maybe" },
            { "job_name": "a", "scrape_protocols": ["PrometheusText0.0.4", "text", "PrometheusText0.0.4"],
              "fallback_scrape_protocol": "x",
              "static_configs": [{ "targets": ["a:1", "http://b:1"] }, { "target": [] }] },
            { "job_name": "a", "scrape_protocols": [], "scrape_classic_histograms": true,
              "always_scrape_classic_histograms": true,
              "relabel_configs": [{ "action": "keep" }, { "regex": "(", "target_label": "b" }],
              "metric_relabel_configs": [{ "action": "hashmod", "target_label": "x" }] },
            { "job_name": "b", "basic_auth": { "username": "u" }, "bearer_token": "t", "tls_config": { "ca_file": "/nowhere/ca" },
              "static_configs": [{ "targets": ["http://relabelled"] }], "relabel_configs": [{ "target_label": "x" }] },
        ]}),
    );
    let places: Vec<_> = found.iter().filter_map(|line| line.split(": ").next()).collect();
    let job = |index: usize, keys: &[&str]| {
        keys.iter().map(|key| format!("scrape_configs[{index}].{key}")).collect::<Vec<_>>()
    };
    let expected = [
        job(1, &["scrape_interval", "honor_labels", "sample_limit"]),
        job(2, &["static_configs[1].target"]),
        job(0, &["job_name"]),
        job(3, &["job_name"]),
        job(0, &["kubernetes_sd_configs", "scrape_timeout", "scheme"]),
        job(1, &["scrape_intervall", "job_name"]),
        job(
            2,
            &[
                "scrape_protocols[1]",
                "scrape_protocols[2]",
                "fallback_scrape_protocol",
                "static_configs[0].targets[1]",
            ],
        ),
        job(
            3,
            &[
                "scrape_protocols",
                "scrape_classic_histograms",
                "relabel_configs[1].regex",
                "metric_relabel_configs[0].modulus",
            ],
        ),
        job(4, &["bearer_token", "tls_config.ca_file"]),
    ];
    let mut places: Vec<_> = places.into_iter().map(str::to_owned).collect();
    let mut expected = expected.concat();
    places.sort();
    expected.sort();
    assert_eq!(places, expected, "{found:#?}");
    assert!(found.iter().any(|line| line.ends_with("Prometheus has this, prometheus-streams does not yet")));
    assert!(found.iter().any(|line| line.ends_with("scrape_intervall: is not a key of a scrape config")));
}

#[test]
fn the_short_form_and_the_long_one_mean_the_same_targets() {
    let short = json!({ "interval": "30s", "jobs": { "node": {
        "labels": { "site": "dc1", "rack": "r1" },
        "targets": [
            "http://a:1/metrics",
            { "url": "https://b:1/x%20y?n=1&m=a&m=b%2F", "name": "bee", "labels": { "rack": "" } },
            { "url": "http://c:1/metrics", "interval": "5s", "timeout": "1500ms" },
        ],
    }}});
    let long = json!({ "interval": "30s", "scrape_configs": [{
        "job_name": "node",
        "static_configs": [
            { "targets": ["a:1"], "labels": { "site": "dc1", "rack": "r1" } },
            { "targets": ["c:1"], "labels": { "site": "dc1", "rack": "r1",
                "__scrape_interval__": "5s", "__scrape_timeout__": "1s500ms" } },
        ],
    }, {
        "job_name": "other", "scheme": "https", "metrics_path": "/x y", "params": { "m": ["a", "b/"], "n": [1] },
        "static_configs": [{ "targets": ["b:1"], "labels": { "site": "dc1", "job": "node", "instance": "bee" } }],
    }]});
    let facts = |config| {
        let targets = targets(config).into_iter();
        let facts = targets
            .map(|target| (target.labels.to_string(), target.uri.to_string(), target.rhythm, target.timeout));
        facts.collect::<Vec<_>>()
    };
    let short = facts(short);
    assert_eq!(short, facts(long));
    assert_eq!(short.len(), 3);
    assert_eq!(short[2].0, r#"{instance="bee", job="node", publisher="tester", site="dc1"}"#);
    assert_eq!(short[2].1, "https://b:1/x%20y?m=a&m=b%2F&n=1");
}

#[test]
fn targets_that_are_reached_in_one_way_are_one_job() {
    let auth = json!({ "username": "u", "password": "p" });
    let found = jobs(json!({ "jobs": { "j": { "targets": [
        "http://a/", { "url": "http://b/", "basic_auth": auth }, "http://c/?x=1", "http://d/",
        { "url": "http://e/", "basic_auth": auth },
    ] } } }));
    let sizes: Vec<usize> = found
        .iter()
        .map(|job| match &job.discoveries[..] {
            [DiscoverySettings::Static(groups)] => groups.iter().map(|group| group.targets.len()).sum(),
            _ => 0,
        })
        .collect();
    assert_eq!(sizes, [2, 2, 1]);
}
