//! The scalars of a `prometheus.yml`, read as Prometheus reads them: durations and sizes in its own
//! notation, texts that YAML would take for something else, and the truth values of YAML 1.1.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use prometheus_streams_core::values::{Size, Span};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

/// A text, or a scalar that is meant as one: a port, a version, `true`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(pub String);

impl Text {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyScalar;

        impl Visitor<'_> for AnyScalar {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }

            fn visit_bool<E: Error>(self, flag: bool) -> Result<Text, E> {
                Ok(Text(flag.to_string()))
            }

            /// Nothing is an empty text.
            fn visit_unit<E: Error>(self) -> Result<Text, E> {
                Ok(Text::default())
            }

            /// Whether it was `1.1` or `1.10` cannot be told any more.
            fn visit_f64<E: Error>(self, _: f64) -> Result<Text, E> {
                Err(E::custom("a number with a fraction that is meant as a text must be in quotes"))
            }
        }

        deserializer.deserialize_any(AnyScalar)
    }
}

impl JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        "text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// A truth value in any of the words that YAML 1.1 has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flag(pub bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = Text::deserialize(deserializer)?;
        match text.as_str() {
            "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => {
                Ok(Self(true))
            }
            "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => {
                Ok(Self(false))
            }
            _ => Err(D::Error::custom(format!("{text:?} is neither true nor false"))),
        }
    }
}

impl JsonSchema for Flag {
    fn schema_name() -> Cow<'static, str> {
        "flag".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "boolean" })
    }
}

/// A duration as Prometheus writes it: `1m30s`, `1d`, `0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromDuration(pub Duration);

/// The units of durations in milliseconds; in a duration they stand in this order.
const DURATION_UNITS: [(&str, u64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];
/// Prometheus counts nanoseconds in 63 bits.
const LONGEST_DURATION: u64 = i64::MAX as u64 / 1_000_000;

impl PromDuration {
    /// The duration, unless it is zero, which stands for none.
    pub fn span(self) -> Option<Span> {
        Some(Span(self.0)).filter(|span| !span.0.is_zero())
    }

    /// Reads a duration, as `1m30s`; `None` where it is none.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "0" {
            return Some(Self(Duration::ZERO));
        }
        let (mut rest, mut total, mut smaller) = (text, 0_u64, &DURATION_UNITS[..]);
        while !rest.is_empty() {
            let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
            let (unit, after) =
                after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
            let place = smaller.iter().position(|(name, _)| *name == unit)?;
            let part = number.parse::<u64>().ok()?.checked_mul(smaller[place].1)?;
            total = total.checked_add(part)?;
            (rest, smaller) = (after, &smaller[place + 1..]);
        }
        let is_one = !text.is_empty() && total <= LONGEST_DURATION;
        is_one.then_some(Self(Duration::from_millis(total)))
    }
}

impl fmt::Display for PromDuration {
    /// As Prometheus reads it, in whole milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, millis) in &DURATION_UNITS {
            // Days are plainer than weeks and years, unless these are whole.
            let is_plain = !matches!(*unit, "y" | "w") || left.is_multiple_of(*millis);
            if left >= *millis && is_plain {
                write!(f, "{}{unit}", left / millis)?;
                left %= millis;
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for PromDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = Text::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!(
                "{text:?} is not a duration as Prometheus has it: whole numbers with units, the largest first, as 1d, 1m30s or 500ms"
            ))
        })
    }
}

impl JsonSchema for PromDuration {
    fn schema_name() -> Cow<'static, str> {
        "prometheus_duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "duration" })
    }
}

/// A size as Prometheus writes it: `10MB`, `1.5GiB`, `0`. `KB` and `KiB` are both 1024 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromSize(pub u64);

/// The powers of 1024.
const SIZE_PREFIXES: &str = "KMGTPE";

impl PromSize {
    /// The size, unless it is zero, which stands for none.
    pub fn size(self) -> Option<Size> {
        Some(Size(self.0)).filter(|size| size.0 > 0)
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('+').unwrap_or(text);
        if text == "0" {
            return Some(Self(0));
        }
        Self::parse_with(text, "iB").or_else(|| Self::parse_with(text, "B"))
    }

    /// Numbers and their units, which are `B` and those that end so.
    fn parse_with(text: &str, end: &str) -> Option<Self> {
        let (mut rest, mut total) = (text, 0.0);
        while !rest.is_empty() {
            let is_digit = |c: char| c.is_ascii_digit() || c == '.';
            let (number, after) = rest.split_at(rest.find(|c| !is_digit(c))?);
            let (unit, after) = after.split_at(after.find(is_digit).unwrap_or(after.len()));
            let power = match unit {
                "B" => 0,
                _ => 1 + SIZE_PREFIXES.find(unit.strip_suffix(end).filter(|prefix| prefix.len() == 1)?)?,
            };
            total += number.parse::<f64>().ok()? * 1024_f64.powi(i32::try_from(power).ok()?);
            rest = after;
        }
        let is_one = !text.is_empty() && total < i64::MAX as f64;
        is_one.then_some(Self(total as u64))
    }
}

impl<'de> Deserialize<'de> for PromSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = Text::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!("{text:?} is not a size as Prometheus has it, as 512B, 10MB or 1.5GiB"))
        })
    }
}

impl JsonSchema for PromSize {
    fn schema_name() -> Cow<'static, str> {
        "prometheus_size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "size" })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn durations_are_those_of_prometheus() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("90s", 90_000),
            ("1m30s", 90_000),
            ("1h0m5ms", 3_600_005),
            ("1d", 86_400_000),
            ("1y1w", 372 * 86_400_000),
        ] {
            assert_eq!(
                PromDuration::parse(text),
                Some(PromDuration(Duration::from_millis(millis))),
                "{text}"
            );
        }
        for text in [
            "",
            "5",
            "1.5m",
            "30s1m",
            "1m1m",
            "-5s",
            "5 s",
            "s",
            "1us",
            "1H",
            "293y",
            "99999999999999999999s",
        ] {
            assert_eq!(PromDuration::parse(text), None, "{text}");
        }
        for text in ["0s", "1d1h1m1s1ms", "1m30s", "400d", "2w", "1y"] {
            assert_eq!(PromDuration::parse(text).map(|duration| duration.to_string()).as_deref(), Some(text));
        }
    }

    #[test]
    fn sizes_are_those_of_prometheus() {
        for (text, bytes) in [
            ("0", 0),
            ("+0", 0),
            ("512B", 512),
            ("10MB", 10 << 20),
            ("10MiB", 10 << 20),
            ("1.5GB", 3 << 29),
            ("1GB500MB", (1 << 30) + (500 << 20)),
            (".5KiB", 512),
            ("1EB", 1 << 60),
        ] {
            assert_eq!(PromSize::parse(text), Some(PromSize(bytes)), "{text}");
        }
        for text in ["", "+", "5", "10kB", "10mb", "-1MB", "1 MB", "MB", ".MB", "1.2.3MB", "1KiB1KB", "9EB"] {
            assert_eq!(PromSize::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_scalar_that_is_meant_as_a_text_is_one() {
        let text = |value: Value| serde_json::from_value::<Text>(value).map(|Text(text)| text);
        assert_eq!(text(json!(8080)).unwrap(), "8080");
        assert_eq!(text(json!(-1)).unwrap(), "-1");
        assert_eq!(text(json!(true)).unwrap(), "true");
        assert!(text(json!(1.1)).unwrap_err().to_string().contains("must be in quotes"));
        assert_eq!(text(json!(null)).unwrap(), "");
        assert!(text(json!(["a"])).is_err());
    }

    #[test]
    fn truth_has_many_words() {
        let flag = |value: Value| serde_json::from_value::<Flag>(value).map(|Flag(flag)| flag).ok();
        let words = [json!(true), json!("yes"), json!("Off"), json!("n"), json!("yEs"), json!(1)];
        assert_eq!(words.map(flag), [Some(true), Some(true), Some(false), Some(false), None, None]);
    }
}
