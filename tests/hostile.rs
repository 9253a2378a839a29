//! Targets that answer with errors, pages for people, nothing, for ever or far too much: each is down, says
//! why, and costs the good ones nothing.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::oracle::landed;
use crate::support::prometheus::{PushGateway, sample};
use crate::support::targets::{Behaviour, Targets};
use crate::support::usage::most_memory;
use crate::support::wait::{secs, wait_until};

/// As much as the program may use while it is fed 2 GB at a time.
const MEMORY_LIMIT: u64 = 256 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_targets_are_down_and_good_ones_do_not_notice() {
    let (gateway, targets) = tokio::join!(PushGateway::start(), Targets::start());
    // What each does, and what is said of it.
    let bad = [
        ("missing", Behaviour::Status(404), "status 404"),
        ("broken", Behaviour::Status(500), "status 500"),
        ("html", Behaviour::Html, "text/html"),
        ("forever", Behaviour::Forever, "timed out"),
        ("hang", Behaviour::Hang, "timed out"),
        ("huge", Behaviour::Huge(2 << 30), "body_size_limit exceeded (limit: 10MiB)"),
        ("bomb", Behaviour::bomb(100), "body_size_limit exceeded (limit: 10MiB)"),
    ];
    for (name, behaviour, _) in &bad {
        targets.set(name, behaviour.clone());
    }
    targets.set("empty", Behaviour::Empty);
    let closed = closed_port();
    let mut all: Vec<_> =
        bad.iter().map(|(name, ..)| json!({ "name": name, "url": targets.url(name) })).collect();
    all.push(json!({ "name": "closed", "url": format!("http://{closed}/metrics") }));
    all.extend(["empty", "good"].map(|name| json!({ "name": name, "url": targets.url(name) })));
    let mut agent = Agent::start(json!({
        "identity": "site1",
        "pipelines": { "direct": {
            "source": {
                "type": "http_scrape",
                "interval": "1s",
                "timeout": "900ms",
                "body_size_limit": "10MiB",
                "jobs": { "probes": { "targets": all } },
            },
            "sinks": [{ "type": "push_gateway", "url": gateway.url() }],
        } },
    }));

    let up = async |name: &str| {
        sample(
            &gateway.metrics().await,
            &format!("up{{instance=\"{name}\",job=\"probes\",publisher=\"site1\"}}"),
        )
    };
    let said = bad.iter().map(|(name, _, said)| (*name, *said)).chain([("closed", "connection refused")]);
    for (name, said) in said {
        wait_until(&format!("up 0 of {name}"), secs(20), async || up(name).await == Some(0.0)).await;
        let tells = |line: &Value| {
            let error = line["error"].as_str().filter(|_| line["instance"] == name);
            error.filter(|error| error.contains(said)).map(drop)
        };
        agent.wait_for_log(&format!("{said:?} of {name}"), tells).await;
    }
    wait_until("up 1 of empty", secs(20), async || up("empty").await == Some(1.0)).await;
    let good = async || landed(&gateway).await.get("good").copied().unwrap_or_default();
    let seen = good().await;
    wait_until("the good target to go on", secs(20), async || good().await > seen + 2).await;

    let memory = most_memory(agent.id());
    assert!(memory < MEMORY_LIMIT, "{} MiB in use", memory >> 20);
    assert!(agent.terminate().await.success());
}

/// An address where nobody listens.
fn closed_port() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
