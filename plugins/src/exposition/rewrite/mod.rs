//! `metric_relabel_configs` on a body, in its own format: only the lines of series that changed are written
//! anew, those of series that were dropped vanish, and all else stays as it was, byte for byte.
//!
//! What comes out is read with scraped labels honoured, whatever was said of the body before: a label of
//! the target that a line does not name is its own, one that it names wins, and one that it names without a
//! value stays away. So a series has just the labels that relabelling left it, and a body in which nothing
//! changed is passed on as it came.
//!
//! ```
//! use prometheus_streams_plugins::exposition::relabel::{RelabelSettings, compile};
//! use prometheus_streams_plugins::exposition::{Format, rewrite};
//!
//! let settings: Vec<RelabelSettings> = serde_json::from_str(r#"[
//!     { "source_labels": ["__name__"], "regex": "go_.*", "action": "drop" },
//!     { "regex": "instance", "action": "labeldrop" }
//! ]"#)?;
//! let rules = compile(settings).map_err(|errors| format!("{errors:?}"))?;
//! let target = [("instance", "db1:9100"), ("job", "node")];
//! let relabeling = rewrite::Relabeling { target: &target, honor_labels: false, rules: &rules };
//!
//! let body = b"go_threads 7\nx{job=\"own\"} 1\n";
//! let body = rewrite::relabel(Format::Text, body, &relabeling)?;
//! assert_eq!(body.as_deref(), Some(&b"x{exported_job=\"own\",instance=\"\"} 1\n"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod edits;
mod families;
mod series;
#[cfg(test)]
mod tests;
mod timestamps;

pub use self::edits::Edits;
pub use self::families::relabel_protobuf;
pub use self::series::{Exposed, Fate, Relabeling, Unfit};
pub use self::timestamps::forget_timestamps;

use super::entry::Entry;
use super::error::ParseError;
use super::format::{Format, Mode};
use super::group::parse;
use super::model::MetricKind;
use super::parser::Parser;
use super::relabel::LabelSet;

/// Why a body could not be relabelled; then the whole scrape fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// It is not of its format.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// Relabelling made something of a series that is none.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// Relabels all samples of a body. `None` if it stays as it is; whoever reads it must honour the labels of its
/// samples from now on, also then.
///
/// # Errors
/// The body is not of its format, or what became of a series is none. The whole scrape fails, as for Prometheus.
pub fn relabel(
    format: Format,
    body: &[u8],
    relabeling: &Relabeling<'_>,
) -> Result<Option<Vec<u8>>, RewriteError> {
    let mut parser = Parser::new(format, Mode::Compat, body);
    let mut edits = Edits::new(body);
    let mut set = LabelSet::new();
    let mut kind = MetricKind::Untyped;
    let mut has_changed = false;
    while let Some(entry) = parser.next_entry()? {
        match entry {
            Entry::Type { kind: named, .. } => kind = named,
            Entry::Sample { name, .. } | Entry::Histogram { name, .. } => {
                let exposed = Exposed { name: &name, labels: parser.labels(), kind };
                let fate = relabeling.judge(exposed, &mut set)?;
                has_changed |= fate != Fate::Kept;
                match fate {
                    _ if format == Format::Protobuf => {}
                    Fate::Kept => {}
                    Fate::Dropped => edits.remove(parser.line()),
                    Fate::Changed => {
                        edits.replace(parser.series(), |out| relabeling.write(exposed, &set, out));
                    }
                }
            }
            Entry::Help { .. } | Entry::Unit { .. } => {}
        }
    }
    match format {
        Format::Protobuf if has_changed => relabel_protobuf(body, relabeling, i64::MAX).map(Some),
        _ => Ok(edits.finish()),
    }
}
