//! The limits on the labels of a series, in Prometheus' words.

use crate::exposition::relabel::LabelSet;
use crate::sources::http_scrape::job::ScrapeLimits;

/// Why the labels of a series fail the scrape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum LabelLimit {
    #[error("label_limit exceeded (metric: {0}, number of labels: {1}, limit: {2})")]
    Labels(String, usize, usize),
    #[error("label_name_length_limit exceeded (metric: {0}, label name: {1}, length: {2}, limit: {3})")]
    Name(String, String, usize, usize),
    #[error(
        "label_value_length_limit exceeded (metric: {0}, label name: {1}, value: {2:?}, length: {3}, limit: {4})"
    )]
    Value(String, String, String, usize, usize),
}

/// Whether a limit depends on labels at all.
pub(super) fn limits_labels(limits: &ScrapeLimits) -> bool {
    limits.labels > 0 || limits.label_name_length > 0 || limits.label_value_length > 0
}

/// The first limit that the labels of a series exceed, its name among them as `__name__`.
pub(super) fn check(labels: &LabelSet<'_>, limits: &ScrapeLimits) -> Result<(), LabelLimit> {
    let metric = || beginning(labels.get("__name__"));
    let exceeds = |length: usize, limit: usize| limit > 0 && length > limit;
    if exceeds(labels.len(), limits.labels) {
        return Err(LabelLimit::Labels(metric(), labels.len(), limits.labels));
    }
    for (name, value) in labels.iter() {
        if exceeds(name.len(), limits.label_name_length) {
            return Err(LabelLimit::Name(metric(), beginning(name), name.len(), limits.label_name_length));
        }
        if exceeds(value.len(), limits.label_value_length) {
            let shown = (metric(), beginning(name), beginning(value));
            return Err(LabelLimit::Value(shown.0, shown.1, shown.2, value.len(), limits.label_value_length));
        }
    }
    Ok(())
}

fn beginning(text: &str) -> String {
    text.chars().take(50).collect()
}
