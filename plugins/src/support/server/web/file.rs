//! The file itself: what may stand in it, and what it means.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use hyper::header::{HeaderName, HeaderValue};
use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::Secret;
use serde::Deserialize;

use super::tls::TlsServerConfig;
use super::{Settings, Stamps};
use crate::support::stamp::Stamp;

/// The headers that may be set, and the values that some of them may have.
const HEADERS: &[(&str, &[&str])] = &[
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
    ("Content-Security-Policy", &[]),
];

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    tls_server_config: Option<TlsServerConfig>,
    http_server_config: HttpServerConfig,
    basic_auth_users: Option<BTreeMap<String, Secret>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HttpServerConfig {
    http2: bool,
    headers: BTreeMap<String, String>,
}

impl Default for HttpServerConfig {
    fn default() -> Self {
        Self { http2: true, headers: BTreeMap::new() }
    }
}

/// The files that `file` names, with their stamps from before they were read, and what all of them mean.
pub(super) fn load(file: &Path) -> (Stamps, Result<Arc<Settings>, Arc<str>>) {
    let of_file = |error: &dyn std::fmt::Display| Arc::from(format!("{}: {error}", file.display()));
    let parsed = std::fs::read_to_string(file)
        .map_err(|error| Arc::from(format!("cannot read {}: {error}", file.display())))
        .and_then(|text| parse(&text).map_err(|error| of_file(&error)));
    let mut parsed = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let directory = file.parent().unwrap_or(Path::new(""));
    if let Some(tls) = &mut parsed.tls_server_config {
        tls.resolve(directory);
    }
    let files = parsed.tls_server_config.iter().flat_map(TlsServerConfig::files);
    let stamps = files.map(|file| (file.to_path_buf(), Stamp::of(file))).collect();
    (stamps, parsed.settings().map(Arc::new).map_err(|error| of_file(&error)))
}

fn parse(text: &str) -> Result<File, serde_yaml::Error> {
    serde_yaml::from_str::<Option<File>>(text).map(Option::unwrap_or_default)
}

impl File {
    fn settings(&self) -> Result<Settings, BuildError> {
        let mut problems = BuildError::default();
        let mut tls = None;
        if let Some(config) = &self.tls_server_config {
            match config.server_config(self.http_server_config.http2) {
                Ok(config) => tls = config.map(Arc::new),
                Err(part) => problems.nest("tls_server_config", part),
            }
        }
        let mut headers = Vec::new();
        for (name, value) in &self.http_server_config.headers {
            match header(name, value) {
                Ok(header) => headers.push(header),
                Err(message) => problems.add(format!("http_server_config.headers.{name}"), message),
            }
        }
        let mut users = HashMap::new();
        for (user, hash) in self.basic_auth_users.iter().flatten() {
            if bcrypt::HashParts::from_str(hash.expose()).is_err() {
                let how = "is not a bcrypt hash, as `htpasswd -nBC 10 \"\"` makes them";
                problems.add(format!("basic_auth_users.{user}"), how);
            }
            users.insert(user.clone(), hash.expose().into());
        }
        problems.or(Settings { tls, headers, users })
    }
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let known = HEADERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    let Some((known, values)) = known else {
        let names: Vec<_> = HEADERS.iter().map(|(name, _)| *name).collect();
        return Err(format!("cannot be set; those that can are {}", names.join(", ")));
    };
    if !values.is_empty() && !values.contains(&value) {
        return Err(format!("must be one of {}, not {value:?}", values.join(", ")));
    }
    let name = HeaderName::from_str(known).map_err(|error| error.to_string())?;
    let value = HeaderValue::from_str(value).map_err(|_| format!("cannot be {value:?}"))?;
    Ok((name, value))
}
