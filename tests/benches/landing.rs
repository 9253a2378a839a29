//! Where scrapes land: what each last hop costs for the same scrapes, whose bodies are a real node_exporter scrape,
//! beside what a user would run instead. Ours reads them from a real nats-server. Prints tables in Markdown.
//!
//! Each way of landing is a function that returns rows of its table; a further one goes beside [`exposition`].

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use hyper::Method;
use prometheus_streams_core::event::Event;
use prometheus_streams_core::stage::{Sink, SinkConfig};
use prometheus_streams_core::testing::context;
use prometheus_streams_plugins::sinks::nats::NatsSinkConfig;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use support::agent::Agent;
use support::configs::STREAM;
use support::http;
use support::nats::NatsServer;
use support::prometheus::PushGateway;
use support::server::{Ready, Server, free_port, temp_dir};
use support::sinkhole::{self, SINKHOLE, Sinkhole};
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
    let arguments: Vec<_> = std::env::args().collect();
    match &arguments[1..] {
        [first, port] if first == SINKHOLE => sinkhole::serve(port).await,
        // What cargo passes; without it this is a test run, which has nothing to do here.
        all if all.iter().any(|argument| argument == "--bench") => {
            println!("| landing scrapes of {SAMPLES} samples | samples per CPU second | memory |");
            println!("| --- | ---: | ---: |");
            let pages = exposition().await;
            push_gateway().await;
            for (version, message) in
                [("2.0", "io.prometheus.write.v2.Request"), ("1.0", "prometheus.WriteRequest")]
            {
                remote_write(version, message).await;
            }
            vmagent().await;
            println!("\n{pages}");
        }
        _ => {}
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

/// The sink `remote_write`, into a receiver that discards.
async fn remote_write(version: &str, message: &str) {
    let (targets, nats, far) = (targets(), NatsServer::start().await, Sinkhole::start().await);
    let publisher = publisher(&nats);
    let agent = Agent::start(json!({ "pipelines": { "receiver": {
        "source": { "type": "nats", "urls": [nats.url()], "stream": STREAM, "durable": "receiver" },
        "sinks": [{ "type": "remote_write", "url": far.url(), "protobuf_message": message }],
    } } }));
    let (mut cost, mut bytes) = (0.0, 0);
    for round in 0..ROUNDS {
        let before = (cpu_seconds(agent.id()), far.written().await);
        publish(&*publisher, targets, round).await;
        let delivered = async || delivered(&agent).await >= (targets * (round + 1)) as f64;
        wait_until("all scrapes to land", secs(120), delivered).await;
        (cost, bytes) = (cpu_seconds(agent.id()) - before.0, far.written().await - before.1);
    }
    row(&format!("remote_write {version}"), targets, cost, bytes, memory(agent.id()));
}

/// vmagent, which is given the same scrapes as text, and writes them into the same receiver.
async fn vmagent() {
    let Some(program) = find("vmagent") else {
        return eprintln!("vmagent was not measured: it is not on the PATH (Debian: victoria-metrics)");
    };
    let (targets, far) = (targets(), Sinkhole::start().await);
    let url = far.url();
    let agent = Server::start("vmagent", Ready::Http("/health"), temp_dir(), move |port, dir| {
        let mut command = Command::new(&program);
        command
            .arg(format!("-remoteWrite.tmpDataPath={}", dir.join("queue").display()))
            .arg(format!("-remoteWrite.url={url}"))
            .arg(format!("-httpListenAddr=127.0.0.1:{port}"));
        command
    });
    let agent = agent.await;
    let (mut cost, mut bytes) = (0.0, 0);
    for _ in 0..ROUNDS {
        let before = (cpu_seconds(agent.id()), far.written().await);
        let send = async |target: usize| {
            let labels = format!("extra_label=job=node&extra_label=instance=t{target}.example.net:9100");
            let url =
                format!("{}/api/v1/import/prometheus?{labels}&extra_label=publisher=site1", agent.url());
            let answer = http::request(Method::POST, &url, BODY).await.expect("give vmagent a scrape");
            assert_eq!(answer.status, 204, "{}", answer.text());
        };
        let all: Vec<_> = (0..targets).collect();
        for some in all.chunks(AT_ONCE) {
            join_all(some.iter().map(|target| send(*target))).await;
        }
        let mut last = 0;
        // It says nowhere when it has written all that it was given.
        wait_until("vmagent to have written all", secs(120), async || {
            tokio::time::sleep(secs(2)).await;
            let written = far.written().await;
            written == std::mem::replace(&mut last, written)
        })
        .await;
        (cost, bytes) = (cpu_seconds(agent.id()) - before.0, far.written().await - before.1);
    }
    row("vmagent", targets, cost, bytes, memory(agent.id()));
}

fn row(what: &str, targets: usize, cost: f64, bytes: u64, memory: u64) {
    let samples = (targets * SAMPLES) as f64;
    println!(
        "| {what}, {targets} targets, {:.1} bytes a sample | {:.2} M | {:.0} MB |",
        bytes as f64 / samples,
        samples / cost / 1e6,
        memory as f64 / 1e6
    );
}

/// A program on the PATH.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
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
