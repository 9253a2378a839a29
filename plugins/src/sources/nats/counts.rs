//! What the source counts: the names of prometheus-streams 1.0 where it had the same thing, and what
//! became of the slots of every target.

use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{GaugeVec, Histogram, IntCounter, IntCounterVec, IntGaugeVec};
use prometheus_streams_core::event::Event;
use prometheus_streams_core::metrics::Metrics;
use prometheus_streams_core::stage::Clock;

use super::dead_letters::Reason;
use crate::support::envelope::labels_hash;
use crate::support::scrape::{self, INTERVAL, PUBLISHER, SLOT};

/// Targets of which the newest slot is remembered.
const MOST_TARGETS: usize = 1 << 16;

/// Pollers that get their own series; the others share one.
const MOST_POLLERS: usize = 1000;

/// How far a slot may be ahead of our clock, in milliseconds.
const FUTURE: u64 = 3_600_000;

/// The label of pollers beyond [`MOST_POLLERS`].
const OTHERS: &str = "(others)";

/// The counters of the source.
pub(super) struct Counts {
    clock: Arc<dyn Clock>,
    received: IntCounter,
    redelivered: IntCounter,
    seen: GaugeVec,
    missed: IntCounterVec,
    duplicates: IntCounterVec,
    late: IntCounterVec,
    dead_letters: IntCounterVec,
    lag: IntGaugeVec,
    transit: Histogram,
    pub(super) decompress_seconds: Histogram,
    targets: Mutex<Targets>,
}

#[derive(Default)]
struct Targets {
    newest: HashMap<u64, u64>,
    pollers: HashSet<String>,
}

/// How an event relates to the newest one of its target so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It is newer, and so many slots between them are missing.
    Newer(u64),
    /// It is of the same slot.
    Same,
    /// It is older.
    Older,
}

impl Counts {
    pub(super) fn new(metrics: &Metrics, clock: Arc<dyn Clock>) -> Self {
        const NONE: &[&str] = &[];
        let counter = |name, help| metrics.counters(name, help, NONE).with_label_values(NONE);
        let seconds = |name, help| metrics.seconds(name, help, NONE).with_label_values(NONE);
        let per_poller = |name, help| metrics.counters(name, help, &["poller"]);
        Self {
            clock,
            received: counter("receiver_received", "Messages received from a stream."),
            redelivered: counter("receiver_redelivered_total", "Messages received that had been before."),
            seen: metrics.float_gauges(
                "receiver_seen_time",
                "When an event of a poller was last received, in seconds since 1970.",
                &["poller"],
            ),
            missed: per_poller(
                "receiver_missed_total",
                "Slots of targets for which no event had come when the next one did.",
            ),
            duplicates: per_poller("receiver_duplicates_total", "Events of a slot that had come before."),
            late: per_poller("receiver_late_total", "Events that came behind a newer one of their target."),
            dead_letters: dead_letters(metrics),
            lag: metrics.gauges(
                "receiver_lag",
                "Messages of the stream that are not acknowledged yet.",
                &["stream", "consumer"],
            ),
            transit: seconds(
                "receiver_transit_seconds",
                "Time from publish to receipt, as far as the two clocks agree.",
            ),
            decompress_seconds: seconds(
                "receiver_decompress_time",
                "Time to decompress and unpack an event.",
            ),
            targets: Mutex::default(),
        }
    }

    /// Counts a message, before it is known to be an event.
    pub(super) fn message(&self, deliveries: u64) {
        self.received.inc();
        if deliveries > 1 {
            self.redelivered.inc();
        }
    }

    /// Counts an event that came for the first time.
    pub(super) fn event(&self, event: &Event) {
        let now = self.clock.now();
        if let Some((_, sent)) = scrape::hops(&event.attributes).last() {
            self.transit.observe(now.duration_since(sent).unwrap_or_default().as_secs_f64());
        }
        let poller = scrape::label(&event.labels, PUBLISHER);
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let poller = targets.poller(poller);
        self.seen
            .with_label_values(&[poller])
            .set(Duration::from_millis(scrape::unix_millis(now)).as_secs_f64());
        match targets.place(event, scrape::unix_millis(now).saturating_add(FUTURE)) {
            Some(Place::Newer(missed)) => self.missed.with_label_values(&[poller]).inc_by(missed),
            Some(Place::Same) => self.duplicates.with_label_values(&[poller]).inc(),
            Some(Place::Older) => self.late.with_label_values(&[poller]).inc(),
            None => {}
        }
    }

    pub(super) fn dead_letter(&self, reason: Reason) {
        self.dead_letters.with_label_values(&[reason.as_str()]).inc();
    }

    pub(super) fn lag(&self, stream: &str, consumer: &str, messages: u64) {
        self.lag.with_label_values(&[stream, consumer]).set(i64::try_from(messages).unwrap_or(i64::MAX));
    }
}

impl Targets {
    fn poller<'a>(&mut self, name: &'a str) -> &'a str {
        if self.pollers.contains(name) {
            return name;
        }
        if self.pollers.len() >= MOST_POLLERS {
            return OTHERS;
        }
        self.pollers.insert(name.to_owned());
        name
    }

    /// Where the event stands among those of its target; nothing for the first one, and for one without
    /// a slot or with one beyond `latest`, which is a lie that would make all others late.
    fn place(&mut self, event: &Event, latest: u64) -> Option<Place> {
        let slot = scrape::number(&event.attributes, SLOT).filter(|slot| *slot <= latest)?;
        if self.newest.len() >= MOST_TARGETS {
            self.newest.clear();
        }
        let before = match self.newest.entry(labels_hash(&event.labels)) {
            Entry::Vacant(first) => {
                first.insert(slot);
                return None;
            }
            Entry::Occupied(mut newest) => newest.insert(slot.max(*newest.get())),
        };
        let interval = scrape::number(&event.attributes, INTERVAL).filter(|interval| *interval > 0);
        Some(match slot.cmp(&before) {
            Ordering::Less => Place::Older,
            Ordering::Equal => Place::Same,
            Ordering::Greater => {
                let slots =
                    interval.map_or(1, |interval| (slot - before).saturating_add(interval / 2) / interval);
                Place::Newer(slots.saturating_sub(1))
            }
        })
    }
}

/// With every reason at 0 from the start, so that the first dead letter shows as an increase.
fn dead_letters(metrics: &Metrics) -> IntCounterVec {
    let help = "Messages moved to the dead-letter stream, by reason.";
    let counters = metrics.counters("receiver_dead_letters_total", help, &["reason"]);
    for reason in Reason::ALL {
        counters.with_label_values(&[reason.as_str()]);
    }
    counters
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn event(slot: &str, interval: &str) -> Event {
        Event {
            labels: [("job", "node")].into_iter().collect(),
            attributes: [(SLOT, slot), (INTERVAL, interval)].into_iter().collect(),
            ..Event::new(SystemTime::UNIX_EPOCH, "")
        }
    }

    #[test]
    fn slots_tell_what_is_missing_and_what_comes_late() {
        let mut targets = Targets::default();
        let mut place = |slot| targets.place(&event(slot, "1000"), 1_000_000);
        assert_eq!(place("5000"), None);
        assert_eq!(place("6000"), Some(Place::Newer(0)));
        assert_eq!(place("6000"), Some(Place::Same));
        assert_eq!(place("10001"), Some(Place::Newer(3)));
        assert_eq!(place("7000"), Some(Place::Older));
        assert_eq!(place("11000"), Some(Place::Newer(0)));
        assert_eq!(place("nonsense"), None);
        assert_eq!(place("18446744073709551615"), None);
        assert_eq!(place("12000"), Some(Place::Newer(0)));
        assert_eq!(targets.place(&event("99999", "0"), 1_000_000), Some(Place::Newer(0)));
    }

    #[test]
    fn a_flood_of_pollers_shares_one_series() {
        let mut targets = Targets::default();
        for index in 0..MOST_POLLERS {
            let name = index.to_string();
            assert_eq!(targets.poller(&name), name);
        }
        assert_eq!(targets.poller("one more"), OTHERS);
        assert_eq!(targets.poller("7"), "7");
    }
}
