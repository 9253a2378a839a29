//! Side by side with a real Prometheus: both scrape the same targets by the same `scrape_configs`, real
//! exporters and servers and targets that are awkward on purpose. What one has stored directly must be what
//! others have stored of what went through our whole pipeline, from the page of all targets and from the virtual targets:
//! the same series, labels, values and types, also once a scrape fails and a target is gone.

mod awkward;
mod landing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::configs::STREAM;
use crate::support::exporters;
use crate::support::freezer::Freezer;
use crate::support::nats::NatsServer;
use crate::support::prometheus::Prometheus;
use crate::support::server::{free_port, temp_dir};
use crate::support::stored::{Stored, difference, stored};
use crate::support::targets::{Behaviour, Targets};
use crate::support::wait::{secs, wait_until};

/// Every series of the jobs of these tests, but those that tell when a scrape was and how long it took.
const EVERYTHING: &str = "{job!~\"|streams\",__name__!~\"scrape_(duration|timestamp)_seconds\"}";
/// The same without what whoever scrapes counts for itself: a virtual target is scraped after it was relabelled.
const EXPOSED: &str = "{job!~\"|streams|virtual\",__name__!~\"scrape_.*\"}";
/// A job of targets that come and go.
const LEAVING: &str = "leaving";
/// As much of a difference as anybody reads.
const MOST_LINES: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_centre_has_what_a_prometheus_at_the_site_would_have() {
    let (exporters, targets, nats) =
        tokio::join!(exporters::start_all(), Targets::start(), NatsServer::start());
    assert!(exporters.len() >= 12);
    let behind = exporters.iter().map(|exporter| (exporter.name.to_owned(), exporter.address()));
    let freezer = Freezer::start(behind.collect()).await;
    awkward::set_all(&targets);
    let names: Vec<_> = exporters.iter().map(|exporter| exporter.name).collect();
    let configs = scrape_configs(&freezer.address(), &names, &targets.address());

    let list = temp_dir();
    let list = list.path().join("leaving.json");
    leave_out(&list, &targets, &[]);
    let mut configs = configs;
    let leaving =
        json!({ "job_name": LEAVING, "file_sd_configs": [{ "files": [list], "refresh_interval": "1s" }] });
    configs.as_array_mut().expect("a list of jobs").push(leaving);

    let page = format!("127.0.0.1:{}", free_port());
    let mut poller = Agent::start(poller(&nats.url(), &configs));
    let mut receiver = Agent::start(receiver(&nats.url(), &page));
    let (site, centre, each) = tokio::join!(
        Prometheus::start(configs),
        Prometheus::reading(&page),
        Prometheus::start(Prometheus::discovering(&page))
    );

    let series = assert_alike(&site, &centre, &each).await;
    println!("{series} series of {} targets are equal", names.len() + awkward::names().len());
    assert!(series > 3_000, "only {series} series were compared");
    for name in names {
        assert_negotiated_alike(&freezer, name).await;
    }

    // A scrape that fails, and a target that is no more: their series end everywhere.
    targets.set("types", Behaviour::Status(500));
    leave_out(&list, &targets, &["summary"]);
    let ended = "t_gauge{job='awkward'} or s_sum{job='leaving'}";
    for server in [&site, &centre, &each] {
        let is_gone = async || server.query(ended).await.is_empty();
        wait_until("the series of what ended to end", secs(60), is_gone).await;
    }
    assert_alike(&site, &centre, &each).await;
    assert!(poller.terminate().await.success());
    assert!(receiver.terminate().await.success());
}

/// Writes the list of targets of the job that loses some.
fn leave_out(list: &Path, targets: &Targets, without: &[&str]) {
    let names: Vec<_> = ["summary", "histogram"].into_iter().filter(|name| !without.contains(name)).collect();
    let groups = paths(&targets.address(), &names).to_string();
    // Renamed into its place, so that nobody reads half of it.
    let next = list.with_extension("next");
    std::fs::write(&next, groups).expect("write a list of targets");
    std::fs::rename(next, list).expect("replace a list of targets");
}

/// The page of all targets, and each target by itself, give a Prometheus what it would have got at the site.
/// How many series that are.
async fn assert_alike(site: &Prometheus, centre: &Prometheus, each: &Prometheus) -> usize {
    let (page, virtually) =
        tokio::join!(lasting_difference(site, centre, EVERYTHING), lasting_difference(site, each, EXPOSED));
    for (what, lines) in [("the page", &page.0), ("the virtual targets", &virtually.0)] {
        let shown = lines[..lines.len().min(MOST_LINES)].join("\n");
        assert!(lines.is_empty(), "{what} give the centre something else than the site has:\n{shown}");
    }
    page.1
}

/// The difference between two servers once it no longer changes, or when it is nothing; and how many series
/// were compared.
async fn lasting_difference(site: &Prometheus, centre: &Prometheus, selector: &str) -> (Vec<String>, usize) {
    let start = Instant::now();
    loop {
        let expected = stored(site, selector, &[]).await;
        let found = stored(centre, selector, &["publisher"]).await;
        let mut lines = difference(&expected.series, &found.series);
        lines.extend(difference(&types(&expected), &types(&found)));
        // The first scrapes of some targets come late, and of all others there are several by then.
        let settled = !expected.series.is_empty() && lines.is_empty();
        if settled || start.elapsed() > secs(60) {
            return (lines, expected.series.len());
        }
        tokio::time::sleep(secs(1)).await;
    }
}

/// The types of the metrics that have series, by the name of the series, as far as text format 0.0.4 can
/// tell them: OpenMetrics' counters are called by their `_total`, and what it has and text has not is a gauge or
/// untyped, as in the rules for what goes into a Push Gateway.
fn types(stored: &Stored) -> BTreeMap<String, BTreeSet<String>> {
    let names: BTreeSet<_> = stored.series.keys().filter_map(|series| series.split('{').next()).collect();
    // Prometheus has no type for what it says of a scrape itself.
    let names = names.into_iter().filter(|name| *name != "up" && !name.starts_with("scrape_"));
    names.map(|name| (name.to_owned(), type_of(name, &stored.types))).collect()
}

fn type_of(name: &str, types: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    const SUFFIXES: [&str; 8] =
        ["_bucket", "_sum", "_count", "_total", "_created", "_info", "_gsum", "_gcount"];
    let of_family = || {
        SUFFIXES.iter().find_map(|suffix| {
            let kinds = types.get(name.strip_suffix(suffix)?)?;
            Some((*suffix, kinds))
        })
    };
    let (suffix, kinds) = match types.get(name) {
        Some(kinds) => ("", kinds),
        None => of_family().unwrap_or(("", const { &BTreeSet::new() })),
    };
    let in_text = |kind: &String| match (kind.as_str(), suffix) {
        (_, "_created") | ("info" | "stateset", _) => "gauge".to_owned(),
        ("gaugehistogram", _) | ("unknown", _) => "unknown".to_owned(),
        (kind, _) => kind.to_owned(),
    };
    let found: BTreeSet<_> = kinds.iter().map(in_text).collect();
    if found.is_empty() { ["unknown".to_owned()].into() } else { found }
}

/// An exporter answers every scraper in the same format.
async fn assert_negotiated_alike(freezer: &Freezer, name: &str) {
    let mut formats = BTreeSet::new();
    for accept in freezer.accepts() {
        formats.insert(freezer.negotiated(name, &accept).await);
    }
    assert_eq!(formats.len(), 1, "{name} answers in {formats:?}, asked with {:?}", freezer.accepts());
}

fn poller(nats: &str, scrape_configs: &Value) -> Value {
    let source = json!({
        "type": "http_scrape", "interval": "1s", "timeout": "1s", "scrape_configs": scrape_configs,
    });
    let sink = json!({
        "type": "nats", "urls": [nats], "stream": { "name": STREAM },
        "subject": "prometheus.{publisher}.{job}.{instance}",
    });
    json!({ "identity": "site1", "pipelines": { "poller": { "source": source, "sinks": [sink] } } })
}

fn receiver(nats: &str, page: &str) -> Value {
    json!({ "pipelines": { "receiver": {
        "source": { "type": "nats", "urls": [nats], "stream": STREAM, "durable": "receiver" },
        "transforms": [{ "type": "age_filter", "max_age": "5m" }],
        "sinks": [{ "type": "exposition", "listen": page }],
    } } })
}

/// Targets of one address that differ by their path, which is their instance too.
fn paths(address: &str, names: &[&str]) -> Value {
    let target = |name: &&str| {
        let labels = json!({ "__metrics_path__": format!("/{name}/metrics"), "instance": name });
        json!({ "targets": [address], "labels": labels })
    };
    names.iter().map(target).collect()
}

/// Jobs that between them use what a scrape configuration can do to a scrape.
fn scrape_configs(exporters: &str, names: &[&str], awkward: &str) -> Value {
    let all = awkward::names();
    json!([
        { "job_name": "exporters", "static_configs": paths(exporters, names) },
        { "job_name": "awkward", "static_configs": paths(awkward, &all) },
        { "job_name": "honoured", "honor_labels": true, "static_configs": paths(awkward, &["own_labels", "collisions", "empty_labels"]) },
        { "job_name": "without_timestamps", "honor_timestamps": false, "static_configs": paths(awkward, &["timestamps", "openmetrics_timestamps"]) },
        { "job_name": "few_samples", "sample_limit": 3, "static_configs": paths(awkward, &["types", "summary", "empty", "escapes"]) },
        { "job_name": "few_labels", "label_limit": 4, "static_configs": paths(awkward, &["types", "own_labels", "escapes"]) },
        { "job_name": "short_names", "label_name_length_limit": 8, "static_configs": paths(awkward, &["types", "own_labels"]) },
        { "job_name": "short_values", "label_value_length_limit": 12, "static_configs": paths(awkward, &["types", "escapes", "summary"]) },
        { "job_name": "small", "body_size_limit": "60B", "static_configs": paths(awkward, &["types", "empty_labels"]) },
        { "job_name": "crowded", "target_limit": 1, "static_configs": paths(awkward, &["types", "summary"]) },
        {
            "job_name": "relabelled",
            "params": { "collect[]": ["a", "b c"] },
            "relabel_configs": [
                { "source_labels": ["__metrics_path__"], "regex": "/(.*)/metrics", "target_label": "page", "replacement": "${1}!" },
                { "source_labels": ["instance"], "modulus": 7, "target_label": "shard", "action": "hashmod" },
                { "source_labels": ["instance"], "target_label": "loud", "action": "uppercase" },
                { "regex": "__param_(.+)", "replacement": "p_x", "action": "labelmap" },
                { "source_labels": ["instance"], "regex": "summary|types|histogram|numbers", "action": "keep" },
                { "source_labels": ["instance"], "regex": "num.*", "action": "drop" },
                { "source_labels": ["__address__", "job"], "separator": "@", "regex": "(.+):[0-9]+@(.*)", "target_label": "instance", "replacement": "$2-on-$1-$page" },
                { "source_labels": ["page"], "target_label": "instance" },
            ],
            "static_configs": paths(awkward, &all),
        },
        {
            "job_name": "metrics_relabelled",
            "metric_relabel_configs": [
                { "source_labels": ["__name__"], "regex": "h_sum|t_nothing", "action": "drop" },
                { "source_labels": ["__name__", "le"], "regex": "h_bucket;0.5", "action": "drop" },
                { "source_labels": ["__name__"], "regex": "t_(.*)", "target_label": "__name__", "replacement": "renamed_$1" },
                { "source_labels": ["quantile"], "regex": "0.5", "target_label": "middle", "replacement": "yes" },
                { "source_labels": ["instance"], "regex": "own_labels", "target_label": "instance", "replacement": "changed" },
                { "source_labels": ["__name__"], "regex": "uni", "target_label": "job", "replacement": "another" },
                { "regex": "emoji|c", "action": "labeldrop" },
                { "source_labels": ["a"], "target_label": "a", "action": "uppercase" },
            ],
            "static_configs": paths(awkward, &["types", "histogram", "summary", "own_labels", "unicode", "escapes", "openmetrics", "loose"]),
        },
        {
            "job_name": "labels_kept",
            "metric_relabel_configs": [{ "regex": "__name__|job|a|b", "action": "labelkeep" }],
            "static_configs": paths(awkward, &["own_labels"]),
        },
        {
            "job_name": "exporters_relabelled",
            "metric_relabel_configs": [
                { "source_labels": ["__name__"], "regex": "go_.*|promhttp_.*", "action": "drop" },
                { "source_labels": ["__name__"], "regex": "(node|haproxy|etcd)_(.+)", "target_label": "subsystem" },
            ],
            "static_configs": paths(exporters, names),
        },
    ])
}
