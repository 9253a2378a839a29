//! Relabelling: the rules by which Prometheus rewrites the labels of targets and of samples.
//!
//! A rule of `relabel_configs` or `metric_relabel_configs` takes the values of some labels, joins them,
//! matches them against a regex, and by that keeps or drops the series, or sets a label. Here rules come
//! in Prometheus' own syntax ([`RelabelSettings`]), are checked and compiled once ([`Rule`]), and then
//! [`apply`] to the labels of one series or target after the other ([`LabelSet`]), with the outcome that
//! Prometheus 3 would have: the regexes mean what they mean in Go, though they run in Rust's engine.
//!
//! ```
//! use prometheus_streams_plugins::exposition::relabel::{LabelSet, RelabelSettings, apply, compile};
//!
//! let settings: Vec<RelabelSettings> = serde_json::from_str(r#"[
//!     { "source_labels": ["__name__"], "regex": "go_.*", "action": "drop" },
//!     { "source_labels": ["instance"], "regex": "(.+):\\d+", "target_label": "host" }
//! ]"#)?;
//! let rules = compile(settings).map_err(|errors| format!("{errors:?}"))?;
//!
//! let mut labels = LabelSet::from_iter([("__name__", "up"), ("instance", "db1:9100")]);
//! assert!(apply(&rules, &mut labels));
//! assert_eq!(labels.to_string(), r#"{__name__="up", host="db1", instance="db1:9100"}"#);
//!
//! labels.refill([("__name__", "go_threads"), ("instance", "db1:9100")]);
//! assert!(!apply(&rules, &mut labels));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod case;
mod labels;
mod pattern;
mod rule;
mod settings;
mod syntax;
mod template;
#[cfg(test)]
mod tests;
mod text;

pub use labels::LabelSet;
pub use rule::{Rule, apply};
pub use settings::{RelabelAction, RelabelSettings, RuleError, compile};
