//! The log: text for a person, JSON for a machine, to standard error or to a file, at a level that can
//! be changed while the program runs.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, stderr};
use std::path::Path;

use prometheus_streams_core::config::{Config, LogConfig, LogFormat};
use prometheus_streams_core::error::{BoxError, BuildError, ConfigError};
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// Our own crates; a filter for a name is one for all names that begin with it.
const OURS: &str = "prometheus_streams";

/// Sets the level of the log while the program runs.
pub(crate) struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// Sets the level, as `debug` or `info,async_nats=debug`.
    pub(crate) fn set(&self, level: &str) -> Result<(), BoxError> {
        self.0.reload(filter(level)?)?;
        tracing::info!(level, "log level set");
        Ok(())
    }
}

/// Starts the log. `--debug` wins over `RUST_LOG`, and that over the configuration.
///
/// # Errors
/// A level that is none, or a file that cannot be written.
pub(crate) fn start(config: &Config, debug: bool) -> Result<LogLevel, ConfigError> {
    let log = &config.settings.log;
    let filter = match std::env::var("RUST_LOG") {
        _ if debug => filter("debug").map_err(|error| ConfigError::at("--debug", error)),
        Ok(level) if !level.is_empty() => filter(&level).map_err(|error| ConfigError::at("RUST_LOG", error)),
        _ => level(log).map_err(|error| in_file(config, error)),
    };
    let (filter, handle) = reload::Layer::new(filter?);
    let output = match &log.file {
        Some(path) => layer(log.format, open(path).map_err(|error| in_file(config, error))?, false),
        None => layer(log.format, stderr, stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()),
    };
    let started = tracing_subscriber::registry().with(filter).with(output).try_init();
    started.map_err(|error| ConfigError::at("log", format!("cannot start the log: {error}")))?;
    Ok(LogLevel(handle))
}

/// The filter that the configuration asks for.
///
/// # Errors
/// Its level is none.
pub(crate) fn level(log: &LogConfig) -> Result<EnvFilter, BuildError> {
    filter(&log.level).map_err(|error| BuildError::at("log.level", error))
}

/// The mistakes with the file that has them.
pub(crate) fn in_file(config: &Config, mistakes: BuildError) -> ConfigError {
    config.blame(mistakes.clone()).err().unwrap_or_else(|| mistakes.into())
}

/// The filter that a level means. A bare level is for what we say ourselves; libraries are a step or two
/// quieter. A word that is no level is refused: it would be taken for the name of a module, and silence
/// the rest.
///
/// # Errors
/// What is wrong with the level.
fn filter(level: &str) -> Result<EnvFilter, BoxError> {
    for directive in level.split(',') {
        let word = directive.trim();
        if word.is_empty() || (!word.contains(['=', '[']) && word.parse::<LevelFilter>().is_err()) {
            return Err(format!(
                "{directive:?} is not a level; there are off, error, warn, info, debug and trace, or filters like \
                 info,async_nats=debug"
            )
            .into());
        }
    }
    let libraries = match level.trim().parse::<LevelFilter>() {
        Ok(LevelFilter::INFO) => "warn",
        Ok(LevelFilter::DEBUG) => "info",
        Ok(LevelFilter::TRACE) => "debug",
        _ => {
            return EnvFilter::try_new(level)
                .map_err(|error| format!("{level:?} is not a filter: {error}").into());
        }
    };
    // The NATS client tells of every attempt to connect; our stages say it once, in the log and on /-/ready.
    let nats = if libraries == "warn" { "off" } else { libraries };
    Ok(EnvFilter::try_new(format!("{libraries},async_nats={nats},{OURS}={level}"))?)
}

fn open(path: &Path) -> Result<File, BuildError> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|error| BuildError::at("log.file", format!("cannot write {}: {error}", path.display())))
}

fn layer<S, W>(format: LogFormat, writer: W, colour: bool) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_writer(writer).with_ansi(colour);
    match format {
        LogFormat::Text => layer.with_target(false).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn a_bare_level_is_for_our_own_words() {
        for (level, meant) in [
            ("info", "prometheus_streams=info,async_nats=off,warn"),
            ("debug", "prometheus_streams=debug,async_nats=info,info"),
            ("warn", "warn"),
            ("info,hyper=debug", "hyper=debug,info"),
        ] {
            assert_eq!(filter(level).unwrap().to_string(), meant);
        }
    }

    #[test]
    fn a_misspelt_level_is_refused_and_a_filter_is_not() {
        for level in ["info", "DEBUG", "off", "info,async_nats=debug", "prometheus_streams=trace,warn"] {
            assert!(filter(level).is_ok(), "{level}");
        }
        for level in ["", "inof", "info,", "async_nats=loud", "info debug"] {
            assert!(filter(level).is_err(), "{level}");
        }
    }
}
