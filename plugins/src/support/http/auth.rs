//! Who we say we are: a user name and a password, or a token, from the configuration or from files that
//! are read again for every request.

use std::io;
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderValue};
use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::{Secret, SecretSource};
use schemars::JsonSchema;
use serde::Deserialize;

use super::HttpError;
use crate::support::not_yet::NotYet;

/// A user name and a password, for basic authentication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BasicAuth {
    /// The name of the user. Default: empty.
    pub username: String,
    /// A file with the name of the user, read again for every request.
    pub username_file: Option<PathBuf>,
    /// The password; better in `password_file` or from `${env:NAME}`. Default: empty.
    pub password: Option<Secret>,
    /// A file with the password, read again for every request.
    pub password_file: Option<PathBuf>,
    #[allow(missing_docs)]
    #[schemars(skip)]
    pub username_ref: NotYet,
    #[allow(missing_docs)]
    #[schemars(skip)]
    pub password_ref: NotYet,
}

/// Credentials for the `Authorization` header, of any kind but basic authentication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Authorization {
    /// The kind of credentials. Default: Bearer.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The credentials; better in `credentials_file` or from `${env:NAME}`.
    pub credentials: Option<Secret>,
    /// A file with the credentials, read again for every request.
    pub credentials_file: Option<PathBuf>,
    #[allow(missing_docs)]
    #[schemars(skip)]
    pub credentials_ref: NotYet,
}

/// Credentials that are checked, and go into the `Authorization` header of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Basic authentication.
    Basic {
        /// The name of the user.
        username: SecretSource,
        /// The password.
        password: SecretSource,
    },
    /// A token, or whatever else goes behind the name of its kind.
    Token {
        /// The kind, as `Bearer`.
        kind: String,
        /// The token.
        token: SecretSource,
    },
}

impl Auth {
    /// Joins the keys `basic_auth`, `bearer_token` and `bearer_token_file`, of which one may be set.
    ///
    /// # Errors
    /// More than one is set, a file cannot be read, or a user name has a colon, which cannot be sent.
    pub fn from_keys(
        basic_auth: Option<BasicAuth>,
        bearer_token: Option<Secret>,
        bearer_token_file: Option<PathBuf>,
    ) -> Result<Option<Self>, BuildError> {
        let mut problems = BuildError::default();
        let bearer = problems.take("", Self::bearer(bearer_token, bearer_token_file));
        let basic = problems.take("basic_auth", basic_auth.map(Self::basic).transpose());
        match (basic, bearer) {
            (Some(Some(_)), Some(Some(_))) => {
                Err(BuildError::at("basic_auth", "set basic_auth or a bearer token, not both"))
            }
            (Some(basic), Some(bearer)) => problems.or(basic.or(bearer)),
            _ => Err(problems),
        }
    }

    pub(super) fn basic(settings: BasicAuth) -> Result<Self, BuildError> {
        let mut problems = BuildError::default();
        settings.username_ref.refuse("username_ref", &mut problems);
        settings.password_ref.refuse("password_ref", &mut problems);
        if settings.username.contains(':') {
            problems.add("username", "must not contain a colon");
        }
        let username = Some(Secret::new(settings.username));
        let username = problems.take("", from_keys("username", username, settings.username_file));
        let password = problems.take("", from_keys("password", settings.password, settings.password_file));
        let or_empty = |source: Option<Option<_>>| source.flatten().unwrap_or_else(nothing);
        problems.or(Self::Basic { username: or_empty(username), password: or_empty(password) })
    }

    pub(super) fn authorization(settings: Authorization) -> Result<Self, BuildError> {
        let mut problems = BuildError::default();
        settings.credentials_ref.refuse("credentials_ref", &mut problems);
        let kind = settings.kind.as_deref().map(str::trim).filter(|kind| !kind.is_empty());
        let kind = kind.unwrap_or("Bearer").to_owned();
        if kind.eq_ignore_ascii_case("basic") {
            problems.add("type", "must not be \"basic\"; use basic_auth instead");
        } else if HeaderValue::try_from(&kind).is_err() {
            problems.add("type", format!("{kind:?} has characters that cannot be sent"));
        }
        let token = from_keys("credentials", settings.credentials, settings.credentials_file);
        let token = problems.take("", token).flatten().unwrap_or_else(nothing);
        problems.or(Self::Token { kind, token })
    }

    pub(super) fn bearer(
        token: Option<Secret>,
        token_file: Option<PathBuf>,
    ) -> Result<Option<Self>, BuildError> {
        let token = from_keys("bearer_token", token, token_file)?;
        Ok(token.map(|token| Self::Token { kind: "Bearer".to_owned(), token }))
    }

    /// Sets the `Authorization` header, reading what is in files again.
    ///
    /// # Errors
    /// A file cannot be read, or what is in it cannot be sent in a header.
    pub fn apply(&self, headers: &mut HeaderMap) -> Result<(), HttpError> {
        let value = match self {
            Self::Basic { username, password } => basic_credentials(&read(username)?, &read(password)?),
            Self::Token { kind, token } => format!("{kind} {}", read(token)?.expose()),
        };
        headers.insert(AUTHORIZATION, sensitive(value)?);
        Ok(())
    }
}

/// What goes into a header for a user name and a password.
pub(super) fn basic_credentials(username: &Secret, password: &Secret) -> String {
    let joined = format!("{}:{}", username.expose(), password.expose());
    format!("Basic {}", BASE64_STANDARD.encode(joined))
}

/// The value of a header with credentials in it.
pub(super) fn sensitive(value: String) -> Result<HeaderValue, HttpError> {
    let mut value = HeaderValue::try_from(value).map_err(|_| {
        HttpError::Credentials(io::Error::other("the bearer token has characters that cannot be sent"))
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// `<name>` or `<name>_file`; what is empty is as good as not there, as in Prometheus.
pub(super) fn from_keys(
    name: &str,
    inline: Option<Secret>,
    file: Option<PathBuf>,
) -> Result<Option<SecretSource>, BuildError> {
    let inline = inline.filter(|secret| !secret.expose().is_empty());
    SecretSource::from_keys(name, inline, file.filter(|path| !path.as_os_str().is_empty()))
}

/// The secret; without the blanks around it where it is in a file, as in Prometheus.
pub(super) fn read(source: &SecretSource) -> Result<Secret, HttpError> {
    let secret = source.read().map_err(HttpError::Credentials)?;
    match source {
        SecretSource::Inline(_) => Ok(secret),
        SecretSource::File(_) => Ok(Secret::new(secret.expose().trim())),
    }
}

fn nothing() -> SecretSource {
    SecretSource::Inline(Secret::new(""))
}
