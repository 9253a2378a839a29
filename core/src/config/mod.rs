//! Files and environment to one strict [`Config`]. Core knows the frame: who we are, the log, which
//! stages make up which pipelines. What is inside a stage is read by the stage itself, when the
//! [`Agent`](crate::pipeline::Agent) is built; the mistakes of both come out together.

mod layers;
mod written;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde_json::Value;

use crate::error::{BuildError, ConfigError};
use crate::middleware::DeliveryConfig;
use crate::settings::{self, Removed};
use crate::values::{Size, Span};

use layers::Layers;
pub use layers::read_yaml;

/// A configuration whose frame has been read. It may have mistakes still; building tells them all.
#[derive(Clone)]
pub struct Config {
    /// The settings of the program.
    pub settings: Settings,
    pub(crate) problems: BuildError,
    removed: Removed,
    layers: Layers,
}

/// Names only: the settings of the stages hold secrets that core cannot tell from other texts.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pipelines: Vec<_> = self.settings.pipelines.keys().collect();
        f.debug_struct("Config").field("pipelines", &pipelines).finish_non_exhaustive()
    }
}

/// The settings of the program. Unknown keys are errors.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Who we are: the `publisher` of what we scrape. The host name if absent.
    pub identity: Option<String>,
    /// What is logged, and how.
    pub log: LogConfig,
    /// How long a shutdown waits for what is in flight. Default `10s`.
    pub shutdown_grace: Option<Span>,
    /// What runs beside the pipelines, by type.
    pub extensions: BTreeMap<String, Value>,
    /// The pipelines, by name.
    pub pipelines: BTreeMap<String, PipelineConfig>,
}

/// What is logged, and how.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `off`, `error`, `warn`, `info`, `debug`, `trace`, or a filter like `info,async_nats=debug`. A level
    /// alone is for this program, and its libraries are a little quieter. Default `info`.
    pub level: String,
    /// `text` for a person, `json` for a machine. Default `text`.
    pub format: LogFormat,
    /// Write to this file instead of standard error.
    pub file: Option<PathBuf>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text, file: None }
    }
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for a person.
    #[default]
    Text,
    /// One JSON object a line, for a machine.
    Json,
}

/// One pipeline: a source, any number of transforms, one or more sinks.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PipelineConfig {
    /// How many events the pipeline holds at most that are not yet answered. Default `1024`.
    #[serde(default = "default_capacity")]
    pub capacity: usize,
    /// How many bytes their bodies have at most: once they are reached, the source waits or skips. Default
    /// `64MiB`.
    #[serde(default = "default_capacity_bytes")]
    pub capacity_bytes: Size,
    /// Where its events begin.
    // Absent, it is found to lack a type, together with the other mistakes of the pipeline.
    #[serde(default)]
    #[schemars(with = "StageFrame", required)]
    pub source: StageConfig,
    /// What happens to them on the way, in this order.
    #[serde(default)]
    #[schemars(with = "Vec<StageFrame>")]
    pub transforms: Vec<StageConfig>,
    /// Where they land. An event is delivered when every sink has it.
    #[serde(default)]
    #[schemars(with = "Vec<StageFrame>", required)]
    pub sinks: Vec<StageConfig>,
}

fn default_capacity() -> usize {
    1024
}

fn default_capacity_bytes() -> Size {
    Size(64 << 20)
}

/// One stage as it stands in the file: the keys of [`StageFrame`], and the settings that its type knows.
pub type StageConfig = serde_json::Map<String, Value>;

/// The keys of a stage that core reads itself.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageFrame {
    /// The type, as `http_scrape`; `prometheus-streams list` shows them all.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Its name in logs and metrics. The type if absent; needed where a pipeline has two of a type.
    pub name: Option<String>,
    /// How events are delivered to it. Sinks only.
    pub delivery: Option<DeliveryConfig>,
}

impl StageFrame {
    /// Takes the frame out of a stage; what is left is for its type to read.
    pub(crate) fn take(stage: &mut StageConfig) -> (Option<Self>, BuildError) {
        let keys = ["type", "name", "delivery"];
        let frame = keys.into_iter().filter_map(|key| stage.shift_remove_entry(key)).collect();
        let read = settings::read_leniently(Value::Object(frame));
        (read.value, read.problems)
    }
}

impl Config {
    /// Merges `files` in the order given, lets variables of `env` that begin with
    /// `PROMETHEUS_STREAMS__` override them, and puts `${env:NAME}` in place.
    ///
    /// # Errors
    /// A file cannot be read or is neither YAML nor TOML. Mistakes in the settings themselves come out
    /// when the agent is built.
    pub fn load(
        files: &[PathBuf],
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        Layers::load(files, env).map(Self::read)
    }

    /// A configuration from a text in YAML, with `${env:NAME}` and overrides from the environment of
    /// this process.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        Layers::from_yaml(text, process_env()).map(Self::read)
    }

    /// Who we are: `identity`, or else the host name.
    pub fn identity(&self) -> String {
        self.settings.identity.clone().filter(|name| !name.is_empty()).unwrap_or_else(host_name)
    }

    /// The mistakes found so far, each with the file to blame.
    ///
    /// # Errors
    /// There are some.
    pub fn verdict(&self) -> Result<(), ConfigError> {
        self.blame(self.problems.clone())
    }

    /// The same for mistakes that were found elsewhere, at paths of the whole configuration.
    ///
    /// # Errors
    /// There are some.
    pub fn blame(&self, problems: BuildError) -> Result<(), ConfigError> {
        problems.or(()).map_err(|error| self.layers.blame(error.problems().to_vec()))
    }

    /// The path in the file of a path in the settings, which lack what could not be read.
    pub(crate) fn path_in_file(&self, path: &str) -> String {
        self.removed.in_file(path)
    }

    fn read(layers: Layers) -> Self {
        let mut read = settings::read_leniently::<Settings>(layers.tree.clone());
        let found = std::mem::take(&mut read.problems);
        for problem in layers.problems.iter().chain(found.problems()) {
            // A reference that leads nowhere is one mistake, whatever else its text is not.
            if !read.problems.has(&problem.path) {
                read.problems.add(&problem.path, &problem.message);
            }
        }
        Self {
            settings: read.value.unwrap_or_default(),
            problems: read.problems,
            removed: read.removed,
            layers,
        }
    }
}

/// The environment of this process, for [`Config::load`]. Variables that are not text are left out.
pub fn process_env() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// The name of this machine; `localhost` where it has none.
pub fn host_name() -> String {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    let name = name.as_deref().map(str::trim).filter(|name| !name.is_empty());
    name.unwrap_or("localhost").to_owned()
}

/// The JSON schema of the frame, for the stage reference.
pub fn schema() -> Schema {
    schemars::schema_for!(Settings)
}

#[cfg(test)]
mod tests;
