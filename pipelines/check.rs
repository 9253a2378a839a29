//! What can be said of a configuration, and of this program, without running anything.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use prometheus_streams_core::config::{Config, process_env};
use prometheus_streams_core::error::{BoxError, ConfigError};
use prometheus_streams_core::pipeline::Agent;
use prometheus_streams_core::registry;
use prometheus_streams_core::stage::SystemClock;

use crate::{docs, logging};

/// Finds every mistake in `files`, or says what they would run.
///
/// # Errors
/// The mistakes, each with its file and path.
pub(crate) fn check(files: &[PathBuf]) -> Result<String, ConfigError> {
    let config = Config::load(files, process_env())?;
    let level = logging::level(&config.settings.log).map_err(|error| logging::in_file(&config, error));
    let extensions: Vec<_> = config.settings.extensions.keys().cloned().collect();
    let (_, agent) = both(level, build(config))?;

    let mut text = String::from("no mistakes found; this would run:\n");
    for pipeline in agent.summary() {
        let _ = writeln!(text, "  {pipeline}");
    }
    for extension in extensions {
        let _ = writeln!(text, "  extension {extension}");
    }
    Ok(text)
}

/// Builds what a configuration describes, on the clock of the machine.
pub(crate) fn build(config: Config) -> Result<Agent, ConfigError> {
    Agent::build(config, prometheus::Registry::new(), Arc::new(SystemClock))
}

/// Both values, or the mistakes of both.
pub(crate) fn both<A, B>(
    a: Result<A, ConfigError>,
    b: Result<B, ConfigError>,
) -> Result<(A, B), ConfigError> {
    match (a, b) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
        (Err(a), Err(b)) => Err(ConfigError { problems: [a.problems, b.problems].concat() }),
    }
}

/// The stages of this program by kind, each with a sentence.
///
/// # Errors
/// Two stages have one name.
pub(crate) fn list() -> Result<String, BoxError> {
    let stages = registry::all()?;
    let width = stages.keys().map(|(_, name)| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    let mut before = None;
    for ((kind, type_name), registration) in stages {
        if before.replace(kind) != Some(kind) {
            let _ = writeln!(text, "{}", docs::heading(kind).to_lowercase());
        }
        let _ = writeln!(text, "  {type_name:width$}  {}", docs::summary(&(registration.schema)()));
    }
    Ok(text)
}
