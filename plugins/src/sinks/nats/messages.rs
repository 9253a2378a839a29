//! An event as the messages that carry it: usually one, several where one would be too large.

use bytes::Bytes;
use prometheus_streams_core::event::Event;

use crate::support::envelope::{Envelope, EnvelopeError, Part, labels_hash};
use crate::support::nats::subject;
use crate::support::scrape::{self, INSTANCE, JOB, PUBLISHER, SLOT};

/// Left for the headers of a message, which count for its size.
const HEADERS: usize = 1024;

/// The longest piece of a name in an id.
const LONGEST_NAME: usize = 48;

/// The id of an event: a function of what was observed, and not of who sends it or when. The names are
/// for people; the hash of all labels keeps apart what they do not. A failed scrape has an id of its own,
/// or the one of a pair that cannot reach a target, and says so sooner, would keep out the other's data; and so
/// has the notice that a target is gone.
pub(super) fn id(event: &Event) -> String {
    let names = [PUBLISHER, JOB, INSTANCE].map(|name| {
        let name = subject::token(scrape::label(&event.labels, name));
        name.chars().take(LONGEST_NAME).collect::<String>()
    });
    let labels = labels_hash(&event.labels);
    let when = match scrape::number(&event.attributes, SLOT) {
        Some(slot) => slot.to_string(),
        None => format!("t{}", nanos(event)),
    };
    let suffix = match event {
        gone if scrape::is_tombstone(gone) => "/gone",
        up if scrape::is_up(up) => "",
        _ => "/failed",
    };
    format!("{}/{when}/{labels:016x}{suffix}", names.join("/"))
}

/// The messages for an event, each with its id, none larger than `limit` with its headers.
pub(super) fn pack(
    event: &Event,
    id: &str,
    level: i32,
    limit: usize,
) -> Result<Vec<(String, Bytes)>, EnvelopeError> {
    let room = limit.saturating_sub(HEADERS);
    let envelope = Envelope::seal(event, level)?;
    if envelope.len() <= room {
        return Ok(vec![(id.to_owned(), envelope.to_bytes())]);
    }
    let parts = envelope.split(room)?;
    let part = |part: &Envelope| {
        // The hash of the body is in it, so that parts of two scrapes of one slot are never mixed.
        let suffix = part.part().map(|Part { whole, index, count }| format!("/{whole:016x}/{index}/{count}"));
        (format!("{id}{}", suffix.unwrap_or_default()), part.to_bytes())
    };
    Ok(parts.iter().map(part).collect())
}

fn nanos(event: &Event) -> i128 {
    match event.timestamp.duration_since(std::time::UNIX_EPOCH) {
        Ok(after) => i128::try_from(after.as_nanos()).unwrap_or(i128::MAX),
        Err(before) => -i128::try_from(before.duration().as_nanos()).unwrap_or(i128::MAX),
    }
}
