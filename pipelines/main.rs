//! The one program: it runs the pipelines that a configuration describes, whatever their stages.

mod check;
mod classic;
mod cli;
mod docs;
mod import;
mod logging;
mod parse;
mod run;

use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use prometheus_streams_core::error::{BoxError, ConfigError};
// Linking the stages is what registers them.
use prometheus_streams_plugins as _;

use cli::{Cli, Command};

/// The configuration, or the command line, is at fault.
const BLAMES_THE_CONFIGURATION: u8 = 64;
/// The command is done, and standard error says what of its input is not in its output.
const NOT_THE_WHOLE: u8 = 2;

/// Who is to blame.
pub(crate) enum Failure {
    /// The configuration; its mistakes.
    Configuration(ConfigError),
    /// The program, or what it runs on.
    Program(BoxError),
    /// The body that was to be judged; what is wrong with it and where.
    Verdict(String),
    /// Nobody: what is asked for is not offered, and that has been said.
    NotTheWhole,
}

fn main() -> ExitCode {
    // Several libraries look for the process-wide provider; there is one only if we say which.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => {
            let _ = answer.print();
            return ExitCode::from(if answer.use_stderr() { BLAMES_THE_CONFIGURATION } else { 0 });
        }
    };
    match obey(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Configuration(mistakes)) => {
            eprintln!("{mistakes}");
            ExitCode::from(BLAMES_THE_CONFIGURATION)
        }
        Err(Failure::Program(error)) => {
            eprintln!("prometheus-streams: {error}");
            ExitCode::FAILURE
        }
        Err(Failure::Verdict(verdict)) => {
            eprintln!("{verdict}");
            ExitCode::FAILURE
        }
        Err(Failure::NotTheWhole) => ExitCode::from(NOT_THE_WHOLE),
    }
}

fn obey(cli: &Cli) -> Result<(), Failure> {
    match &cli.command {
        Command::Run { files } => run::files(files, &cli.options),
        Command::Check { files } => print(check::check(files)?),
        Command::List => print(check::list()?),
        Command::Docs => print(docs::reference()?),
        Command::Poller => run::classic(classic::Role::Poller, &cli.options),
        Command::Receiver => run::classic(classic::Role::Receiver, &cli.options),
        Command::Convert { file, only } => print(classic::convert(file, *only)?),
        Command::Parse(args) => print_bytes(&parse::parse(args)?),
        Command::Import { file } => import(file),
        Command::Enroll { .. } => Err(ConfigError::at("enroll", classic::NO_ENROLL).into()),
    }
}

/// Prints the configuration that a `prometheus.yml` becomes, and tells what of it does not.
fn import(file: &Path) -> Result<(), Failure> {
    let import = import::import(file)?;
    for note in &import.notes {
        eprintln!("{note}");
    }
    print(import.yaml)?;
    if import.is_whole { Ok(()) } else { Err(Failure::NotTheWhole) }
}

/// Prints to standard output.
fn print(text: impl Display) -> Result<(), Failure> {
    print_bytes(text.to_string().as_bytes())
}

/// Prints to standard output. A reader that has seen enough, as `head`, is no mistake of ours.
fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Program(error.into())),
        _ => Ok(()),
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Configuration(error)
    }
}

impl From<BoxError> for Failure {
    fn from(error: BoxError) -> Self {
        Self::Program(error)
    }
}
