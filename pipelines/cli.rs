//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::classic::Role;
use crate::parse::ParseArgs;

/// Carries Prometheus scrapes between sites that cannot open ports to each other, over NATS JetStream.
#[derive(Debug, Parser)]
#[command(name = "prometheus-streams", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) options: Options,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 all went well; 64 the configuration or the command line is at fault; 1 the program is, or the
body given to parse; 2 import could not map something of the scraping, and standard error says what.

Environment: PROMETHEUS_STREAMS__LOG__LEVEL=debug and the like override the configuration of run and check;
RUST_LOG overrides log.level; NO_COLOR keeps colour out of the log.";

/// Options that stand before or after the command.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The configuration of prometheus-streams 1.0, for poller and receiver
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Write the process id into this file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) pid: Option<PathBuf>,
    /// Log more, whatever the configuration says
    #[arg(long, global = true)]
    pub(crate) debug: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the pipelines of one or more files, YAML or TOML; later files override earlier ones
    Run {
        /// The configuration
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Find every mistake in what `run` would run, without a network
    Check {
        /// The configuration
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// List the stages that this program has
    List,
    /// Print the reference of all settings, as Markdown
    Docs,
    /// Scrape and publish, as configured in a file of prometheus-streams 1.0 (--config)
    Poller,
    /// Receive and push, as configured in a file of prometheus-streams 1.0 (--config)
    Receiver,
    /// Print a file of prometheus-streams 1.0 as a configuration for `run`
    Convert {
        /// The file of prometheus-streams 1.0
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Only the pipeline of this role; all that the file has settings for if absent
        #[arg(long, value_name = "ROLE")]
        only: Option<Role>,
    },
    /// Judge a body of metrics: nothing said and 0 if it is right, FILE:LINE:COLUMN and 1 if not
    Parse(ParseArgs),
    /// Print a prometheus.yml as a configuration for `run`
    ///
    /// Its scrape configs become the source of a pipeline, and paths of files become absolute. Where the scrapes go is
    /// for you to fill in. What does not map is told on standard error, each with its line; if something of the
    /// scraping does not, the exit code is 2. Passwords and the like that stand in the file stand in what is printed.
    Import {
        /// The configuration of Prometheus
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Not offered any more: says what to do instead
    #[command(hide = true)]
    Enroll {
        /// Whatever prometheus-streams 1.0 took
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        _arguments: Vec<String>,
    },
}
