//! What the core itself costs per event: a pipeline with a transform between a source and a sink that keep
//! everything in memory, with all layers of delivery around the sink, from the emitter to the outcome.

#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prometheus_streams_core::config::Config;
use prometheus_streams_core::error::{BoxError, BuildError, SendError};
use prometheus_streams_core::event::{Event, Labels};
use prometheus_streams_core::pipeline::Agent;
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{
    Sink, SinkConfig, Source, SourceConfig, StageContext, SystemClock, Transform, TransformConfig,
};
use prometheus_streams_core::testing::MemorySource;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::runtime::{Builder, Runtime};

/// Events of one run of a pipeline.
const RUN: u64 = 50_000;
/// Things that are observed; equal labels share a lane.
const THINGS: u64 = 500;

/// Sends so many events.
#[derive(Deserialize, JsonSchema)]
struct Flood {
    events: u64,
}

impl SourceConfig for Flood {
    const TYPE: &'static str = "flood";

    fn build(self, _: &StageContext) -> Result<Box<dyn Source>, BuildError> {
        let body = bytes::Bytes::from_static(include_bytes!("../data/node_exporter.txt"));
        let labels: Vec<Labels> = (0..THINGS)
            .map(|thing| {
                let instance = format!("db{thing}:9100");
                [("job", "node"), ("instance", &instance), ("publisher", "site1")].into_iter().collect()
            })
            .collect();
        let events = (0..self.events).map(|number| {
            let mut event = Event::new(SystemTime::now(), body.clone());
            event.labels = labels[(number % THINGS) as usize].clone();
            event
        });
        Ok(Box::new(MemorySource::new(events.collect()).0))
    }
}

/// Lets everything pass.
#[derive(Deserialize, JsonSchema)]
struct Pass {}

impl TransformConfig for Pass {
    const TYPE: &'static str = "pass";

    fn build(self, _: &StageContext) -> Result<Box<dyn Transform>, BuildError> {
        Ok(Box::new(self))
    }
}

impl Transform for Pass {
    fn apply(&self, event: Event) -> Result<Option<Event>, BoxError> {
        Ok(Some(event))
    }
}

/// Confirms everything.
#[derive(Deserialize, JsonSchema)]
struct Void {}

impl SinkConfig for Void {
    const TYPE: &'static str = "void";

    fn build(self, _: &StageContext) -> Result<Box<dyn Sink>, BuildError> {
        Ok(Box::new(self))
    }
}

#[async_trait]
impl Sink for Void {
    async fn send(&self, _: Event) -> Result<(), SendError> {
        Ok(())
    }
}

register!(source: Flood);
register!(transform: Pass);
register!(sink: Void);

fn pipeline(c: &mut Criterion) {
    let mut group = c.benchmark_group("core");
    group.throughput(Throughput::Elements(1));
    let one = Builder::new_current_thread().enable_all().build().unwrap();
    group.bench_function("event, one thread", |b| b.iter_custom(|events| run(&one, events)));
    let two = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    group.bench_function("event, two threads", |b| b.iter_custom(|events| run(&two, events)));
    group.finish();
}

/// The time that `events` events take.
fn run(runtime: &Runtime, events: u64) -> Duration {
    let mut total = Duration::ZERO;
    let mut left = events;
    while left > 0 {
        let now = left.min(RUN);
        let agent = agent(now);
        let start = Instant::now();
        runtime.block_on(async { tokio::spawn(agent.run()).await.unwrap().unwrap() });
        total += start.elapsed();
        left -= now;
    }
    total
}

fn agent(events: u64) -> Agent {
    let config = format!(
        "pipelines:
           bench:
             source: {{ type: flood, events: {events} }}
             transforms: [ {{ type: pass }} ]
             sinks: [ {{ type: void }} ]"
    );
    let config = Config::from_yaml(&config).unwrap();
    Agent::build(config, prometheus::Registry::new(), Arc::new(SystemClock)).unwrap()
}

criterion_group! {
    name = core;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = pipeline
}
criterion_main!(core);
