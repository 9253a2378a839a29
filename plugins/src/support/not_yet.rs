//! Keys of Prometheus that this program does not have yet. They are known, so that whoever pastes a
//! configuration hears why it does not do, and not that the key was mistyped.

use prometheus_streams_core::error::BuildError;
use serde::de::{Deserialize, Deserializer, IgnoredAny};

/// The place of such a key in a settings struct: takes whatever is there, and remembers that there was
/// something. Give it `#[serde(default)]`, and `#[schemars(skip)]` so that no reference lists it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotYet(bool);

impl NotYet {
    /// Adds a mistake at `key`, if the key was there.
    pub fn refuse(self, key: &str, problems: &mut BuildError) {
        if self.0 {
            problems.add(key, "Prometheus has this, prometheus-streams does not yet");
        }
    }
}

impl<'de> Deserialize<'de> for NotYet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self(true))
    }
}
