//! What a gateway can do: its `/api/v1/status` tells the version, the flags, and when it was started.

use schemars::JsonSchema;
use serde::Deserialize;

/// How bodies are compressed on their way to the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// With gzip where the gateway says that it is 1.5.0 or newer, else not at all.
    #[default]
    Auto,
    /// Not at all; every gateway understands that.
    None,
    /// With gzip, which gateways understand from 1.5.0 on.
    Gzip,
}

/// In which format bodies are pushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Protobuf where the gateway says that it is older than 1.6.0, else text.
    #[default]
    Auto,
    /// Text format 0.0.4.
    Text,
    /// Delimited protobuf.
    Protobuf,
}

/// How a body goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wire {
    pub(super) is_protobuf: bool,
    pub(super) is_gzip: bool,
}

/// What a gateway says of itself. One that says nothing, because it is old or stands behind a proxy, has no
/// version, and is spoken to in the words that all of them understand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Abilities {
    version: Option<(u32, u32)>,
    /// When it was started, in its own words.
    pub(super) start: Option<String>,
    /// Whether it checks each push against everything that it holds.
    pub(super) checks: Option<bool>,
}

#[derive(Deserialize)]
struct Status {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    build_information: BuildInformation,
    #[serde(default)]
    flags: Flags,
    start_time: Option<String>,
}

#[derive(Deserialize)]
struct BuildInformation {
    version: String,
}

#[derive(Default, Deserialize)]
struct Flags {
    #[serde(rename = "push.disable-consistency-check")]
    disable_consistency_check: Option<String>,
}

impl Abilities {
    /// Reads the answer of a gateway; `None` if it is that of something else.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let Status { data } = serde_json::from_slice(body).ok()?;
        let version = data.build_information.version;
        let mut numbers = version.trim_start_matches('v').split(['.', '-', '+']).map(str::parse);
        let version = match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
            _ => None,
        };
        let checks = data.flags.disable_consistency_check.map(|disabled| disabled != "true");
        Some(Self { version, start: data.start_time, checks })
    }

    /// How to speak to it. A gateway before 1.6 stores the part of a text that it got when the rest was cut
    /// off at the end of a line; a protobuf it takes whole or not at all.
    pub(super) fn wire(&self, encoding: Encoding, compression: Compression) -> Wire {
        let is_at_least = |version| self.version.is_some_and(|own| own >= version);
        Wire {
            is_protobuf: match encoding {
                Encoding::Auto => self.version.is_some() && !is_at_least((1, 6)),
                Encoding::Text => false,
                Encoding::Protobuf => true,
            },
            is_gzip: match compression {
                Compression::Auto => is_at_least((1, 5)),
                Compression::None => false,
                Compression::Gzip => true,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire_of(version: &str, encoding: Encoding, compression: Compression) -> (bool, bool) {
        let status = format!(r#"{{"data":{{"build_information":{{"version":"{version}"}}}}}}"#);
        let wire = Abilities::read(status.as_bytes()).unwrap().wire(encoding, compression);
        (wire.is_protobuf, wire.is_gzip)
    }

    #[test]
    fn a_gateway_is_spoken_to_in_what_its_version_can_do() {
        for (version, wire) in [
            ("1.4.3", (true, false)),
            ("1.5.1", (true, true)),
            ("v1.6.0", (false, true)),
            ("1.11.3", (false, true)),
            ("2.0.0-rc.0", (false, true)),
            ("unknown", (false, false)),
            ("", (false, false)),
        ] {
            assert_eq!(wire_of(version, Encoding::Auto, Compression::Auto), wire, "{version}");
            assert_eq!(wire_of(version, Encoding::Text, Compression::Gzip), (false, true), "{version}");
            assert_eq!(wire_of(version, Encoding::Protobuf, Compression::None), (true, false), "{version}");
        }
        let unknown = Abilities::default().wire(Encoding::Auto, Compression::Auto);
        assert_eq!(unknown, Wire { is_protobuf: false, is_gzip: false });
    }

    #[test]
    fn the_flags_say_whether_it_checks() {
        let status = |flag: &str| {
            let flags = format!(r#"{{"push.disable-consistency-check":"{flag}"}}"#);
            let build = r#"{"version":"1.5.1"}"#;
            let data = format!(r#"{{"build_information":{build},"flags":{flags},"start_time":"T"}}"#);
            Abilities::read(format!(r#"{{"status":"success","data":{data}}}"#).as_bytes()).unwrap()
        };
        assert_eq!((status("false").checks, status("true").checks), (Some(true), Some(false)));
        assert_eq!(status("true").start.as_deref(), Some("T"));
        for other in ["", "{}", "<html>", r#"{"data":{}}"#] {
            assert_eq!(Abilities::read(other.as_bytes()), None, "{other}");
        }
    }
}
