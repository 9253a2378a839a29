//! The conversation with the gateway: one PUT, and where its answer leaves open whose fault it was, one
//! question more.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use flate2::write::GzEncoder;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode, Uri};
use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::Size;
use schemars::JsonSchema;
use serde::Deserialize;

use super::answer::{Answer, Refusal};
use crate::support::http::{Auth, Endpoint, HttpClient, HttpError, Limits};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
/// The end of an exchange for which no `delivery.timeout` sets an earlier one.
const LAST_TIMEOUT: Duration = Duration::from_secs(600);
/// A gateway that took a push says nothing; whoever says more than this is something else.
const MOST_ANSWER: Size = Size(64 << 10);
/// About half a million series.
const MOST_PAGE: Size = Size(64 << 20);
/// The longest wait that a `Retry-After` can ask of us.
const MOST_WAIT: Duration = Duration::from_secs(300);

/// How bodies are compressed on their way to the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all; every gateway understands that.
    #[default]
    None,
    /// With gzip, which gateways understand from 1.5.0 on.
    Gzip,
}

/// The address of a gateway: scheme, host, port and the path below which it is served.
#[derive(Debug)]
pub(super) struct Base {
    /// Without a slash at its end.
    url: String,
    /// Where Prometheus would read it.
    page: Uri,
}

impl Base {
    /// Reads `http://host[:port][/path]` or `https://...`.
    pub(super) fn parse(text: &str) -> Result<Self, BuildError> {
        let uri = Endpoint::parse(text)?.uri;
        if uri.query().is_some() {
            return Err(BuildError::at("", format!("{text:?} has a query, and a base address has none")));
        }
        let whole = uri.to_string();
        let mut url = whole.strip_suffix(uri.path()).unwrap_or(&whole).to_owned();
        // A gateway answers an empty segment with a redirect.
        for segment in uri.path().split('/').filter(|segment| !segment.is_empty()) {
            url.push('/');
            url.push_str(segment);
        }
        let page = format!("{url}/metrics");
        let page =
            page.parse().map_err(|error| BuildError::at("", format!("{page:?} is not a URL: {error}")))?;
        Ok(Self { url, page })
    }
}

/// A gateway, and how we talk to it.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) client: HttpClient,
    pub(super) auth: Option<Auth>,
    pub(super) compression: Compression,
    pub(super) base: Base,
}

impl Gateway {
    /// Deletes the group at `path`; one that is not there is deleted already.
    pub(super) async fn delete(&self, path: &str) -> Result<(), Refusal> {
        let uri = self.uri(path)?;
        let answer = self.exchange(Method::DELETE, uri.clone(), Bytes::new(), MOST_ANSWER).await;
        judge(&answer.map_err(|error| self.unanswered(&error))?, uri.path())
    }

    /// Replaces the group at `path` by what `body` says, and returns how many bytes that took.
    pub(super) async fn put(&self, path: &str, body: &Bytes) -> Result<usize, Refusal> {
        let uri = self.uri(path)?;
        let body = self.compress(body).map_err(|error| Refusal::Bad(format!("cannot compress: {error}")))?;
        let length = body.len();
        let answer = self.exchange(Method::PUT, uri.clone(), body, MOST_ANSWER).await;
        let response = answer.map_err(|error| self.unanswered(&error))?;
        match judge(&response, uri.path()) {
            Ok(()) => Ok(length),
            Err(Refusal::Inconsistent(words)) => Err(self.find_culprit(words).await),
            Err(refusal) => Err(refusal),
        }
    }

    fn uri(&self, path: &str) -> Result<Uri, Refusal> {
        Uri::try_from(format!("{}{path}", self.base.url))
            .map_err(|error| Refusal::Bad(format!("cannot write the labels into a url: {error}")))
    }

    /// A gateway checks a push together with everything that it holds. If that does not pass by itself,
    /// the push was not to blame, and may be taken once the gateway is in order again.
    async fn find_culprit(&self, words: String) -> Refusal {
        let status = match self.exchange(Method::GET, self.base.page.clone(), Bytes::new(), MOST_ANSWER).await
        {
            Ok(response) => response.status().as_u16(),
            // Only the page of a gateway that is in order is that large.
            Err(HttpError::BodyTooLarge(_)) => 200,
            Err(error) => return self.unanswered(&error),
        };
        match status {
            200 => Refusal::Inconsistent(words),
            500 => Refusal::unavailable(
                "the push gateway refuses every push until the group at fault is deleted",
                words,
            ),
            _ => {
                let why = format!(
                    "the push gateway answered {status} when it was asked for {}",
                    self.base.page.path()
                );
                Refusal::unavailable(why, words)
            }
        }
    }

    fn unanswered(&self, error: &HttpError) -> Refusal {
        let why = format!("cannot push to {}: {error}", self.base.url);
        match error {
            HttpError::Connect(_) | HttpError::Tls(_) | HttpError::Credentials(_) => {
                Refusal::Unreachable(why)
            }
            _ => Refusal::unavailable(why, ""),
        }
    }

    /// The page from which Prometheus reads all groups.
    pub(super) async fn page(&self) -> Result<Bytes, HttpError> {
        let answer = self.exchange(Method::GET, self.base.page.clone(), Bytes::new(), MOST_PAGE).await?;
        match answer.status() {
            StatusCode::OK => Ok(answer.into_body()),
            status => Err(HttpError::Status(status)),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        uri: Uri,
        body: Bytes,
        max_body: Size,
    ) -> Result<Response<Bytes>, HttpError> {
        let is_push = method == Method::PUT;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        if is_push {
            request.headers_mut().insert(CONTENT_TYPE, TEXT);
        }
        if is_push && self.compression == Compression::Gzip {
            // In lower case: gateways before 1.6 know no other.
            request.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Some(auth) = &self.auth {
            auth.apply(request.headers_mut())?;
        }
        // A redirect that is followed changes the group, or makes a GET of the PUT.
        let limits = Limits { timeout: LAST_TIMEOUT, max_body, redirects: 0 };
        self.client.send(request, &limits).await
    }

    fn compress(&self, body: &Bytes) -> io::Result<Bytes> {
        if self.compression == Compression::None {
            return Ok(body.clone());
        }
        let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::fast());
        encoder.write_all(body)?;
        Ok(encoder.finish()?.into())
    }
}

fn judge(response: &Response<Bytes>, path: &str) -> Result<(), Refusal> {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let seconds = header(RETRY_AFTER).and_then(|value| value.trim().parse().ok());
    let words = String::from_utf8_lossy(response.body());
    let answer = Answer {
        status: response.status(),
        path,
        location: header(LOCATION),
        words: words.trim(),
        retry_after: seconds.map(|seconds| Duration::from_secs(seconds).min(MOST_WAIT)),
    };
    answer.judge()
}
