//! One scrape: a request as Prometheus sends it, and the event that becomes of the answer.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Request, StatusCode, Uri};
use prometheus_streams_core::event::{Attributes, Event, Labels};
use tokio::time::Instant;

use super::schedule::Rhythm;
use crate::support::http::{Auth, HttpClient, HttpError, Limits};
use crate::support::scrape;

/// Text 0.0.4 is what the receiving side reads, so OpenMetrics is not asked for.
const ACCEPTED: HeaderValue = HeaderValue::from_static("text/plain;version=0.0.4;q=0.5,*/*;q=0.1");
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("prometheus-streams/", env!("CARGO_PKG_VERSION")));
const SCRAPE_TIMEOUT: HeaderName = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");
/// What is a metrics format, whether or not the receiving side reads it yet.
const FORMATS: [&str; 3] = ["text/plain", "application/openmetrics-text", "application/vnd.google.protobuf"];

/// A target, with all that a scrape of it needs.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) labels: Labels,
    pub(super) rhythm: Rhythm,
    pub(super) uri: Uri,
    pub(super) limits: Limits,
    pub(super) client: HttpClient,
    pub(super) auth: Option<Arc<Auth>>,
    pub(super) fallback_content_type: Option<String>,
}

/// Why a target is down.
#[derive(Debug, thiserror::Error)]
enum ScrapeError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("the content type {0:?} is not a metrics format")]
    ContentType(String),
}

impl Target {
    /// Scrapes the target for a slot. Whatever happens is an event.
    pub(super) async fn scrape(&self, slot: u64, sequence: u64, now: SystemTime) -> Event {
        let started = Instant::now();
        let answer = self.fetch().await;
        let duration = format!("{:.6}", started.elapsed().as_secs_f64());
        let facts = [
            (scrape::SLOT, slot.to_string()),
            (scrape::SEQUENCE, sequence.to_string()),
            (scrape::INTERVAL, self.rhythm.interval().to_string()),
            (scrape::DURATION, duration),
        ];
        let mut attributes: Attributes = facts.into_iter().collect();
        let body = match answer {
            Ok((content_type, body)) => {
                content_type.map(|content_type| attributes.insert(scrape::CONTENT_TYPE, content_type));
                body
            }
            Err(error) => {
                attributes.insert(scrape::ERROR, error.to_string());
                Bytes::new()
            }
        };
        Event { timestamp: now, labels: self.labels.clone(), attributes, body }
    }

    async fn fetch(&self) -> Result<(Option<String>, Bytes), ScrapeError> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers()?;
        let answer = self.client.send(request, &self.limits).await?;
        if answer.status() != StatusCode::OK {
            return Err(HttpError::Status(answer.status()).into());
        }
        Ok((self.content_type(answer.headers())?, answer.into_body()))
    }

    fn headers(&self) -> Result<HeaderMap, HttpError> {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(ACCEPT, ACCEPTED);
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(USER_AGENT, AGENT);
        let seconds = self.limits.timeout.as_secs_f64().to_string();
        if let Ok(seconds) = HeaderValue::try_from(seconds) {
            headers.insert(SCRAPE_TIMEOUT, seconds);
        }
        if let Some(auth) = &self.auth {
            auth.apply(&mut headers)?;
        }
        Ok(headers)
    }

    /// The content type of an answer, if it is one of a metrics format; `None` if the target gave none.
    /// So a web page that answers 200, as many proxies do for a service that is away, is not a scrape.
    fn content_type(&self, headers: &HeaderMap) -> Result<Option<String>, ScrapeError> {
        let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(self.fallback_content_type.clone()) };
        let text = String::from_utf8_lossy(value.as_bytes());
        if is_metrics_format(&text) {
            return Ok(Some(text.into_owned()));
        }
        match &self.fallback_content_type {
            Some(fallback) => Ok(Some(fallback.clone())),
            None => Err(ScrapeError::ContentType(text.chars().take(100).collect())),
        }
    }
}

/// Whether a `Content-Type` is that of a metrics format.
fn is_metrics_format(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    FORMATS.iter().any(|format| format.eq_ignore_ascii_case(media_type))
}
