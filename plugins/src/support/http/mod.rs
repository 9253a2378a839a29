//! HTTP as a client, with everything that Prometheus' `HTTPClientConfig` has: one pooled client whose
//! every exchange has an end. The time limit covers connecting, headers, body and redirects; the size
//! limit is on the decompressed body and is enforced while it is read; and an exchange that fails takes
//! its connection with it, so nothing dead is ever used again. It says who it is by itself: credentials
//! and extra headers are read and set for each request, and do not follow a redirect to another host.

mod auth;
mod body;
mod connect;
mod error;
mod exchange;
mod headers;
mod no_proxy;
mod oauth2;
mod pool;
mod proxy;
mod redirect;
mod reload;
mod settings;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, Request, Response, Uri};
use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::Size;
use tokio::time::{Instant, timeout_at};
use url::Url;

pub use self::auth::{Auth, Authorization, BasicAuth};
pub use self::error::HttpError;
use self::exchange::AnswerBody;
use self::headers::ExtraHeaders;
pub use self::headers::HeaderSettings;
pub use self::oauth2::OAuth2;
use self::oauth2::TokenSource;
use self::proxy::Proxies;
use self::reload::ReloadingTls;
pub use self::settings::HttpClientSettings;
use self::transport::Transport;
use crate::support::tls::TlsSettings;

/// The redirect at which Go's client, and with it Prometheus, gives up.
pub const MOST_REDIRECTS: usize = 10;

/// What one exchange may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The time for all of it: connecting, headers, body, redirects.
    pub timeout: Duration,
    /// The largest body, in bytes after decompression.
    pub max_body: Size,
    /// The redirect of a GET at which to give up, as Go counts: with [`MOST_REDIRECTS`] the tenth is an
    /// error. With 0, or where the client follows none, a redirect is an answer like any other.
    pub redirects: usize,
}

/// A client and its pool of connections. Clones share the pool.
#[derive(Clone, Debug)]
pub struct HttpClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    transport: Transport,
    credentials: Option<Credentials>,
    headers: ExtraHeaders,
    redirects: usize,
}

/// Who the client says it is.
#[derive(Debug)]
enum Credentials {
    Known(Auth),
    OAuth2(Arc<TokenSource>),
}

impl HttpClient {
    /// A client that knows far sides as `tls` says, speaks HTTP/1.1, and has neither credentials nor a
    /// proxy. Opens nothing yet. For more there is [`HttpClientSettings::client`].
    ///
    /// # Errors
    /// What is wrong with `tls`, with paths relative to it.
    pub fn new(tls: &TlsSettings) -> Result<Self, BuildError> {
        let transport = Transport::new(ReloadingTls::new(tls, false)?, Proxies::default());
        Ok(Self::assemble(transport, None, ExtraHeaders::default(), MOST_REDIRECTS))
    }

    fn assemble(
        transport: Transport,
        credentials: Option<Credentials>,
        headers: ExtraHeaders,
        redirects: usize,
    ) -> Self {
        Self(Arc::new(Inner { transport, credentials, headers, redirects }))
    }

    /// Sends a request and reads the answer within `limits`, whatever its status. The credentials of the
    /// client are added where the request has none.
    ///
    /// The body of an answer that is not a success (2xx) is there for people: no more than its
    /// beginning is read, and failing to read it is no failure.
    ///
    /// # Errors
    /// There was no answer, or its body did not come through, or it was larger than allowed.
    pub async fn send(&self, request: Request<Bytes>, limits: &Limits) -> Result<Response<Bytes>, HttpError> {
        let deadline = Instant::now() + limits.timeout;
        let timed_out = |_| HttpError::TimedOut(limits.timeout);
        let answer = timeout_at(deadline, self.follow(request, limits.redirects.min(self.0.redirects)));
        let (head, body) = answer.await.map_err(timed_out)??.into_parts();
        let body = if head.status.is_success() {
            timeout_at(deadline, body::read(&head.headers, body, limits.max_body))
                .await
                .map_err(timed_out)??
        } else {
            timeout_at(deadline, body::beginning(&head.headers, body)).await.unwrap_or_default()
        };
        Ok(Response::from_parts(head, body))
    }

    /// Sends a request wherever redirects lead it.
    async fn follow(
        &self,
        mut request: Request<Bytes>,
        redirects: usize,
    ) -> Result<Response<AnswerBody>, HttpError> {
        // Once away, it is never at home again: who sent it there may have chosen where it comes back.
        let mut at_home = true;
        for _ in 0..redirects.max(1) {
            let response = self.0.send(request.clone(), at_home).await?;
            let hop = redirect::next(request.method(), request.uri(), response.status(), response.headers());
            match hop? {
                Some(hop) if redirects > 0 => {
                    body::discard(response.into_body()).await;
                    at_home &= hop.at_home;
                    *request.uri_mut() = hop.uri;
                }
                _ => return Ok(response),
            }
        }
        Err(HttpError::TooManyRedirects(redirects))
    }
}

impl Inner {
    /// Sends a request with all that the client adds to it; without what is private unless `at_home`.
    async fn send(
        &self,
        mut request: Request<Bytes>,
        at_home: bool,
    ) -> Result<Response<AnswerBody>, HttpError> {
        if !at_home {
            redirect::strip(request.headers_mut());
        }
        self.headers.apply(request.headers_mut(), at_home)?;
        if at_home && !request.headers().contains_key(AUTHORIZATION) {
            self.authorize(request.headers_mut()).await?;
        }
        self.transport.send(request).await
    }

    async fn authorize(&self, headers: &mut HeaderMap) -> Result<(), HttpError> {
        match &self.credentials {
            Some(Credentials::Known(auth)) => auth.apply(headers),
            Some(Credentials::OAuth2(source)) => source.apply(headers).await,
            None => Ok(()),
        }
    }
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
