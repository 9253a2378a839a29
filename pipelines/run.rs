//! Runs pipelines until a signal, or their own end.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prometheus_streams_core::config::{Config, process_env};
use prometheus_streams_core::control::Control;
use prometheus_streams_core::error::{BoxError, BuildError, ConfigError};
use prometheus_streams_core::pipeline::Agent;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::classic::{self, Note, Role};
use crate::cli::Options;
use crate::{Failure, check, logging};

/// Runs the pipelines of `files`.
///
/// # Errors
/// The configuration has mistakes, or something ended with an error that trying again cannot mend.
pub(crate) fn files(files: &[PathBuf], options: &Options) -> Result<(), Failure> {
    if options.config.is_some() {
        let message = "belongs to poller and receiver; run takes its files by themselves";
        return Err(ConfigError::at("--config", message).into());
    }
    let config = Config::load(files, process_env())?;
    let (agent, level) = prepare(config, options)?;
    run(agent, level, options, &[])
}

/// Runs the pipeline that a file of the classic program means for `role`.
///
/// # Errors
/// As [`files`].
pub(crate) fn classic(role: Role, options: &Options) -> Result<(), Failure> {
    let Some(file) = &options.config else {
        let message = "is missing: the configuration file of prometheus-streams 1.0";
        return Err(ConfigError::at("--config", message).into());
    };
    let translation = classic::translate(file, Some(role))?;
    let prepared = translation.config().and_then(|config| prepare(config, options));
    let (agent, level) = prepared.map_err(|mistakes| translation.blame(mistakes))?;
    run(agent, level, options, &translation.notes)
}

/// Starts the log and builds the stages; the mistakes of both come out together.
fn prepare(config: Config, options: &Options) -> Result<(Agent, logging::LogLevel), ConfigError> {
    let level = logging::start(&config, options.debug);
    let (level, agent) = check::both(level, check::build(config))?;
    Ok((agent, level))
}

fn run(agent: Agent, level: logging::LogLevel, options: &Options, notes: &[Note]) -> Result<(), Failure> {
    let pid = options.pid.as_deref();
    pid.map_or(Ok(()), write_pid).map_err(ConfigError::from)?;
    info!(version = env!("CARGO_PKG_VERSION"), "starting");
    for note in notes {
        info!(key = note.path, "{}", note.text);
    }
    let control = agent.control();
    control.on_set_log_level(move |wanted| level.set(wanted));

    let runtime = runtime::Builder::new_multi_thread().worker_threads(workers()).enable_all().build();
    let runtime = runtime.map_err(BoxError::from)?;
    let ended = runtime.block_on(async {
        let signals = Signals::listen()?;
        tokio::spawn(signals.obey(control));
        agent.run().await
    });
    // A look-up of a name that never answers must not keep the program.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let Some(pid) = pid {
        // What is gone already needs no removing.
        let _ = std::fs::remove_file(pid);
    }
    info!("ended");
    ended.map_err(Failure::Program)
}

/// One worker thread for two cores. Scrapes are handed on often and worked on briefly, and a hand-over that
/// wakes another thread costs more than its help is worth: with two workers on two cores, 2,000 scrapes
/// a second take a fifth more CPU time than with one.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

fn write_pid(path: &Path) -> Result<(), BuildError> {
    std::fs::write(path, std::process::id().to_string())
        .map_err(|error| BuildError::at("--pid", format!("cannot write {}: {error}", path.display())))
}

/// The signals that end the program, and the one by which others are told to read their configuration anew.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The first signal drains; a second one means it.
    async fn obey(mut self, control: Control) {
        let name = self.next().await.0;
        info!(signal = name, "draining; a second signal ends the program at once");
        control.shutdown();
        let (_, number) = self.next().await;
        std::process::exit(128 + number);
    }

    async fn next(&mut self) -> (&'static str, i32) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return ("SIGINT", SignalKind::interrupt().as_raw_value()),
                _ = self.terminate.recv() => return ("SIGTERM", SignalKind::terminate().as_raw_value()),
                _ = self.hangup.recv() => warn!(
                    "SIGHUP changes nothing: files of targets and secrets are followed anyway, and for a new \
                     configuration restart the program"
                ),
            }
        }
    }
}
