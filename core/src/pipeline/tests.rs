use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::sync::{Notify, watch};

use super::run::{SinkStage, TransformStage};
use super::*;
use crate::delivery::Outcome;
use crate::emitter::{Capacity, Emitter};
use crate::error::SendError;
use crate::event::Event;
use crate::metrics::{Metrics, PipelineMetrics, SinkMetrics, TransformMetrics};
use crate::middleware::DeliveryConfig;
use crate::stage::{Sink, Source, Transform};
use crate::testing::{MemorySink, MemorySource, until};

/// A pipeline of memory stages, and the metrics it counts in.
fn pipeline(
    source: impl Source + 'static,
    capacity: usize,
    sinks: Vec<Box<dyn Sink>>,
) -> (Pipeline, Arc<PipelineMetrics>) {
    let metrics = Metrics::new(Registry::new());
    let pipeline_metrics = Arc::new(PipelineMetrics::new(&metrics, "p"));
    let sinks = sinks.into_iter().enumerate().map(|(index, sink)| SinkStage {
        name: format!("s{index}"),
        sink: sink.into(),
        delivery: DeliveryConfig {
            max_in_flight: Some(2),
            newest_only: Some(false),
            ..DeliveryConfig::default()
        },
        metrics: Arc::new(SinkMetrics::new(&metrics, "p", &format!("s{index}"))),
    });
    let pipeline = Pipeline {
        name: "p".into(),
        paused: watch::channel(false).1,
        capacity: Capacity { events: capacity, bytes: 1 << 20 },
        source_name: "memory".into(),
        source: Box::new(source),
        redelivers: false,
        transforms: Vec::new(),
        sinks: sinks.collect(),
        metrics: pipeline_metrics.clone(),
    };
    (pipeline, pipeline_metrics)
}

fn event(thing: &str, body: &str) -> Event {
    let mut event = Event::new(SystemTime::UNIX_EPOCH, body.to_owned());
    event.labels.insert("thing", thing);
    event
}

fn events(count: usize) -> Vec<Event> {
    (0..count).map(|i| event(&(i % 3).to_string(), &i.to_string())).collect()
}

async fn run(pipeline: Pipeline) -> Result<(), BoxError> {
    pipeline.run(CancellationToken::new(), Duration::from_secs(10)).await
}

struct Closure<F>(F);

impl<F: Fn(Event) -> Result<Option<Event>, BoxError> + Send + Sync> Transform for Closure<F> {
    fn apply(&self, event: Event) -> Result<Option<Event>, BoxError> {
        (self.0)(event)
    }
}

fn with_transform(
    mut pipeline: Pipeline,
    apply: impl Fn(Event) -> Result<Option<Event>, BoxError> + Send + Sync + 'static,
) -> Pipeline {
    let metrics = TransformMetrics::new(&Metrics::new(Registry::new()), "p", "t");
    let transform = Box::new(Closure(apply));
    pipeline.transforms.push(TransformStage { name: "t".into(), transform, metrics });
    pipeline
}

#[tokio::test]
async fn every_event_gets_one_outcome_and_equal_labels_keep_their_order() {
    let (source, outcomes) = MemorySource::new(events(300));
    let (one, first) = MemorySink::new();
    let (two, second) = MemorySink::new();
    run(pipeline(source, 7, vec![Box::new(one), Box::new(two)]).0).await.unwrap();
    assert_eq!(*outcomes.lock().unwrap(), vec![Outcome::Delivered; 300]);
    for received in [first, second] {
        let received = received.lock().unwrap();
        assert_eq!(received.len(), 300);
        for thing in ["0", "1", "2"] {
            let of_thing = received.iter().filter(|event| event.labels.get("thing") == Some(thing));
            let numbers: Vec<u32> =
                of_thing.map(|event| std::str::from_utf8(&event.body).unwrap().parse().unwrap()).collect();
            assert!(numbers.is_sorted(), "{numbers:?}");
        }
    }
}

#[tokio::test]
async fn a_transform_drops_rejects_and_survives_its_own_panic() {
    let (source, outcomes) =
        MemorySource::new(["keep", "drop", "bad", "panic"].map(|body| event(body, body)).into());
    let (sink, received) = MemorySink::new();
    let pipeline =
        with_transform(pipeline(source, 8, vec![Box::new(sink)]).0, |event| match &event.body[..] {
            b"drop" => Ok(None),
            b"bad" => Err("cannot read it".into()),
            b"panic" => panic!("a bug"),
            _ => Ok(Some(event)),
        });
    run(pipeline).await.unwrap();
    let mut outcomes = outcomes.lock().unwrap().clone();
    outcomes.sort();
    assert_eq!(
        outcomes,
        [
            Outcome::Filtered,
            Outcome::Delivered,
            Outcome::rejected("cannot read it"),
            Outcome::rejected("the transform panicked; this is a bug"),
        ]
    );
    assert_eq!(received.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_sink_that_fails_fails_the_event_and_a_panic_is_a_failure() {
    let (source, outcomes) = MemorySource::new(["good", "bad", "panic"].map(|body| event(body, body)).into());
    let (good, received) = MemorySink::new();
    let (bad, _) = MemorySink::judging(|event| match &event.body[..] {
        b"bad" => Err(SendError::transient("away")),
        b"panic" => panic!("a bug"),
        _ => Ok(()),
    });
    run(pipeline(source, 8, vec![Box::new(good), Box::new(bad)]).0).await.unwrap();
    let mut outcomes: Vec<_> = outcomes.lock().unwrap().iter().map(Outcome::as_str).collect();
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["delivered", "failed", "failed"]);
    assert_eq!(received.lock().unwrap().len(), 3);
}

/// A sink that never answers, and counts how many it has been asked.
struct Stuck(Arc<AtomicUsize>);

#[async_trait]
impl Sink for Stuck {
    async fn send(&self, _: Event) -> Result<(), SendError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_slow_sink_bounds_what_the_pipeline_holds() {
    let (source, outcomes) = MemorySource::new(events(100));
    let asked = Arc::new(AtomicUsize::new(0));
    let (pipeline, metrics) = pipeline(source, 5, vec![Box::new(Stuck(Arc::clone(&asked)))]);
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(pipeline.run(shutdown.clone(), Duration::from_millis(50)));
    until("the pipeline is full", || async { metrics.held.get() == 5 && asked.load(Ordering::SeqCst) == 2 })
        .await;
    assert_eq!(metrics.events.get(), 5);

    // And what it holds at the end of the grace is answered, not lost.
    shutdown.cancel();
    running.await.unwrap().unwrap();
    let outcomes = outcomes.lock().unwrap();
    assert_eq!(outcomes.len(), 5);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Failed(_))), "{outcomes:?}");
    assert_eq!(metrics.held.get(), 0);
}

struct Broken(&'static str);

#[async_trait]
impl Source for Broken {
    async fn run(self: Box<Self>, _: Emitter, _: CancellationToken) -> Result<(), BoxError> {
        if self.0 == "panic" { panic!("a bug") } else { Err(self.0.into()) }
    }
}

#[async_trait]
impl Sink for Broken {
    async fn send(&self, _: Event) -> Result<(), SendError> {
        Ok(())
    }

    async fn run(&self, _: CancellationToken) -> Result<(), BoxError> {
        Err(self.0.into())
    }
}

#[tokio::test]
async fn a_source_or_a_companion_that_breaks_ends_the_pipeline_with_its_words() {
    let (sink, _) = MemorySink::new();
    let error = run(pipeline(Broken("no disk"), 1, vec![Box::new(sink)]).0).await.unwrap_err();
    assert_eq!(error.to_string(), "memory: no disk");

    let (sink, _) = MemorySink::new();
    let error = run(pipeline(Broken("panic"), 1, vec![Box::new(sink)]).0).await.unwrap_err();
    assert!(error.to_string().contains("this is a bug"), "{error}");

    let (source, _) = MemorySource::new(Vec::new());
    let stuck = Endless(Box::new(source));
    let error = run(pipeline(stuck, 1, vec![Box::new(Broken("address in use"))]).0).await.unwrap_err();
    assert_eq!(error.to_string(), "s0: address in use");
}

/// Runs another source, and then waits for the shutdown.
struct Endless(Box<dyn Source>);

#[async_trait]
impl Source for Endless {
    async fn run(self: Box<Self>, out: Emitter, shutdown: CancellationToken) -> Result<(), BoxError> {
        self.0.run(out, shutdown.clone()).await?;
        shutdown.cancelled().await;
        Ok(())
    }
}

/// Ends with an error as soon as it is told.
struct OnNotice(Arc<Notify>);

#[async_trait]
impl Source for OnNotice {
    async fn run(self: Box<Self>, _: Emitter, _: CancellationToken) -> Result<(), BoxError> {
        self.0.notified().await;
        Err("the disk is gone".into())
    }
}

#[tokio::test]
async fn the_error_of_a_source_counts_even_at_the_moment_of_shutdown() {
    // Which of the two is seen first is chance, so try both often.
    for round in 0..50 {
        let notice = Arc::new(Notify::new());
        let (sink, _) = MemorySink::new();
        let shutdown = CancellationToken::new();
        let (pipeline, _) = pipeline(OnNotice(Arc::clone(&notice)), 1, vec![Box::new(sink)]);
        let running = tokio::spawn(pipeline.run(shutdown.clone(), Duration::from_secs(10)));
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        notice.notify_one();
        shutdown.cancel();
        assert!(running.await.unwrap().is_err(), "round {round}: the error was lost");
    }
}

/// Runs for ever, and tells when it is gone.
struct Forever(CancellationToken);

#[async_trait]
impl Source for Forever {
    async fn run(self: Box<Self>, _: Emitter, _: CancellationToken) -> Result<(), BoxError> {
        let _gone = self.0.clone().drop_guard();
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_pipeline_that_is_dropped_takes_its_source_along() {
    let gone = CancellationToken::new();
    let (sink, _) = MemorySink::new();
    let (pipeline, _) = pipeline(Forever(gone.clone()), 1, vec![Box::new(sink)]);
    let running = tokio::spawn(pipeline.run(CancellationToken::new(), Duration::from_secs(10)));
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
    running.abort();
    tokio::time::timeout(Duration::from_secs(10), gone.cancelled()).await.expect("the source runs on");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_waits_at_a_paused_pipeline_is_released_when_the_pipeline_ends() {
    let (source, outcomes) = MemorySource::new(events(1));
    let (sink, _) = MemorySink::new();
    let (mut pipeline, _) = pipeline(Deaf(Box::new(source)), 1, vec![Box::new(sink)]);
    let (_pause, paused) = watch::channel(true);
    pipeline.paused = paused;
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    let began = tokio::time::Instant::now();
    pipeline.run(shutdown, Duration::from_secs(10)).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(11), "cut off, not released: {:?}", began.elapsed());
    assert!(matches!(outcomes.lock().unwrap()[..], [Outcome::Failed(_)]));
}

/// Runs another source, and keeps the shutdown from it.
struct Deaf(Box<dyn Source>);

#[async_trait]
impl Source for Deaf {
    async fn run(self: Box<Self>, out: Emitter, _: CancellationToken) -> Result<(), BoxError> {
        self.0.run(out, CancellationToken::new()).await
    }
}
