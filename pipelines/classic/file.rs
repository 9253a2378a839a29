//! The classic file as its users wrote it: every key of prometheus-streams 1.0, and the one that is
//! new, `stream`. Read as YAML 1.1 was: `yes` is true, and a bare number will do for a name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};
use serde_json::Value;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClassicFile {
    pub(super) identity: Option<Text>,
    /// What it asks for is the default.
    #[allow(dead_code)]
    pub(super) verbose: Option<Flag>,
    pub(super) debug: Option<Flag>,
    pub(super) logfile: Option<PathBuf>,
    pub(super) scrape_interval: Option<GoDuration>,
    /// In whole seconds; 0 for no limit.
    pub(super) max_age: Option<u64>,
    /// 0 for none.
    pub(super) monitor_port: Option<u16>,
    pub(super) poller_stream: Option<Stream>,
    pub(super) receiver_stream: Option<Stream>,
    pub(super) push_gateway: Option<PushGateway>,
    pub(super) jobs: Option<BTreeMap<String, Option<Job>>>,
    pub(super) tls: Option<Tls>,
    pub(super) management: Option<Management>,
}

/// `poller_stream` and `receiver_stream`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stream {
    pub(super) client_id: Option<Text>,
    pub(super) cluster_id: Option<Text>,
    pub(super) urls: Option<Text>,
    pub(super) topic: Option<Text>,
    /// New: the name of the JetStream stream, where the topic is not to name it.
    pub(super) stream: Option<Text>,
    pub(super) tls: Option<Tls>,
}

/// `push_gateway`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PushGateway {
    pub(super) url: Option<Text>,
    pub(super) publisher_label: Option<Flag>,
}

/// A value under `jobs`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Job {
    pub(super) targets: Option<Vec<Target>>,
}

/// One of the `targets` of a job.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    pub(super) name: Option<Text>,
    pub(super) url: Text,
}

/// `tls`, wherever it stands.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) identity: Option<Text>,
    pub(super) scheme: Option<Text>,
    pub(super) ssl_dir: Option<PathBuf>,
    pub(super) ca: Option<PathBuf>,
    pub(super) cert: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
    pub(super) cache: Option<Value>,
}

/// `management`: read, so that mistakes show, and not used.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "the keys are checked, and what they ask for is not offered")]
pub(super) struct Management {
    name: Option<Text>,
    identity: Option<Text>,
    collective: Option<Text>,
    brokers: Option<Vec<Text>>,
    logfile: Option<PathBuf>,
    loglevel: Option<Text>,
    auth: Option<Value>,
    tls: Option<Tls>,
}

/// A string; a bare number or boolean is taken as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text(pub(super) String);

impl Text {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl Visitor<'_> for TextVisitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
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

            fn visit_f64<E: Error>(self, number: f64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }

            fn visit_bool<E: Error>(self, flag: bool) -> Result<Text, E> {
                Ok(Text(flag.to_string()))
            }
        }

        deserializer.deserialize_any(TextVisitor)
    }
}

/// A boolean in any of the words that YAML 1.1 has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flag(pub(super) bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = Text::deserialize(deserializer)?;
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "y" | "on" => Ok(Self(true)),
            "false" | "no" | "n" | "off" => Ok(Self(false)),
            _ => Err(D::Error::custom(format!("{text:?} is neither true nor false"))),
        }
    }
}

/// A duration as Go writes it: `60s`, `1m30s`, `1.5h`. More than zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GoDuration(pub(super) Duration);

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Text(text) = Text::deserialize(deserializer)?;
        let duration = parse_go_duration(&text).ok_or_else(|| {
            D::Error::custom(format!("{text:?} is not a duration with its unit, as 60s or 1m30s"))
        })?;
        if duration.is_zero() {
            return Err(D::Error::custom("must be more than zero"));
        }
        Ok(Self(duration))
    }
}

/// The units of Go's durations, in seconds; a unit comes before those that its name begins with.
const GO_UNITS: [(&str, f64); 8] = [
    ("ns", 1e-9),
    ("us", 1e-6),
    ("\u{b5}s", 1e-6),
    ("\u{3bc}s", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
];

fn parse_go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() && rest != "0" {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let (unit, seconds) = GO_UNITS.iter().find(|(unit, _)| after.starts_with(unit))?;
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = &after[unit.len()..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, millis) in
            [("60s", 60_000), ("1m30s", 90_000), ("1.5h", 5_400_000), ("1h0m0.25s", 3_600_250)]
        {
            assert_eq!(parse_go_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "60", "s", "-5s", "1.2.3s", "5 s", "1d", "1e9h", "99999999999999999999h"] {
            assert_eq!(parse_go_duration(text), None, "{text}");
        }
    }

    #[test]
    fn yaml_words_and_bare_numbers_are_taken_as_they_were() {
        let stream: Stream = serde_json::from_str(r#"{"client_id": 7, "topic": "t"}"#).unwrap();
        assert_eq!(stream.client_id, Some(Text("7".into())));
        let gateway: PushGateway = serde_json::from_str(r#"{"publisher_label": "Yes"}"#).unwrap();
        assert_eq!(gateway.publisher_label, Some(Flag(true)));
        assert!(serde_json::from_str::<Flag>("1").is_err());
    }
}
