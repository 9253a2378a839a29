//! Core inside another program: an application that has metrics of its own and sends them on by
//! itself, with no port for a poller to scrape. It brings its registry, its clock and its shutdown; core
//! brings the pipeline. With a `nats` sink in place of the last stage this is a whole agent.
//!
//! ```sh
//! cargo run --example embed
//! ```

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prometheus::{IntCounter, Registry, TextEncoder};
use prometheus_streams_core::config::Config;
use prometheus_streams_core::delivery::Outcome;
use prometheus_streams_core::emitter::Emitter;
use prometheus_streams_core::error::{BoxError, BuildError, SendError};
use prometheus_streams_core::event::Event;
use prometheus_streams_core::pipeline::Agent;
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{
    Clock, Sink, SinkConfig, Source, SourceConfig, StageContext, SystemClock,
};
use prometheus_streams_core::values::Span;
use prometheus_streams_plugins as _;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

/// Sends the metrics of this very program.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OwnMetricsConfig {
    /// How often.
    interval: Span,
}

register!(source: OwnMetricsConfig);

impl SourceConfig for OwnMetricsConfig {
    const TYPE: &'static str = "own_metrics";

    fn build(self, cx: &StageContext) -> Result<Box<dyn Source>, BuildError> {
        if self.interval.0.is_zero() {
            return Err(BuildError::at("interval", "must be more than zero"));
        }
        Ok(Box::new(OwnMetrics {
            interval: self.interval.0,
            registry: cx.metrics.registry().clone(),
            publisher: cx.identity.to_string(),
            clock: Arc::clone(&cx.clock),
        }))
    }
}

struct OwnMetrics {
    interval: Duration,
    registry: Registry,
    publisher: String,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Source for OwnMetrics {
    async fn run(self: Box<Self>, out: Emitter, shutdown: CancellationToken) -> Result<(), BoxError> {
        let mut every = tokio::time::interval(self.interval);
        loop {
            tokio::select! {
                _ = every.tick() => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            let text = TextEncoder::new().encode_to_string(&self.registry.gather())?;
            let mut event = Event::new(self.clock.now(), text);
            event.labels.insert("job", "application");
            event.labels.insert("instance", "app1");
            event.labels.insert("publisher", &self.publisher);
            // Waits for room, and then for the answer. A gauge that did not land is soon replaced.
            if let Outcome::Failed(reason) | Outcome::Rejected(reason) = out.send(event).await.await {
                eprintln!("not delivered: {reason}");
            }
        }
    }
}

/// Prints the samples of one family.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PrintConfig {
    /// The name of the family.
    family: String,
}

register!(sink: PrintConfig);

impl SinkConfig for PrintConfig {
    const TYPE: &'static str = "print";

    fn build(self, _: &StageContext) -> Result<Box<dyn Sink>, BuildError> {
        Ok(Box::new(Print(self.family)))
    }
}

struct Print(String);

#[async_trait]
impl Sink for Print {
    async fn send(&self, event: Event) -> Result<(), SendError> {
        let text = std::str::from_utf8(&event.body).map_err(SendError::permanent)?;
        for sample in text.lines().filter(|line| line.starts_with(&self.0)) {
            println!("{} {sample}", event.labels);
        }
        Ok(())
    }
}

const CONFIG: &str = "
identity: shop
pipelines:
  own:
    source: { type: own_metrics, interval: 100ms }
    transforms:
      - { type: labeler, add: { region: eu } }
    sinks:
      - { type: print, family: orders_total }
";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let registry = Registry::new();
    let orders = IntCounter::new("orders_total", "Orders that were taken.")?;
    registry.register(Box::new(orders.clone()))?;

    let agent = Agent::build(Config::from_yaml(CONFIG)?, registry, Arc::new(SystemClock))?;
    let control = agent.control();
    let running = tokio::spawn(agent.run());

    // What the application does all day; the pipeline can be paused meanwhile, as for a migration.
    for _ in 0..3 {
        orders.inc();
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    control.pause("own")?;
    orders.inc();
    control.resume("own")?;
    tokio::time::sleep(Duration::from_millis(150)).await;

    control.shutdown();
    running.await??;
    Ok(())
}
