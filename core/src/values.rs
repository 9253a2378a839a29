//! The typed values of a configuration: durations and sizes that carry their unit, strings that may
//! come from the environment, and secrets that cannot be printed.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};

use crate::error::BuildError;

/// A duration in a configuration: `500ms`, `10s`, `1m30s`, `1h`. A bare number is refused: it has no unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// Seconds as a span, for defaults.
    pub const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Milliseconds as a span, for defaults.
    pub const fn millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `1m 30s` is how humantime prints; nobody writes the blank in a configuration.
        f.write_str(&humantime::format_duration(self.0).to_string().replace(' ', ""))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = with_unit(deserializer, "a duration with its unit, as 500ms, 10s or 1m30s")?;
        humantime::parse_duration(&text).map(Span).map_err(|error| {
            D::Error::custom(format!("{text:?} is not a duration like 500ms, 10s or 1m30s: {error}"))
        })
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "duration" })
    }
}

/// A size in bytes in a configuration: `512B`, `64KiB`, `10MB`, `1GiB`. A bare number is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Units of size, largest first, so that printing finds the one that divides evenly.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

impl Size {
    /// The size as a length in memory, saturating where `usize` is smaller.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit) = text.split_at(digits);
        let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))?;
        number.parse::<u64>().ok()?.checked_mul(*factor).map(Self)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SIZE_UNITS.iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        let (unit, factor) = exact.unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = with_unit(deserializer, "a size with its unit, as 512B, 64KiB or 1GiB")?;
        Self::parse(&text)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is not a size like 512B, 64KiB or 1GiB")))
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "size" })
    }
}

/// Reads a string; a bare number gets an error that names the missing unit.
fn with_unit<'de, D: Deserializer<'de>>(deserializer: D, expected: &'static str) -> Result<String, D::Error> {
    struct Visitor(&'static str);

    impl serde::de::Visitor<'_> for Visitor {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            Ok(text.trim().to_owned())
        }
    }

    deserializer.deserialize_str(Visitor(expected))
}

/// A password, token or key. It cannot be printed: `Debug` and the configuration dump show `<secret>`.
///
/// In a file write `${env:NAME}`, or use the `*_file` key beside it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret that was read from elsewhere.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself. Call it where the bytes go on the wire, and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("<secret>")
    }
}

/// By hand, because the derived one prints a value of the wrong type.
impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        const NOT_TEXT: &str = "a secret must be text; put it in quotes";

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret::new(text))
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Secret, E> {
                Err(E::custom(NOT_TEXT))
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<Secret, E> {
                Err(E::custom(NOT_TEXT))
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<Secret, E> {
                Err(E::custom(NOT_TEXT))
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<Secret, E> {
                Err(E::custom(NOT_TEXT))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "secret" })
    }
}

/// A secret that stands in the configuration, or in a file that is read again at every use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// Given in the configuration (from `${env:NAME}`, one hopes).
    Inline(Secret),
    /// Read from this file each time, so that a rotated secret is picked up.
    File(PathBuf),
}

impl SecretSource {
    /// Joins `<name>` and `<name>_file`: at most one may be set, and the file must be readable now.
    ///
    /// # Errors
    /// Both keys are set, or the file cannot be read.
    pub fn from_keys(
        name: &str,
        inline: Option<Secret>,
        file: Option<PathBuf>,
    ) -> Result<Option<Self>, BuildError> {
        match (inline, file) {
            (Some(_), Some(_)) => Err(BuildError::at(name, format!("set {name} or {name}_file, not both"))),
            (Some(secret), None) => Ok(Some(Self::Inline(secret))),
            (None, Some(path)) => {
                let source = Self::File(path);
                source.read().map_err(|error| BuildError::at(format!("{name}_file"), error))?;
                Ok(Some(source))
            }
            (None, None) => Ok(None),
        }
    }

    /// The secret, without the line end that editors leave at the end of a file.
    ///
    /// # Errors
    /// The file cannot be read; the message names it.
    pub fn read(&self) -> Result<Secret, std::io::Error> {
        match self {
            Self::Inline(secret) => Ok(secret.clone()),
            Self::File(path) => std::fs::read_to_string(path)
                .map(|text| Secret::new(text.trim_end_matches(['\r', '\n'])))
                .map_err(|error| {
                    std::io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display()))
                }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_round_trip_and_need_a_unit() {
        for text in ["1GiB", "10MB", "64KiB", "7B"] {
            assert_eq!(Size::parse(text).map(|size| size.to_string()).as_deref(), Some(text));
        }
        for text in ["", "5", "GiB", "-1GiB", "1.5GiB", "99999999999TiB", "1 parsec"] {
            assert_eq!(Size::parse(text), None, "{text}");
        }
        let span: Span = serde_json::from_str("\"1m30s\"").unwrap();
        assert_eq!((span, span.to_string().as_str()), (Span::secs(90), "1m30s"));
        let error = serde_json::from_str::<Span>("30").unwrap_err().to_string();
        assert!(error.contains("a duration with its unit"), "{error}");
    }

    #[test]
    fn a_secret_cannot_be_printed() {
        let secret = Secret::new("hunter2");
        let shown = format!("{secret:?} {}", serde_json::to_string(&secret).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");

        for wrong in ["48151623", "-48151623", "48151623.5", "[48151623]"] {
            let error = serde_json::from_str::<Secret>(wrong).unwrap_err().to_string();
            assert!(!error.contains("48151623"), "{error}");
        }
    }

    #[test]
    fn a_secret_file_is_read_again_and_trimmed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "one\n").unwrap();
        let source = SecretSource::from_keys("token", None, Some(path.clone())).unwrap().unwrap();
        assert_eq!(source.read().unwrap().expose(), "one");
        std::fs::write(&path, "two\r\n").unwrap();
        assert_eq!(source.read().unwrap().expose(), "two");

        let both = SecretSource::from_keys("token", Some(Secret::new("x")), Some(path)).unwrap_err();
        assert_eq!(both.to_string(), "token: set token or token_file, not both");
        let missing = SecretSource::from_keys("token", None, Some("/nowhere/token".into())).unwrap_err();
        assert!(missing.to_string().starts_with("token_file: cannot read /nowhere/token"), "{missing}");
    }
}
