//! Requests for messages at the server, and what is heard of them.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::{Client, Message, StatusCode, Subscriber};
use futures_util::StreamExt;
use prometheus_streams_core::error::BoxError;
use serde_json::json;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::nats::{REQUEST_TIMEOUT, is_up};

/// The most bytes to ask for at once, unless one message may be larger.
const MOST_BYTES: usize = 16 << 20;

/// How long a request waits at the server for messages to come.
pub(super) const EXPIRES: Duration = Duration::from_secs(30);

/// How often the server shows that it remembers the request.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// How long messages may take that are on their way when we stop asking.
const DRAIN: Duration = Duration::from_secs(1);

/// A request that ends sooner than this without a message is not repeated at once.
const SHORTEST_REQUEST: Duration = Duration::from_millis(100);

/// Silence for that long means that the server has forgotten the request, or the consumer.
pub(super) const SILENCE: Duration = Duration::from_secs(7);

/// What a message on the inbox is.
pub(super) enum Heard {
    Message(Message),
    Heartbeat,
    /// The request has ended.
    Done,
    Lost(String),
}

/// The requests for messages, one after the other, and the inbox on which they are answered.
pub(super) struct Request {
    pub(super) messages: Subscriber,
    pub(super) client: Client,
    inbox: String,
    subject: String,
    /// How many messages are still to come.
    pub(super) open: usize,
    asked: Instant,
    pub(super) heard: Instant,
}

impl Request {
    /// Opens the inbox; asks for nothing yet.
    pub(super) async fn open(context: &Context, stream: &str, consumer: &str) -> Result<Self, BoxError> {
        let client = context.client();
        let inbox = client.new_inbox();
        let messages = timeout(REQUEST_TIMEOUT, client.subscribe(inbox.clone())).await??;
        let subject = format!("CONSUMER.MSG.NEXT.{stream}.{consumer}");
        let now = Instant::now();
        Ok(Self { messages, client, inbox, subject, open: 0, asked: now, heard: now })
    }

    pub(super) async fn ask(&mut self, context: &Context, messages: usize) -> Result<(), BoxError> {
        let payload = json!({
            "batch": messages,
            "max_bytes": MOST_BYTES.max(2 * self.client.max_payload()),
            "expires": u64::try_from(EXPIRES.as_nanos())?,
            "idle_heartbeat": u64::try_from(HEARTBEAT.as_nanos())?,
        });
        let request =
            async_nats::Request::new().inbox(self.inbox.clone()).payload(payload.to_string().into());
        timeout(REQUEST_TIMEOUT, context.send_request(self.subject.clone(), request)).await??;
        self.open = messages;
        self.asked = Instant::now();
        self.heard = self.asked;
        Ok(())
    }

    pub(super) fn hear(&mut self, message: Message) -> Heard {
        self.heard = Instant::now();
        // Anybody can write a status into a message; only those without a place in the stream are the server's.
        let stored = message.reply.as_ref().is_some_and(|reply| reply.starts_with("$JS.ACK."));
        match message.status.filter(|_| !stored) {
            None | Some(StatusCode::OK) => {
                self.open = self.open.saturating_sub(1);
                Heard::Message(message)
            }
            Some(StatusCode::IDLE_HEARTBEAT) => Heard::Heartbeat,
            Some(StatusCode::NO_RESPONDERS) => Heard::Lost("the consumer does not answer".to_owned()),
            Some(status) => {
                self.open = 0;
                let reason = message.description.unwrap_or_default();
                tracing::debug!(%status, reason, "a request for messages has ended");
                if is_refusal(status, &reason) { Heard::Lost(reason) } else { Heard::Done }
            }
        }
    }

    /// Keeps requests that end at once from becoming a storm of them.
    pub(super) async fn rest(&self, shutdown: &CancellationToken) {
        if self.asked.elapsed() < SHORTEST_REQUEST {
            // The time is up, or the program ends; both end the rest.
            let _ = timeout(SHORTEST_REQUEST, shutdown.cancelled()).await;
        }
    }

    /// Takes the request back, and returns what was on its way.
    pub(super) async fn close(mut self) -> Vec<Message> {
        let mut rest = Vec::new();
        if !is_up(&self.client) || self.messages.drain().await.is_err() {
            return rest;
        }
        // What does not come in time is delivered again by and by.
        let _ = timeout(DRAIN, async {
            while let Some(message) = self.messages.next().await {
                rest.push(message);
            }
        })
        .await;
        rest
    }
}

/// True where the next request would end in the same way.
fn is_refusal(status: StatusCode, reason: &str) -> bool {
    let deleted = ["Consumer Deleted", "Consumer is push based"].contains(&reason);
    deleted || status.as_u16() == 400 || reason.starts_with("Exceeded Max")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_will_never_be_granted_is_told_from_one_that_has_ended() {
        let refused = |code: u16, reason: &str| is_refusal(StatusCode::try_from(code).unwrap(), reason);
        assert!(refused(400, "Bad Request"));
        for reason in ["Consumer Deleted", "Exceeded MaxRequestExpires of 1s", "Exceeded MaxWaiting"] {
            assert!(refused(409, reason), "{reason}");
        }
        assert!(!refused(408, "Request Timeout"));
        for reason in ["Message Size Exceeds MaxBytes", "Leadership Change", "Server Shutdown"] {
            assert!(!refused(409, reason), "{reason}");
        }
    }
}
