//! One scrape: a request as Prometheus 3 sends it, and the event that becomes of the answer.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Request, StatusCode};
use prometheus_streams_core::event::{Attributes, Event};
use prometheus_streams_core::values::Size;
use tokio::time::Instant;

use super::content_type::{self, ContentTypeError};
use super::ingest::{self, Counts, IngestError, Memory, Terms};
use super::targets::Target;
use crate::exposition::Format;
use crate::support::http::{HttpError, Limits, MOST_REDIRECTS};
use crate::support::scrape::{self, unix_millis};

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("prometheus-streams/", env!("CARGO_PKG_VERSION")));
const SCRAPE_TIMEOUT: HeaderName = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");

/// Why a target is down.
#[derive(Debug, thiserror::Error)]
enum ScrapeError {
    #[error(transparent)]
    Http(HttpError),
    #[error("body_size_limit exceeded (limit: {0})")]
    BodySize(Size),
    #[error(transparent)]
    ContentType(#[from] ContentTypeError),
    #[error(transparent)]
    Ingest(#[from] IngestError),
}

/// What has become of an attempt.
struct Scraped {
    counts: Counts,
    /// The body that goes on, and the type that it is of.
    result: Result<(Bytes, Option<String>), ScrapeError>,
}

/// Scrapes a target for a slot. Whatever happens is an event. What is remembered of the target goes from one of its
/// scrapes to the next.
pub(super) async fn scrape(
    target: &Target,
    memory: &mut Memory,
    slot: u64,
    sequence: u64,
    now: SystemTime,
) -> Event {
    let started = Instant::now();
    let Scraped { counts, result } = match target.ask().await {
        Ok(answer) => target.judge(answer, memory, now + started.elapsed()),
        Err(error) => Scraped { counts: Counts::default(), result: Err(error) },
    };
    let mut attributes = target.facts(slot, sequence, started.elapsed());
    target.report(counts, &mut attributes);
    let body = match result {
        Ok((body, content_type)) => {
            content_type.map(|content_type| attributes.insert(scrape::CONTENT_TYPE, content_type));
            body
        }
        Err(error) => {
            attributes.insert(scrape::ERROR, error.to_string());
            Bytes::new()
        }
    };
    Event { timestamp: now, labels: target.labels.clone(), attributes, body }
}

/// The scrape of a target that is not to be asked, for this reason: it has failed.
pub(super) fn refuse(target: &Target, slot: u64, sequence: u64, now: SystemTime, reason: &str) -> Event {
    let mut attributes = target.facts(slot, sequence, Duration::ZERO);
    target.report(Counts::default(), &mut attributes);
    attributes.insert(scrape::ERROR, reason);
    Event { timestamp: now, labels: target.labels.clone(), attributes, body: Bytes::new() }
}

/// The event that says that a target is gone.
pub(super) fn tombstone(target: &Target, slot: u64, sequence: u64, now: SystemTime) -> Event {
    let mut attributes = target.facts(slot, sequence, Duration::ZERO);
    attributes.insert(scrape::TOMBSTONE, "true");
    Event { timestamp: now, labels: target.labels.clone(), attributes, body: Bytes::new() }
}

impl Target {
    /// The body of the answer, and the `Content-Type` that it is said to be of.
    async fn ask(&self) -> Result<(Bytes, Option<HeaderValue>), ScrapeError> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers();
        // As in Prometheus, a body that is just as large as the limit has exceeded it.
        let limit = self.job.limits.body_size;
        let max_body = Size(limit.0.saturating_sub(1));
        let limits = Limits { timeout: self.timeout, max_body, redirects: MOST_REDIRECTS };
        let mut answer = self.job.client.send(request, &limits).await.map_err(|error| match error {
            HttpError::BodyTooLarge(_) => ScrapeError::BodySize(limit),
            other => ScrapeError::Http(other),
        })?;
        if answer.status() != StatusCode::OK {
            return Err(ScrapeError::Http(HttpError::Status(answer.status())));
        }
        let content_type = answer.headers_mut().remove(CONTENT_TYPE);
        Ok((answer.into_body(), content_type))
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(ACCEPT, content_type::accepted(&self.job.protocols));
        let encoding = if self.job.enable_compression { "gzip" } else { "identity" };
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(encoding));
        headers.insert(USER_AGENT, AGENT);
        if let Ok(seconds) = HeaderValue::try_from(self.timeout.as_secs_f64().to_string()) {
            headers.insert(SCRAPE_TIMEOUT, seconds);
        }
        headers
    }

    /// What Prometheus would make of an answer.
    fn judge(
        &self,
        (body, said): (Bytes, Option<HeaderValue>),
        memory: &mut Memory,
        now: SystemTime,
    ) -> Scraped {
        // Of an answer without a body it does not matter what it is called.
        if body.is_empty() {
            return Scraped { counts: Counts::default(), result: Ok((body, None)) };
        }
        let (format, content_type) = match self.format(said.as_ref()) {
            Ok(known) => known,
            Err(error) => return Scraped { counts: Counts::default(), result: Err(error.into()) },
        };
        let target = ingest::visible(&self.labels);
        let terms = Terms::new(&self.job, &target);
        let (counts, result) = ingest::ingest(format, &body, &terms, memory, unix_millis(now));
        let result = result.map(|body| (body, Some(content_type))).map_err(ScrapeError::from);
        Scraped { counts, result }
    }

    fn format(&self, said: Option<&HeaderValue>) -> Result<(Format, String), ContentTypeError> {
        let said = said.map(|said| String::from_utf8_lossy(said.as_bytes()));
        content_type::decide(said.as_deref(), self.job.fallback_protocol)
    }

    fn facts(&self, slot: u64, sequence: u64, duration: Duration) -> Attributes {
        let facts = [
            (scrape::SLOT, slot.to_string()),
            (scrape::SEQUENCE, sequence.to_string()),
            (scrape::INTERVAL, self.rhythm.interval().to_string()),
            (scrape::DURATION, format!("{:.6}", duration.as_secs_f64())),
        ];
        facts.into_iter().collect()
    }

    /// Adds what an attempt has counted, and how its samples are to be read.
    fn report(&self, counts: Counts, attributes: &mut Attributes) {
        attributes.insert(scrape::SAMPLES_SCRAPED, counts.scraped.to_string());
        attributes.insert(scrape::SAMPLES_POST_RELABELING, counts.kept.to_string());
        attributes.insert(scrape::SERIES_ADDED, counts.added.to_string());
        if counts.duplicates > 0 {
            attributes.insert(scrape::DUPLICATES, counts.duplicates.to_string());
        }
        // What relabelling has been at is written for readers who honour labels.
        if self.job.honor_labels || !self.job.metric_relabel.is_empty() {
            attributes.insert(scrape::HONOR_LABELS, "true");
        }
        if !self.job.honor_timestamps {
            attributes.insert(scrape::HONOR_TIMESTAMPS, "false");
        }
    }
}
