//! Messages that break the connection on which they are delivered: with headers that no client expects,
//! which anybody who may publish can write. Left alone they would come again, and break it again, for
//! ever. So after a lost connection the messages that were on their way are looked at through the API,
//! where headers do no harm, and those that would break it again become dead letters.

use async_nats::jetstream::{Context, ErrorCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt, stream};
use prometheus_streams_core::error::BoxError;

use super::dead_letters::{Letter, Reason};
use super::reader::Reader;
use crate::support::nats::api::{self, ApiError, StoredMessage};
use crate::support::nats::subject;

/// The most messages to look at.
const MOST_MESSAGES: usize = 1000;

/// How many are looked at at once.
const AT_ONCE: usize = 16;

impl Reader {
    /// Dead-letters what would break the connection, and deletes it from the stream: there is no other
    /// way to get past it without receiving it.
    pub(super) async fn remove_poison(&self, context: &Context) -> Result<(), BoxError> {
        let consumer = self.durable.info(context).await?;
        let on_the_way = consumer.ack_floor.stream_seq + 1..=consumer.delivered.stream_seq;
        let unseen = on_the_way.filter(|sequence| !self.durable.progress.is_open(*sequence));
        let mut messages = stream::iter(unseen.take(MOST_MESSAGES))
            .map(|sequence| api::message(context, &self.durable.stream, sequence))
            .buffered(AT_ONCE);
        let mut removed = 0;
        while let Some(message) = messages.next().await {
            match message {
                Ok(message) if self.is_ours(&message) && breaks_the_connection(&message) => {
                    self.remove(context, &message).await?;
                    removed += 1;
                }
                // Whoever may not look cannot help it.
                Err(ApiError::Silent) => return Ok(()),
                Err(error) if !error.is(ErrorCode::NO_MESSAGE_FOUND) => return Err(error.into()),
                _ => {}
            }
        }
        if removed > 0 {
            let stream = &self.durable.stream;
            tracing::warn!(stream, removed, "messages that break the connection are dead letters now");
        }
        Ok(())
    }

    fn is_ours(&self, message: &StoredMessage) -> bool {
        let filters = &self.durable.filters;
        filters.is_empty() || filters.iter().any(|filter| subject::binds(filter, &message.subject))
    }

    async fn remove(&self, context: &Context, message: &StoredMessage) -> Result<(), BoxError> {
        let stream = &self.durable.stream;
        let payload = STANDARD.decode(&message.data)?.into();
        let letter =
            Letter { subject: &message.subject, sequence: message.seq, deliveries: 1, payload: &payload };
        let reason = "its headers or its subject would break the connection";
        self.common.answers.dead_letters.put(&letter, Reason::Poison, reason).await?;
        api::delete_message(context, stream, message.seq).await.map_err(|error| {
            format!(
                "cannot delete message {} of stream {stream}, which breaks the connection: {error}",
                message.seq
            )
            .into()
        })
    }
}

/// True for a message that a client cannot be expected to survive.
fn breaks_the_connection(message: &StoredMessage) -> bool {
    // What is not UTF-8 arrives here replaced.
    let subject = !message.subject.contains(char::REPLACEMENT_CHARACTER)
        && !message.subject.contains(|c: char| c.is_whitespace() || c.is_control());
    let headers = STANDARD.decode(&message.hdrs).ok().and_then(|headers| String::from_utf8(headers).ok());
    !subject || !headers.is_some_and(|headers| headers.is_empty() || are_headers(&headers))
}

/// True for headers as the protocol describes them.
fn are_headers(text: &str) -> bool {
    let Some(lines) = text.strip_suffix("\r\n\r\n") else { return false };
    let mut lines = lines.split("\r\n");
    let first = lines.next().and_then(|line| line.strip_prefix("NATS/1.0"));
    let status = |text: &str| text.parse().is_ok_and(|status: u16| (100..1000).contains(&status));
    first.is_some_and(|first| first.is_empty() || first.strip_prefix(' ').is_some_and(status))
        && lines.all(|line| {
            let name = line.split_once(':').map(|(name, _)| name).unwrap_or_default();
            !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic()) && !line.contains(['\r', '\n'])
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaks(subject: &str, headers: &[u8]) -> bool {
        let (subject, hdrs) = (subject.to_owned(), STANDARD.encode(headers));
        breaks_the_connection(&StoredMessage { subject, seq: 1, hdrs, data: String::new() })
    }

    #[test]
    fn headers_that_no_client_expects_are_told_from_those_that_are_fine() {
        for fine in [
            &b""[..],
            b"NATS/1.0\r\n\r\n",
            b"NATS/1.0\r\nNats-Msg-Id: a:b\r\nX:\r\n\r\n",
            b"NATS/1.0 503\r\n\r\n",
        ] {
            assert!(!breaks("s.a", fine), "{fine:?}");
        }
        for bad in [
            &b"NATS/1.0\r\nX: a\rb\r\n\r\n"[..],
            b"NATS/1.0\r\nX: a\nb\r\n\r\n",
            b"NATS/1.0\r\nX: \xff\r\n\r\n",
            b"NATS/1.0\r\nno colon\r\n\r\n",
            b"NATS/1.0\r\n: no name\r\n\r\n",
            b"NATS/1.0\r\na b: c\r\n\r\n",
            b"NATS/1.0 x\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
            b"NATS/1.0\r\nX: a",
        ] {
            assert!(breaks("s.a", bad), "{bad:?}");
        }
        assert!(breaks("s.\u{fffd}", b""));
        assert!(breaks("s.a\tb", b""));
    }
}
