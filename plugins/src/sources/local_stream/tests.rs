use std::time::SystemTime;

use prometheus_streams_core::delivery::{Delivery, Outcome};
use prometheus_streams_core::event::Event;
use prometheus_streams_core::stage::SystemClock;
use prometheus_streams_core::testing::{Inlet, SourceBench, check_source, context, pipe, pipe_with, until};
use tempfile::TempDir;

use super::*;
use crate::support::envelope;
use crate::support::local_stream::Limits;

/// A stream in a directory of its own, with one consumer.
struct Bench {
    dir: TempDir,
    store: Arc<Store>,
    cx: StageContext,
}

impl Bench {
    async fn new(max_size: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { max_size, ..Limits::default() };
        let store = Store::at(dir.path(), Some(limits), Arc::new(SystemClock)).await.unwrap();
        store.sweep().await.unwrap();
        Self { dir, store, cx: context("local_stream") }
    }

    async fn append(&self, thing: usize, number: u64) {
        let mut event = Event::new(SystemTime::now(), number.to_string());
        event.labels.insert("instance", thing.to_string());
        self.store.append(envelope::encode(&event, 0).unwrap()).await.unwrap();
    }

    fn run(&self) -> (Inlet, CancellationToken, tokio::task::JoinHandle<Result<(), BoxError>>) {
        self.run_with(Backlog::Any)
    }

    fn run_with(
        &self,
        backlog: Backlog,
    ) -> (Inlet, CancellationToken, tokio::task::JoinHandle<Result<(), BoxError>>) {
        let ((out, inlet), shutdown) = (pipe_with(8, backlog), CancellationToken::new());
        (inlet, shutdown.clone(), tokio::spawn(self.source().run(out, shutdown)))
    }

    fn count(&self, name: &str) -> u64 {
        let counters = self.cx.metrics.counters(name, "", &["pipeline", "source"]);
        counters.with_label_values(&["test", "local_stream"]).get()
    }
}

#[async_trait]
impl SourceBench for Bench {
    fn source(&self) -> Box<dyn Source> {
        let config = LocalStreamSourceConfig {
            path: self.dir.path().into(),
            consumer: None,
            redelivery_delay: Span::millis(10),
        };
        config.build(&self.cx).unwrap()
    }

    async fn offer(&self, thing: usize, number: u64) {
        self.append(thing, number).await;
    }

    fn identify(&self, event: &Event) -> (usize, u64) {
        identify(event)
    }

    async fn unacknowledged(&self) -> usize {
        usize::try_from(self.store.unanswered("test").await.unwrap()).unwrap()
    }

    async fn dead_letters(&self) -> Option<usize> {
        Some(self.store.dead_letters().await.unwrap().len())
    }
}

fn identify(event: &Event) -> (usize, u64) {
    let thing = event.labels.get("instance").unwrap().parse().unwrap();
    (thing, std::str::from_utf8(&event.body).unwrap().parse().unwrap())
}

#[tokio::test]
async fn it_keeps_the_delivery_laws() {
    check_source(&Bench::new(1 << 20).await).await;
}

#[tokio::test]
async fn nothing_overtakes_a_failed_record_of_equal_labels() {
    let bench = Bench::new(1 << 20).await;
    for number in 1..=20 {
        bench.append(0, number).await;
        bench.append(1, number).await;
    }
    // The pipeline answers in order, fails one of every three first tries, and has room for eight.
    let (mut inlet, shutdown, running) = bench.run();
    let (mut landed, mut tried) = (vec![Vec::new(); 2], std::collections::BTreeSet::new());
    while landed.iter().map(Vec::len).sum::<usize>() < 40 {
        let Delivery { event, acker } = inlet.next().await.unwrap();
        let (thing, number) = identify(&event);
        let blocked = landed[thing].len() as u64 + 1 < number;
        if blocked || (number % 3 == 0 && tried.insert((thing, number))) {
            acker.finish(Outcome::failed("a test"));
        } else {
            landed[thing].push(number);
            acker.finish(Outcome::Delivered);
        }
    }
    assert_eq!(landed, vec![(1..=20).collect::<Vec<_>>(); 2]);
    shutdown.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(bench.store.unanswered("test").await, Ok(0));
    assert!(bench.count("local_stream_redelivered_total") >= 12);
}

#[tokio::test]
async fn in_strict_order_nothing_is_on_its_way_behind_an_event_that_may_fail() {
    for backlog in [Backlog::Strict, Backlog::FreshFirst { after: Duration::ZERO, rate: 1 }] {
        let bench = Bench::new(1 << 20).await;
        for (thing, number) in [(0, 1), (0, 2), (1, 1), (0, 3)] {
            bench.append(thing, number).await;
        }
        let (mut inlet, ..) = bench.run_with(backlog);
        let first = inlet.next().await.unwrap();
        assert_eq!(identify(&first.event), (0, 1));
        let other = inlet.next().await.unwrap();
        assert_eq!(identify(&other.event), (1, 1), "{backlog:?}");
        first.acker.finish(Outcome::failed("a test"));
        for number in 1..=3 {
            let Delivery { event, acker } = inlet.next().await.unwrap();
            assert_eq!(identify(&event), (0, number), "{backlog:?}");
            acker.finish(Outcome::Delivered);
        }
        other.acker.finish(Outcome::Delivered);
        until("all is answered", || async { bench.store.unanswered("test").await == Ok(0) }).await;
    }
}

#[tokio::test]
async fn a_record_that_is_no_event_goes_to_the_dead_letters() {
    let bench = Bench::new(1 << 20).await;
    bench.store.append("garbage".into()).await.unwrap();
    bench.append(0, 1).await;
    let (mut inlet, ..) = bench.run();
    assert_eq!(identify(&inlet.next().await.unwrap().event), (0, 1));
    let letters = bench.store.dead_letters().await.unwrap();
    assert_eq!(letters[0].message, "garbage");
    assert_eq!(bench.count("local_stream_dead_letters_total"), 1);
}

#[tokio::test]
async fn pages_in_which_all_is_answered_are_passed_over() {
    let bench = Bench::new(1 << 24).await;
    bench.append(0, 1).await;
    for _ in 0..6 {
        bench.store.append(vec![0; 600 << 10].into()).await.unwrap();
    }
    bench.append(1, 2).await;
    let subscription = bench.store.subscribe("test").await.unwrap();
    let first = subscription.floor();
    (first + 1..first + 7).for_each(|sequence| subscription.answer(sequence));
    subscription.save().await.unwrap();
    drop(subscription);

    let (mut inlet, ..) = bench.run();
    let open = inlet.next().await.unwrap();
    assert_eq!(identify(&open.event), (0, 1));
    let second = tokio::time::timeout(Duration::from_secs(5), inlet.next()).await;
    assert_eq!(identify(&second.expect("nothing comes any more").unwrap().event), (1, 2));
}

#[tokio::test]
async fn what_leaves_the_stream_unread_or_unanswered_is_counted() {
    let bench = Bench::new(1_000).await;
    bench.append(0, 1).await;
    let (mut inlet, ..) = bench.run();
    let first = inlet.next().await.unwrap();
    assert_eq!(identify(&first.event), (0, 1));
    // The pipeline holds eight, so the stream lets go others unread.
    for number in 2..=200 {
        bench.append(0, number).await;
    }
    let kept = bench.store.usage().borrow().records;
    first.acker.finish(Outcome::failed("a test"));
    let mut seen = std::collections::BTreeSet::new();
    while !seen.contains(&200) {
        let Delivery { event, acker } = inlet.next().await.unwrap();
        seen.insert(identify(&event).1);
        acker.finish(Outcome::Delivered);
    }
    until("all is answered", || async { bench.store.unanswered("test").await == Ok(0) }).await;
    let lost = bench.count("local_stream_lost_total");
    assert_eq!(lost + seen.len() as u64, 200, "seen: {seen:?}");
    assert!(lost >= 200 - kept - 9, "lost {lost}, kept {kept}");
}

#[tokio::test]
async fn a_paused_pipeline_shows_what_waits() {
    let bench = Bench::new(1 << 20).await;
    let (mut inlet, ..) = bench.run();
    inlet.pause();
    bench.append(0, 1).await;
    bench.append(0, 2).await;
    let pending = || {
        let gauges = bench.cx.metrics.gauges("local_stream_pending", "", &["pipeline", "source"]);
        gauges.with_label_values(&["test", "local_stream"]).get()
    };
    until("two wait", || async { pending() == 2 }).await;
    inlet.resume();
    inlet.next().await.unwrap().acker.finish(Outcome::Delivered);
    until("one waits", || async { pending() == 1 }).await;
}

#[tokio::test]
async fn two_sources_may_not_be_one_consumer() {
    let bench = Bench::new(1 << 20).await;
    bench.append(0, 1).await;
    let (mut inlet, shutdown, running) = bench.run();
    inlet.next().await.unwrap().acker.finish(Outcome::Delivered);
    let error = bench.run().2.await.unwrap().unwrap_err().to_string();
    assert!(error.starts_with("two sources read the stream at "), "{error}");
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_directory_that_another_process_has_open_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let lock = std::fs::File::create(dir.path().join("lock")).unwrap();
    lock.lock().unwrap();
    let board = prometheus_streams_core::health::HealthBoard::default();
    let cx = StageContext { health: board.stage("test/local_stream"), ..context("local_stream") };
    let config = LocalStreamSourceConfig {
        path: dir.path().into(),
        consumer: None,
        redelivery_delay: Span::millis(10),
    };
    let ((out, _inlet), shutdown) = (pipe(8), CancellationToken::new());
    let running = tokio::spawn(config.build(&cx).unwrap().run(out, shutdown.clone()));
    until("the source says why it waits", || async {
        board.degraded().iter().any(|(_, reason)| reason.ends_with("another process has it open"))
    })
    .await;
    drop(lock);
    until("the source has gone on", || async { board.degraded().is_empty() }).await;
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[test]
fn settings_are_checked() {
    let config = LocalStreamSourceConfig {
        path: "".into(),
        consumer: Some("".into()),
        redelivery_delay: one_second(),
    };
    let error = config.build(&context("local_stream")).err().unwrap();
    let paths: Vec<_> = error.problems().iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["path", "consumer"]);
}
