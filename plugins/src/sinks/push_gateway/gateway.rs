//! The conversation with the gateway: what it is and can do, pushes and deletions, and its page. A gateway that
//! was away is asked again what it is before the next push, for it may have been restarted, and have lost all.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode, Uri};
use prometheus::IntCounter;
use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::Size;
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

use super::answer::{Answer, Refusal};
use super::probe::{Abilities, Compression, Encoding, Wire};
use crate::support::http::{Auth, Endpoint, HttpClient, HttpError, Limits};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const PROTOBUF: HeaderValue = HeaderValue::from_static(
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
);
/// The end of an exchange for which no `delivery.timeout` sets an earlier one.
const LAST_TIMEOUT: Duration = Duration::from_secs(600);
/// A gateway that took a push says nothing; whoever says more than this is something else.
const MOST_ANSWER: Size = Size(64 << 10);
/// About half a million series.
const MOST_PAGE: Size = Size(64 << 20);
/// How long a gateway may take to say what it is. Something that does not know the question answers at once.
const PROBE: Duration = Duration::from_secs(5);
/// The longest wait that a `Retry-After` can ask of us.
const MOST_WAIT: Duration = Duration::from_secs(300);

/// The address of a gateway: scheme, host, port and the path below which it is served.
#[derive(Debug)]
pub(super) struct Base {
    /// Without a slash at its end.
    url: String,
    /// Where Prometheus would read it.
    page: Uri,
    /// Where it says what it is.
    status: Uri,
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
        let below = |path: &str| {
            let text = format!("{url}{path}");
            text.parse().map_err(|error| BuildError::at("", format!("{text:?} is not a URL: {error}")))
        };
        Ok(Self { page: below("/metrics")?, status: below("/api/v1/status")?, url })
    }
}

/// A gateway, and how we talk to it.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) client: HttpClient,
    pub(super) auth: Option<Auth>,
    pub(super) encoding: Encoding,
    pub(super) compression: Compression,
    pub(super) base: Base,
    pub(super) restarts: IntCounter,
    pub(super) life: Life,
}

/// What is known of the gateway while it is there.
#[derive(Debug, Default)]
pub(super) struct Life {
    known: Mutex<Known>,
    /// Counts its lives.
    epoch: AtomicU64,
    /// Something has happened to it.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Known {
    /// Nothing until it was asked, and again once it was away.
    abilities: Option<Abilities>,
    /// When it was started, as it said last.
    start: Option<String>,
    was_away: bool,
}

/// What the page of a gateway says of the gateway.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PageState {
    InOrder,
    /// With the words of the gateway.
    Spoilt(String),
}

impl Gateway {
    /// The life in which the gateway is; another one begins with each restart.
    pub(super) fn epoch(&self) -> u64 {
        self.life.epoch.load(Ordering::Relaxed)
    }

    /// Waits until something has happened to the gateway.
    pub(super) async fn changed(&self) {
        self.life.changed.notified().await;
    }

    /// Whether it was there when we talked to it last.
    pub(super) async fn is_known(&self) -> bool {
        self.life.known.lock().await.abilities.is_some()
    }

    /// How to write a body for it. Asks it what it is, unless that is known.
    pub(super) async fn wire(&self) -> Result<Wire, Refusal> {
        let mut known = self.life.known.lock().await;
        let abilities = match known.abilities.clone() {
            Some(abilities) => abilities,
            None => self.ask(&mut known).await?,
        };
        Ok(abilities.wire(self.encoding, self.compression))
    }

    /// Asks it what it is.
    pub(super) async fn probe(&self) -> Result<(), Refusal> {
        self.ask(&mut *self.life.known.lock().await).await.map(drop)
    }

    async fn ask(&self, known: &mut Known) -> Result<Abilities, Refusal> {
        let request = self.exchange(Method::GET, self.base.status.clone(), Bytes::new(), None, MOST_ANSWER);
        let abilities = match timeout(PROBE, request).await {
            Ok(Ok(answer)) if answer.status() == StatusCode::OK => Abilities::read(answer.body()),
            Ok(Err(error)) if !matches!(error, HttpError::BodyTooLarge(_) | HttpError::TimedOut(_)) => {
                if matches!(error, HttpError::Connect(_) | HttpError::Broken(_)) {
                    (known.abilities, known.was_away) = (None, true);
                }
                return Err(self.unanswered(&error));
            }
            // It is slow, or whatever stands before it does not let us ask. Once it answers we know more.
            Ok(_) | Err(_) => known.abilities.clone(),
        };
        let is_new = known.abilities.is_none();
        let abilities = abilities.unwrap_or_default();
        let was_restarted = match (&known.start, &abilities.start) {
            (Some(before), Some(now)) => before != now,
            _ => known.was_away && abilities.start.is_none(),
        };
        if was_restarted {
            tracing::warn!(url = self.base.url, "the push gateway was restarted; it gets all groups again");
            self.restarts.inc();
            self.life.epoch.fetch_add(1, Ordering::Relaxed);
            self.life.changed.notify_one();
        } else if is_new {
            let Wire { is_protobuf, is_gzip } = abilities.wire(self.encoding, self.compression);
            let checks = abilities.checks;
            tracing::debug!(
                url = self.base.url,
                is_protobuf,
                is_gzip,
                checks,
                "asked the push gateway what it is"
            );
        }
        known.was_away = false;
        known.start = abilities.start.clone().or(known.start.take());
        known.abilities = Some(abilities.clone());
        Ok(abilities)
    }

    /// Deletes the group at `path`; one that is not there is deleted already.
    pub(super) async fn delete(&self, path: &str) -> Result<(), Refusal> {
        let uri = self.uri(path)?;
        let answer = self.exchange(Method::DELETE, uri.clone(), Bytes::new(), None, MOST_ANSWER).await;
        judge(&self.noticed(answer).await?, uri.path())
    }

    /// Replaces the group at `path` by what `body` says.
    pub(super) async fn put(&self, path: &str, body: Bytes, wire: Wire) -> Result<(), Refusal> {
        let uri = self.uri(path)?;
        let answer = self.exchange(Method::PUT, uri.clone(), body, Some(wire), MOST_ANSWER).await;
        judge(&self.noticed(answer).await?, uri.path())
    }

    /// Notices a gateway that is away, so that it is asked what it is before anything else is pushed.
    async fn noticed(&self, answer: Result<Response<Bytes>, HttpError>) -> Result<Response<Bytes>, Refusal> {
        let error = match answer {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let is_away = matches!(error, HttpError::Connect(_));
        if is_away || matches!(error, HttpError::Broken(_)) {
            let mut known = self.life.known.lock().await;
            known.was_away |= is_away;
            known.abilities = None;
            self.life.changed.notify_one();
        }
        Err(self.unanswered(&error))
    }

    fn uri(&self, path: &str) -> Result<Uri, Refusal> {
        Uri::try_from(format!("{}{path}", self.base.url))
            .map_err(|error| Refusal::Bad(format!("cannot write the labels into a url: {error}")))
    }

    /// Whether the gateway is in order. It checks a push together with everything that it holds; if that does
    /// not pass by itself, the push was not to blame. `words` are what it said of the push.
    pub(super) async fn page_state(&self, words: &str) -> Result<PageState, Refusal> {
        let answer =
            self.exchange(Method::GET, self.base.page.clone(), Bytes::new(), None, MOST_ANSWER).await;
        let answer = match answer {
            Ok(answer) => answer,
            // Only the page of a gateway that is in order is that large.
            Err(HttpError::BodyTooLarge(_)) => return Ok(PageState::InOrder),
            Err(error) => return Err(self.unanswered(&error)),
        };
        match answer.status().as_u16() {
            200 => Ok(PageState::InOrder),
            500 => Ok(PageState::Spoilt(String::from_utf8_lossy(answer.body()).trim().to_owned())),
            status => {
                let path = self.base.page.path();
                let why = format!("the push gateway answered {status} when it was asked for {path}");
                Err(Refusal::unavailable(why, words))
            }
        }
    }

    pub(super) fn unanswered(&self, error: &HttpError) -> Refusal {
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
        let answer =
            self.exchange(Method::GET, self.base.page.clone(), Bytes::new(), None, MOST_PAGE).await?;
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
        wire: Option<Wire>,
        max_body: Size,
    ) -> Result<Response<Bytes>, HttpError> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        if let Some(wire) = wire {
            request.headers_mut().insert(CONTENT_TYPE, if wire.is_protobuf { PROTOBUF } else { TEXT });
        }
        if wire.is_some_and(|wire| wire.is_gzip) {
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
