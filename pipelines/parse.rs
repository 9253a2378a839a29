//! `parse`: judges a body of metrics, says what is wrong with it and where, and writes it in another format.
//!
//! Made for other people's test suites: a body that is right ends with 0 and no word, one that is wrong with 1
//! and one line on standard error, `FILE:LINE:COLUMN: message` as compilers have it.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use prometheus_streams_core::error::ConfigError;
use prometheus_streams_plugins::exposition::{
    self, Family, Format, Mode, ParseError, Place, encode_json, encode_openmetrics, encode_protobuf,
};

use crate::Failure;

/// What `parse` is told.
#[derive(Args, Debug)]
pub(crate) struct ParseArgs {
    /// The format of the body
    #[arg(long, value_enum, default_value_t = Input::Text)]
    format: Input,
    /// Judge as the specification does; otherwise as Prometheus does
    #[arg(long)]
    strict: bool,
    /// Write the metrics to standard output in this format
    #[arg(long, value_enum, value_name = "FORMAT")]
    to: Option<Output>,
    /// The body; standard input if absent or `-`
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

/// A format to read.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq)]
enum Input {
    /// Prometheus' text format 0.0.4, with the quoted names of 1.0.0
    Text,
    /// OpenMetrics 1.0
    Openmetrics,
    /// `io.prometheus.client.MetricFamily` messages, each after its length
    Protobuf,
}

/// A format to write.
#[derive(ValueEnum, Debug, Clone, Copy)]
enum Output {
    /// Prometheus' text format 0.0.4
    Text,
    /// OpenMetrics 1.0
    Openmetrics,
    /// `io.prometheus.client.MetricFamily` messages, each after its length
    Protobuf,
    /// A list of families, in the shape that prom2json prints
    Json,
}

impl From<Input> for Format {
    fn from(input: Input) -> Self {
        match input {
            Input::Text => Self::Text,
            Input::Openmetrics => Self::OpenMetrics,
            Input::Protobuf => Self::Protobuf,
        }
    }
}

/// Judges the body; what to print of it.
///
/// # Errors
/// The body cannot be read, or is not of its format.
pub(crate) fn parse(args: &ParseArgs) -> Result<Vec<u8>, Failure> {
    let file = args.file.as_deref().filter(|file| *file != Path::new("-"));
    let name = file.map_or("-".into(), |file| file.display().to_string());
    let body =
        read(file).map_err(|error| ConfigError::at(&name, format!("cannot read the file: {error}")))?;
    let mode = if args.strict { Mode::Strict } else { Mode::Compat };
    let families = exposition::parse(args.format.into(), mode, &body).map_err(|error| {
        let hint = other_format(args.format, mode, &body);
        Failure::Verdict(format!("{name}:{}{hint}", located(&error)))
    })?;
    Ok(args.to.map(|output| encode(&families, output)).unwrap_or_default())
}

fn read(file: Option<&Path>) -> std::io::Result<Vec<u8>> {
    let Some(file) = file else {
        let mut body = Vec::new();
        return std::io::stdin().lock().read_to_end(&mut body).map(|_| body);
    };
    std::fs::read(file)
}

fn located(error: &ParseError) -> String {
    match error.place {
        Place::Line { line, column } => format!("{line}:{column}: {}", error.message),
        Place::Byte(offset) => format!("byte {offset}: {}", error.message),
    }
}

/// What to add if the body is right in another format.
fn other_format(format: Input, mode: Mode, body: &[u8]) -> String {
    let others = [Input::Openmetrics, Input::Protobuf, Input::Text];
    let is_right = |other: &Input| {
        *other != format && !body.is_empty() && exposition::parse((*other).into(), mode, body).is_ok()
    };
    let Some(other) = others.into_iter().find(is_right).and_then(|other| other.to_possible_value()) else {
        return String::new();
    };
    format!(" (the body is right as --format {})", other.get_name())
}

fn encode(families: &[Family<'_>], output: Output) -> Vec<u8> {
    let mut out = Vec::new();
    match output {
        Output::Text => exposition::encode(families, &mut out),
        Output::Openmetrics => encode_openmetrics(families, &mut out),
        Output::Protobuf => encode_protobuf(families, &mut out),
        Output::Json => out = format!("{:#}\n", encode_json(families)).into_bytes(),
    }
    out
}
