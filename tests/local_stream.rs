//! A `local_stream` whose program is killed again and again, in the middle of writing and reading: what
//! the sink confirmed is delivered, and in order. The program is this one, which the test starts anew.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use prometheus_streams_core::delivery::{Delivery, Outcome};
use prometheus_streams_core::event::Event;
use prometheus_streams_core::stage::{Sink, SinkConfig, SourceConfig};
use prometheus_streams_core::testing::{context, pipe};
use prometheus_streams_plugins::sinks::local_stream::LocalStreamSinkConfig;
use prometheus_streams_plugins::sources::local_stream::LocalStreamSourceConfig;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::server::temp_dir;

const KILLS: u64 = 10;
const THINGS: u64 = 16;
/// Numbers that one life of the program may use.
const LIFE: u64 = 1_000_000;

/// What the lives of the program said: `a` is an event that the sink confirmed, `d` one that the source delivered.
#[derive(Default)]
struct Said {
    confirmed: BTreeSet<u64>,
    delivered: Vec<u64>,
}

impl Said {
    /// Reads what a life says, and kills it as soon as it has said `lines` lines.
    fn listen(&mut self, mut child: Child, lines: u64) {
        let output = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut left = lines;
        // What is in the pipe when the program is killed was said before, so it counts.
        for line in output {
            match line.split_once(' ').map(|(what, number)| (what, number.parse().ok())) {
                Some(("a", Some(number))) => drop(self.confirmed.insert(number)),
                Some(("d", Some(number))) => self.delivered.push(number),
                _ => continue,
            }
            left = left.saturating_sub(1);
            if left == 0 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
    }

    fn missing(&self) -> Vec<u64> {
        let delivered: BTreeSet<_> = self.delivered.iter().copied().collect();
        self.confirmed.difference(&delivered).copied().collect()
    }
}

fn start(dir: &std::path::Path, life: u64, writes: bool) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "local_stream::a_life", "--ignored", "--nocapture", "--test-threads=1"])
        .env("STREAM", dir)
        .env("LIFE", life.to_string())
        .env("WRITES", writes.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn what_was_confirmed_is_delivered_in_order_however_often_it_is_killed() {
    let (dir, mut said) = (temp_dir(), Said::default());
    for life in 0..KILLS {
        // Early, in the first write, and late, in the middle of many.
        said.listen(start(dir.path(), life, true), 1 + life * 150);
    }
    assert!(said.confirmed.len() > 500, "only {} were confirmed", said.confirmed.len());
    let kept = said.confirmed.iter().max().copied().unwrap();
    let (mut last, mut rounds) = (start(dir.path(), KILLS, false), 0);
    // The last life only reads; it says `d` of each that was left, and then waits to be killed.
    while !said.missing().is_empty() && rounds < KILLS {
        let left = said.missing().len() as u64;
        said.listen(last, left);
        rounds += 1;
        last = start(dir.path(), KILLS + rounds, false);
    }
    last.kill().unwrap();
    last.wait().unwrap();
    assert_eq!(said.missing(), Vec::<u64>::new(), "confirmed up to {kept}, and never delivered");

    let (mut seen, mut order) = (BTreeSet::new(), BTreeMap::<u64, Vec<u64>>::new());
    for number in said.delivered.into_iter().filter(|number| seen.insert(*number)) {
        order.entry(number % THINGS).or_default().push(number);
    }
    assert!(order.values().all(|numbers| numbers.is_sorted()), "{order:?}");
}

/// One life of the program, which ends when it is killed. Started by the test above.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by the test of kills"]
async fn a_life() {
    let Some(dir) = std::env::var_os("STREAM").map(PathBuf::from) else { return };
    // The harness has left its line open.
    say(format_args!(""));
    let setting = |name: &str| std::env::var(name).unwrap();
    let cx = context("local_stream");
    let config = json!({ "path": dir, "redelivery_delay": "5ms" });
    let source: LocalStreamSourceConfig = serde_json::from_value(config).unwrap();
    let (out, mut inlet) = pipe(64);
    let running = tokio::spawn(source.build(&cx).unwrap().run(out, CancellationToken::new()));
    if setting("WRITES") == "true" {
        let config = json!({ "path": dir, "max_size": "64MiB" });
        let config: LocalStreamSinkConfig = serde_json::from_value(config).unwrap();
        let sink: Arc<dyn Sink> = config.build(&cx).unwrap().into();
        let life = setting("LIFE").parse::<u64>().unwrap();
        for thing in 0..THINGS {
            tokio::spawn(write(Arc::clone(&sink), thing, life));
        }
    }
    let (mut answers, mut failed) = (0u64, BTreeMap::new());
    while let Some(Delivery { event, acker }) = inlet.next().await {
        let number: u64 = std::str::from_utf8(&event.body[..16]).unwrap().trim().parse().unwrap();
        answers += 1;
        // One in seven fails, so that there is something to send again, and with it what is behind it.
        let first = *failed.entry(number % THINGS).or_insert(number);
        if first != number || answers.is_multiple_of(7) {
            acker.finish(Outcome::failed("a test"));
        } else {
            failed.remove(&(number % THINGS));
            say(format_args!("d {number}"));
            acker.finish(Outcome::Delivered);
        }
    }
    running.await.unwrap().unwrap();
}

/// Writes the numbers of one thing in order, each when the one before is confirmed.
async fn write(sink: Arc<dyn Sink>, thing: u64, life: u64) {
    for count in 0.. {
        let number = life * LIFE + count * THINGS + thing;
        let mut event = Event::new(SystemTime::now(), format!("{number:16}{}", "x".repeat(2_000)));
        event.labels.insert("instance", thing.to_string());
        sink.send(event).await.unwrap();
        say(format_args!("a {number}"));
    }
}

/// Says a line in one piece.
fn say(line: std::fmt::Arguments<'_>) {
    static OUT: Mutex<()> = Mutex::new(());
    let _turn = OUT.lock().unwrap();
    std::io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}
