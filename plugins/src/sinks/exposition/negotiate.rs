//! Which format a reader gets, by its `Accept`, as the client libraries of Prometheus have it: the format that it names
//! with the highest weight, and text 0.0.4 if it names none.

use hyper::header::{self, HeaderMap};

use super::rendering::Dialect;
use crate::exposition::Format;

pub(super) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const TEXT_WITH_QUOTES: &str = "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8";
const OPENMETRICS_0: &str = "application/openmetrics-text; version=0.0.1; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const OPENMETRICS_WITH_QUOTES: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8";
const PROTOBUF: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
const PROTOBUF_WITH_QUOTES: &str = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; \
     encoding=delimited; escaping=allow-utf-8";

/// What a reader is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) dialect: Dialect,
    /// Whether it knows names in quotes, as Prometheus does from version 3 on.
    pub(super) with_quotes: bool,
    pub(super) content_type: &'static str,
}

/// One of the types that a reader names.
#[derive(Debug)]
struct Clause<'a> {
    text: &'a str,
    weight: f32,
    /// `None` for `*/*` and `text/*`.
    format: Option<Format>,
    has_utf8: bool,
}

impl Clause<'_> {
    fn says(&self, parameter: &str) -> bool {
        self.text.split(';').skip(1).any(|own| own.trim().eq_ignore_ascii_case(parameter))
    }
}

/// The types that a reader takes, best first.
fn clauses(request: &HeaderMap) -> Vec<Clause<'_>> {
    let values = request.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut clauses: Vec<_> = values.flat_map(|value| value.split(',')).filter_map(clause).collect();
    clauses.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    clauses
}

fn clause(text: &str) -> Option<Clause<'_>> {
    let text = text.trim();
    let weight = text.split(';').skip(1).find_map(|parameter| parameter.trim().strip_prefix("q="));
    let weight = weight.map_or(1.0, |weight| weight.trim().parse().unwrap_or(0.0));
    let media_type = text.split(';').next().unwrap_or_default().trim();
    let format = Format::from_content_type(text);
    let is_known = format.is_some() || matches!(media_type, "*/*" | "text/*" | "application/*");
    let mut clause = Clause { text, weight, format, has_utf8: false };
    clause.has_utf8 = clause.says("escaping=allow-utf-8");
    (is_known && weight > 0.0).then_some(clause)
}

/// What a reader of the page gets.
pub(super) fn negotiate(request: &HeaderMap) -> Wanted {
    let clauses = clauses(request);
    let Some((best, format)) = clauses.iter().find_map(|clause| Some((clause, clause.format?))) else {
        return Wanted { dialect: Dialect::Text, with_quotes: false, content_type: TEXT };
    };
    let with_quotes = best.has_utf8;
    let (dialect, content_type) = match (format, with_quotes) {
        (Format::Text, false) => (Dialect::Text, TEXT),
        (Format::Text, true) => (Dialect::Text, TEXT_WITH_QUOTES),
        (Format::OpenMetrics, true) => (Dialect::OpenMetrics, OPENMETRICS_WITH_QUOTES),
        (Format::OpenMetrics, false) if best.says("version=0.0.1") => (Dialect::OpenMetrics, OPENMETRICS_0),
        (Format::OpenMetrics, false) => (Dialect::OpenMetrics, OPENMETRICS),
        (Format::Protobuf, false) => (Dialect::Protobuf, PROTOBUF),
        (Format::Protobuf, true) => (Dialect::Protobuf, PROTOBUF_WITH_QUOTES),
    };
    Wanted { dialect, with_quotes, content_type }
}

/// Whether a reader takes a body of this format as it is. Whoever takes anything need not know protobuf: a
/// Prometheus without native histograms says so, and fails on them.
pub(super) fn takes(request: &HeaderMap, format: Format, has_quotes: bool) -> bool {
    let clauses = clauses(request);
    if clauses.is_empty() {
        return format != Format::Protobuf;
    }
    let is_of = |clause: &Clause<'_>| clause.format.map_or(format != Format::Protobuf, |own| own == format);
    // Who names no format at all is a person or a script.
    let names_none = clauses.iter().all(|clause| clause.format.is_none());
    clauses.iter().any(|clause| is_of(clause) && (!has_quotes || clause.has_utf8 || names_none))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    /// What Prometheus 2.42 sends, and what Prometheus 3 sends without and with native histograms.
    const PROMETHEUS_2: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    const PROMETHEUS_3: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
    const NATIVE: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

    fn headers(accept: &str) -> HeaderMap {
        [(header::ACCEPT, HeaderValue::from_str(accept).unwrap())].into_iter().collect()
    }

    #[test]
    fn the_format_of_the_highest_weight_is_served() {
        for (accept, content_type) in [
            (PROMETHEUS_2, OPENMETRICS),
            (PROMETHEUS_3, OPENMETRICS_WITH_QUOTES),
            (NATIVE, PROTOBUF),
            ("*/*", TEXT),
            ("text/html, */*;q=0.8", TEXT),
            ("text/plain;version=1.0.0;escaping=allow-utf-8", TEXT_WITH_QUOTES),
            ("text/plain;version=1.0.0;escaping=underscores", TEXT),
            ("application/openmetrics-text;version=0.0.1,text/plain;q=0.9", OPENMETRICS_0),
            ("application/openmetrics-text;q=0.1, text/plain;q=0.2", TEXT),
            ("application/openmetrics-text;q=0", TEXT),
            ("application/vnd.google.protobuf;proto=other;encoding=delimited", TEXT),
            ("", TEXT),
        ] {
            assert_eq!(negotiate(&headers(accept)).content_type, content_type, "{accept}");
        }
        assert_eq!(negotiate(&HeaderMap::new()).content_type, TEXT);
    }

    #[test]
    fn a_scrape_is_served_as_it_was_to_whoever_takes_that() {
        for (accept, [text, openmetrics, protobuf]) in [
            (PROMETHEUS_2, [true, true, false]),
            (NATIVE, [true, true, true]),
            ("*/*", [true, true, false]),
            ("text/plain", [true, false, false]),
            ("application/openmetrics-text", [false, true, false]),
        ] {
            let takes = |format| takes(&headers(accept), format, false);
            assert_eq!(
                [takes(Format::Text), takes(Format::OpenMetrics), takes(Format::Protobuf)],
                [text, openmetrics, protobuf],
                "{accept}"
            );
        }
        assert!(takes(&HeaderMap::new(), Format::OpenMetrics, true));
        assert!(!takes(&headers(PROMETHEUS_2), Format::Text, true), "Prometheus 2 knows no quoted names");
        assert!(
            takes(&headers(PROMETHEUS_3), Format::Text, true) && takes(&headers("*/*"), Format::Text, true)
        );
    }
}
