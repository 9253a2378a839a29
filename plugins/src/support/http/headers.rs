//! Headers that the configuration adds to every request.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::{Secret, SecretSource};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{HttpError, auth, redirect};

/// Headers that Prometheus reserves: they change the connection, or are set by other settings.
const RESERVED: [&str; 16] = [
    "authorization",
    "host",
    "content-encoding",
    "content-length",
    "content-type",
    "user-agent",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "www-authenticate",
    "accept-encoding",
    "x-prometheus-scrape-timeout-seconds",
    "x-amz-date",
    "x-amz-security-token",
    "x-amz-content-sha256",
];

/// The values of one header; each is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderSettings {
    /// Values.
    pub values: Vec<String>,
    /// Values that nobody may see. They do not follow a redirect to another host.
    pub secrets: Vec<Secret>,
    /// Files with a value each, read again for every request. These do not follow one either.
    pub files: Vec<PathBuf>,
}

/// Headers that are checked.
#[derive(Debug, Default)]
pub(super) struct ExtraHeaders(Vec<ExtraHeader>);

#[derive(Debug)]
struct ExtraHeader {
    name: HeaderName,
    value: SecretSource,
    /// Whether it stays with the host that it is for.
    private: bool,
}

impl ExtraHeaders {
    /// Checks the headers.
    ///
    /// # Errors
    /// A header that is reserved, a name or a value that cannot be sent, a file that cannot be read.
    pub(super) fn new(settings: &BTreeMap<String, HeaderSettings>) -> Result<Self, BuildError> {
        let mut problems = BuildError::default();
        let mut headers = Vec::new();
        for (name, values) in settings {
            headers.extend(problems.take(name, ExtraHeader::all(name, values)).unwrap_or_default());
        }
        problems.or(Self(headers))
    }

    /// Adds the headers to a request, beside what it has; only those that anybody may see where it goes
    /// to another host than it was meant for.
    ///
    /// # Errors
    /// A file cannot be read, or what is in it cannot be sent.
    pub(super) fn apply(&self, headers: &mut HeaderMap, at_home: bool) -> Result<(), HttpError> {
        for header in self.0.iter().filter(|header| at_home || !header.private) {
            headers.append(&header.name, header.value()?);
        }
        Ok(())
    }
}

impl ExtraHeader {
    fn all(name: &str, settings: &HeaderSettings) -> Result<Vec<Self>, BuildError> {
        let mut problems = BuildError::default();
        let name = problems.take("", header_name(name));
        let values = settings.values.iter().map(|value| ("values", Secret::new(value.clone())));
        let secrets = settings.secrets.iter().map(|secret| ("secrets", secret.clone()));
        let given: Vec<_> =
            values.chain(secrets).map(|(key, value)| (key, SecretSource::Inline(value))).collect();
        let files = settings.files.iter().map(|path| ("files", SecretSource::File(path.clone())));
        let mut found = Vec::new();
        for (key, value) in given.into_iter().chain(files) {
            let index = found.iter().filter(|(known, _)| *known == key).count();
            if let Err(error) = header_value(&value) {
                problems.add(format!("{key}[{index}]"), error);
            }
            found.push((key, value));
        }
        let Some(name) = name else { return Err(problems) };
        let is_private = |key| key != "values" || redirect::stays_at_home(&name);
        let ready = found
            .into_iter()
            .map(|(key, value)| Self { name: name.clone(), private: is_private(key), value })
            .collect();
        problems.or(ready)
    }

    fn value(&self) -> Result<HeaderValue, HttpError> {
        header_value(&self.value).map_err(|error| match error {
            HttpError::Credentials(error) => HttpError::Header(self.name.to_string(), error.to_string()),
            other => other,
        })
    }
}

/// A header that may be set.
pub(super) fn header_name(name: &str) -> Result<HeaderName, BuildError> {
    let name = HeaderName::try_from(name).map_err(|_| {
        BuildError::at("", "is not the name of a header: it has characters that cannot be sent")
    })?;
    if RESERVED.contains(&name.as_str()) || name.as_str().starts_with("x-prometheus-remote-") {
        return Err(BuildError::at("", "must not be set here; Prometheus reserves this header"));
    }
    Ok(name)
}

fn header_value(source: &SecretSource) -> Result<HeaderValue, HttpError> {
    let secret = auth::read(source)?;
    let mut value = HeaderValue::try_from(secret.expose()).map_err(|_| {
        HttpError::Credentials(std::io::Error::other("the value has characters that cannot be sent"))
    })?;
    value.set_sensitive(true);
    Ok(value)
}
