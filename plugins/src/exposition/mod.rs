//! The text exposition format of Prometheus: parse it, relabel it, write it again.
//!
//! A scrape is a page of text: `# HELP` and `# TYPE` lines that describe a metric family, and one
//! line per sample. This module reads format 0.0.4 with the verdicts of Prometheus (what a
//! Prometheus server refuses is refused here, and nothing else), adds target labels as a scrape
//! does, and writes either the plain text ([`encode`]) or the stricter form that a Push Gateway
//! takes ([`canonical`]).
//!
//! Three layers, each usable alone: [`Parser`] streams entries and borrows everything from the
//! body; [`parse`] gathers them into families; [`canonical`] makes the families fit a gateway.
//!
//! ```
//! use prometheus_streams_plugins::exposition::{self, Format, Mode};
//!
//! let mut families = exposition::parse(Format::Text, Mode::Compat, b"# TYPE up gauge\nup{job=\"a\"} 1\n")?;
//! exposition::apply_target_labels(&mut families, &[("job", "b")], false);
//! let mut page = Vec::new();
//! exposition::encode(&families, &mut page);
//! assert_eq!(page, b"# TYPE up gauge\nup{job=\"b\",exported_job=\"a\"} 1\n");
//! # Ok::<(), exposition::ParseError>(())
//! ```

mod canonical;
mod encode;
mod entry;
mod error;
mod float;
mod format;
mod group;
mod labels;
mod model;
mod openmetrics;
mod parser;
mod protobuf;
pub mod relabel;
pub mod rewrite;
mod scan;
mod series;
mod strict;
mod swar;
mod text;
#[cfg(test)]
mod verdicts;

pub use canonical::{Canonical, Normalized, canonical, normalize};
pub use encode::{encode, encode_help, encode_sample, encode_type};
pub use entry::{Entry, Label};
pub use error::{ParseError, Place};
pub use format::{Format, Mode};
pub use group::parse;
pub use labels::apply_target_labels;
pub use model::{
    Buckets, Exemplar, Family, HistogramSample, LabelPair, MetricKind, NativeHistogram, Sample,
    is_plain_label_name, is_plain_metric_name,
};
pub use parser::{Parser, count_samples};
