//! What a path asks for: the routes of a Push Gateway, and the grouping key in the path of a push.

use std::collections::BTreeMap;

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use prometheus_streams_core::event::Labels;

use crate::support::scrape::{JOB, is_label_name};

/// The end of a label name whose value is base64.
const BASE64: &str = "@base64";
/// What need not be encoded in a path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// A group, by its key without labels that are empty; or why the path names none.
    Group(Result<Labels, String>),
    Metrics,
    Healthy,
    Ready,
    ApiStatus,
    ApiMetrics,
    /// The path is written in a roundabout way; this is the short one.
    Moved(String),
    NotFound,
    /// The path is none.
    Bad(String),
}

/// Reads the path and query of a request.
pub(super) fn route(path: &str, query: Option<&str>) -> Route {
    if !is_well_encoded(path) {
        return Route::Bad("400 Bad Request".to_owned());
    }
    let decoded: Vec<u8> = percent_decode_str(path).collect();
    let Ok(path) = String::from_utf8(decoded) else {
        let reason = "pushed metrics are invalid or inconsistent with existing metrics: the grouping key has a label \
                      whose value is not utf8";
        return Route::Bad(reason.to_owned());
    };
    let clean = clean(&path);
    if clean != path {
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        return Route::Moved(format!("{}{query}", utf8_percent_encode(&clean, PLAIN)));
    }
    match path.as_str() {
        "/metrics" => Route::Metrics,
        "/-/healthy" => Route::Healthy,
        "/-/ready" => Route::Ready,
        "/api/v1/status" => Route::ApiStatus,
        "/api/v1/metrics" => Route::ApiMetrics,
        path => match group(path) {
            Some(key) => Route::Group(key),
            None => Route::NotFound,
        },
    }
}

/// Whether every `%` has its two hexadecimal digits.
fn is_well_encoded(path: &str) -> bool {
    path.split('%').skip(1).all(|rest| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// The path without empty segments, `.` and `..`; a slash at its end stays.
fn clean(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let end = if path.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    format!("/{}{end}", segments.join("/"))
}

/// The grouping key in a path, if it is one of groups.
fn group(path: &str) -> Option<Result<Labels, String>> {
    let rest = path.strip_prefix("/metrics/job")?;
    let (rest, is_base64) = match rest.strip_prefix(BASE64) {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let rest = rest.strip_prefix('/').filter(|rest| !rest.is_empty())?;
    let (job, labels) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    Some(grouping_key(job, is_base64, labels))
}

fn grouping_key(job: &str, is_base64: bool, rest: &str) -> Result<Labels, String> {
    let job = match is_base64 {
        true => decode(job).map_err(|why| format!("invalid base64 encoding in job name {job:?}: {why}"))?,
        false => job.to_owned(),
    };
    let mut labels = BTreeMap::new();
    let components: Vec<&str> = match rest.strip_prefix('/') {
        Some(rest) if !rest.is_empty() => rest.split('/').collect(),
        _ => Vec::new(),
    };
    let (pairs, odd) = components.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(format!("odd number of components in label string {rest:?}"));
    }
    for [name, value] in pairs {
        let plain = name.strip_suffix(BASE64).unwrap_or(name);
        if !is_label_name(plain) {
            return Err(format!("improper label name {plain:?}"));
        }
        let value = match *name == plain {
            true => (*value).to_owned(),
            false => decode(value)
                .map_err(|why| format!("invalid base64 encoding for label {plain}={value:?}: {why}"))?,
        };
        labels.insert(plain, value);
    }
    if job.is_empty() {
        return Err("job name is required".to_owned());
    }
    labels.insert(JOB, job);
    Ok(labels.into_iter().filter(|(_, value)| !value.is_empty()).collect())
}

/// Decodes base64 with the alphabet of URLs, with or without padding.
fn decode(text: &str) -> Result<String, String> {
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone);
    let engine = GeneralPurpose::new(&URL_SAFE, config);
    let bytes = engine.decode(text.trim_end_matches('=')).map_err(|error| match error {
        base64::DecodeError::InvalidByte(at, _) => format!("illegal base64 data at input byte {at}"),
        _ => "illegal base64 data at input byte 0".to_owned(),
    })?;
    String::from_utf8(bytes).map_err(|_| "the value is not utf8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Route {
        Route::Group(Ok(pairs.iter().copied().collect()))
    }

    #[test]
    fn an_empty_label_is_no_label_and_the_job_of_the_path_wins() {
        for path in
            ["/metrics/job/a", "/metrics/job/a/", "/metrics/job/a/instance/", "/metrics/job/a/l@base64/="]
        {
            assert_eq!(route(path, None), labels(&[("job", "a")]), "{path}");
        }
        assert_eq!(route("/metrics/job/a/job/b/l/1/l/2", None), labels(&[("job", "a"), ("l", "2")]));
    }

    #[test]
    fn a_slash_is_decoded_before_the_path_is_divided() {
        assert_eq!(route("/metrics/job/a%2Fl%2Fv", None), labels(&[("job", "a"), ("l", "v")]));
        assert_eq!(
            route("/metrics/job@base64/YS9i/l@base64/Lg==", None),
            labels(&[("job", "a/b"), ("l", ".")])
        );
    }

    #[test]
    fn a_path_that_wants_cleaning_is_answered_with_the_clean_one() {
        for (path, clean) in [
            ("/metrics//job/a", "/metrics/job/a"),
            ("/metrics/job/%2E%2E/l/v w", "/metrics/l/v%20w"),
            ("/metrics/job/a/l/%2F", "/metrics/job/a/l/"),
            ("/..", "/"),
        ] {
            assert_eq!(route(path, Some("a=b")), Route::Moved(format!("{clean}?a=b")), "{path}");
        }
    }
}
