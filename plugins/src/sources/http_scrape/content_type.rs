//! Which formats a target is asked for, and which one its answer is of: the rules of Prometheus 3.

use hyper::header::HeaderValue;

use super::job::ScrapeProtocol;
use crate::exposition::Format;

/// As many protocols as Prometheus knows, and one for what comes after them.
const MOST_WEIGHT: usize = ScrapeProtocol::ALL.len() + 1;

/// Why the answer of a target is of no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ContentTypeError {
    #[error(
        "the target does not say the content type of its answer, and there is no fallback_scrape_protocol"
    )]
    Missing,
    #[error("the content type {0:?} is not a metrics format, and there is no fallback_scrape_protocol")]
    Unknown(String),
}

/// The `Accept` of a request: the protocols in order of preference, and anything else after them.
pub(super) fn accepted(protocols: &[ScrapeProtocol]) -> HeaderValue {
    let mut text = String::with_capacity(300);
    let mut weight = MOST_WEIGHT;
    for protocol in protocols {
        text.push_str(header(*protocol));
        // Only these versions have names that may need escaping.
        if matches!(protocol, ScrapeProtocol::PrometheusText1_0_0 | ScrapeProtocol::OpenMetricsText1_0_0) {
            text.push_str(";escaping=allow-utf-8");
        }
        text.push_str(&format!(";q=0.{weight},"));
        weight = weight.saturating_sub(1);
    }
    text.push_str(&format!("*/*;q=0.{weight}"));
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("*/*"))
}

/// The format of an answer with the `Content-Type` that is `said`, and that type, or the one of `fallback`.
pub(super) fn decide(
    said: Option<&str>,
    fallback: Option<ScrapeProtocol>,
) -> Result<(Format, String), ContentTypeError> {
    let said = said.unwrap_or_default();
    if let Some(format) =
        Format::from_content_type(said).filter(|_| is_well_formed(said) && !is_too_new(said))
    {
        return Ok((format, said.to_owned()));
    }
    match fallback {
        Some(protocol) => Ok((format_of(protocol), header(protocol).to_owned())),
        None if said.trim().is_empty() => Err(ContentTypeError::Missing),
        None => Err(ContentTypeError::Unknown(said.chars().take(100).collect())),
    }
}

fn header(protocol: ScrapeProtocol) -> &'static str {
    match protocol {
        ScrapeProtocol::PrometheusProto => {
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
        }
        ScrapeProtocol::OpenMetricsText1_0_0 => "application/openmetrics-text;version=1.0.0",
        ScrapeProtocol::OpenMetricsText0_0_1 => "application/openmetrics-text;version=0.0.1",
        ScrapeProtocol::PrometheusText1_0_0 => "text/plain;version=1.0.0",
        ScrapeProtocol::PrometheusText0_0_4 => "text/plain;version=0.0.4",
    }
}

fn format_of(protocol: ScrapeProtocol) -> Format {
    match protocol {
        ScrapeProtocol::PrometheusProto => Format::Protobuf,
        ScrapeProtocol::OpenMetricsText1_0_0 | ScrapeProtocol::OpenMetricsText0_0_1 => Format::OpenMetrics,
        ScrapeProtocol::PrometheusText1_0_0 | ScrapeProtocol::PrometheusText0_0_4 => Format::Text,
    }
}

/// The parameters of a content type, by name in lower case; one without a value has none.
fn parameters(content_type: &str) -> impl Iterator<Item = (String, Option<&str>)> {
    let parts = content_type.split(';').skip(1).map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| {
        let (name, value) = part.split_once('=').map_or((part, None), |(name, value)| (name, Some(value)));
        (name.trim().to_ascii_lowercase(), value.map(|value| value.trim().trim_matches('"')))
    })
}

/// Whether Go reads it: every parameter has a name of its own and a value.
fn is_well_formed(content_type: &str) -> bool {
    let mut seen: Vec<String> = Vec::new();
    parameters(content_type).all(|(name, value)| {
        let is_new = !seen.contains(&name);
        seen.push(name);
        is_new && value.is_some_and(|value| !value.is_empty())
    })
}

/// OpenMetrics 2 is another format, of which only Prometheus knows, and only when it is told to.
fn is_too_new(content_type: &str) -> bool {
    Format::from_content_type(content_type) == Some(Format::OpenMetrics)
        && parameters(content_type).any(|(name, value)| name == "version" && value == Some("2.0.0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_accepts_what_that_of_prometheus_does() {
        let accepted = |protocols: &[ScrapeProtocol]| accepted(protocols).to_str().unwrap().to_owned();
        assert_eq!(
            accepted(&ScrapeProtocol::defaults(false)),
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,\
             text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
        );
        assert!(accepted(&ScrapeProtocol::defaults(true)).starts_with(
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
        ));
        assert_eq!(
            accepted(&[ScrapeProtocol::PrometheusText0_0_4]),
            "text/plain;version=0.0.4;q=0.6,*/*;q=0.5"
        );
    }

    #[test]
    fn what_is_said_decides_and_only_nonsense_falls_back() {
        let fallback = Some(ScrapeProtocol::OpenMetricsText1_0_0);
        for (said, format) in [
            ("text/plain", Format::Text),
            ("text/plain; version=0.0.4; charset=utf-8;", Format::Text),
            ("text/plain; version=9; escaping=underscores", Format::Text),
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", Format::OpenMetrics),
            ("application/vnd.google.protobuf", Format::Protobuf),
        ] {
            assert_eq!(decide(Some(said), fallback), Ok((format, said.to_owned())));
        }
        let fell_back = Ok((Format::OpenMetrics, "application/openmetrics-text;version=1.0.0".to_owned()));
        for said in [
            "text/html; charset=utf-8",
            "text/plain; charset",
            "text/plain; version=0.0.4; version=0.0.4",
            "application/openmetrics-text; version=\"2.0.0\"",
            "json",
        ] {
            assert_eq!(decide(Some(said), fallback), fell_back, "{said}");
            assert_eq!(decide(Some(said), None), Err(ContentTypeError::Unknown(said.to_owned())));
        }
        for said in [None, Some(""), Some(" ")] {
            assert_eq!(decide(said, fallback), fell_back);
            assert_eq!(decide(said, None), Err(ContentTypeError::Missing));
        }
    }
}
