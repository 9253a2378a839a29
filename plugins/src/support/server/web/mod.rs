//! The web configuration file that Prometheus and its exporters share: TLS, basic auth and headers of a server,
//! in a file that may change while the server runs.
//!
//! ```yaml
//! tls_server_config:
//!   cert_file: server.pem          # relative to this file
//!   key_file: server.key
//!   client_auth_type: RequireAndVerifyClientCert
//!   client_ca_file: ca.pem
//! http_server_config:
//!   http2: true
//!   headers: { Strict-Transport-Security: max-age=31536000 }
//! basic_auth_users:
//!   prometheus: $2y$10$...         # of `htpasswd -nBC 10 ""`
//! ```
//!
//! As with Prometheus' own servers, the file and those that it names are followed: a new connection is accepted
//! with the certificate, and a request judged by the users, that are there now. While one of the files is broken,
//! connections and requests are refused. Whether there is TLS at all is decided when the server starts.

mod file;
#[cfg(test)]
mod tests;
mod tls;
mod users;

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use prometheus_streams_core::error::BuildError;
use rustls::ServerConfig;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::users::{Login, Verdicts};
use super::{Response, text};
use crate::support::stamp::Stamp;

/// The name of HTTP/2 in a TLS handshake.
pub(super) const HTTP2: &[u8] = b"h2";

/// The path of a web configuration file, in the configuration of a stage that listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WebConfigFile(pub PathBuf);

impl JsonSchema for WebConfigFile {
    fn schema_name() -> Cow<'static, str> {
        "path".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

impl WebConfigFile {
    /// Reads the file, and those that it names.
    ///
    /// # Errors
    /// Everything that is wrong with them; the messages name the file.
    pub fn load(self) -> Result<WebConfig, BuildError> {
        let read = Read::new(&self.0);
        match &read.result {
            Ok(settings) => Ok(WebConfig(Arc::new(Shared {
                is_tls: settings.tls.is_some(),
                file: self.0,
                verdicts: Verdicts::default(),
                now: Mutex::new(read),
            }))),
            Err(error) => Err(BuildError::at("", error)),
        }
    }
}

/// A web configuration that is followed. Clones are the same one.
#[derive(Clone, Debug)]
pub struct WebConfig(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: PathBuf,
    is_tls: bool,
    verdicts: Verdicts,
    now: Mutex<Read>,
}

/// What the files said when they were read last.
#[derive(Debug)]
struct Read {
    /// The web configuration file and those that it names, as they were.
    stamps: Stamps,
    result: Result<Arc<Settings>, Arc<str>>,
}

type Stamps = Vec<(PathBuf, Option<Stamp>)>;

/// What the file means.
#[derive(Debug, Default)]
pub(super) struct Settings {
    tls: Option<Arc<ServerConfig>>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The bcrypt hash of each user's password. Without users nobody is asked.
    users: HashMap<String, Arc<str>>,
}

impl Settings {
    /// Adds the headers of the file; those that a handler has set stay.
    pub(super) fn add_headers(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            headers.entry(name).or_insert_with(|| value.clone());
        }
    }
}

impl Read {
    fn new(file: &std::path::Path) -> Self {
        // Before anything is read: what changes meanwhile has another stamp the next time.
        let own = (file.to_path_buf(), Stamp::of(file));
        let (files, result) = file::load(file);
        Self { stamps: std::iter::once(own).chain(files).collect(), result }
    }

    fn is_current(&self) -> bool {
        self.stamps.iter().all(|(file, stamp)| Stamp::of(file) == *stamp)
    }
}

impl WebConfig {
    /// Whether connections are TLS.
    pub fn is_tls(&self) -> bool {
        self.0.is_tls
    }

    /// What the files mean now. Looks at their times, and reads them only when they changed.
    fn settings(&self) -> Result<Arc<Settings>, Arc<str>> {
        let mut now = self.0.now.lock().unwrap_or_else(PoisonError::into_inner);
        if !now.is_current() {
            *now = Read::new(&self.0.file);
            match &now.result {
                Ok(_) => tracing::info!(file = %self.0.file.display(), "read the web configuration again"),
                Err(error) => {
                    tracing::error!(%error, "the web configuration is broken; connections are refused");
                }
            }
        }
        now.result.clone()
    }

    /// The TLS handshake of a new connection.
    ///
    /// # Errors
    /// It failed, or the files cannot be read.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let settings = self.settings().map_err(|error| io::Error::other(error.to_string()))?;
        let Some(tls) = &settings.tls else {
            return Err(io::Error::other("the web configuration file has no tls_server_config any more"));
        };
        TlsAcceptor::from(Arc::clone(tls)).accept(stream).await
    }

    /// Whether a request is let in.
    ///
    /// # Errors
    /// The answer to give instead: the user is not known or the password wrong, or the files cannot be read.
    pub(super) async fn admit(&self, request: &HeaderMap) -> Result<Arc<Settings>, Response> {
        let Ok(settings) = self.settings() else {
            return Err(text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"));
        };
        if settings.users.is_empty() {
            return Ok(settings);
        }
        let is_known = match Login::of(request) {
            Some(login) => self.0.verdicts.judge(login, &settings.users).await,
            None => false,
        };
        if is_known {
            return Ok(settings);
        }
        let mut refusal = text(StatusCode::UNAUTHORIZED, "Unauthorized");
        refusal.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic"));
        settings.add_headers(refusal.headers_mut());
        Err(refusal)
    }
}
