//! Pushes a second into the source `push` and into a real Push Gateway, each of which holds 1,000 groups of 100 series: how
//! many are answered, one job after the other and from eight at once, and what memory that takes. The source
//! publishes into a real nats-server and answers when that has confirmed. Takes a minute or two.
//!
//! `cargo bench --bench push`, or with another number of groups: `GROUPS=100`.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;

use support::agent::Agent;
use support::configs::STREAM;
use support::nats::NatsServer;
use support::prometheus::PushGateway;
use support::server::free_port;
use support::usage::most_memory;

const GROUPS: usize = 1_000;
const SERIES: usize = 100;
/// Samples of a push that is measured.
const SAMPLES: usize = 10;
const JOBS: usize = 8;
const MEASURED: Duration = Duration::from_secs(10);

type Pusher = Client<HttpConnector, Full<Bytes>>;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // What cargo passes; without it this is a test run, which has nothing to do here.
    if std::env::args().any(|argument| argument == "--bench") {
        measure().await;
    }
}

async fn measure() {
    let groups = std::env::var("GROUPS").map_or(GROUPS, |count| count.parse().expect("GROUPS is a number"));
    let (nats, gateway) = tokio::join!(NatsServer::start(), PushGateway::start());
    let port = free_port();
    let agent = Agent::start(json!({ "pipelines": { "push": {
        "source": { "type": "push", "listen": format!("127.0.0.1:{port}") },
        "sinks": [{ "type": "nats", "urls": [nats.url()], "stream": { "name": STREAM }, "subject": "prometheus.{job}" }],
    } } }));
    agent.ready().await;
    println!(
        "| {groups} groups of {SERIES} series | pushes a second, one job | {JOBS} jobs | memory at most |"
    );
    println!("| --- | ---: | ---: | ---: |");
    let base = format!("http://127.0.0.1:{port}");
    for (name, base, process) in
        [("source push", base, agent.id()), ("Push Gateway 1.5.1", gateway.url(), gateway.id())]
    {
        let client = Client::builder(TokioExecutor::new()).build_http();
        for group in 0..groups {
            assert_eq!(push(&client, &base, &format!("fill{group}"), SERIES, 1).await, 200, "{name}");
        }
        let one = rate(&client, &base, 1).await;
        let many = rate(&client, &base, JOBS).await;
        println!("| {name} | {one:.0} | {many:.0} | {} MB |", most_memory(process) / 1_000_000);
    }
}

/// Pushes that are answered in a second, with so many jobs at it.
async fn rate(client: &Pusher, base: &str, jobs: usize) -> f64 {
    let start = Instant::now();
    let pushed = join_all((0..jobs).map(|job| async move {
        let (group, mut pushed) = (format!("measured{job}"), 0);
        while start.elapsed() < MEASURED {
            assert_eq!(push(client, base, &group, SAMPLES, pushed).await, 200);
            pushed += 1;
        }
        pushed
    }))
    .await;
    pushed.iter().sum::<usize>() as f64 / start.elapsed().as_secs_f64()
}

async fn push(client: &Pusher, base: &str, group: &str, samples: usize, value: usize) -> u16 {
    let body: String = (0..samples).map(|n| format!("metric_{n}{{label=\"value\"}} {value}\n")).collect();
    let uri = format!("{base}/metrics/job/{group}/instance/db1");
    let request = Request::put(uri).body(Full::new(body.into())).expect("a request");
    client.request(request).await.expect("an answer").status().as_u16()
}
