//! The stages of this program, found at compile time. A stage says [`register!`](crate::register) once,
//! below its config struct, and any program that links it knows its type name.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use schemars::Schema;
use serde_json::Value;

use crate::error::BuildError;
use crate::settings;
use crate::stage::{
    Extension, ExtensionConfig, Sink, SinkConfig, Source, SourceConfig, StageContext, Transform,
    TransformConfig,
};

/// The four kinds of stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Where events begin.
    Source,
    /// What happens on the way.
    Transform,
    /// Where events land.
    Sink,
    /// What runs beside the pipelines.
    Extension,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Transform => "transform",
            Self::Sink => "sink",
            Self::Extension => "extension",
        })
    }
}

/// One registered stage: its name, its reference, and how it is built from the settings in a file.
pub struct Registration {
    /// The `type` in the configuration.
    pub type_name: &'static str,
    /// The JSON schema of its settings, doc comments included.
    pub schema: fn() -> Schema,
    pub(crate) build: Build,
}

type BuildFn<S> = fn(Value, &StageContext) -> Result<Box<S>, BuildError>;

/// The one seam at which the type of a stage is erased.
#[derive(Clone, Copy)]
pub(crate) enum Build {
    Source { build: BuildFn<dyn Source>, redelivers: bool },
    Transform(BuildFn<dyn Transform>),
    Sink { build: BuildFn<dyn Sink>, max_in_flight: usize, timeout: Duration, newest_only: bool },
    Extension(BuildFn<dyn Extension>),
}

impl Registration {
    /// Registers a source.
    pub const fn source<C: SourceConfig>() -> Self {
        Self {
            type_name: C::TYPE,
            schema: schema_of::<C>,
            build: Build::Source {
                build: |tree, cx| settings::build(tree, |config: C| config.build(cx)),
                redelivers: C::REDELIVERS,
            },
        }
    }

    /// Registers a transform.
    pub const fn transform<C: TransformConfig>() -> Self {
        Self {
            type_name: C::TYPE,
            schema: schema_of::<C>,
            build: Build::Transform(|tree, cx| settings::build(tree, |config: C| config.build(cx))),
        }
    }

    /// Registers a sink.
    pub const fn sink<C: SinkConfig>() -> Self {
        Self {
            type_name: C::TYPE,
            schema: schema_of::<C>,
            build: Build::Sink {
                build: |tree, cx| settings::build(tree, |config: C| config.build(cx)),
                max_in_flight: C::MAX_IN_FLIGHT,
                timeout: C::TIMEOUT,
                newest_only: C::NEWEST_ONLY,
            },
        }
    }

    /// Registers an extension.
    pub const fn extension<C: ExtensionConfig>() -> Self {
        Self {
            type_name: C::TYPE,
            schema: schema_of::<C>,
            build: Build::Extension(|tree, cx| settings::build(tree, |config: C| config.build(cx))),
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self.build {
            Build::Source { .. } => Kind::Source,
            Build::Transform(_) => Kind::Transform,
            Build::Sink { .. } => Kind::Sink,
            Build::Extension(_) => Kind::Extension,
        }
    }
}

fn schema_of<C: schemars::JsonSchema>() -> Schema {
    schemars::schema_for!(C)
}

inventory::collect!(Registration);

/// Registers a stage by its config struct: `register!(sink: PushGatewayConfig);`, with `source`,
/// `transform`, `sink` or `extension` for the kind.
#[macro_export]
macro_rules! register {
    ($kind:ident : $config:ty) => {
        $crate::inventory::submit! { $crate::registry::Registration::$kind::<$config>() }
    };
}

/// Every registered stage, by kind and type name.
///
/// # Errors
/// Two stages of one kind have one name; both would answer to it, so neither may.
pub fn all() -> Result<BTreeMap<(Kind, &'static str), &'static Registration>, DuplicateStage> {
    let mut stages = BTreeMap::new();
    for registration in inventory::iter::<Registration> {
        let (kind, type_name) = (registration.kind(), registration.type_name);
        if stages.insert((kind, type_name), registration).is_some() {
            return Err(DuplicateStage { kind, type_name });
        }
    }
    Ok(stages)
}

/// Two stages registered one name. A mistake in the program, not in its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("two {kind}s are registered as {type_name:?}")]
pub struct DuplicateStage {
    /// Their kind.
    pub kind: Kind,
    /// Their name.
    pub type_name: &'static str,
}
