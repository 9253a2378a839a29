//! 200 hostile targets beside 800 good ones for a minute: bodies without end, a byte a second, gzip bombs, a
//! million labels, redirects in circles, floods of headers, stalls in TLS, resets. Are the good ones on time,
//! does each hostile one end at its timeout, and how much memory does it take? The scrapes are read back from the
//! stream, where each says for which slot it was, when it began and how long it took.
//!
//! `cargo bench --bench hostile`

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus_streams_core::event::Event;
use prometheus_streams_plugins::support::scrape;
use serde_json::json;

use support::agent::Agent;
use support::configs;
use support::fleet::{self, Fleet, HOSTILE};
use support::nats::NatsServer;
use support::oracle::acknowledged;
use support::usage::{cpu_seconds, most_memory};
use support::wait::secs;

const GOOD: usize = 800;
const OF_EACH_KIND: usize = 25;
const INTERVAL: Duration = secs(5);
const TIMEOUT: Duration = secs(2);
const WINDOW: Duration = secs(60);
/// Memory may not pass this.
const MEMORY_LIMIT: u64 = 256 << 20;
/// A scrape that ends this much after its timeout has not ended at its timeout.
const MARGIN: Duration = secs(1);

#[tokio::main]
async fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("serve") => fleet::serve(&arguments[2]).await,
        // What cargo passes; without it this is a test run, which has nothing to do here.
        _ if arguments.iter().any(|argument| argument == "--bench") => measure().await,
        _ => {}
    }
}

async fn measure() {
    let (fleet, nats) = tokio::join!(Fleet::start(None), NatsServer::start());
    let good = (0..GOOD).map(|n| format!("http://{}/good/{n}/metrics", fleet.host(n)));
    let mut jobs = serde_json::Map::new();
    jobs.insert("good".to_owned(), json!({ "targets": good.collect::<Vec<_>>() }));
    for (index, kind) in HOSTILE.iter().enumerate() {
        let scheme = if *kind == "tls_stall" { "https" } else { "http" };
        let first = GOOD + index * OF_EACH_KIND;
        let targets =
            (first..first + OF_EACH_KIND).map(|n| format!("{scheme}://{}/{kind}/{n}/metrics", fleet.host(n)));
        jobs.insert((*kind).to_owned(), json!({ "targets": targets.collect::<Vec<_>>() }));
    }
    let mut config = configs::poller(&nats.url(), json!(jobs));
    let source = &mut config["pipelines"]["poller"]["source"];
    source["interval"] = json!(format!("{}s", INTERVAL.as_secs()));
    source["timeout"] = json!(format!("{}s", TIMEOUT.as_secs()));
    let mut agent = Agent::start(config);
    agent.ready().await;
    let cpu = cpu_seconds(agent.id());
    tokio::time::sleep(WINDOW).await;
    let (cpu, memory) = (cpu_seconds(agent.id()) - cpu, most_memory(agent.id()));
    assert!(agent.terminate().await.success());

    let mut jobs: BTreeMap<String, Job> = BTreeMap::new();
    for event in acknowledged(&nats).await {
        jobs.entry(scrape::label(&event.labels, scrape::JOB).to_owned()).or_default().add(&event);
    }
    println!(
        "| {} s, every {} s | targets | scrapes | up | skipped | latest begin | longest |",
        WINDOW.as_secs(),
        INTERVAL.as_secs()
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (name, job) in &jobs {
        println!(
            "| {name} | {} | {} | {} | {} | {} ms | {:.2} s |",
            job.sequences.len(),
            job.scrapes,
            job.up,
            job.skipped(),
            job.latest.as_millis(),
            job.longest.as_secs_f64()
        );
    }
    println!(
        "memory, at most: {:.0} MiB; CPU: {:.0} % of a core",
        memory as f64 / f64::from(1 << 20),
        100.0 * cpu / WINDOW.as_secs_f64()
    );

    let good = jobs.remove("good").expect("the good targets");
    assert_eq!(good.sequences.len(), GOOD);
    assert_eq!((good.up, good.skipped()), (good.scrapes, 0), "good targets were missed");
    assert_eq!(jobs.len(), HOSTILE.len());
    for (name, job) in jobs {
        assert_eq!(job.sequences.len(), OF_EACH_KIND, "{name}");
        // A million empty labels are a scrape like any other to Prometheus, and to us where memory is left for it.
        assert!(job.up == 0 || name == "labels", "{name} was up");
        assert!(job.longest < TIMEOUT + MARGIN, "{name} took {:?}", job.longest);
    }
    assert!(memory < MEMORY_LIMIT, "{} MiB in use", memory >> 20);
}

/// What was seen of the targets of one job.
#[derive(Default)]
struct Job {
    scrapes: u64,
    up: u64,
    /// The first and the last number of a scrape, by target.
    sequences: BTreeMap<String, (u64, u64)>,
    /// How long after its slot began the latest scrape began.
    latest: Duration,
    longest: Duration,
}

impl Job {
    fn add(&mut self, event: &Event) {
        let number = |name| scrape::number(&event.attributes, name).expect("a number");
        let sequence = number(scrape::SEQUENCE);
        let instance = scrape::label(&event.labels, scrape::INSTANCE).to_owned();
        self.sequences.entry(instance).or_insert((sequence, sequence)).1 = sequence;
        self.scrapes += 1;
        self.up += u64::from(scrape::is_up(event));
        let late = scrape::unix_millis(event.timestamp).saturating_sub(number(scrape::SLOT));
        self.latest = self.latest.max(Duration::from_millis(late));
        self.longest = self.longest.max(scrape::duration(&event.attributes).expect("a duration"));
    }

    /// Slots between the first and the last scrape of a target that had no scrape.
    fn skipped(&self) -> u64 {
        let slots: u64 = self.sequences.values().map(|(first, last)| last - first + 1).sum();
        slots - self.scrapes
    }
}
