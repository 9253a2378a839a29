//! The facts that an event carries when it is a scrape: the names of its attributes, and how they are
//! written and read. The source writes them, every sink may read them, and streams carry them unread.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_streams_core::event::{Attributes, Event, Labels};

use crate::exposition::is_plain_label_name;

/// Why the scrape failed, for a person. Present on failed scrapes only; their body is empty.
pub const ERROR: &str = "error";
/// How long the scrape took, in seconds with a fraction.
pub const DURATION: &str = "duration";
/// The count of slots of this target since the poller started, from 1; a gap is a scrape that was lost or skipped.
pub const SEQUENCE: &str = "sequence";
/// The start of the slot that this scrape was for, in milliseconds since 1970. Equal for two pollers of one target.
pub const SLOT: &str = "slot";
/// The interval at which the target is scraped, in milliseconds.
pub const INTERVAL: &str = "interval";
/// The `Content-Type` with which the target answered.
pub const CONTENT_TYPE: &str = "content_type";
/// How many samples the target exposed, as far as they could be read. On every attempt, failed ones too.
pub const SAMPLES_SCRAPED: &str = "samples_scraped";
/// How many of them relabelling has left. On every attempt.
pub const SAMPLES_POST_RELABELING: &str = "samples_post_metric_relabeling";
/// How many series are new since the scrape before. On every attempt.
pub const SERIES_ADDED: &str = "series_added";
/// How many samples were of a series that came before in the same scrape, of which the first counts. Absent
/// when there are none.
pub const DUPLICATES: &str = "samples_duplicate";
/// `true` if a label of a sample wins against the label of the target that has its name, and one that is
/// exposed empty keeps the target's away. Absent otherwise.
pub const HONOR_LABELS: &str = "honor_labels";
/// `false` if the timestamps of samples mean nothing. Absent otherwise.
pub const HONOR_TIMESTAMPS: &str = "honor_timestamps";
/// `true` if nobody scraped this: it is what a job has pushed, and there is no `up` and no other report to it.
pub const PUSHED: &str = "pushed";
/// `true` if the target is gone: its series end here. Such an event has no body.
pub const TOMBSTONE: &str = "tombstone";
/// Who sent the event on, and when: `name@milliseconds`, separated by `;`, oldest first.
pub const HOPS: &str = "hops";

/// The label that names who published a scrape.
pub const PUBLISHER: &str = "publisher";
/// The label that names the job of a target.
pub const JOB: &str = "job";
/// The label that names a target within its job.
pub const INSTANCE: &str = "instance";

/// Hops that one event may collect; a loop of relays ends here.
pub const MOST_HOPS: usize = 32;

/// True if the event says that its target is gone, and is no scrape.
pub fn is_tombstone(event: &Event) -> bool {
    event.attributes.get(TOMBSTONE) == Some("true")
}

/// Whether the event is what a job has pushed, and no scrape.
pub fn is_pushed(event: &Event) -> bool {
    event.attributes.get(PUSHED) == Some("true")
}

/// Whether the labels of samples win against those of the target.
pub fn honors_labels(event: &Event) -> bool {
    event.attributes.get(HONOR_LABELS) == Some("true")
}

/// Whether the timestamps of samples are kept.
pub fn honors_timestamps(event: &Event) -> bool {
    event.attributes.get(HONOR_TIMESTAMPS) != Some("false")
}

/// True unless the scrape failed.
pub fn is_up(event: &Event) -> bool {
    event.attributes.get(ERROR).is_none()
}

/// How long the scrape took, if it says so and what it says is a duration.
pub fn duration(attributes: &Attributes) -> Option<Duration> {
    let seconds = attributes.get(DURATION)?.parse::<f64>().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// A whole number among the attributes, as [`SEQUENCE`] or [`SAMPLES_SCRAPED`].
pub fn number(attributes: &Attributes, name: &str) -> Option<u64> {
    attributes.get(name)?.parse().ok()
}

/// The value of a label, or an empty text.
pub fn label<'a>(labels: &'a Labels, name: &str) -> &'a str {
    labels.get(name).unwrap_or_default()
}

/// Whether a target may have a label of this name: letters, digits and `_`, no digit first, and no `__` first,
/// which Prometheus keeps for itself.
pub fn is_label_name(name: &str) -> bool {
    is_plain_label_name(name) && !name.starts_with("__")
}

/// Milliseconds since 1970; 0 for times before.
pub fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The time that is `millis` milliseconds after 1970, or `None` where the machine cannot tell such a time.
pub fn from_unix_millis(millis: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

/// Notes that `name` sent the event on at `time`.
///
/// # Errors
/// The event already has [`MOST_HOPS`] hops: it runs in a circle.
pub fn add_hop(attributes: &mut Attributes, name: &str, time: SystemTime) -> Result<(), TooManyHops> {
    let before = attributes.get(HOPS).unwrap_or_default();
    if !before.is_empty() && before.split(';').count() >= MOST_HOPS {
        return Err(TooManyHops);
    }
    let separator = if before.is_empty() { "" } else { ";" };
    let name = name.replace(['@', ';'], "_");
    let hops = format!("{before}{separator}{name}@{}", unix_millis(time));
    attributes.insert(HOPS, hops);
    Ok(())
}

/// The hops of an event, oldest first. What is not a hop is left out.
pub fn hops(attributes: &Attributes) -> impl Iterator<Item = (&str, SystemTime)> {
    attributes.get(HOPS).unwrap_or_default().split(';').filter_map(|hop| {
        let (name, millis) = hop.rsplit_once('@')?;
        Some((name, from_unix_millis(millis.parse().ok()?)?))
    })
}

/// An event that has been sent on too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event has passed {MOST_HOPS} hops already; are two relays sending to each other?")]
pub struct TooManyHops;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_are_read_back_in_order_and_end_somewhere() {
        let mut attributes = Attributes::default();
        let time = UNIX_EPOCH + Duration::from_millis(1_500);
        add_hop(&mut attributes, "site;a@b", time).unwrap();
        add_hop(&mut attributes, "centre", time).unwrap();
        assert_eq!(hops(&attributes).collect::<Vec<_>>(), [("site_a_b", time), ("centre", time)]);
        for _ in 2..MOST_HOPS {
            add_hop(&mut attributes, "x", time).unwrap();
        }
        assert_eq!(add_hop(&mut attributes, "x", time), Err(TooManyHops));
    }

    #[test]
    fn facts_that_are_nonsense_are_absent() {
        for text in ["", "-1", "NaN", "inf", "1e300", "x"] {
            let attributes: Attributes = [(DURATION, text), (SLOT, text)].into_iter().collect();
            assert_eq!((duration(&attributes), number(&attributes, SLOT)), (None, None), "{text}");
        }
    }
}
