//! The order of a backlog: strict, and fresh first, through failures, kills and outages.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::process::Stdio;

use async_nats::jetstream::consumer::PullConsumer;
use prometheus_streams_core::testing::until;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::*;
use crate::support::nats::NatsServer;

const BACKFILL: &str = "receiver-backfill";
const THINGS: usize = 6;
const AFTER: Duration = Duration::from_millis(500);

/// What was delivered, in the order in which it was.
#[derive(Default)]
struct Record(Vec<(usize, u64)>);

impl Record {
    /// The numbers of every thing, each where it came first.
    fn first(&self) -> BTreeMap<usize, Vec<u64>> {
        let (mut seen, mut order) = (BTreeSet::new(), BTreeMap::<_, Vec<_>>::new());
        for (thing, number) in self.0.iter().filter(|event| seen.insert(**event)) {
            order.entry(*thing).or_default().push(*number);
        }
        order
    }

    fn repeated(&self) -> usize {
        self.0.len() - self.0.iter().collect::<BTreeSet<_>>().len()
    }

    #[track_caller]
    fn assert_ordered(&self) {
        for (thing, numbers) in self.first() {
            let wrong = numbers.windows(2).find(|pair| pair[0] > pair[1]);
            assert_eq!(wrong, None, "of thing {thing} the later one came first: {numbers:?}");
        }
    }

    fn has_all(
        &self,
        things: impl IntoIterator<Item = usize>,
        numbers: std::ops::RangeInclusive<u64>,
    ) -> bool {
        let seen: BTreeSet<_> = self.0.iter().copied().collect();
        things.into_iter().all(|thing| numbers.clone().all(|number| seen.contains(&(thing, number))))
    }
}

async fn publish(sink: &dyn Sink, things: usize, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        futures_util::future::join_all((0..things).map(|thing| deliver(sink, event(thing, number)))).await;
    }
}

/// Waits until all that the stream holds is of the past.
async fn grow_old(server: &NatsServer) {
    let mut stream = server.jetstream().await.get_stream(STREAM).await.unwrap();
    let last = stream.info().await.unwrap().state.last_timestamp;
    let old = async || {
        let now = now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i128;
        now - last.unix_timestamp_nanos() > 2 * AFTER.as_nanos() as i128
    };
    wait_until("the backlog to be old", secs(10), old).await;
}

async fn exists(jetstream: &jetstream::Context, consumer: &str) -> bool {
    let found: Result<PullConsumer, _> = jetstream.get_consumer_from_stream(consumer, STREAM).await;
    found.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_sends_nothing_behind_a_failed_event_before_that_has_landed() {
    let server = NatsServer::start().await;
    let sink = sink(&server.url(), json!({}));
    publish(&*sink, THINGS, 1..=12).await;
    let mut reader = Reader::start_with(source(&server.url(), json!({})), 16, Backlog::Strict);
    let (mut landed, mut failed) = (Record::default(), BTreeSet::new());
    while !landed.has_all(0..THINGS, 1..=12) {
        let Delivery { event, acker } = reader.next().await;
        let (thing, number) = identify(&event);
        // Every fourth fails at first; a later one that came meanwhile would land before it.
        if number % 4 == 0 && failed.insert((thing, number)) {
            acker.finish(Outcome::failed("a test"));
        } else {
            landed.0.push((thing, number));
            acker.finish(Outcome::Delivered);
        }
    }
    landed.assert_ordered();
    assert_eq!((landed.repeated(), failed.len()), (0, 3 * THINGS));
    let jetstream = server.jetstream().await;
    reader.settle(&jetstream).await;
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_reads_again_what_an_earlier_life_held_before_anything_newer() {
    let server = NatsServer::start().await;
    let sink = sink(&server.url(), json!({}));
    publish(&*sink, 1, 1..=2).await;
    // The answer is never given, and the server would wait for it for half a minute.
    let patient = json!({ "ack_wait": "30s" });
    let mut died = Reader::start_with(source(&server.url(), patient.clone()), 4, Backlog::Strict);
    let held = died.next().await;
    assert_eq!(identify(&held.event), (0, 1));
    died.running.abort();
    let _ = died.running.await;
    publish(&*sink, 1, 3..=4).await;
    let mut reader = Reader::start_with(source(&server.url(), patient), 4, Backlog::Strict);
    for number in 1..=4 {
        assert_eq!(identify(&reader.read().await), (0, number));
    }
    let jetstream = server.jetstream().await;
    reader.settle(&jetstream).await;
    assert!(!exists(&jetstream, "receiver-next").await, "the one that stood by is still there");
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_keeps_what_it_holds_through_a_consumer_that_is_lost_and_a_server_that_is_killed() {
    let mut server = NatsServer::start().await;
    let sink = sink(&server.url(), json!({}));
    publish(&*sink, THINGS, 1..=5).await;
    let mut reader = Reader::start_with(source(&server.url(), json!({})), 64, Backlog::Strict);
    let mut held = Vec::new();
    for _ in 0..THINGS {
        held.push(reader.next().await);
    }
    let jetstream = server.jetstream().await;
    // Server 2.9 may complain that it has just written its state, and delete it all the same.
    let _ = jetstream.delete_consumer_from_stream(DURABLE, STREAM).await;
    wait_until("the consumer to come back", secs(15), async || exists(&jetstream, DURABLE).await).await;
    server.kill9();
    server.restart().await;
    publish(&*sink, THINGS, 6..=8).await;
    let mut record = Record::default();
    for Delivery { event, acker } in held {
        record.0.push(identify(&event));
        acker.finish(Outcome::Delivered);
    }
    while !record.has_all(0..THINGS, 1..=8) {
        record.0.push(identify(&reader.read().await));
    }
    record.assert_ordered();
    assert_eq!(record.repeated(), 0, "what was held was sent twice");
    reader.settle(&server.jetstream().await).await;
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_holds_while_paused_and_goes_on_in_order() {
    let server = NatsServer::start().await;
    let sink = sink(&server.url(), json!({}));
    let mut reader = Reader::start_with(source(&server.url(), json!({})), 2, Backlog::Strict);
    let mut record = Record::default();
    for round in 0..4 {
        publish(&*sink, 2, round * 3 + 1..=round * 3 + 3).await;
        record.0.push(identify(&reader.read().await));
        reader.inlet.pause();
        publish(&*sink, 2, 100 + round..=100 + round).await;
        reader.inlet.resume();
        while record.0.len() < (round as usize + 1) * 8 {
            record.0.push(identify(&reader.read().await));
        }
    }
    assert_eq!(record.repeated(), 0);
    for (_, numbers) in record.first() {
        assert_eq!(numbers, [1, 2, 3, 100, 4, 5, 6, 101, 7, 8, 9, 102, 10, 11, 12, 103]);
    }
    reader.stop().await;
}

/// A receiver in a process of its own.
struct Life {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Life {
    fn start(url: &str, order: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "nats::order::a_life", "--ignored", "--nocapture", "--test-threads=1"])
            .env("BROKER", url)
            .env("ORDER", order)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next event that it says was delivered; nothing once it has ended.
    async fn next(&mut self) -> Option<(usize, u64)> {
        loop {
            let line = tokio::time::timeout(secs(30), self.lines.next_line()).await;
            let line = line.expect("waited in vain for the receiver to deliver").unwrap()?;
            let mut words = line.split(' ');
            if let (Some("delivered"), Some(thing), Some(number)) = (words.next(), words.next(), words.next())
            {
                return Some((thing.parse().unwrap(), number.parse().unwrap()));
            }
        }
    }

    /// Kills it, and takes down what it had said before.
    async fn kill(mut self, record: &mut Record) {
        self.child.kill().await.unwrap();
        while let Some(event) = self.next().await {
            record.0.push(event);
        }
    }
}

fn wish(order: &str) -> Backlog {
    match order {
        "strict" => Backlog::Strict,
        _ => Backlog::FreshFirst { after: AFTER, rate: 400 },
    }
}

/// One life of a receiver, which ends when it is killed. Started by the tests of kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by the tests of kills"]
async fn a_life() {
    let Ok(url) = std::env::var("BROKER") else { return };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    let wish = wish(&std::env::var("ORDER").unwrap());
    let mut reader = Reader::start_with(source(&url, json!({ "ack_wait": "30s" })), 32, wish);
    // The harness has left its line open.
    println!();
    let (mut open, mut count) = (VecDeque::new(), 0_usize);
    loop {
        // Some are answered soon, some late, and one of many fails.
        let answer = tokio::time::timeout(Duration::from_millis(2), std::future::pending::<()>());
        tokio::select! {
            delivery = reader.inlet.next() => open.extend(delivery),
            _ = answer, if !open.is_empty() => {
                count += 1;
                let Some(Delivery { event, acker }) = open.remove((count * 7) % open.len()) else { continue };
                if count % 61 == 0 {
                    acker.finish(Outcome::failed("a test"));
                } else {
                    let (thing, number) = identify(&event);
                    println!("delivered {thing} {number}");
                    acker.finish(Outcome::Delivered);
                }
            }
        }
    }
}

const KILLS: u64 = 20;
/// Numbers of every thing that are published from one kill to the next.
const BETWEEN: u64 = 15;

/// Kills the receiver again and again in the middle of its work, and the server every fifth time, while events are
/// published. Returns what was delivered, which is all of them.
async fn killed_again_and_again(order: &str) -> Record {
    let mut server = NatsServer::start().await;
    let (url, mut record) = (server.url(), Record::default());
    let sink = sink(&url, json!({}));
    for kill in 0..KILLS {
        let mut life = Life::start(&url, order);
        let publishing = publish(&*sink, THINGS, kill * BETWEEN + 1..=(kill + 1) * BETWEEN);
        let living = async {
            for _ in 0..10 + kill * 2 {
                record.0.push(life.next().await.expect("the receiver has ended"));
            }
            if kill % 5 == 4 {
                server.kill9();
                server.restart().await;
                record.0.push(life.next().await.expect("the receiver has ended"));
            }
            life.kill(&mut record).await;
        };
        tokio::join!(publishing, living);
    }
    let mut life = Life::start(&url, order);
    while !record.has_all(0..THINGS, 1..=KILLS * BETWEEN) {
        let Some(event) = life.next().await else {
            let jetstream = server.jetstream().await;
            for name in [DURABLE, BACKFILL] {
                let found: Result<PullConsumer, _> = jetstream.get_consumer_from_stream(name, STREAM).await;
                println!("{name}: {:?}", found.map(|consumer| consumer.cached_info().clone()));
            }
            let missing = (1..=KILLS * BETWEEN).map(|number| {
                let came = |thing: &usize| !record.0.contains(&(*thing, number));
                (number, (0..THINGS).filter(came).count())
            });
            panic!(
                "the receiver has ended; missing: {:?}",
                missing.filter(|(_, count)| *count > 0).collect::<Vec<_>>()
            );
        };
        record.0.push(event);
    }
    life.kill(&mut record).await;
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_keeps_the_order_through_twenty_kills() {
    let record = killed_again_and_again("strict").await;
    println!("{} delivered, {} of them repeated", record.0.len(), record.repeated());
    record.assert_ordered();
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_first_loses_nothing_through_twenty_kills() {
    let record = killed_again_and_again("fresh").await;
    println!("{} delivered, {} of them repeated", record.0.len(), record.repeated());
}

#[tokio::test(flavor = "multi_thread")]
async fn fresh_first_sends_the_new_at_once_and_the_old_in_order_at_its_rate() {
    const OLD: u64 = 300;
    let server = NatsServer::start().await;
    let jetstream = server.jetstream().await;
    let sink = sink(&server.url(), json!({}));
    publish(&*sink, THINGS, 1..=OLD).await;
    grow_old(&server).await;
    let rate = 500;
    let backlog = Backlog::FreshFirst { after: AFTER, rate };
    let began = tokio::time::Instant::now();
    let mut reader = Reader::start_with(source(&server.url(), json!({})), 64, backlog);
    let mut record = Record::default();
    record.0.push(identify(&reader.read().await));
    assert!(exists(&jetstream, BACKFILL).await, "the old came, and not by a backfill");
    deliver(&*sink, event(99, 1)).await;
    while record.0.last() != Some(&(99, 1)) {
        record.0.push(identify(&reader.read().await));
    }
    let before = record.0.len();
    assert!(before < THINGS * OLD as usize / 2, "the new came behind {before} old ones");
    // What comes now stays in front, and in its order.
    publish(&*sink, 2, 1001..=1020).await;
    while !record.has_all(0..THINGS, 1..=OLD) || !record.has_all(0..2, 1001..=1020) {
        record.0.push(identify(&reader.read().await));
    }
    let least = secs(THINGS as u64 * OLD) / rate - secs(1);
    assert!(began.elapsed() > least, "{:?} for {} at {rate} a second", began.elapsed(), THINGS as u64 * OLD);
    assert_eq!(record.repeated(), 0);
    for (_, numbers) in record.first() {
        let (old, new): (Vec<_>, Vec<_>) = numbers.into_iter().partition(|number| *number <= OLD);
        assert!(old.is_sorted() && new.is_sorted());
    }
    let gone = async || !exists(&jetstream, BACKFILL).await;
    wait_until("the consumer of the backfill to go", secs(20), gone).await;
    reader.settle(&jetstream).await;
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_outage_prolongs_a_backfill_and_a_restart_goes_on_with_it() {
    let server = NatsServer::start().await;
    let jetstream = server.jetstream().await;
    let sink = sink(&server.url(), json!({}));
    publish(&*sink, THINGS, 1..=40).await;
    grow_old(&server).await;
    let backlog = Backlog::FreshFirst { after: AFTER, rate: 20 };
    let mut reader = Reader::start_with(source(&server.url(), json!({})), 64, backlog);
    let mut record = Record::default();
    record.0.push(identify(&reader.read().await));
    // Some are new, so there is a hole in what the backfill delivers.
    publish(&*sink, THINGS, 41..=42).await;
    while !record.0.contains(&(0, 42)) {
        record.0.push(identify(&reader.read().await));
    }
    reader.stop().await;

    publish(&*sink, THINGS, 43..=60).await;
    grow_old(&server).await;
    let mut reader = Reader::start_with(source(&server.url(), json!({})), 64, backlog);
    let description = async || {
        let found: Result<PullConsumer, _> = jetstream.get_consumer_from_stream(BACKFILL, STREAM).await;
        found.ok()?.cached_info().config.description.clone()
    };
    let prolonged = async || {
        description()
            .await
            .is_some_and(|text| text.trim_start_matches(|c| c != ':').matches('-').count() == 2)
    };
    wait_until("the backfill to be prolonged", secs(20), async || {
        while let Some(Delivery { event, acker }) = reader.inlet.try_next() {
            record.0.push(identify(&event));
            acker.finish(Outcome::Delivered);
        }
        prolonged().await
    })
    .await;
    publish(&*sink, THINGS, 61..=61).await;
    while record.0.last() != Some(&(0, 61)) {
        record.0.push(identify(&reader.read().await));
    }
    reader.stop().await;

    // A sink of another mind takes all that is left in its order.
    let mut reader = Reader::start_with(source(&server.url(), json!({})), 64, Backlog::Strict);
    while !record.has_all(0..THINGS, 1..=61) {
        record.0.push(identify(&reader.read().await));
    }
    assert!(!exists(&jetstream, BACKFILL).await);
    reader.settle(&jetstream).await;
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_in_the_middle_of_a_division_finds_everything() {
    // Which consumers there are when the program was killed: the backfill's, the durable, the one that stands by.
    for (durable, next) in [(true, false), (true, true), (false, true), (false, false)] {
        let server = NatsServer::start().await;
        let jetstream = server.jetstream().await;
        let sink = sink(&server.url(), json!({}));
        publish(&*sink, THINGS, 1..=20).await;
        let stream = jetstream.get_stream(STREAM).await.unwrap();
        let last = 20 * THINGS as u64;
        let create = async |name: &str, start: u64, description: Option<String>| {
            let config = jetstream::consumer::pull::Config {
                durable_name: Some(name.to_owned()),
                description,
                deliver_policy: jetstream::consumer::DeliverPolicy::ByStartSequence { start_sequence: start },
                ..Default::default()
            };
            stream.create_consumer(config).await.unwrap();
        };
        create(BACKFILL, 1, Some(format!("prometheus-streams backfill: 1-{last}"))).await;
        if durable {
            create(DURABLE, 1, None).await;
        }
        if next {
            create("receiver-next", last + 1, None).await;
        }
        deliver(&*sink, event(0, 21)).await;
        let backlog = Backlog::FreshFirst { after: secs(60), rate: 1000 };
        // Were it read, `new` would pass over everything.
        let mut reader = Reader::start_with(source(&server.url(), json!({ "start": "new" })), 64, backlog);
        let mut record = Record::default();
        while !record.has_all(1..THINGS, 1..=20) || !record.has_all([0], 1..=21) {
            record.0.push(identify(&reader.read().await));
        }
        assert_eq!(record.repeated(), 0, "{durable} {next}");
        until("the backfill is over", || async { !exists(&jetstream, BACKFILL).await }).await;
        reader.settle(&jetstream).await;
        reader.stop().await;
    }
}
