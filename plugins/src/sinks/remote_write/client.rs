//! The conversation with a receiver: one request at a time, in the message that it understands.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};
use prometheus_streams_core::health::Health;
use prometheus_streams_core::values::Size;
use tokio::time::Instant;

use super::answer::{Answer, Asked, Refusal, Trouble, judge};
use super::families::Families;
use super::metrics::WriteMetrics;
use super::wire::{Message, MessageChoice, Slice};
use crate::support::http::{HttpClient, Limits};

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("prometheus-streams/", env!("CARGO_PKG_VERSION")));
const SNAPPY: HeaderValue = HeaderValue::from_static("snappy");
const VERSION: HeaderName = HeaderName::from_static("x-prometheus-remote-write-version");

/// A receiver that took a request says next to nothing; of one that did not, the beginning is read.
const MOST_ANSWER: Size = Size(64 << 10);

/// A receiver, and how we talk to it.
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) client: HttpClient,
    pub(super) uri: Uri,
    pub(super) timeout: Duration,
    pub(super) language: Language,
    pub(super) families: Families,
    pub(super) metrics: WriteMetrics,
    pub(super) health: Health,
    pub(super) pause: Pause,
}

impl Receiver {
    /// Sends rows in one request, in the message that the receiver takes.
    pub(super) async fn write(&self, slices: &[Slice]) -> Answer {
        // As it is now: what another request finds out meanwhile says nothing of the answer to this one.
        let (message, is_probe) = self.language.now();
        let answer = match self.exchange(message, is_probe, slices).await {
            Answer::OtherMessage(Refusal(why)) if self.language.is_fixed => {
                Answer::Unwanted(Refusal(format!("{why}; does it take remote write 2.0?").into()))
            }
            Answer::OtherMessage(refusal) => self.try_other(&refusal, slices).await,
            known => {
                if known == Answer::Taken {
                    self.language.settle(message);
                }
                known
            }
        };
        self.note(&answer);
        answer
    }

    /// Says again in the message of 1.0 what was not understood in that of 2.0. A receiver that refuses both
    /// has looked at the data.
    async fn try_other(&self, Refusal(because): &Refusal, slices: &[Slice]) -> Answer {
        let answer = self.exchange(Message::V1, false, slices).await;
        if answer == Answer::Taken && self.language.settle(Message::V1) {
            tracing::info!(%because, "the receiver does not take remote write 2.0; sending 1.0");
        }
        answer
    }

    async fn exchange(&self, message: Message, is_probe: bool, slices: &[Slice]) -> Answer {
        let asked = Asked { message, is_probe, rows: slices.iter().map(Slice::len).sum() };
        let families = if message == Message::V1 { self.families.due(slices) } else { Vec::new() };
        let body = message.encode(slices, &families);
        let packed = match snap::raw::Encoder::new().compress_vec(&body) {
            Ok(packed) => packed,
            Err(error) => {
                return Answer::Bad(Refusal(format!("cannot compress the request: {error}").into()));
            }
        };
        let length = packed.len();
        let began = Instant::now();
        let limits = Limits { timeout: self.timeout, max_body: MOST_ANSWER, redirects: 0 };
        let answered = self.client.send(self.request(message, packed), &limits).await;
        self.metrics.time.observe(began.elapsed().as_secs_f64());
        match answered {
            Ok(response) => {
                self.metrics.answered(response.status());
                let answer = judge(&response, asked);
                if answer == Answer::Taken {
                    self.metrics.taken(slices, length);
                    self.families.told(&families);
                }
                answer
            }
            Err(error) => {
                self.metrics.unanswered();
                let why = format!("cannot write to {}: {error}", self.uri);
                Answer::Later(Trouble { why, retry_after: None })
            }
        }
    }

    fn request(&self, message: Message, body: Vec<u8>) -> Request<Bytes> {
        let mut request = Request::new(Bytes::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(message.content_type()));
        headers.insert(CONTENT_ENCODING, SNAPPY);
        headers.insert(VERSION, HeaderValue::from_static(message.version()));
        headers.insert(USER_AGENT, AGENT);
        request
    }

    fn note(&self, answer: &Answer) {
        match answer {
            Answer::Later(trouble) => {
                self.pause.trouble(trouble);
                self.health.degraded(&trouble.why);
            }
            Answer::Unwanted(Refusal(why)) => self.health.degraded(why),
            Answer::Taken | Answer::Bad(_) | Answer::OtherMessage(_) => self.health.ready(),
        }
    }
}

/// Which message the receiver takes, as far as that is known.
#[derive(Debug)]
pub(super) struct Language {
    known: AtomicU8,
    /// Whether the configuration says it.
    is_fixed: bool,
}

const UNKNOWN: u8 = 0;
const V1: u8 = 1;
const V2: u8 = 2;

impl Language {
    pub(super) fn new(choice: MessageChoice) -> Self {
        let known = match choice {
            MessageChoice::Auto => UNKNOWN,
            MessageChoice::V1 => V1,
            MessageChoice::V2 => V2,
        };
        Self { known: AtomicU8::new(known), is_fixed: choice != MessageChoice::Auto }
    }

    /// The message to send now, and whether that is a question.
    fn now(&self) -> (Message, bool) {
        match self.known.load(Ordering::Relaxed) {
            V1 => (Message::V1, false),
            V2 => (Message::V2, false),
            _ => (Message::V2, true),
        }
    }

    /// The receiver takes this message. True if that is news. A receiver that took 2.0 may be one of several, or
    /// an older one today; what took 1.0 once is sent nothing else.
    fn settle(&self, message: Message) -> bool {
        match message {
            Message::V1 => self.known.swap(V1, Ordering::Relaxed) != V1,
            Message::V2 => {
                self.known.compare_exchange(UNKNOWN, V2, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            }
        }
    }
}

/// When the receiver was last in trouble, and until when it asked to be left alone.
#[derive(Debug, Default)]
pub(super) struct Pause(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    last_trouble: Option<Instant>,
    /// With what it said when it asked.
    until: Option<(Instant, String)>,
}

impl Pause {
    fn trouble(&self, trouble: &Trouble) {
        let now = Instant::now();
        let mut known = self.lock();
        known.last_trouble = Some(now);
        if let Some(wait) = trouble.retry_after {
            known.until = Some((now + wait, trouble.why.clone()));
        }
    }

    /// Nothing, or what the receiver said when it asked to wait, and how long that still is.
    pub(super) fn left(&self) -> Option<Trouble> {
        let known = self.lock();
        let (until, why) = known.until.as_ref()?;
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        Some(Trouble { why: why.clone(), retry_after: Some(left) })
    }

    /// Until when the receiver was last in trouble: a request failed for its sake, or it had asked to wait.
    pub(super) fn last_trouble(&self) -> Option<Instant> {
        let known = self.lock();
        known.last_trouble.max(known.until.as_ref().map(|(until, _)| *until))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A receiver that all shards share.
pub(super) type SharedReceiver = Arc<Receiver>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_that_asked_to_wait_is_in_trouble_until_then() {
        let (pause, wait) = (Pause::default(), Duration::from_secs(300));
        assert_eq!(pause.last_trouble(), None);
        pause.trouble(&Trouble { why: "slow down".into(), retry_after: Some(wait) });
        pause.trouble(&Trouble { why: "away".into(), retry_after: None });
        let left = pause.last_trouble().unwrap().duration_since(Instant::now());
        assert!(left > wait / 2, "{left:?}");
    }

    #[test]
    fn what_took_1_0_is_sent_nothing_else() {
        let language = Language::new(MessageChoice::Auto);
        assert_eq!(language.now(), (Message::V2, true));
        assert!(language.settle(Message::V2) && !language.settle(Message::V2));
        assert_eq!(language.now(), (Message::V2, false));
        assert!(
            language.settle(Message::V1) && !language.settle(Message::V1) && !language.settle(Message::V2)
        );
        assert_eq!(language.now(), (Message::V1, false));
    }
}
