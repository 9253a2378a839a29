//! The grouping key: which labels of an event name its group, and how they are written into a URL.
//!
//! A gateway splits the path after it has decoded it, so a value with a slash cannot be percent-encoded,
//! and it cleans dots away by a redirect. So what is not plainly safe goes as base64.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prometheus_streams_core::event::Labels;

use crate::support::scrape::{JOB, is_label_name};

/// The labels of one event, divided into those that name its group and the rest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GroupingKey<'a> {
    /// `/metrics/job/<job>{/<name>/<value>}`: the same for events of one group, different for others.
    pub(super) path: String,
    /// Name the group; a gateway writes them over whatever the samples say.
    pub(super) grouped: Vec<(&'a str, &'a str)>,
    /// Go on the samples.
    pub(super) rest: Vec<(&'a str, &'a str)>,
}

/// Why an event has no grouping key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyError {
    #[error("the event has no job label, and a push gateway needs one to name a group")]
    NoJob,
    #[error(
        "a push gateway cannot hold the label {0:?}: a name is letters, digits and _, without __ in front"
    )]
    LabelName(String),
}

impl<'a> GroupingKey<'a> {
    /// The key of an event with these labels: by `job` and the names in `grouping`, or by all labels.
    /// Labels without a value are no labels; a gateway that is given one breaks.
    pub(super) fn new(labels: &'a Labels, grouping: Option<&[String]>) -> Result<Self, KeyError> {
        let is_grouped = |name: &str| {
            name == JOB || grouping.is_none_or(|grouping| grouping.iter().any(|wanted| wanted == name))
        };
        let labels = labels.iter().filter(|(_, value)| !value.is_empty());
        let (mut grouped, rest): (Vec<_>, Vec<_>) = labels.partition(|(name, _)| is_grouped(name));
        if let Some((name, _)) = grouped.iter().chain(&rest).find(|(name, _)| !is_label_name(name)) {
            return Err(KeyError::LabelName((*name).to_owned()));
        }
        // Labels come sorted; a stable sort only brings the job to the front.
        grouped.sort_by_key(|(name, _)| *name != JOB);
        if grouped.first().is_none_or(|(name, _)| *name != JOB) {
            return Err(KeyError::NoJob);
        }
        Ok(Self { path: path(&grouped), grouped, rest })
    }

    /// Whether `name` is one of the labels that name the group.
    pub(super) fn groups_by(&self, name: &str) -> bool {
        self.grouped.iter().any(|(own, _)| *own == name)
    }
}

fn path(labels: &[(&str, &str)]) -> String {
    let mut path = String::from("/metrics");
    for (name, value) in labels {
        path.push('/');
        path.push_str(name);
        if is_plain(value) {
            path.push('/');
            path.push_str(value);
        } else {
            path.push_str("@base64/");
            URL_SAFE_NO_PAD.encode_string(value, &mut path);
        }
    }
    path
}

/// Whether a value stands for itself in a path, whoever cleans or decodes it.
fn is_plain(value: &str) -> bool {
    let is_safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'~' | b'-');
    value.bytes().next().is_some_and(is_safe) && value.bytes().all(|b| is_safe(b) || b == b'.')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().copied().collect()
    }

    fn path_of(pairs: &[(&str, &str)]) -> String {
        GroupingKey::new(&labels(pairs), None).unwrap().path
    }

    /// Reads a path as a gateway does.
    fn decode(path: &str) -> Labels {
        let parts: Vec<_> = path.strip_prefix("/metrics/").unwrap().split('/').collect();
        let decoded = parts.chunks(2).map(|pair| match pair[0].strip_suffix("@base64") {
            Some(name) => {
                let value = URL_SAFE_NO_PAD.decode(pair[1]).unwrap();
                (name.to_owned(), String::from_utf8(value).unwrap())
            }
            None => (pair[0].to_owned(), pair[1].to_owned()),
        });
        decoded.collect()
    }

    #[test]
    fn the_job_comes_first_and_the_rest_sorted() {
        let pairs = [("zone", "z"), ("job", "node"), ("instance", "db1.example.net"), ("alpha", "~-_.")];
        assert_eq!(path_of(&pairs), "/metrics/job/node/alpha/~-_./instance/db1.example.net/zone/z");
    }

    #[test]
    fn what_is_not_plain_goes_as_base64_and_what_is_empty_does_not_go() {
        for (value, written) in [
            ("db1:9100", "/instance@base64/ZGIxOjkxMDA"),
            ("/var/tmp", "/instance@base64/L3Zhci90bXA"),
            (".", "/instance@base64/Lg"),
            ("..", "/instance@base64/Li4"),
            (".a", "/instance@base64/LmE"),
            ("a b", "/instance@base64/YSBi"),
            ("a+b", "/instance@base64/YSti"),
            ("\u{ff}?", "/instance@base64/w78_"),
            ("\0", "/instance@base64/AA"),
            ("", ""),
        ] {
            assert_eq!(path_of(&[("job", "j"), ("instance", value)]), format!("/metrics/job/j{written}"));
        }
        assert_eq!(path_of(&[("job", "a/b")]), "/metrics/job@base64/YS9i");
    }

    #[test]
    fn without_a_job_or_with_a_name_that_no_gateway_takes_there_is_no_key() {
        for pairs in [&[("instance", "i")][..], &[("job", ""), ("instance", "i")]] {
            assert_eq!(GroupingKey::new(&labels(pairs), None), Err(KeyError::NoJob));
        }
        for name in ["a.b", "__a", "9a", "", "ä", "a@base64", "a/b"] {
            let labels = labels(&[("job", "j"), (name, "x")]);
            for grouping in [None, Some(&[][..])] {
                let error = GroupingKey::new(&labels, grouping).unwrap_err();
                assert_eq!(error, KeyError::LabelName(name.to_owned()));
            }
        }
    }

    #[test]
    fn a_grouping_divides_the_labels() {
        let labels = labels(&[("job", "j"), ("instance", "i"), ("publisher", "p"), ("rack", "")]);
        let grouping = ["rack".to_owned(), "instance".to_owned()];
        let key = GroupingKey::new(&labels, Some(&grouping)).unwrap();
        assert_eq!(key.path, "/metrics/job/j/instance/i");
        assert_eq!(key.grouped, [("job", "j"), ("instance", "i")]);
        assert_eq!(key.rest, [("publisher", "p")]);
        assert!(key.groups_by("instance") && !key.groups_by("publisher") && !key.groups_by("rack"));
    }

    proptest! {
        #[test]
        fn a_key_reads_back_as_its_labels(
            job in any::<String>(),
            others in proptest::collection::btree_map("[a-zA-Z][a-zA-Z0-9_]{0,8}", any::<String>(), 0..4),
        ) {
            let mut labels: Labels = others.into_iter().collect();
            labels.insert("job", job);
            let written: Labels = labels.iter().filter(|(_, value)| !value.is_empty()).collect();
            match GroupingKey::new(&labels, None) {
                Ok(key) => prop_assert_eq!(decode(&key.path), written),
                Err(error) => prop_assert!(error == KeyError::NoJob && written.get("job").is_none()),
            }
        }
    }
}
