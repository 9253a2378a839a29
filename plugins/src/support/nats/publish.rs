//! Publishing as JetStream means it: only the acknowledgement of the stream counts. An id that is a
//! function of the data makes a second try harmless, so everything that is not an answer is "unknown".

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_nats::header::{NATS_EXPECTED_STREAM, NATS_MESSAGE_ID};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::{Client, HeaderMap, Message, Request, RequestErrorKind, jetstream};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Connection, Link, NotConnected, is_up};

/// Silence for that many acknowledgement timeouts, and the connection is made anew: it may be one that
/// only looks alive.
const MOST_SILENT_TIMEOUTS: u32 = 2;

/// A message that a stream is to take.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Where to.
    pub subject: String,
    /// The stream that must take it; any other stream on that subject is a mistake.
    pub stream: String,
    /// Equal for equal data, so that the stream takes it once.
    pub id: String,
    /// Further headers.
    pub headers: HeaderMap,
    /// The data.
    pub payload: Bytes,
}

/// A stream has taken a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// It had been taken before.
    pub duplicate: bool,
}

/// Why it is not known that a stream has taken a message.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// There is no connection; nothing was sent.
    #[error("{0}")]
    NotConnected(#[from] NotConnected),
    /// The connection was lost before the answer came. The message may have been taken.
    #[error("the connection was lost before the acknowledgement came")]
    Lost,
    /// No answer came in time. The message may have been taken.
    #[error("no acknowledgement from stream {stream} within {after:?}{hint}")]
    Timeout {
        /// Who should have answered.
        stream: String,
        /// How long we waited.
        after: Duration,
        /// What the server complained about, if it did.
        hint: String,
    },
    /// No stream takes this subject, or it has no leader now.
    #[error("stream {0} does not answer: it is missing, has no leader, or does not bind the subject")]
    NoStream(String),
    /// The stream said no.
    #[error("stream {stream} refused the message: {error}")]
    Refused {
        /// Who said so.
        stream: String,
        /// What it said.
        error: jetstream::Error,
    },
    /// The message could not be handed to the connection, or the answer is not one.
    #[error("cannot publish: {0}")]
    Broken(String),
}

impl PublishError {
    /// The code with which the stream refused.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { error, .. } => Some(error.error_code()),
            _ => None,
        }
    }
}

/// Since when publishes have only timed out.
#[derive(Debug, Default)]
pub(super) struct Watchdog(Mutex<Option<Instant>>);

impl Watchdog {
    fn answered(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// True when it is time to make the connection anew.
    fn silent(&self, waited: Duration) -> bool {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *since.get_or_insert_with(|| Instant::now() - waited);
        let bites = first.elapsed() >= waited * MOST_SILENT_TIMEOUTS;
        if bites {
            *since = None;
        }
        bites
    }
}

impl Connection {
    /// Publishes, and waits for the acknowledgement of the stream, `patience` at most.
    ///
    /// # Errors
    /// It is not known that the stream has taken the message.
    pub async fn publish(&self, message: Outgoing, patience: Duration) -> Result<Taken, PublishError> {
        let client = self.jetstream().await?.client();
        let Outgoing { subject, stream, id, mut headers, payload } = message;
        headers.insert(NATS_MESSAGE_ID, id);
        headers.insert(NATS_EXPECTED_STREAM, stream.as_str());
        let request = Request::new().headers(headers).payload(payload).timeout(Some(patience));
        let mut link = self.link();
        let answer = tokio::select! {
            answer = client.send_request(subject, request) => answer,
            () = lost(&mut link, &client) => return Err(PublishError::Lost),
        };
        match answer {
            Ok(answer) => {
                self.watchdog.answered();
                read(&answer, stream)
            }
            Err(error) => match error.kind() {
                RequestErrorKind::NoResponders => {
                    self.watchdog.answered();
                    Err(PublishError::NoStream(stream))
                }
                RequestErrorKind::TimedOut => {
                    if self.watchdog.silent(patience) {
                        tracing::warn!(stream, "no acknowledgements; connecting to nats anew");
                        self.renew().await;
                    }
                    let hint = self.complaint().map(|text| format!("; the server said: {text}"));
                    Err(PublishError::Timeout { stream, after: patience, hint: hint.unwrap_or_default() })
                }
                _ => Err(PublishError::Broken(error.to_string())),
            },
        }
    }
}

fn read(answer: &Message, stream: String) -> Result<Taken, PublishError> {
    match serde_json::from_slice(&answer.payload) {
        Ok(Response::Ok(PublishAck { duplicate, sequence, .. })) if sequence > 0 => Ok(Taken { duplicate }),
        // Some clustered servers before 2.11 remember the id of a message that was never stored.
        Ok(Response::Ok(_)) => Err(PublishError::Broken("the acknowledgement names no sequence".to_owned())),
        Ok(Response::Err { error }) => Err(PublishError::Refused { stream, error }),
        Err(error) => Err(PublishError::Broken(format!("cannot read the acknowledgement: {error}"))),
    }
}

/// Ends when the connection is lost after this was called.
async fn lost(link: &mut watch::Receiver<Link>, client: &Client) {
    link.mark_unchanged();
    // An error means that nobody reports any more; the timeout decides then.
    while link.changed().await.is_ok() {
        if !is_up(client) || matches!(*link.borrow_and_update(), Link::Down(_)) {
            return;
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(payload: &str) -> Result<Taken, PublishError> {
        let message = Message {
            subject: "_INBOX.x".into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        read(&message, "S".to_owned())
    }

    #[test]
    fn only_an_acknowledgement_is_one() {
        assert_eq!(answer(r#"{"stream":"S","seq":7}"#).unwrap(), Taken { duplicate: false });
        assert_eq!(answer(r#"{"stream":"S","seq":7,"duplicate":true}"#).unwrap(), Taken { duplicate: true });
        let full = r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}"#;
        let full = answer(full).unwrap_err();
        assert_eq!(full.code(), Some(ErrorCode::STREAM_STORE_FAILED));
        assert!(
            full.to_string().starts_with("stream S refused the message: maximum bytes exceeded"),
            "{full}"
        );
        for nonsense in ["", "{}", "hello", r#"{"stream":"S","seq":0,"duplicate":true}"#] {
            assert!(matches!(answer(nonsense), Err(PublishError::Broken(_))), "{nonsense}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_lasting_silence_breaks_the_connection() {
        let (watchdog, patience) = (Watchdog::default(), Duration::from_secs(5));
        assert!(!watchdog.silent(patience));
        assert!(!watchdog.silent(patience));
        tokio::time::advance(patience).await;
        watchdog.answered();
        assert!(!watchdog.silent(patience));
        tokio::time::advance(patience).await;
        assert!(watchdog.silent(patience));
        assert!(!watchdog.silent(patience));
    }
}
