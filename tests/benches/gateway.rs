//! How many targets a stock Push Gateway, with its consistency check, keeps fresh: with a push for each target
//! as whoever writes a pusher does it, with this program, and with this program and `group_by`. Then overload: ten
//! times as many pushes as the gateway can take. The page of the gateway says how old what it shows is. Takes
//! five minutes.
//!
//! `cargo bench --bench gateway`, or with another number of targets: `TARGETS=200`.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use support::agent::Agent;
use support::fleet::{self, Fleet};
use support::http;
use support::prometheus::PushGateway;
use support::usage::{cpu_seconds, memory, most_memory};
use support::wait::secs;

const TARGETS: usize = 1_000;
/// Targets of one job are one group with `group_by: []`.
const JOBS: usize = 10;
const INTERVAL: Duration = secs(15);
/// What is no older is fresh: an interval, and a third of it on the way.
const FRESH: f64 = 20.0;
const WARM_UP: Duration = secs(35);
const WINDOW: Duration = secs(30);
/// How often the page is read; every look costs the gateway as much as a scrape of it by Prometheus.
const LOOK: Duration = secs(5);
/// The targets of the overload, of 1,000 series each, scraped every second.
const LARGE: usize = 100;

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
    let count = std::env::var("TARGETS").map_or(TARGETS, |count| count.parse().expect("TARGETS is a number"));
    let fleet = Fleet::start(None).await;
    let interval = INTERVAL.as_secs();
    println!(
        "| {count} targets of {} series every {interval} s | kept fresh | age p50 | p99 | max | CPU, gateway | CPU, \
         ours | memory, gateway | memory, ours |",
        fleet::SAMPLES
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    naive(&fleet, count).await.print("a push for each target, by hand", count);
    let targets = |sink| agent(&fleet, "good", JOBS, count / JOBS, INTERVAL, sink);
    ours(targets, json!({})).await.print("this program", count);
    ours(targets, json!({ "group_by": [] })).await.print("this program, `group_by: []`", count);
    println!(
        "\n| {LARGE} targets of 1000 series every second | kept fresh | age p50 | p99 | max | CPU, gateway | CPU, \
         ours | memory, gateway | memory, ours |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let targets = |sink| agent(&fleet, "large", 1, LARGE, secs(1), sink);
    ours(targets, json!({})).await.print("this program", LARGE);
}

/// One pipeline that scrapes and pushes.
fn agent(fleet: &Fleet, kind: &str, jobs: usize, each: usize, interval: Duration, sink: Value) -> Agent {
    let job = |job: usize| {
        let targets = (job * each..(job + 1) * each)
            .map(|number| format!("http://{}/{kind}/{number}/metrics", fleet.host(number)));
        (format!("job{job}"), json!({ "targets": targets.collect::<Vec<_>>() }))
    };
    let jobs: serde_json::Map<_, _> = (0..jobs).map(job).collect();
    let source =
        json!({ "type": "http_scrape", "interval": format!("{}s", interval.as_secs()), "jobs": jobs });
    Agent::start(json!({
        "identity": "site",
        "pipelines": { "whole": { "source": source, "sinks": [sink] } },
    }))
}

async fn ours(start: impl Fn(Value) -> Agent, settings: Value) -> Figures {
    let gateway = PushGateway::start().await;
    let mut sink = json!({ "type": "push_gateway", "url": gateway.url() });
    sink.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let mut agent = start(sink);
    tokio::time::sleep(WARM_UP).await;
    let figures = watch(&gateway, Some(agent.id())).await;
    agent.kill9();
    figures
}

/// A task for each target, which fetches its page and puts it, and waits for the next time.
async fn naive(fleet: &Fleet, count: usize) -> Figures {
    let gateway = PushGateway::start().await;
    let mut pushers = JoinSet::new();
    for number in 0..count {
        let page = format!("http://{}/good/{number}/metrics", fleet.host(number));
        let group = format!("{}/metrics/job/job/instance/{number}", gateway.url());
        let offset = INTERVAL * u32::try_from(number).unwrap() / u32::try_from(count).unwrap();
        pushers.spawn(async move {
            let mut slots = tokio::time::interval_at(tokio::time::Instant::now() + offset, INTERVAL);
            slots.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                slots.tick().await;
                let Ok(answer) = http::get(&page).await else { continue };
                let stamp = format!("# TYPE {TIMESTAMP} gauge\n{TIMESTAMP} {}\n", now());
                // One that fails is what it measures.
                let _ = http::request(Method::PUT, &group, answer.text() + &stamp).await;
            }
        });
    }
    tokio::time::sleep(WARM_UP).await;
    let figures = watch(&gateway, None).await;
    pushers.shutdown().await;
    figures
}

const TIMESTAMP: &str = "scrape_timestamp_seconds";

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

struct Figures {
    /// The oldest that each target was seen.
    oldest: BTreeMap<String, f64>,
    ages: Vec<f64>,
    /// Share of a core, of the gateway and of ours.
    cpu: (f64, Option<f64>),
    memory: (u64, Option<u64>),
    /// What memory ours had when the watch began.
    memory_before: Option<u64>,
}

async fn watch(gateway: &PushGateway, ours: Option<u32>) -> Figures {
    let (began, memory_before) = (std::time::Instant::now(), ours.map(memory));
    let before = (cpu_seconds(gateway.id()), ours.map(cpu_seconds));
    let (mut oldest, mut ages) = (BTreeMap::<String, f64>::new(), Vec::new());
    while began.elapsed() < WINDOW {
        tokio::time::sleep(LOOK).await;
        let asked = now();
        // A gateway that is too busy to show its page shows nothing fresh.
        let page =
            http::get(&format!("{}/metrics", gateway.url())).await.map_or(String::new(), |page| page.text());
        let stamps = page.lines().filter_map(|line| line.strip_prefix(TIMESTAMP)?.rsplit_once(' '));
        for (labels, time) in stamps.filter(|(labels, _)| labels.starts_with('{')) {
            let age = (asked - time.parse::<f64>().expect("a time")).max(0.0);
            let seen = oldest.entry(labels.to_owned()).or_default();
            *seen = seen.max(age);
            ages.push(age);
        }
    }
    ages.sort_by(f64::total_cmp);
    let share = |before: f64, after: f64| 100.0 * (after - before) / began.elapsed().as_secs_f64();
    Figures {
        oldest,
        ages,
        cpu: (
            share(before.0, cpu_seconds(gateway.id())),
            ours.zip(before.1).map(|(pid, before)| share(before, cpu_seconds(pid))),
        ),
        memory: (memory(gateway.id()), ours.map(most_memory)),
        memory_before,
    }
}

impl Figures {
    fn print(&self, name: &str, count: usize) {
        let at = |share: f64| {
            let index = (self.ages.len() as f64 * share) as usize;
            self.ages.get(index.min(self.ages.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
        };
        let fresh = self.oldest.values().filter(|age| **age <= FRESH).count();
        let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20));
        let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
        println!(
            "| {name} | {fresh} of {count} | {p50:.1} s | {p99:.1} s | {max:.1} s | {:.0} % | {} | {} | {} |",
            self.cpu.0,
            self.cpu.1.map_or(String::new(), |share| format!("{share:.0} %")),
            mib(self.memory.0),
            self.memory.1.map_or(String::new(), mib),
        );
        if let (Some(before), Some(after)) = (self.memory_before, self.memory.1) {
            eprintln!("{name}: memory before the window {}, at most {}", mib(before), mib(after));
        }
    }
}
