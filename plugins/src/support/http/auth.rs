//! Who we say we are: basic authentication or a bearer token, from the configuration or from a file
//! that is read again for every request.

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

/// A user name and a password, for basic authentication.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicAuth {
    /// The name of the user.
    pub username: String,
    /// The password; better in `password_file` or from `${env:NAME}`. Default: empty.
    #[serde(default)]
    pub password: Option<Secret>,
    /// A file with the password, read again for every request.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

/// Credentials that are checked, and go into the `Authorization` header of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Basic authentication.
    Basic {
        /// The name of the user.
        username: String,
        /// The password.
        password: SecretSource,
    },
    /// A bearer token.
    Bearer(SecretSource),
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
        let bearer =
            problems.take("", SecretSource::from_keys("bearer_token", bearer_token, bearer_token_file));
        let basic = problems.take("basic_auth", basic_auth.map(Self::basic).transpose());
        match (basic, bearer) {
            (Some(Some(_)), Some(Some(_))) => {
                Err(BuildError::at("basic_auth", "set basic_auth or a bearer token, not both"))
            }
            (Some(basic), Some(bearer)) => problems.or(basic.or(bearer.map(Self::Bearer))),
            _ => Err(problems),
        }
    }

    fn basic(settings: BasicAuth) -> Result<Self, BuildError> {
        let mut problems = BuildError::default();
        if settings.username.contains(':') {
            problems.add("username", "must not contain a colon");
        }
        let password =
            problems.take("", SecretSource::from_keys("password", settings.password, settings.password_file));
        let password = password.flatten().unwrap_or_else(|| SecretSource::Inline(Secret::new("")));
        problems.or(Self::Basic { username: settings.username, password })
    }

    /// Sets the `Authorization` header, reading the secret again where it is in a file.
    ///
    /// # Errors
    /// The file cannot be read, or what is in it cannot be sent in a header.
    pub fn apply(&self, headers: &mut HeaderMap) -> Result<(), HttpError> {
        let value = match self {
            Self::Basic { username, password } => {
                let password = password.read().map_err(HttpError::Credentials)?;
                format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{}", password.expose())))
            }
            Self::Bearer(token) => {
                format!("Bearer {}", token.read().map_err(HttpError::Credentials)?.expose())
            }
        };
        let mut value = HeaderValue::try_from(value).map_err(|_| {
            HttpError::Credentials(io::Error::other("the bearer token has characters that cannot be sent"))
        })?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        Ok(())
    }
}
