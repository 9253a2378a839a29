//! From a job at a site to a Prometheus at the centre, which reads what it would have read from a Push Gateway.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};

use super::series;
use crate::support::agent::Agent;
use crate::support::configs::STREAM;
use crate::support::http;
use crate::support::nats::NatsServer;
use crate::support::prometheus::{Prometheus, PushGateway};
use crate::support::server::{free_port, temp_dir};
use crate::support::stored::{difference, stored};
use crate::support::wait::{secs, wait_until};

/// An agent that is pushed to on `port`, keeps groups in `dir`, and publishes into the broker at `nats`.
fn site(nats: &str, port: u16, dir: &Path) -> Value {
    json!({
        "identity": "site1",
        "pipelines": { "push": {
            "source": {
                "type": "push",
                "listen": format!("127.0.0.1:{port}"),
                "interval": "1s",
                "persistence": { "path": dir },
            },
            "sinks": [{
                "type": "nats",
                "urls": [nats],
                "stream": { "name": STREAM },
                "subject": "prometheus.{publisher}.{job}.{instance}",
                "delivery": { "timeout": "1s", "retry": { "max_elapsed_time": "1s" } },
            }],
        } },
    })
}

/// An agent that lands what comes in a gateway and on a page of its own.
fn centre(nats: &str, gateway: &str, page: u16) -> Value {
    json!({
        "identity": "centre",
        "pipelines": { "receiver": {
            "source": { "type": "nats", "urls": [nats], "stream": STREAM, "durable": "receiver" },
            "sinks": [
                { "type": "push_gateway", "url": gateway },
                { "type": "exposition", "listen": format!("127.0.0.1:{page}") },
            ],
        } },
    })
}

async fn push(method: Method, base: &str, group: &str, body: &str) -> u16 {
    let url = format!("{base}/metrics/{group}");
    http::request(method, &url, body.to_owned()).await.map_or(0, |answer| answer.status)
}

/// Pushes until it is answered with success.
async fn push_until_done(base: &str, group: &str, body: &str) {
    wait_until("a push to be taken", secs(30), async || push(Method::PUT, base, group, body).await == 200)
        .await;
}

const PUSHES: &[(Method, &str, &str)] = &[
    (
        Method::PUT,
        "job/batch_backup/instance/db1",
        "# HELP backup_bytes Written.\n# TYPE backup_bytes gauge\nbackup_bytes{disk=\"a\"} 1.5e9\nbackup_bytes{disk=\"\"} 2\n\
         # TYPE backup_seconds histogram\nbackup_seconds_bucket{le=\"1\"} 3\nbackup_seconds_bucket{le=\"+Inf\"} 4\n\
         backup_seconds_sum 6.5\nbackup_seconds_count 4\nup 1\n",
    ),
    (
        Method::POST,
        "job/batch_backup/instance/db1",
        "# TYPE backup_errors_total counter\nbackup_errors_total 3\n",
    ),
    (
        Method::PUT,
        "job/batch_report",
        "report_rows{instance=\"own\",job=\"theirs\"} 7\nreport_rows 8\n# TYPE report_s summary\nreport_s_sum 1\n",
    ),
    (Method::PUT, "job@base64/YmF0Y2gvc2xhc2g/zone@base64/w6Q", "x NaN\n"),
    (Method::PUT, "job/batch_gone", "gone 1\n"),
    (Method::PUT, "job/batch_odd", "report_rows 1\n# TYPE odd gauge\nodd{a=\"1\"} 1\nodd{a=\"2\"} -Inf\n"),
    (Method::PUT, "job/batch_odd", "report_rows 2\n# TYPE odd gauge\nodd{a=\"2\"} -Inf\n"),
    (Method::PUT, "job/batch_refused", "# TYPE odd counter\nodd 1\n"),
    (Method::DELETE, "job/batch_gone", ""),
];

/// What a Prometheus has of the jobs, without who published it; of when it was pushed only whether it was.
async fn of_jobs(prometheus: &Prometheus) -> BTreeMap<String, String> {
    let mut found = stored(prometheus, "{job=~\"batch.*|theirs\"}", &["publisher"]).await.series;
    for (name, value) in &mut found {
        if name.starts_with("push_time") || name.starts_with("push_failure_time") {
            *value = (value != "0").to_string();
        }
    }
    found
}

#[tokio::test]
async fn prometheus_reads_at_the_centre_what_it_would_read_from_a_gateway() {
    let (nats, stock, landed) = tokio::join!(NatsServer::start(), PushGateway::start(), PushGateway::start());
    let (dir, port, page) = (temp_dir(), free_port(), free_port());
    let site = Agent::start(site(&nats.url(), port, dir.path()));
    let _centre = Agent::start(centre(&nats.url(), &landed.url(), page));
    site.ready().await;
    let base = format!("http://127.0.0.1:{port}");
    for (method, group, body) in PUSHES {
        let theirs = push(method.clone(), &stock.url(), group, body).await;
        assert_eq!(push(method.clone(), &base, group, body).await, theirs, "{method} {group}");
    }
    let page = format!("127.0.0.1:{page}");
    let [stock, landed] = [stock.address(), landed.address()];
    let (direct, by_gateway, by_page) =
        tokio::join!(Prometheus::reading(&stock), Prometheus::reading(&landed), Prometheus::reading(&page));
    direct.wait_for("push_time_seconds{job='batch_odd'}", secs(20)).await;
    let expected = of_jobs(&direct).await;
    assert!(expected.len() > 20, "{expected:?}");
    for (way, prometheus) in [("page", &by_page), ("gateway", &by_gateway)] {
        let mut differences = vec!["nothing".to_owned()];
        let start = Instant::now();
        while !differences.is_empty() {
            assert!(start.elapsed() < secs(30), "by the {way}:\n{}", differences.join("\n"));
            tokio::time::sleep(Duration::from_millis(100)).await;
            let (mut expected, mut found) = (expected.clone(), of_jobs(prometheus).await);
            if way == "gateway" {
                // A gateway tells of its own pushes; ours into it was not refused.
                let is_own =
                    |name: &str| name.starts_with("push_time") || name.starts_with("push_failure_time");
                expected.retain(|name, _| !is_own(name));
                found.retain(|name, _| !is_own(name));
            }
            differences = difference(&expected, &found);
        }
    }
    // On the page the time of a push is that at the site, to the last digit.
    let times = |page: &str| {
        let mut times = BTreeMap::new();
        for (name, value) in series(page.as_bytes()).into_iter().filter(|(name, _)| name.starts_with("push_"))
        {
            times.insert(name.replace(", publisher=\"site1\"", ""), value);
        }
        times
    };
    let at_site = times(&http::page(&format!("{base}/metrics")).await);
    assert_eq!(times(&http::page(&format!("http://{page}/metrics")).await), at_site);
    assert_eq!(at_site.len(), 10);
}

#[tokio::test]
async fn a_kill_after_the_answer_loses_nothing_and_a_broker_that_is_away_is_said_so() {
    let (mut nats, gateway) = tokio::join!(NatsServer::start(), PushGateway::start());
    let (dir, port, page) = (temp_dir(), free_port(), free_port());
    let mut agent = Agent::start(site(&nats.url(), port, dir.path()));
    agent.ready().await;
    let base = format!("http://127.0.0.1:{port}");
    for number in 0..10 {
        push_until_done(&base, &format!("job/kill{number}"), "x 1\n").await;
        agent.kill9();
        agent.restart();
    }
    push_until_done(&base, "job/before", "x 1\n").await;
    let held = http::page(&format!("{base}/metrics")).await;
    assert!((0..10).all(|number| held.contains(&format!("job=\"kill{number}\""))), "{held}");
    nats.kill9();
    assert_eq!(push(Method::PUT, &base, "job/away", "x 1\n").await, 503);
    assert!(!http::page(&format!("{base}/metrics")).await.contains("away"));
    nats.restart().await;
    push_until_done(&base, "job/away", "x 2\n").await;
    agent.kill9();

    let _centre = Agent::start(centre(&nats.url(), &gateway.url(), page));
    wait_until("all to have landed", secs(30), async || {
        let found = http::get(&format!("http://127.0.0.1:{page}/metrics")).await;
        let found = series(found.map(|answer| answer.body).unwrap_or_default().as_ref());
        let has = |job: &str, value: &str| {
            found
                .get(&format!("x{{instance=\"\", job=\"{job}\", publisher=\"site1\"}}"))
                .is_some_and(|found| found == value)
        };
        (0..10).all(|number| has(&format!("kill{number}"), "1")) && has("before", "1") && has("away", "2")
    })
    .await;
}
