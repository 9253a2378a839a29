//! Where scrapes land: what each last hop costs for the same scrapes, whose bodies are a real node_exporter scrape,
//! beside what a user would run instead. Ours reads them from a real nats-server. Prints tables in Markdown.
//!
//! Each way of landing is a function that returns rows of its table; a further one goes beside [`exposition`].

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use prometheus_streams_core::event::Event;
use prometheus_streams_core::stage::{Sink, SinkConfig};
use prometheus_streams_core::testing::context;
use prometheus_streams_plugins::sinks::nats::NatsSinkConfig;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use support::agent::Agent;
use support::configs::STREAM;
use support::nats::NatsServer;
use support::prometheus::PushGateway;
use support::server::free_port;
use support::usage::{cpu_seconds, memory, most_memory};
use support::wait::{secs, wait_until};

const BODY: &str = include_str!("../data/node_exporter.txt");
/// Samples in [`BODY`].
const SAMPLES: usize = 507;
/// Targets whose scrapes land in a sink of ours, unless `TARGETS` says another number.
const TARGETS: usize = 4000;
/// How often each target is scraped.
const ROUNDS: usize = 3;
/// A gateway checks all that it holds at every push, so it gets fewer.
const GATEWAY_TARGETS: usize = 100;
/// How often each page is read.
const READS: usize = 5;
/// Messages on their way to the broker at once.
const AT_ONCE: usize = 64;

#[tokio::main]
async fn main() {
    // What cargo passes; without it this is a test run, which has nothing to do here.
    if std::env::args().any(|argument| argument == "--bench") {
        println!("| landing scrapes of {SAMPLES} samples | samples per CPU second | memory |");
        println!("| --- | ---: | ---: |");
        let pages = exposition().await;
        push_gateway().await;
        println!("\n{pages}");
    }
}

fn targets() -> usize {
    std::env::var("TARGETS").ok().and_then(|count| count.parse().ok()).unwrap_or(TARGETS)
}

/// The sink `exposition`: what it costs to take scrapes, and then to serve them, as a table of its own.
async fn exposition() -> String {
    let (targets, nats) = (targets(), NatsServer::start().await);
    let publisher = publisher(&nats);
    let page = format!("127.0.0.1:{}", free_port());
    let agent = Agent::start(json!({ "pipelines": { "receiver": {
        "source": { "type": "nats", "urls": [nats.url()], "stream": STREAM, "durable": "receiver" },
        "sinks": [{ "type": "exposition", "listen": page, "expire_after": "1h" }],
    } } }));
    let mut costs = Vec::new();
    for round in 0..ROUNDS {
        let before = cpu_seconds(agent.id());
        publish(&*publisher, targets, round).await;
        let delivered = async || delivered(&agent).await >= (targets * (round + 1)) as f64;
        wait_until("all scrapes to land", secs(120), delivered).await;
        costs.push(cpu_seconds(agent.id()) - before);
    }
    let samples = (targets * SAMPLES) as f64;
    let [first, .., last] = costs.as_slice() else { return String::new() };
    let memory = memory(agent.id()) as f64 / 1e6;
    for (what, cost) in [("the first of each", first), ("the next of each", last)] {
        println!(
            "| exposition, {targets} targets, {what} | {:.2} M | {memory:.0} MB |",
            samples / cost / 1e6
        );
    }
    let mut table = format!(
        "| a page of {targets} targets | size | reading it | CPU of the sink | memory at most |\n| --- | ---: | ---: | ---: | ---: |\n"
    );
    for (name, headers) in [
        ("text", "accept: text/plain\r\n"),
        ("OpenMetrics", "accept: application/openmetrics-text;version=1.0.0\r\n"),
        ("text, gzip", "accept: text/plain\r\naccept-encoding: gzip\r\n"),
        ("text, zstd", "accept: text/plain\r\naccept-encoding: zstd\r\n"),
    ] {
        // The first reader of a format waits until it is ready.
        read(&page, headers).await;
        let (cpu, start) = (cpu_seconds(agent.id()), Instant::now());
        let mut size = 0;
        for _ in 0..READS {
            size = read(&page, headers).await;
        }
        let seconds = start.elapsed().as_secs_f64() / READS as f64;
        let cpu = (cpu_seconds(agent.id()) - cpu) / READS as f64;
        let most = most_memory(agent.id()) as f64 / 1e6;
        let speed = size as f64 / seconds / 1e9;
        table += &format!(
            "| {name} | {:.0} MB | {:.2} s ({speed:.2} GB/s) | {cpu:.2} s | {most:.0} MB |\n",
            size as f64 / 1e6,
            seconds
        );
    }
    table
}

/// A real Push Gateway that is given the same scrapes.
async fn push_gateway() {
    let gateway = PushGateway::start().await;
    let mut costs = Vec::new();
    for _ in 0..2 {
        let before = cpu_seconds(gateway.id());
        for target in 0..GATEWAY_TARGETS {
            let answer = gateway.put(&format!("job/node/instance/t{target}"), BODY).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        costs.push(cpu_seconds(gateway.id()) - before);
    }
    let samples = (GATEWAY_TARGETS * SAMPLES) as f64;
    let memory = memory(gateway.id()) as f64 / 1e6;
    for (what, cost) in ["the first of each", "the next of each"].into_iter().zip(costs) {
        println!(
            "| Push Gateway, {GATEWAY_TARGETS} targets, {what} | {:.2} M | {memory:.0} MB |",
            samples / cost / 1e6
        );
    }
}

fn publisher(nats: &NatsServer) -> Box<dyn Sink> {
    let settings = json!({
        "urls": [nats.url()], "stream": { "name": STREAM }, "subject": "prometheus.{publisher}.{job}.{instance}",
    });
    let config: NatsSinkConfig = serde_json::from_value(settings).expect("settings of a sink");
    config.build(&context("nats")).expect("build a sink")
}

/// Publishes one scrape of every target.
async fn publish(publisher: &dyn Sink, targets: usize, round: usize) {
    let send = async |target: usize| {
        let mut event = Event::new(SystemTime::now(), BODY);
        let instance = format!("t{target}.example.net:9100");
        event.labels =
            [("job", "node"), ("instance", &instance), ("publisher", "site1")].into_iter().collect();
        event.attributes.insert("slot", format!("{round}000"));
        event.attributes.insert("interval", "60000");
        while publisher.send(event.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let all: Vec<_> = (0..targets).collect();
    for some in all.chunks(AT_ONCE) {
        join_all(some.iter().map(|target| send(*target))).await;
    }
}

async fn delivered(agent: &Agent) -> f64 {
    agent.metric_where("prometheus_streams_sink_outcomes_total", "outcome=\"delivered\"").await
}

/// Reads a page and throws it away; how many bytes it has.
async fn read(address: &str, headers: &str) -> u64 {
    let mut stream = TcpStream::connect(address).await.expect("connect");
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.expect("ask for the page");
    let (mut size, mut buffer) = (0, vec![0; 1 << 18]);
    loop {
        match stream.read(&mut buffer).await.expect("read the page") {
            0 => return size,
            read => size += read as u64,
        }
    }
}
