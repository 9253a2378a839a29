//! What flows through a pipeline: one observation of one thing, with a body that core never opens.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One observation. Cloning is cheap: labels, attributes and body are shared, not copied.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When the data was observed at its origin.
    pub timestamp: SystemTime,
    /// Identity. Two events with equal labels observe one thing, and are delivered in the order in which
    /// their source sent them.
    pub labels: Labels,
    /// Facts about this observation: its encoding, its sequence, why it failed.
    pub attributes: Attributes,
    /// Opaque to core; for a scrape the exact bytes that the target sent.
    pub body: Bytes,
}

impl Event {
    /// An event without labels or attributes, observed at `timestamp`.
    pub fn new(timestamp: SystemTime, body: impl Into<Bytes>) -> Self {
        Self { timestamp, labels: Labels::default(), attributes: Attributes::default(), body: body.into() }
    }
}

/// Declares a sorted map of strings that is shared between clones until one of them changes.
macro_rules! shared_map {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<BTreeMap<String, String>>);

        impl $name {
            /// The value of `name`, if it is set.
            pub fn get(&self, name: &str) -> Option<&str> {
                self.0.get(name).map(String::as_str)
            }

            /// Sets `name`, and returns the value that it had.
            pub fn insert(&mut self, name: impl Into<String>, value: impl Into<String>) -> Option<String> {
                Arc::make_mut(&mut self.0).insert(name.into(), value.into())
            }

            /// Removes `name`, and returns the value that it had.
            pub fn remove(&mut self, name: &str) -> Option<String> {
                if self.0.contains_key(name) {
                    Arc::make_mut(&mut self.0).remove(name)
                } else {
                    None
                }
            }

            /// Names and values, sorted by name.
            pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
                self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
            }

            /// How many names are set.
            pub fn len(&self) -> usize {
                self.0.len()
            }

            /// True when nothing is set.
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }

        impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for $name {
            fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
                Self(Arc::new(
                    pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
                ))
            }
        }

        impl<'a> IntoIterator for &'a $name {
            type Item = (&'a String, &'a String);
            type IntoIter = btree_map::Iter<'a, String, String>;

            fn into_iter(self) -> Self::IntoIter {
                self.0.iter()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_map().entries(self.iter()).finish()
            }
        }
    };
}

shared_map! {
    /// Identity, as Prometheus has it: `job`, `instance`, `publisher` and whatever else names the thing.
    Labels
}

shared_map! {
    /// Facts about one observation. Their names belong to the stages that write and read them.
    Attributes
}

/// As in PromQL: `{instance="db1:9100", job="node"}`.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (name, value)) in self.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{name}={value:?}")?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_clone_leaves_the_original_alone() {
        let original: Labels = [("job", "node"), ("instance", "db1")].into_iter().collect();
        let mut changed = original.clone();
        changed.insert("job", "other");
        changed.remove("instance");
        assert_eq!(original.to_string(), r#"{instance="db1", job="node"}"#);
        assert_eq!(changed.to_string(), r#"{job="other"}"#);
    }
}
