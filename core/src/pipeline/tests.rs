use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::watch;

use super::run::{SinkStage, TransformStage};
use super::*;
use crate::delivery::Outcome;
use crate::emitter::Emitter;
use crate::error::{BuildError, SendError};
use crate::event::Event;
use crate::metrics::{Metrics, PipelineMetrics, SinkMetrics, TransformMetrics};
use crate::middleware::DeliveryConfig;
use crate::stage::{Sink, SinkConfig, Source, SourceConfig, StageContext, SystemClock, Transform};
use crate::testing::{MemorySink, MemorySource, until};
use crate::values::Span;

/// A pipeline of memory stages, and the metrics it counts in.
fn pipeline(
    source: impl Source + 'static,
    capacity: usize,
    sinks: Vec<Box<dyn Sink>>,
) -> (Pipeline, PipelineMetrics) {
    let metrics = Metrics::new(Registry::new());
    let pipeline_metrics = PipelineMetrics::new(&metrics, "p");
    let sinks = sinks.into_iter().enumerate().map(|(index, sink)| SinkStage {
        name: format!("s{index}"),
        sink: sink.into(),
        delivery: DeliveryConfig {
            max_in_flight: Some(2),
            newest_only: Some(false),
            ..DeliveryConfig::default()
        },
        metrics: SinkMetrics::new(&metrics, "p", &format!("s{index}")),
    });
    let pipeline = Pipeline {
        name: "p".into(),
        paused: watch::channel(false).1,
        capacity,
        source: ("memory".into(), Box::new(source)),
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

/// Settings of a source and a sink that exist in these tests only.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Countdown {
    from: usize,
    #[serde(default)]
    every: Option<Span>,
}

impl SourceConfig for Countdown {
    const TYPE: &'static str = "test_countdown";

    fn build(self, _: &StageContext) -> Result<Box<dyn Source>, BuildError> {
        let mut problems = BuildError::default();
        if self.every.is_some_and(|every| every.0.is_zero()) {
            problems.add("every", "must be more than zero");
        }
        let (source, _) = MemorySource::new(events(self.from));
        problems.or(Box::new(source))
    }
}

crate::register!(source: Countdown);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Collect {}

static COLLECTED: Mutex<Vec<Event>> = Mutex::new(Vec::new());

impl SinkConfig for Collect {
    const TYPE: &'static str = "test_collect";

    fn build(self, _: &StageContext) -> Result<Box<dyn Sink>, BuildError> {
        let (sink, _) = MemorySink::judging(|event| {
            COLLECTED.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
            Ok(())
        });
        Ok(Box::new(sink))
    }
}

crate::register!(sink: Collect);

fn build(yaml: &str) -> Result<Agent, ConfigError> {
    Agent::build(Config::from_yaml(yaml).unwrap(), Registry::new(), Arc::new(SystemClock))
}

#[tokio::test]
async fn a_configuration_becomes_an_agent_that_runs_to_its_end() {
    let agent = build(
        "pipelines: { p: { source: { type: test_countdown, from: 4 }, sinks: [{ type: test_collect }] } }",
    );
    let agent = agent.unwrap();
    assert_eq!(agent.summary(), ["p: test_countdown > test_collect"]);
    assert_eq!(agent.control().pipelines()[0].name, "p");
    agent.run().await.unwrap();
    assert_eq!(COLLECTED.lock().unwrap().len(), 4);
}

#[test]
fn all_mistakes_come_out_at_once_each_with_its_path() {
    let error = build(
        "
identity: 7
extensions: { nosuch: {} }
pipelines:
  a:
    capacity: 0
    source: { type: test_countdown, from: x, every: 0s, evry: 1s }
    transforms: [{ type: nosuch }, { typ: x }]
    sinks:
      - { type: test_collect, delivery: { timeout: 0s, retry: { max: 1s } } }
      - { type: test_collect }
      - { type: test_countdown }
  b: { source: { type: test_countdown, from: 1, delivery: {} }, sinks: [] }
",
    )
    .unwrap_err();
    let mut found: Vec<_> = error.problems.iter().map(|problem| problem.path.as_str()).collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "extensions.nosuch",
            "identity",
            "pipelines.a.capacity",
            "pipelines.a.sinks[0].delivery.retry.max",
            "pipelines.a.sinks[0].delivery.timeout",
            "pipelines.a.sinks[1].name",
            "pipelines.a.sinks[2].type",
            "pipelines.a.source.evry",
            "pipelines.a.source.from",
            "pipelines.a.transforms[0].type",
            "pipelines.a.transforms[1]",
            "pipelines.b.sinks",
            "pipelines.b.source.delivery",
        ],
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("there is no sink \"test_countdown\"; it is a source; known: test_collect"),
        "{text}"
    );
}

#[test]
fn a_configuration_without_pipelines_says_so() {
    assert_eq!(build("{}").unwrap_err().to_string(), "pipelines: there is no pipeline to run");
}
