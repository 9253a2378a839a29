//! The whole program against what a user would run instead, measured in one go on one machine: each
//! scrapes targets every second, whose bodies are a real node_exporter scrape, and sends on what it
//! got; ours into a real nats-server, the others by remote write. Prints a table in Markdown.
//!
//! `vmagent` (Debian: victoria-metrics) is measured where it is on the PATH, or where `VMAGENT` says.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use support::agent::Agent;
use support::configs;
use support::http;
use support::nats::NatsServer;
use support::process::program;
use support::server::{Ready, Server, temp_dir};
use support::usage::{cpu_seconds, memory};
use support::wait::{secs, wait_until};

const BODY: &[u8] = include_bytes!("../data/node_exporter.txt");
/// Samples in [`BODY`].
const SAMPLES: u64 = 507;
/// How many targets are scraped every second: a site, and as many as keep two cores busy.
const LOADS: [usize; 2] = [500, 1500];
/// How long each program is watched, after it has scraped every target a few times.
const WINDOW: Duration = secs(20);
const WARM_UP: u64 = 5;
/// Whoever takes more than this part of the machine for itself leaves too little to those it talks to.
const BUSY: f64 = 0.6;

#[tokio::main]
async fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("serve") => serve(&arguments[2]).await,
        // What cargo passes; without it this is a test run, which has nothing to do here.
        _ if arguments.iter().any(|argument| argument == "--bench") => {
            for targets in LOADS {
                compare(targets).await;
            }
        }
        _ => {}
    }
}

async fn compare(targets: usize) {
    let mut rows = vec![("prometheus-streams", ours(targets).await)];
    rows.push(("Prometheus agent", peer("prometheus", targets, prometheus_agent).await));
    match vmagent() {
        Some(file) => rows.push((
            "vmagent",
            peer("vmagent", targets, move |dir, port, to| vmagent_command(&file, dir, port, to)).await,
        )),
        None => {
            eprintln!("vmagent was not measured: it is not on the PATH, and VMAGENT does not say where it is")
        }
    }
    println!(
        "| scraping {targets} targets every second | samples per CPU second | memory | bytes per sample sent |"
    );
    println!("| --- | ---: | ---: | ---: |");
    for (name, figures) in rows {
        println!(
            "| {name} | {:.2} M | {:.0} MB | {} |",
            figures.samples_per_cpu_second / 1e6,
            figures.memory / 1e6,
            figures.bytes_per_sample.map_or("does not keep up".to_owned(), |bytes| format!("{bytes:.1}"))
        );
    }
}

struct Figures {
    samples_per_cpu_second: f64,
    /// Bytes of resident memory.
    memory: f64,
    /// Unknown of a program that does not keep up: what it sends is not what it scrapes.
    bytes_per_sample: Option<f64>,
}

/// The targets, in a process of their own, which also takes and discards remote writes.
struct Far(Server);

impl Far {
    async fn start() -> Self {
        let this = std::env::current_exe().expect("find this program");
        let server = Server::start("targets", Ready::Http("/-/ready"), temp_dir(), move |port, _| {
            let mut command = Command::new(&this);
            command.args(["serve", &port.to_string()]);
            command
        });
        Self(server.await)
    }

    /// Scrapes served, and bytes of remote writes taken, so far.
    async fn counts(&self) -> (u64, u64) {
        let counts = http::get(&format!("{}/counts", self.0.url())).await.expect("ask for the counts").json();
        (counts[0].as_u64().expect("a count"), counts[1].as_u64().expect("a count"))
    }

    /// Watches the process `pid` while it scrapes; the third figure is bytes of remote writes.
    async fn watch(&self, pid: u32, targets: usize) -> (u64, f64, u64, f64) {
        wait_until("the first scrapes", secs(60), async || self.counts().await.0 >= WARM_UP * targets as u64)
            .await;
        let ((scrapes, written), cpu) = (self.counts().await, cpu_seconds(pid));
        tokio::time::sleep(WINDOW).await;
        let ((scrapes_after, written_after), cpu_after) = (self.counts().await, cpu_seconds(pid));
        (scrapes_after - scrapes, cpu_after - cpu, written_after - written, memory(pid) as f64)
    }
}

async fn ours(count: usize) -> Figures {
    let (far, nats) = tokio::join!(Far::start(), NatsServer::start());
    let targets: Vec<_> = (0..count)
        .map(|number| json!({ "name": format!("t{number}"), "url": format!("{}/t/{number}/metrics", far.0.url()) }))
        .collect();
    let poller = Agent::start(configs::poller(&nats.url(), json!({ "node": { "targets": targets } })));
    let (scrapes, cpu, _, memory) = far.watch(poller.id(), count).await;
    let jetstream = nats.jetstream().await;
    let mut stream = jetstream.get_stream(configs::STREAM).await.expect("find the stream");
    let state = &stream.info().await.expect("ask for the state of the stream").state;
    Figures {
        samples_per_cpu_second: (scrapes * SAMPLES) as f64 / cpu,
        memory,
        bytes_per_sample: Some(state.bytes as f64 / (state.messages * SAMPLES) as f64),
    }
}

/// Measures a program that is started with a directory, a port of its own and where to send to.
async fn peer(
    name: &'static str,
    targets: usize,
    start: impl Fn(&Path, u16, &str) -> Command + Send + Sync + 'static,
) -> Figures {
    let far = Far::start().await;
    let (address, url) = (far.0.address(), far.0.url());
    let server = Server::start(name, Ready::Tcp, temp_dir(), move |port, dir| {
        std::fs::write(dir.join("scrape.yml"), scrape_config(&address, targets).to_string())
            .expect("write scrape.yml");
        start(dir, port, &format!("{url}/write"))
    });
    let (scrapes, cpu, written, memory) = far.watch(server.await.id(), targets).await;
    let samples = (scrapes * SAMPLES) as f64;
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let keeps_up = cpu < BUSY * cores * WINDOW.as_secs_f64();
    let bytes_per_sample = keeps_up.then_some(written as f64 / samples);
    Figures { samples_per_cpu_second: samples / cpu, memory, bytes_per_sample }
}

fn scrape_config(address: &str, count: usize) -> Value {
    let targets: Vec<_> = (0..count)
        .map(|number| {
            let labels = json!({
                "__metrics_path__": format!("/t/{number}/metrics"), "instance": format!("t{number}"),
            });
            json!({ "targets": [address], "labels": labels })
        })
        .collect();
    json!({
        "global": { "scrape_interval": "1s", "scrape_timeout": "1s" },
        "scrape_configs": [{ "job_name": "node", "static_configs": targets }],
    })
}

fn prometheus_agent(dir: &Path, port: u16, to: &str) -> Command {
    let file = dir.join("scrape.yml");
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(&file).expect("read scrape.yml")).expect("JSON");
    config["remote_write"] = json!([{ "url": to }]);
    std::fs::write(&file, config.to_string()).expect("write scrape.yml");
    let mut command = Command::new(program("prometheus", "prometheus"));
    command
        .args(["--enable-feature=agent", "--log.level=warn"])
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.agent.path={}", dir.join("wal").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"));
    command
}

fn vmagent() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = std::env::var_os("VMAGENT").map(PathBuf::from);
    named
        .into_iter()
        .chain(std::env::split_paths(&path).map(|dir| dir.join("vmagent")))
        .find(|file| file.is_file())
}

fn vmagent_command(file: &Path, dir: &Path, port: u16, to: &str) -> Command {
    let mut command = Command::new(file);
    command
        .arg(format!("-promscrape.config={}", dir.join("scrape.yml").display()))
        .arg(format!("-remoteWrite.tmpDataPath={}", dir.join("queue").display()))
        .arg(format!("-remoteWrite.url={to}"))
        .arg(format!("-httpListenAddr=127.0.0.1:{port}"));
    command
}

#[derive(Default)]
struct Counts {
    scrapes: AtomicU64,
    written: AtomicU64,
}

/// Serves the targets until it is killed.
async fn serve(port: &str) {
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await.expect("bind the targets");
    let counts = Arc::new(Counts::default());
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let counts = Arc::clone(&counts);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, &counts));
            // An error is a client that went away.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>, counts: &Counts) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    let body = if path.starts_with("/t/") {
        counts.scrapes.fetch_add(1, Ordering::Relaxed);
        Bytes::from_static(BODY)
    } else if path == "/counts" {
        let counts = [&counts.scrapes, &counts.written].map(|count| count.load(Ordering::Relaxed));
        json!(counts).to_string().into()
    } else if path == "/write" {
        let size = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
        counts.written.fetch_add(size as u64, Ordering::Relaxed);
        Bytes::new()
    } else {
        Bytes::new()
    };
    let response =
        Response::builder().header(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    Ok(response.body(Full::new(body)).expect("build a response"))
}
