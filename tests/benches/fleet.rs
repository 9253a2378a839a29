//! 10,000 targets of 100 series each, every one on a host of its own, every 60 s, scraped and published by
//! one process on one core: is one missed, are the offsets uniform, are they the same after a restart, and
//! how much memory does it take? The targets themselves say when they were asked. Takes six minutes.
//!
//! `cargo bench --bench fleet`, or with another number of targets: `FLEET=2000`.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::json;

use support::agent::Agent;
use support::configs;
use support::fleet::{self, Fleet};
use support::nats::NatsServer;
use support::usage::{cpu_seconds, most_memory};
use support::wait::{secs, wait_until};

const TARGETS: usize = 10_000;
const INTERVAL: u64 = 60;
/// How many intervals are watched.
const ROUNDS: u64 = 2;
/// Memory may not pass this.
const MEMORY_LIMIT: u64 = 300 << 20;
/// The core of the poller, and that of all others.
const POLLER_CPU: &str = "1";
const OTHERS_CPU: &str = "0";

#[tokio::main(flavor = "current_thread")]
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
    let count = std::env::var("FLEET").map_or(TARGETS, |count| count.parse().expect("FLEET is a number"));
    let (fleet, nats) = tokio::join!(Fleet::start(Some(OTHERS_CPU)), NatsServer::start());
    pin(nats.id(), OTHERS_CPU);
    let targets: Vec<_> = (0..count).map(|number| fleet.host(number)).collect();
    let mut config = configs::poller(&nats.url(), json!({}));
    config["pipelines"]["poller"]["source"] = json!({
        "type": "http_scrape",
        "scrape_configs": [{
            "job_name": "fleet",
            "scrape_interval": format!("{INTERVAL}s"),
            "metrics_path": "/good/metrics",
            "relabel_configs": [{ "source_labels": ["__address__"], "regex": "(.*):.*", "target_label": "__metrics_path__", "replacement": "/good/$1" }],
            "static_configs": [{ "targets": targets }],
        }],
    });
    let mut agent = Agent::start(config);
    pin(agent.id(), POLLER_CPU);

    let (before, cpu) = watch(&fleet, count, agent.id()).await;
    let memory = most_memory(agent.id());
    let cpu_share = 100.0 * cpu / (ROUNDS * INTERVAL) as f64;
    agent.restart();
    pin(agent.id(), POLLER_CPU);
    let (after, _) = watch(&fleet, count, agent.id()).await;
    let moved = offsets(&before).iter().zip(offsets(&after)).map(|(a, b)| distance(*a, b)).max().unwrap_or(0);
    let (fewest, most) = spread(&before);

    println!("| {count} targets of {} series every {INTERVAL} s, one core | |", fleet::SAMPLES);
    println!("| --- | ---: |");
    println!("| scrapes missed in {} | {} |", 2 * ROUNDS as usize * count, missed(&before) + missed(&after));
    println!(
        "| scrapes begun in a second: fewest, mean, most | {fewest}, {}, {most} |",
        count as u64 / INTERVAL
    );
    println!("| the offset that moved most by a restart | {moved} ms |");
    println!("| CPU | {cpu_share:.1} % of a core |");
    println!("| memory, at most | {:.0} MiB |", memory as f64 / f64::from(1 << 20));
    assert_eq!(missed(&before) + missed(&after), 0, "scrapes were missed");
    assert!(memory < MEMORY_LIMIT, "{} MiB in use", memory >> 20);
}

/// When each target was asked, in the rounds after every one was asked once, and the CPU seconds that it took.
async fn watch(fleet: &Fleet, count: usize, pid: u32) -> (BTreeMap<String, Vec<u64>>, f64) {
    fleet.forget().await;
    let all = async || fleet.times().await.len() >= count;
    wait_until("every target to be asked once", secs(2 * INTERVAL), all).await;
    fleet.forget().await;
    let cpu = cpu_seconds(pid);
    tokio::time::sleep(secs(ROUNDS * INTERVAL)).await;
    (fleet.times().await, cpu_seconds(pid) - cpu)
}

/// Scrapes that should have been there, and were not.
fn missed(times: &BTreeMap<String, Vec<u64>>) -> usize {
    times.values().map(|times| (ROUNDS as usize).saturating_sub(times.len())).sum()
}

/// Where in the interval each target is asked, in milliseconds.
fn offsets(times: &BTreeMap<String, Vec<u64>>) -> Vec<u64> {
    times.values().map(|times| times[0] % (INTERVAL * 1000)).collect()
}

/// Milliseconds between two offsets, the shorter way round.
fn distance(a: u64, b: u64) -> u64 {
    a.abs_diff(b).min(INTERVAL * 1000 - a.abs_diff(b))
}

/// The fewest and the most targets with their offset in one second of the interval.
fn spread(times: &BTreeMap<String, Vec<u64>>) -> (u64, u64) {
    let mut seconds = vec![0; INTERVAL as usize];
    for offset in offsets(times) {
        seconds[(offset / 1000) as usize] += 1;
    }
    (seconds.iter().copied().min().unwrap_or(0), seconds.iter().copied().max().unwrap_or(0))
}

/// Keeps all threads of a process on one core.
fn pin(pid: u32, cpu: &str) {
    let status = Command::new("taskset").args(["-a", "-c", "-p", cpu, &pid.to_string()]).output();
    assert!(status.expect("run taskset").status.success(), "cannot pin process {pid} to core {cpu}");
}
