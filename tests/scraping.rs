//! What becomes of scrapes on their way through one program, seen from a Prometheus at its end: relabelling and
//! honoured labels, and the end of a target.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::http;
use crate::support::prometheus::{Prometheus, PushGateway};
use crate::support::server::{free_port, temp_dir};
use crate::support::stored::{difference, stored};
use crate::support::targets::{Behaviour, Targets};
use crate::support::wait::{secs, wait_for, wait_until};

const PAGE: &str = "\
# HELP requests_total Requests.
# TYPE requests_total counter
requests_total{code=\"200\",job=\"theirs\"} 7
requests_total{code=\"500\",instance=\"\"} 1
# TYPE h histogram
h_bucket{le=\"0.5\"} 1
h_bucket{le=\"+Inf\"} 2
h_sum 3
h_count 2
go_threads 9
twice 1
twice 2
";

/// `scrape_configs` through a stream in a file onto the page of an exposition sink.
fn through_us(scrape_configs: &Value, page: &str) -> Value {
    json!({ "identity": "site1", "pipelines": {
        "poller": {
            "source": {
                "type": "http_scrape", "interval": "1s", "timeout": "1s", "scrape_configs": scrape_configs,
            },
            "sinks": [{ "type": "local_stream", "path": "stream" }],
        },
        "receiver": {
            "source": { "type": "local_stream", "path": "stream" },
            "sinks": [{ "type": "exposition", "listen": page }],
        },
    } })
}

#[tokio::test]
async fn relabelled_and_honoured_series_arrive_as_prometheus_has_them() {
    let targets = Targets::start().await;
    let text = "text/plain; version=0.0.4";
    targets.set("a", Behaviour::Page(text, PAGE.into()));
    let statics = json!([{
        "targets": [targets.address()], "labels": { "__metrics_path__": "/a/metrics", "instance": "a" },
    }]);
    let rules = json!([
        { "source_labels": ["__name__"], "regex": "go_.*|h_sum", "action": "drop" },
        { "source_labels": ["code"], "regex": "5..", "target_label": "failed", "replacement": "yes" },
        { "source_labels": ["code"], "regex": "2..", "target_label": "instance", "replacement": "moved" },
        { "regex": "exported_job", "action": "labeldrop" },
    ]);
    let configs = json!([
        { "job_name": "plain", "static_configs": statics },
        { "job_name": "honoured", "honor_labels": true, "static_configs": statics },
        { "job_name": "relabelled", "static_configs": statics, "metric_relabel_configs": rules },
        { "job_name": "both", "honor_labels": true, "static_configs": statics, "metric_relabel_configs": rules },
        { "job_name": "bare", "static_configs": statics, "metric_relabel_configs": [
            { "regex": "instance|job", "action": "labeldrop" },
            { "source_labels": ["__name__"], "regex": "twice", "action": "keep" },
        ] },
    ]);
    let page = format!("127.0.0.1:{}", free_port());
    let _agent = Agent::start(through_us(&configs, &page));
    let (site, centre) = tokio::join!(Prometheus::start(configs), Prometheus::reading(&page));

    let everything = "{__name__=~\".+\",job!=\"streams\",__name__!~\"scrape_(duration|timestamp)_seconds\"}";
    let mut lines = Vec::new();
    let equal = wait_for("two Prometheus servers to have stored the same", secs(60), async || {
        let expected = stored(&site, everything, &[]).await.series;
        let found = stored(&centre, everything, &["publisher"]).await.series;
        lines = difference(&expected, &found);
        // Beside what is on the page come five series on each scrape.
        (lines.is_empty() && expected.len() > 40).then_some(expected.len())
    });
    let equal = tokio::time::timeout(secs(45), equal).await;
    assert!(equal.is_ok(), "the centre has not what the site has:\n{}", lines.join("\n"));
}

fn found(file: &Path, targets: &[String]) {
    std::fs::write(file, json!([{ "targets": targets }]).to_string()).expect("write the targets");
}

#[tokio::test]
async fn a_target_that_is_no_longer_found_leaves_the_page_and_the_gateway() {
    let (dir, targets, gateway) = (temp_dir(), Targets::start().await, PushGateway::start().await);
    let file = dir.path().join("targets.json");
    // One server under two names.
    let both = [targets.address(), targets.address().replace("127.0.0.1", "localhost")];
    found(&file, &both);
    let configs = json!([{
        "job_name": "found", "metrics_path": "/a/metrics", "file_sd_configs": [{ "files": [file] }],
    }]);
    let page = format!("127.0.0.1:{}", free_port());
    let mut config = through_us(&configs, &page);
    let sink = json!({ "type": "push_gateway", "url": gateway.url() });
    config["pipelines"]["receiver"]["sinks"].as_array_mut().expect("sinks").push(sink);
    let _agent = Agent::start(config);
    let up = |page: &str| page.lines().filter(|line| line.starts_with("up{")).count();
    let url = format!("http://{page}/metrics");
    let shown = async || match http::get(&url).await {
        Ok(answer) => (up(&answer.text()), up(&gateway.metrics().await)),
        Err(_) => (0, 0),
    };
    wait_until("both targets to be everywhere", secs(30), async || shown().await == (2, 2)).await;
    found(&file, &both[..1]);
    wait_until("one of them to be gone", secs(30), async || shown().await == (1, 1)).await;
    found(&file, &both);
    wait_until("it to be back", secs(30), async || shown().await == (2, 2)).await;
}
