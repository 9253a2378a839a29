//! HTTP as a client: one pooled client whose every exchange has an end. The time limit covers
//! connecting, headers and body; the size limit is on the decompressed body and is enforced while it
//! is read; and an exchange that fails closes its connection, so nothing dead is ever used again.
//! HTTP/1.1 only, for that reason: a stuck HTTP/2 connection would take every later request with it.

mod auth;
mod body;
mod error;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, COOKIE, LOCATION, PROXY_AUTHORIZATION};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus_streams_core::error::{BoxError, BuildError};
use prometheus_streams_core::values::Size;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tower::Layer;
use tower::timeout::TimeoutLayer;
use tower::util::BoxCloneSyncService;
use url::Url;

pub use self::auth::{Auth, BasicAuth};
pub use self::error::HttpError;
use crate::support::tls::TlsSettings;

/// Connections that go on without the request that wanted them, because another became free, end by this.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than the interval of most scrapes, so that their connections stay.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const MOST_IDLE_PER_HOST: usize = 64;
/// What every idle connection holds on to, in bytes, and the largest head of an answer. Left alone,
/// hyper lets it grow to the size of the bodies: 110 kB a connection instead of 40.
const READ_BUFFER: usize = 16 * 1024;

type Connector = BoxCloneSyncService<Uri, MaybeHttpsStream<TokioIo<TcpStream>>, BoxError>;

/// What one exchange may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The time for all of it: connecting, headers, body, redirects.
    pub timeout: Duration,
    /// The largest body, in bytes after decompression.
    pub max_body: Size,
    /// How many redirects are followed, for GET only. With 0 a redirect is an answer like any other.
    pub redirects: usize,
}

/// A client and its pool of connections. Clones share the pool.
#[derive(Clone, Debug)]
pub struct HttpClient(Client<Connector, Full<Bytes>>);

impl HttpClient {
    /// A client that knows far sides as `tls` says. Opens nothing yet.
    ///
    /// # Errors
    /// What is wrong with `tls`, with paths relative to it.
    pub fn new(tls: &TlsSettings) -> Result<Self, BuildError> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let config = tls.client_config()?;
        let https = match tls.server_name()? {
            Some(name) => {
                HttpsConnector::new(http, config, false, Arc::new(FixedServerNameResolver::new(name)))
            }
            None => HttpsConnector::from((http, config)),
        };
        let connector = TimeoutLayer::new(CONNECT_TIMEOUT).layer(https);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MOST_IDLE_PER_HOST)
            .http1_read_buf_exact_size(READ_BUFFER)
            .build(BoxCloneSyncService::new(connector));
        Ok(Self(client))
    }

    /// Sends a request and reads the answer within `limits`, whatever its status.
    ///
    /// The body of an answer that is not a success (2xx) is there for people: no more than its
    /// beginning is read, and failing to read it is no failure.
    ///
    /// # Errors
    /// There was no answer, or its body did not come through, or it was larger than allowed.
    pub async fn send(&self, request: Request<Bytes>, limits: &Limits) -> Result<Response<Bytes>, HttpError> {
        let started = Instant::now();
        let timed_out = |_| HttpError::TimedOut(limits.timeout);
        let answer = timeout(limits.timeout, self.follow(request, limits.redirects));
        let (head, body) = answer.await.map_err(timed_out)??.into_parts();
        let left = limits.timeout.saturating_sub(started.elapsed());
        let body = if head.status.is_success() {
            timeout(left, body::read(&head.headers, body, limits.max_body)).await.map_err(timed_out)??
        } else {
            timeout(left, body::beginning(&head.headers, body)).await.unwrap_or_default()
        };
        Ok(Response::from_parts(head, body))
    }

    /// Sends a request wherever redirects lead it.
    async fn follow(
        &self,
        mut request: Request<Bytes>,
        redirects: usize,
    ) -> Result<Response<Incoming>, HttpError> {
        for _ in 0..=redirects {
            let response = self.attempt(&request).await?;
            match redirected(&request, &response)? {
                Some(next) if redirects > 0 => request = next,
                _ => return Ok(response),
            }
        }
        Err(HttpError::TooManyRedirects(redirects))
    }

    /// Sends a request; once more when the far side had just closed the idle connection that was used.
    async fn attempt(&self, request: &Request<Bytes>) -> Result<Response<Incoming>, HttpError> {
        match self.0.request(request.clone().map(Full::new)).await {
            Err(error) if request.method().is_idempotent() && error::is_closed_connection(&error) => {
                self.0.request(request.clone().map(Full::new)).await
            }
            answer => answer,
        }
        .map_err(HttpError::from)
    }
}

/// The request that a redirect asks for, or `None` where the answer is not a redirect.
fn redirected(
    request: &Request<Bytes>,
    response: &Response<Incoming>,
) -> Result<Option<Request<Bytes>>, HttpError> {
    let asks = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    let Some(location) = response.headers().get(LOCATION).filter(|_| asks && request.method() == Method::GET)
    else {
        return Ok(None);
    };
    let location = String::from_utf8_lossy(location.as_bytes());
    let bad = || HttpError::BadRedirect(location.chars().take(200).collect());
    let from = Url::parse(&request.uri().to_string()).map_err(|_| bad())?;
    let to = from.join(&location).map_err(|_| bad())?;
    let uri = web_uri(&to).map_err(|_| bad())?;

    let mut next = request.clone();
    *next.uri_mut() = uri;
    if to.host() != from.host() || (from.scheme() == "https" && to.scheme() == "http") {
        for secret in [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION] {
            next.headers_mut().remove(secret);
        }
    }
    Ok(Some(next))
}

/// An address that a configuration gives, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address, as it goes into requests.
    pub uri: Uri,
    /// Host and port as they were written: without a port if none was.
    pub authority: String,
}

impl Endpoint {
    /// Reads `http://host[:port][/path]` or `https://...`.
    ///
    /// # Errors
    /// It is not a URL, or of another scheme, or has no host, or has credentials in it. Without a path.
    pub fn parse(text: &str) -> Result<Self, BuildError> {
        let wrong = |reason: String| BuildError::at("", format!("{text:?} {reason}"));
        let url = Url::parse(text).map_err(|error| wrong(format!("is not a URL: {error}")))?;
        if !url.username().is_empty() || url.password().is_some() {
            // The text itself is left out: it holds a password.
            return Err(BuildError::at("", "credentials do not belong in a URL; use basic_auth"));
        }
        let uri = web_uri(&url).map_err(wrong)?;
        let rest = text.trim().split_once("://").map(|(_, rest)| rest).unwrap_or_default();
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.is_empty() || authority.contains(['\\', ' ', '\t', '\r', '\n']) {
            return Err(wrong("does not read like http://host:port/path".to_owned()));
        }
        Ok(Self { uri, authority: authority.to_owned() })
    }
}

/// The URL as hyper takes it, if it is one of the web.
fn web_uri(url: &Url) -> Result<Uri, String> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("has the scheme {:?}; http and https are known", url.scheme()));
    }
    if !url.has_host() {
        return Err("has no host".to_owned());
    }
    Uri::try_from(url.as_str()).map_err(|error| format!("is not a URL: {error}"))
}
