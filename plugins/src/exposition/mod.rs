//! The exposition formats of Prometheus: parse them, relabel, write them again.
//!
//! A scrape is a page: what it says of a metric family (`# HELP`, `# TYPE`), and its samples. There are
//! three formats for it, the text format, OpenMetrics and protobuf ([`Format`]), and one model of what they
//! say ([`Family`]). A parser gives the verdict of one of two judges ([`Mode`]): of Prometheus (what a
//! Prometheus server refuses is refused here, and nothing else), or of the format's specification. A body is
//! taken whole or not at all; [`ParseError`] says where it went wrong, what was expected and what was found.
//!
//! Layers, each usable alone:
//!
//! - [`Parser`] streams entries and borrows everything from the body. A node_exporter's page passes at more
//!   than a gigabyte a second, with all verdicts; nothing is allocated per sample.
//! - [`parse`] gathers the entries into families; [`apply_target_labels`] adds to them who was scraped.
//! - [`encode`] writes families as plain text; [`canonical`] makes the stricter form that a Push Gateway takes.
//! - [`parse_pushed`] reads text as a Push Gateway does.
//! - [`relabel`] has the rules of Prometheus for changing, keeping and dropping what has labels.
//!
//! How it is made: `text` and `openmetrics` know one format each, and share `scan` (a position in a body of
//! lines), `series` (what stands in braces), `swar` (eight bytes at a time) and `float`; `parser` puts one
//! front on all formats.
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
mod pushed;
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
pub use encode::{
    OPENMETRICS_END, as_openmetrics, as_protobuf, as_text, encode, encode_help, encode_json, encode_labels,
    encode_openmetrics, encode_openmetrics_metadata, encode_openmetrics_samples,
    encode_openmetrics_timestamp, encode_protobuf, encode_protobuf_metadata, encode_protobuf_metrics,
    encode_sample, encode_series, encode_type,
};
pub(crate) use encode::{packed_counts, varint, zigzag};
pub use entry::{Entry, Label};
pub use error::{ParseError, Place};
pub use format::{Format, Mode};
pub use group::{FamilyOutline, Outline, outline, parse};
pub use labels::apply_target_labels;
pub use model::{
    Buckets, Exemplar, Family, HistogramSample, LabelPair, MetricKind, NativeHistogram, Sample,
    is_plain_label_name, is_plain_metric_name,
};
pub use parser::{Parser, count_samples};
pub use pushed::{PushedError, bound_as_pushed, parse_pushed};
