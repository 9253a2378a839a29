use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::*;
use crate::error::{BoxError, SendError};
use crate::event::Event;
use crate::stage::{ExtensionConfig, SinkConfig, SourceConfig, SystemClock};
use crate::testing::{MemorySink, MemorySource};
use crate::values::Span;

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
        let (source, _) = MemorySource::new(vec![Event::new(SystemTime::UNIX_EPOCH, ""); self.from]);
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
  c: { capacity: 0 }
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
            "pipelines.c.capacity",
            "pipelines.c.sinks",
            "pipelines.c.source",
        ],
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("there is no sink \"test_countdown\"; it is a source; known: test_collect"),
        "{text}"
    );
}

/// A source and a sink of one name, that say how they are when they are built.
#[derive(Deserialize, JsonSchema)]
struct Twin {}

impl SourceConfig for Twin {
    const TYPE: &'static str = "test_twin";

    fn build(self, cx: &StageContext) -> Result<Box<dyn Source>, BuildError> {
        cx.health.ready();
        Ok(Box::new(MemorySource::new(Vec::new()).0))
    }
}

impl SinkConfig for Twin {
    const TYPE: &'static str = "test_twin";

    fn build(self, cx: &StageContext) -> Result<Box<dyn Sink>, BuildError> {
        cx.health.degraded("the broker is away");
        Ok(Box::new(MemorySink::new().0))
    }
}

crate::register!(source: Twin);
crate::register!(sink: Twin);

/// A sink whose settings say how many events it wants in flight.
#[derive(Deserialize, JsonSchema)]
struct Roomy {
    wants: Option<usize>,
}

impl SinkConfig for Roomy {
    const TYPE: &'static str = "test_roomy";
    const MAX_IN_FLIGHT: usize = 3;

    fn build(self, _: &StageContext) -> Result<Box<dyn Sink>, BuildError> {
        Ok(Box::new(self))
    }
}

#[async_trait]
impl Sink for Roomy {
    async fn send(&self, _: Event) -> Result<(), SendError> {
        Ok(())
    }

    fn max_in_flight(&self) -> Option<usize> {
        self.wants
    }
}

crate::register!(sink: Roomy);

#[test]
fn the_user_says_how_many_are_in_flight_or_else_the_sink_or_else_its_type() {
    for (settings, expected) in [
        ("wants: 5, delivery: { max_in_flight: 7 }", 7),
        ("wants: 5, delivery: { timeout: 1s }", 5),
        ("wants: 5", 5),
        ("wants: null", 3),
    ] {
        let agent = build(&format!(
            "pipelines: {{ p: {{ source: {{ type: test_countdown, from: 1 }}, sinks: [{{ type: test_roomy, {settings} }}] }} }}"
        ));
        assert_eq!(agent.unwrap().pipelines[0].sinks[0].delivery.max_in_flight, Some(expected), "{settings}");
    }
}

#[test]
fn the_health_of_a_source_does_not_hide_that_of_a_sink_of_its_name() {
    let agent = build("pipelines: { relay: { source: { type: test_twin }, sinks: [{ type: test_twin }] } }");
    let degraded = agent.unwrap().control().degraded();
    assert_eq!(degraded, [("relay/sink/test_twin".to_owned(), "the broker is away".to_owned())]);
}

/// An extension that does not end when it is told to.
#[derive(Deserialize, JsonSchema)]
struct Deaf {}

impl ExtensionConfig for Deaf {
    const TYPE: &'static str = "test_deaf";

    fn build(self, _: &StageContext) -> Result<Box<dyn Extension>, BuildError> {
        Ok(Box::new(self))
    }
}

#[async_trait]
impl Extension for Deaf {
    async fn run(self: Box<Self>, _: Control, _: CancellationToken) -> Result<(), BoxError> {
        std::future::pending().await
    }
}

crate::register!(extension: Deaf);

#[tokio::test(start_paused = true)]
async fn an_extension_that_does_not_end_is_cut_off() {
    let agent = build(
        "
extensions: { test_deaf: }
pipelines: { p: { source: { type: test_countdown, from: 0 }, sinks: [{ type: test_collect }] } }
",
    );
    tokio::time::timeout(Duration::from_secs(60), agent.unwrap().run()).await.expect("it hangs").unwrap();
}

#[test]
fn a_sink_that_is_no_map_does_not_shift_the_places_of_the_others() {
    let error = build(
        "pipelines: { p: { source: { type: test_countdown, from: 1 }, sinks: [text, { type: test_collect }, { type: nosuch }] } }",
    );
    let error = error.unwrap_err();
    let places: Vec<_> = error.problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(places, ["pipelines.p.sinks[0]", "pipelines.p.sinks[2].type"], "{error}");
}

#[test]
fn delivery_settings_that_cannot_work_are_refused() {
    for (delivery, place) in [
        ("{ max_in_flight: 0 }", "max_in_flight"),
        ("{ max_in_flight: 1000000000000 }", "max_in_flight"),
        ("{ rate_limit: { requests: 0, per: 1s } }", "rate_limit.requests"),
        ("{ retry: { forever: true, max_elapsed_time: 1s } }", "retry.forever"),
        ("{ retry: { initial_interval: 6s } }", "retry.max_interval"),
        ("{ retry: { forever: true }, circuit_breaker: { failures: 1, open_for: 1s } }", "circuit_breaker"),
        ("{ circuit_breaker: { failures: 1, open_for: 100000000000years } }", "circuit_breaker.open_for"),
    ] {
        let error = build(&format!(
            "pipelines: {{ p: {{ source: {{ type: test_countdown, from: 1 }}, sinks: [{{ type: test_collect, delivery: {delivery} }}] }} }}"
        ));
        let error = error.expect_err(delivery);
        assert_eq!(error.problems[0].path, format!("pipelines.p.sinks[0].delivery.{place}"), "{error}");
    }
}

#[test]
fn a_configuration_without_pipelines_says_so() {
    assert_eq!(build("{}").unwrap_err().to_string(), "pipelines: there is no pipeline to run");
}
