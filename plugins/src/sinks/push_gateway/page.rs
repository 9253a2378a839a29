//! From an event to the body of a push: what the target exposed and the report of the scrape, labelled,
//! and in the form that a gateway takes.

use prometheus_streams_core::event::Event;

use super::key::GroupingKey;
use crate::exposition::{self, Canonical, Family};
use crate::support::report::{self, Unreadable};
use crate::support::scrape;

/// What goes into the group of an event, and whether its body could be read.
pub(super) fn page(
    event: &Event,
    key: &GroupingKey<'_>,
    honor_labels: bool,
) -> (Canonical, Result<(), Unreadable>) {
    let (mut families, readable) = report::families(event);
    label(&mut families, key, honor_labels || scrape::honors_labels(event));
    (exposition::canonical(families), readable)
}

/// Puts the labels of the target on the samples, except those that the gateway puts there itself. It
/// does so whatever a sample says, so these cannot be honoured and are always saved as `exported_`.
fn label<'a>(families: &mut [Family<'a>], key: &GroupingKey<'a>, honor_labels: bool) {
    if honor_labels {
        exposition::apply_target_labels(families, &key.grouped, false);
        exposition::apply_target_labels(families, &key.rest, true);
    } else {
        let all = [&key.grouped[..], &key.rest].concat();
        exposition::apply_target_labels(families, &all, false);
    }
    for sample in families.iter_mut().flat_map(|family| &mut family.samples) {
        sample.labels.retain(|(name, _)| !key.groups_by(name));
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    /// The lines of the page of `body` that are samples, but for the report.
    fn samples(body: &'static str, grouping: &[&str], honor_labels: bool) -> Vec<String> {
        let mut event = Event::new(UNIX_EPOCH, body);
        event.labels = [("job", "node"), ("instance", "db1"), ("publisher", "site")].into_iter().collect();
        let grouping: Vec<_> = grouping.iter().map(|&name| name.to_owned()).collect();
        let key = GroupingKey::new(&event.labels, Some(&grouping)).unwrap();
        let (page, readable) = page(&event, &key, honor_labels);
        readable.unwrap();
        let page = String::from_utf8(page.body).unwrap();
        page.lines().filter(|line| line.starts_with('x')).map(str::to_owned).collect()
    }

    const FEDERATED: &str = "x{job=\"a\",publisher=\"p\"} 1\nx{job=\"b\"} 2\nx{job=\"node\"} 3\n";

    #[test]
    fn what_the_gateway_would_overwrite_is_saved_as_exported() {
        assert_eq!(
            samples(FEDERATED, &["instance", "publisher"], false),
            [
                "x{exported_job=\"a\",exported_publisher=\"p\"} 1",
                "x{exported_job=\"b\"} 2",
                "x{exported_job=\"node\"} 3",
            ]
        );
    }

    #[test]
    fn what_does_not_name_the_group_goes_on_the_samples() {
        assert_eq!(
            samples(FEDERATED, &["instance"], false),
            [
                "x{exported_job=\"a\",exported_publisher=\"p\",publisher=\"site\"} 1",
                "x{exported_job=\"b\",publisher=\"site\"} 2",
                "x{exported_job=\"node\",publisher=\"site\"} 3",
            ]
        );
    }

    #[test]
    fn labels_are_honoured_as_far_as_a_gateway_can() {
        assert_eq!(
            samples(FEDERATED, &["instance"], true),
            [
                "x{exported_job=\"a\",publisher=\"p\"} 1",
                "x{exported_job=\"b\",publisher=\"site\"} 2",
                "x{exported_job=\"node\",publisher=\"site\"} 3",
            ]
        );
    }
}
