//! From a configuration to an agent: looks every stage up by its type, lets it read its own settings,
//! and gathers the mistakes of all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::Agent;
use super::run::{Pipeline, SinkStage, TransformStage};
use crate::config::{Config, PipelineConfig, StageConfig, StageFrame};
use crate::control::Control;
use crate::emitter::{Backlog, Capacity};
use crate::error::{BuildError, ConfigError};
use crate::health::HealthBoard;
use crate::metrics::{Metrics, PipelineMetrics, SinkMetrics, TransformMetrics};
use crate::registry::{self, Build, Kind, Registration};
use crate::stage::{Clock, Extension, Sink, Source, StageContext, Transform};
use crate::values::Span;

/// How long a shutdown waits for what is in flight, unless the configuration says otherwise.
const GRACE: Duration = Duration::from_secs(10);

/// More events than any pipeline should hold; a larger capacity is a slip of the pen.
const MOST_CAPACITY: usize = 1_000_000;

type Stages = BTreeMap<(Kind, &'static str), &'static Registration>;

pub(super) fn agent(config: Config, registry: Registry, clock: Arc<dyn Clock>) -> Result<Agent, ConfigError> {
    let shutdown = CancellationToken::new();
    let metrics = Metrics::new(registry);
    let health = HealthBoard::default();
    let builder = Builder {
        stages: registry::all().map_err(|error| ConfigError::at("", error))?,
        identity: config.identity().into(),
        control: Control::new(metrics.clone(), health.clone(), shutdown.clone()),
        metrics,
        health,
        clock,
    };
    let mut problems = config.problems.clone();
    let mut extensions = Vec::new();
    for (name, settings) in &config.settings.extensions {
        let built = builder.extension(name, settings.clone());
        extensions.extend(
            take(&config, &mut problems, format!("extensions.{name}"), built)
                .map(|stage| (name.clone(), stage)),
        );
    }
    let mut pipelines = Vec::new();
    for (name, settings) in &config.settings.pipelines {
        let built = builder.pipeline(name, settings.clone());
        pipelines.extend(take(&config, &mut problems, format!("pipelines.{name}"), built));
    }
    if config.settings.pipelines.is_empty() && problems.problems().is_empty() {
        problems.add("pipelines", "there is no pipeline to run");
    }
    config.blame(problems)?;
    let grace = config.settings.shutdown_grace.map_or(GRACE, |grace| grace.0);
    Ok(Agent { pipelines, extensions, control: builder.control, shutdown, grace })
}

/// Takes what was built, or notes its mistakes at their place in the file.
fn take<T>(
    config: &Config,
    problems: &mut BuildError,
    at: String,
    built: Result<T, BuildError>,
) -> Option<T> {
    let mut nested = BuildError::default();
    let built = nested.take(&at, built);
    for problem in nested.problems() {
        let path = config.path_in_file(&problem.path);
        if !config.problems.has(&path) {
            problems.add(path, &problem.message);
        }
    }
    built
}

struct Builder {
    stages: Stages,
    identity: Arc<str>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    health: HealthBoard,
    control: Control,
}

impl Builder {
    fn pipeline(&self, name: &str, config: PipelineConfig) -> Result<Pipeline, BuildError> {
        let mut problems = BuildError::default();
        if name.is_empty() || name.contains('/') {
            problems.add("", "the name of a pipeline must not be empty, nor hold a `/`");
        }
        if config.capacity == 0 || config.capacity > MOST_CAPACITY {
            problems.add("capacity", format!("must be from 1 to {MOST_CAPACITY}"));
        }
        if config.capacity_bytes.0 == 0 {
            problems.add("capacity_bytes", "must be more than zero");
        }
        if config.sinks.is_empty() {
            problems.add("sinks", "a pipeline needs at least one sink");
        }
        let source = problems.take("source", self.source(name, config.source));
        let mut names = BTreeSet::new();
        let mut transforms = Vec::new();
        for (index, stage) in config.transforms.into_iter().enumerate() {
            let built = self.transform(name, stage, &mut names);
            transforms.extend(problems.take(&format!("transforms[{index}]"), built));
        }
        let mut sinks = Vec::new();
        let mut sink_names = BTreeSet::new();
        for (index, stage) in config.sinks.into_iter().enumerate() {
            let built = self.sink(name, stage, &mut sink_names);
            sinks.extend(problems.take(&format!("sinks[{index}]"), built));
        }
        let Some((source_name, source, redelivers)) = source else { return Err(problems) };
        // Only a pipeline without mistakes is put under control.
        problems.or(())?;
        let metrics = Arc::new(PipelineMetrics::new(&self.metrics, name));
        Ok(Pipeline {
            name: name.to_owned(),
            paused: self.control.add_pipeline(name, metrics.paused.clone()),
            capacity: Capacity { events: config.capacity, bytes: config.capacity_bytes.0 },
            source_name,
            source,
            redelivers,
            transforms,
            sinks,
            metrics,
        })
    }

    fn source(
        &self,
        pipeline: &str,
        stage: StageConfig,
    ) -> Result<(String, Box<dyn Source>, bool), BuildError> {
        let (stage, settings) = self.open(pipeline, Kind::Source, stage, &mut BTreeSet::new())?;
        let Build::Source { build, redelivers } = stage.registration.build else {
            return Err(BuildError::at("type", "is not a source"));
        };
        let built = build(settings, &stage.context);
        stage.finish(built).map(|(name, source, _)| (name, source, redelivers))
    }

    fn transform(
        &self,
        pipeline: &str,
        stage: StageConfig,
        names: &mut BTreeSet<String>,
    ) -> Result<TransformStage, BuildError> {
        let (stage, settings) = self.open(pipeline, Kind::Transform, stage, names)?;
        let built: Result<Box<dyn Transform>, _> = match stage.registration.build {
            Build::Transform(build) => build(settings, &stage.context),
            _ => Err(BuildError::at("type", "is not a transform")),
        };
        let (name, transform, _) = stage.finish(built)?;
        let metrics = TransformMetrics::new(&self.metrics, pipeline, &name);
        Ok(TransformStage { name, transform, metrics })
    }

    fn sink(
        &self,
        pipeline: &str,
        stage: StageConfig,
        names: &mut BTreeSet<String>,
    ) -> Result<SinkStage, BuildError> {
        let (stage, settings) = self.open(pipeline, Kind::Sink, stage, names)?;
        let Build::Sink { build, max_in_flight, timeout, newest_only } = stage.registration.build else {
            return Err(BuildError::at("type", "is not a sink"));
        };
        let built: Result<Box<dyn Sink>, _> = build(settings, &stage.context);
        let (name, sink, delivery) = stage.finish(built)?;
        let mut delivery = delivery.unwrap_or_default();
        delivery.max_in_flight.get_or_insert(sink.max_in_flight().unwrap_or(max_in_flight));
        delivery.timeout.get_or_insert(Span(timeout));
        delivery.newest_only.get_or_insert(newest_only);
        if sink.backlog() != Backlog::Any {
            delivery.never_give_up();
        }
        let metrics = Arc::new(SinkMetrics::new(&self.metrics, pipeline, &name));
        Ok(SinkStage { name, sink: sink.into(), delivery, metrics })
    }

    fn extension(&self, name: &str, settings: Value) -> Result<Box<dyn Extension>, BuildError> {
        let registration = self.find(Kind::Extension, name).map_err(|error| BuildError::at("", error))?;
        let settings = if settings.is_null() { Value::Object(StageConfig::new()) } else { settings };
        match registration.build {
            Build::Extension(build) => build(settings, &self.context("", Kind::Extension, name)),
            _ => Err(BuildError::at("", "is not an extension")),
        }
    }

    /// Reads the frame of a stage and finds its type; with it come the settings that the type reads.
    fn open(
        &self,
        pipeline: &str,
        kind: Kind,
        mut stage: StageConfig,
        names: &mut BTreeSet<String>,
    ) -> Result<(OpenStage, Value), BuildError> {
        let (frame, mut problems) = StageFrame::take(&mut stage);
        let Some(frame) = frame else { return Err(problems) };
        let name = frame.name.clone().unwrap_or_else(|| frame.type_name.clone());
        if name.is_empty() {
            problems.add("name", "must not be empty");
        } else if !names.insert(name.clone()) {
            problems.add("name", format!("two {kind}s are named {name:?}; give each a `name:` of its own"));
        }
        match (kind, &frame.delivery) {
            (Kind::Sink, Some(delivery)) => drop(problems.take("delivery", delivery.validate())),
            (_, Some(_)) => problems.add("delivery", format!("only sinks have it, and this is a {kind}")),
            _ => {}
        }
        match self.find(kind, &frame.type_name) {
            Ok(registration) => {
                let context = self.context(pipeline, kind, &name);
                Ok((OpenStage { registration, context, frame, problems }, Value::Object(stage)))
            }
            Err(error) => {
                problems.add("type", error);
                Err(problems)
            }
        }
    }

    fn find(&self, kind: Kind, type_name: &str) -> Result<&'static Registration, String> {
        let exact =
            self.stages.iter().find(|((known_kind, known), _)| (*known_kind, *known) == (kind, type_name));
        exact.map(|(_, registration)| *registration).ok_or_else(|| {
            let other = self.stages.keys().find(|(_, known)| *known == type_name);
            let known: Vec<_> =
                self.stages.keys().filter(|(known, _)| *known == kind).map(|(_, name)| *name).collect();
            let hint = other.map(|(other, _)| format!("; it is a {other}")).unwrap_or_default();
            format!("there is no {kind} {type_name:?}{hint}; known: {}", known.join(", "))
        })
    }

    fn context(&self, pipeline: &str, kind: Kind, name: &str) -> StageContext {
        // With its kind, because a relay has a source and a sink of one name.
        let place = if pipeline.is_empty() { name.to_owned() } else { format!("{pipeline}/{kind}/{name}") };
        StageContext {
            pipeline: pipeline.to_owned(),
            name: name.to_owned(),
            identity: Arc::clone(&self.identity),
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.clone(),
            health: self.health.stage(place),
        }
    }
}

/// A stage whose frame has been read and whose type is known.
struct OpenStage {
    registration: &'static Registration,
    context: StageContext,
    frame: StageFrame,
    problems: BuildError,
}

impl OpenStage {
    /// The built stage with its name and delivery, or the mistakes of the frame and of the stage together.
    fn finish<S>(
        mut self,
        built: Result<S, BuildError>,
    ) -> Result<(String, S, Option<crate::middleware::DeliveryConfig>), BuildError> {
        let stage = self.problems.take("", built);
        match stage {
            Some(stage) => self.problems.or((self.context.name, stage, self.frame.delivery)),
            None => Err(self.problems),
        }
    }
}

#[cfg(test)]
mod tests;
