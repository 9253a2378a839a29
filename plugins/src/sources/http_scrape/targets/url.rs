//! The URL of a target, spelled as Go spells it, since targets and the people who read `scrapeUrl` may
//! see a difference.

use std::collections::BTreeMap;
use std::fmt::Write;

use hyper::Uri;

use super::{ADDRESS, METRICS_PATH, PARAM, SCHEME};
use crate::exposition::relabel::LabelSet;
use crate::sources::http_scrape::job::Job;

/// Where a target with these labels is scraped.
///
/// # Errors
/// There is no such place.
pub(super) fn of(job: &Job, labels: &LabelSet<'_>) -> Result<Uri, String> {
    let address = labels.get(ADDRESS);
    if address.is_empty() {
        return Err("no address".to_owned());
    }
    // What is before an @ would be credentials, which belong elsewhere.
    if address.contains(['/', '@', '?', '#', '\\']) {
        return Err(format!("{address:?} is not a valid hostname"));
    }
    let scheme = labels.get(SCHEME);
    if !matches!(scheme, "http" | "https") {
        return Err(format!("unsupported protocol scheme {scheme:?}"));
    }
    let mut text = format!("{scheme}://{address}");
    let path = labels.get(METRICS_PATH);
    if !path.is_empty() && !path.starts_with('/') {
        text.push('/');
    }
    escape(&mut text, path, b"$&+,/:;=@");
    let separators = std::iter::once('?').chain(std::iter::repeat('&'));
    for ((name, value), separator) in query(job, labels).into_iter().zip(separators) {
        text.push(separator);
        escape_query(&mut text, &name);
        text.push('=');
        escape_query(&mut text, value);
    }
    Uri::try_from(text.as_str()).map_err(|error| format!("{text:?} is not a URL: {error}"))
}

/// The parameters by name. A label `__param_<name>` has the say about the first value.
fn query<'a>(job: &'a Job, labels: &'a LabelSet<'_>) -> Vec<(String, &'a str)> {
    let mut params: BTreeMap<&str, Vec<&str>> = job
        .params
        .iter()
        .map(|(name, values)| (name.as_str(), values.iter().map(String::as_str).collect()))
        .collect();
    for (label, value) in labels.iter() {
        let Some(name) = label.strip_prefix(PARAM) else { continue };
        let values = params.entry(name).or_default();
        match values.first_mut() {
            Some(first) => *first = value,
            None => values.push(value),
        }
    }
    let pairs = params
        .into_iter()
        .flat_map(|(name, values)| values.into_iter().map(move |value| (name.to_owned(), value)));
    pairs.collect()
}

fn escape_query(text: &mut String, part: &str) {
    let words = part.split(' ');
    for (index, word) in words.enumerate() {
        if index > 0 {
            text.push('+');
        }
        escape(text, word, b"");
    }
}

/// Adds `part`, with `%XX` for what is neither a letter, a digit, one of `-_.~` nor one of `kept`.
fn escape(text: &mut String, part: &str, kept: &[u8]) {
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || kept.contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a text cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
}
