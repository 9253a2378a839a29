//! Targets that are found while the program runs: in files and from a server, followed through the
//! stream to the page at its end; and the answer about them, held against that of a real Prometheus.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::http;
use crate::support::nats::NatsServer;
use crate::support::prometheus::Prometheus;
use crate::support::server::{free_port, temp_dir};
use crate::support::targets::{Behaviour, Targets};
use crate::support::wait::{secs, wait_for, wait_until};

/// Writes a file as programs should: beside it, and then in its place.
fn replace(file: &Path, list: &Value) {
    let new = file.with_extension("new");
    std::fs::write(&new, list.to_string()).unwrap();
    std::fs::rename(&new, file).unwrap();
}

/// The scripted targets of these names, as a list of groups.
fn list(targets: &Targets, names: &[&str]) -> Value {
    let group = |name: &&str| {
        let path = format!("/{name}/metrics");
        json!({ "targets": [targets.address()], "labels": { "__metrics_path__": path, "instance": name } })
    };
    names.iter().map(group).collect()
}

/// Scrapes as `scrape_configs` says.
fn source(scrape_configs: &Value) -> Value {
    json!({ "type": "http_scrape", "interval": "1s", "timeout": "1s", "scrape_configs": scrape_configs })
}

/// What the monitor says of the targets.
async fn targets_of(url: &str) -> Value {
    let answer = http::get(&format!("{url}/api/v1/targets")).await.unwrap().json();
    assert_eq!(answer["status"], "success", "{answer}");
    answer["data"].clone()
}

#[tokio::test]
async fn targets_come_and_go_all_the_way_to_the_page() {
    let (targets, nats) = tokio::join!(Targets::start(), NatsServer::start());
    let (dir, page) = (temp_dir(), format!("127.0.0.1:{}", free_port()));
    let file = dir.path().join("targets.json");
    replace(&file, &list(&targets, &["a", "b"]));
    let serve = |names: &[&str]| {
        let served = list(&targets, names).to_string();
        targets.set("sd", Behaviour::Page("application/json", served.into()));
    };
    serve(&["c"]);
    let found = json!([
        { "job_name": "files", "file_sd_configs": [{ "files": [dir.path().join("*.json")] }] },
        { "job_name": "served", "http_sd_configs": [{ "url": targets.url("sd"), "refresh_interval": "1s" }] },
    ]);
    let stream = json!({ "name": "PROMETHEUS" });
    let mut agent = Agent::start(json!({ "identity": "site1", "pipelines": {
        "poller": {
            "source": source(&found),
            "sinks": [{
                "type": "nats", "urls": [nats.url()], "stream": stream,
                "subject": "prometheus.{publisher}.{job}.{instance}",
            }],
        },
        "receiver": {
            "source": { "type": "nats", "urls": [nats.url()], "stream": "PROMETHEUS", "durable": "receiver" },
            "sinks": [{ "type": "exposition", "listen": page }],
        },
    } }));
    let shown = async || -> Vec<String> {
        let Ok(answer) = http::get(&format!("http://{page}/metrics")).await else { return Vec::new() };
        let text = answer.text();
        let names =
            text.lines().filter_map(|line| line.strip_prefix("probe_seq{")?.split("target=\"").nth(1));
        let mut names: Vec<_> = names.filter_map(|rest| Some(rest.split('"').next()?.to_owned())).collect();
        names.sort();
        names
    };
    let until_shown = async |names: &[&str]| {
        wait_until(&format!("{names:?} to be shown"), secs(30), async || shown().await == names).await;
    };
    until_shown(&["a", "b", "c"]).await;

    // Long before the entries of the exposition sink would expire.
    replace(&file, &list(&targets, &["b", "d"]));
    until_shown(&["b", "c", "d"]).await;
    serve(&[]);
    until_shown(&["b", "d"]).await;
    std::fs::remove_file(&file).unwrap();
    until_shown(&[]).await;
    serve(&["c"]);
    until_shown(&["c"]).await;
    assert_eq!(agent.metric("prometheus_streams_poller_tombstones_total").await, 4.0);
    assert_eq!(agent.metric("prometheus_streams_poller_targets").await, 1.0);
    assert!(agent.terminate().await.success());
}

/// Where in their interval the targets of a job are scraped, in milliseconds, by their path.
async fn offsets(agent: &Agent, interval: i64) -> BTreeMap<String, i64> {
    wait_for("every target to be scraped", secs(60), async || {
        let report = targets_of(&agent.url()).await;
        let active = report["activeTargets"].as_array()?;
        let times = active.iter().map(|target| {
            let time = target["lastScrape"].as_str().filter(|time| !time.starts_with("0001"))?;
            let seconds: f64 = time.rsplit(':').next()?.trim_end_matches('Z').parse().ok()?;
            Some((target["scrapeUrl"].as_str()?.to_owned(), (seconds * 1_000.0) as i64 % interval))
        });
        times.collect::<Option<BTreeMap<_, _>>>().filter(|times| times.len() == 8)
    })
    .await
}

#[tokio::test]
async fn a_restart_keeps_the_rhythm_of_targets_that_are_found() {
    const INTERVAL: i64 = 6_000;
    let (targets, dir) = (Targets::start().await, temp_dir());
    let file = dir.path().join("targets.json");
    replace(&file, &list(&targets, &["a", "b", "c", "d", "e", "f", "g", "h"]));
    let jobs = json!([{
        "job_name": "files", "scrape_interval": "6s", "file_sd_configs": [{ "files": [file] }],
    }]);
    let page = format!("127.0.0.1:{}", free_port());
    let mut agent = Agent::start(json!({ "identity": "site1", "pipelines": { "p": {
        "source": source(&jobs), "sinks": [{ "type": "exposition", "listen": page }],
    } } }));
    agent.ready().await;
    let before = offsets(&agent, INTERVAL).await;
    agent.restart();
    agent.ready().await;
    let after = offsets(&agent, INTERVAL).await;
    for (url, offset) in before {
        // A busy machine may be late, and never early.
        let apart = (after[&url] - offset).rem_euclid(INTERVAL);
        assert!(apart.min(INTERVAL - apart) < 1_500, "{url}: {offset} and {} ms", after[&url]);
    }
}

/// What must be equal of a target: all but times, and what only one of the two can know.
fn comparable(report: &Value, kind: &str) -> Vec<Value> {
    let mut targets = report[kind].as_array().unwrap().clone();
    for target in targets.iter_mut().filter_map(Value::as_object_mut) {
        let keys: Vec<_> = target.keys().cloned().collect();
        target.insert(
            "keys".to_owned(),
            keys.into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect(),
        );
        for free in ["globalUrl", "lastScrape", "lastScrapeDuration"] {
            target.remove(free);
        }
        if let Some(error) = target.get_mut("lastError") {
            *error = json!(error != "");
        }
        // New in Prometheus 3.
        if kind == "droppedTargets" {
            target.remove("scrapePool");
            target.remove("keys");
        }
    }
    targets.sort_by_key(|target| target["discoveredLabels"].to_string());
    targets
}

#[tokio::test]
async fn the_monitor_says_of_targets_what_prometheus_says() {
    let (targets, dir) = (Targets::start().await, temp_dir());
    targets.set("down", Behaviour::Status(500));
    targets.set("sd", Behaviour::Page("application/json", list(&targets, &["c", "d"]).to_string().into()));
    let file = dir.path().join("targets.json");
    replace(&file, &list(&targets, &["a", "b"]));
    let address = targets.address();
    let jobs = json!([
        {
            "job_name": "static", "metrics_path": "/static/metrics", "params": { "q": ["a b", "&"], "empty": [] },
            "static_configs": [{ "targets": [address], "labels": { "rack": "r 1", "__internal": "x", "none": "" } }],
            "relabel_configs": [
                { "source_labels": ["__address__"], "target_label": "__param_target" },
                { "source_labels": ["rack", "job"], "target_label": "both" },
            ],
        },
        { "job_name": "down", "metrics_path": "/down/metrics", "scrape_interval": "2s", "static_configs": [{ "targets": [address] }] },
        {
            "job_name": "files", "file_sd_configs": [{ "files": [file] }],
            "relabel_configs": [
                { "source_labels": ["instance"], "regex": "b", "action": "drop" },
                { "source_labels": ["__meta_filepath"], "regex": ".*/([^/]+)", "target_label": "file" },
            ],
        },
        {
            "job_name": "served", "http_sd_configs": [{ "url": targets.url("sd") }],
            "relabel_configs": [
                { "action": "labelmap", "regex": "__meta_(.+)" },
                { "replacement": "1500ms", "target_label": "__scrape_interval__" },
            ],
        },
    ]);
    let prometheus = Prometheus::start(jobs.clone()).await;
    let page = format!("127.0.0.1:{}", free_port());
    let agent = Agent::start(json!({ "identity": "site1", "pipelines": { "p": {
        "source": source(&jobs), "sinks": [{ "type": "exposition", "listen": page }],
    } } }));
    agent.ready().await;
    let settled = async |url: &str| {
        wait_for(&format!("all targets at {url} to be scraped"), secs(60), async || {
            let report = targets_of(url).await;
            let active = report["activeTargets"].as_array()?;
            let is_settled = active.len() == 5 && active.iter().all(|target| target["health"] != "unknown");
            is_settled.then_some(report)
        })
        .await
    };
    let (theirs, ours) = (settled(&prometheus.url()).await, settled(&agent.url()).await);
    for kind in ["activeTargets", "droppedTargets"] {
        assert_eq!(comparable(&ours, kind), comparable(&theirs, kind), "{kind}");
    }
    assert_eq!(ours["droppedTargets"].as_array().unwrap().len(), 1);
    assert_eq!(ours["droppedTargetCounts"], json!({ "down": 0, "files": 1, "served": 0, "static": 0 }));
    let pools = http::get(&format!("{}/api/v1/scrape_pools", agent.url())).await.unwrap().json();
    assert_eq!(pools["data"]["scrapePools"], json!(["down", "files", "served", "static"]));
}
