//! Drops events that are too old to be worth delivering, and those that claim to come from the future,
//! so that the backlog of an outage does not stand in the way of what is fresh.
//!
//! ```yaml
//! transforms:
//!   - { type: age_filter, max_age: 80s, max_future: 10m }
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntCounter, IntCounterVec};
use prometheus_streams_core::error::{BoxError, BuildError};
use prometheus_streams_core::event::Event;
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{Clock, StageContext, Transform, TransformConfig};
use prometheus_streams_core::values::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::support::scrape::{JOB, is_tombstone, label};

/// Drops events by their age: the time from their timestamp to now, by the clock of this machine.
///
/// The notice that a target is gone passes at any age, for it stays true.
///
/// What is dropped counts as answered, and upstream does not send it again. It is counted by job, in
/// `prometheus_streams_receiver_aged_discards` and `prometheus_streams_receiver_future_discards`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgeFilterConfig {
    /// The greatest age that passes, as `80s`; an event that is older by any fraction is dropped.
    pub max_age: Span,

    /// How far in the future a timestamp may lie, for clocks that disagree. Prometheus' own tolerance
    /// is the same ten minutes.
    #[serde(default = "ten_minutes")]
    pub max_future: Span,
}

fn ten_minutes() -> Span {
    Span::secs(600)
}

register!(transform: AgeFilterConfig);

impl TransformConfig for AgeFilterConfig {
    const TYPE: &'static str = "age_filter";

    fn build(self, cx: &StageContext) -> Result<Box<dyn Transform>, BuildError> {
        if self.max_age.0.is_zero() {
            return Err(BuildError::at("max_age", "must be more than zero"));
        }
        let counters = |name, help| ByJob::new(cx.metrics.counters(name, help, &["receiver_job"]));
        Ok(Box::new(AgeFilter {
            config: self,
            clock: Arc::clone(&cx.clock),
            aged: counters("receiver_aged_discards", "Events that were dropped because they were too old."),
            future: counters(
                "receiver_future_discards",
                "Events that were dropped because their time was too far in the future.",
            ),
        }))
    }
}

/// Lets events pass that are neither too old nor too new.
struct AgeFilter {
    config: AgeFilterConfig,
    clock: Arc<dyn Clock>,
    aged: ByJob,
    future: ByJob,
}

impl Transform for AgeFilter {
    fn apply(&self, event: Event) -> Result<Option<Event>, BoxError> {
        let discards = match self.clock.now().duration_since(event.timestamp) {
            // That a target is gone stays true.
            Ok(age) => (age > self.config.max_age.0 && !is_tombstone(&event)).then_some(&self.aged),
            Err(ahead) => (ahead.duration() > self.config.max_future.0).then_some(&self.future),
        };
        if let Some(discards) = discards {
            discards.inc(label(&event.labels, JOB));
            return Ok(None);
        }
        Ok(Some(event))
    }
}

/// Jobs that are counted by name. Their names come from far away, and metrics must not grow without end.
const MOST_JOBS: usize = 200;

/// What jobs after the first [`MOST_JOBS`] are counted as.
const OTHER_JOBS: &str = "(other)";

/// Counters by job, of a bounded number of jobs.
struct ByJob {
    family: IntCounterVec,
    known: Mutex<HashMap<String, IntCounter>>,
}

impl ByJob {
    fn new(family: IntCounterVec) -> Self {
        Self { family, known: Mutex::default() }
    }

    fn inc(&self, job: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = known.get(job) {
            counter.inc();
        } else if known.len() < MOST_JOBS {
            let counter = self.family.with_label_values(&[job]);
            counter.inc();
            known.insert(job.to_owned(), counter);
        } else {
            self.family.with_label_values(&[OTHER_JOBS]).inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use prometheus_streams_core::testing::{ManualClock, context, context_with};

    use super::*;

    const MAX_AGE: Duration = Duration::from_secs(80);
    const MAX_FUTURE: Duration = Duration::from_secs(600);
    const TICK: Duration = Duration::from_nanos(1);

    fn event(timestamp: SystemTime, job: &str) -> Event {
        let mut event = Event::new(timestamp, "");
        event.labels.insert(JOB, job);
        event
    }

    fn filter(now: SystemTime) -> (Box<dyn Transform>, StageContext) {
        let cx = context_with("age_filter", Arc::new(ManualClock::new(now)));
        let config = AgeFilterConfig { max_age: Span(MAX_AGE), max_future: ten_minutes() };
        (config.build(&cx).unwrap(), cx)
    }

    fn discards(cx: &StageContext, name: &str, job: &str) -> u64 {
        cx.metrics.counters(name, "", &["receiver_job"]).with_label_values(&[job]).get()
    }

    #[test]
    fn the_bounds_are_exact_and_each_side_has_its_counter() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let (filter, cx) = filter(now);
        let passes = |timestamp| filter.apply(event(timestamp, "node")).unwrap().is_some();

        assert!(passes(now));
        assert!(passes(now - MAX_AGE));
        assert!(passes(now + MAX_FUTURE));
        assert_eq!(discards(&cx, "receiver_aged_discards", "node"), 0);

        assert!(!passes(now - MAX_AGE - TICK));
        assert!(!passes(now + MAX_FUTURE + TICK));
        assert_eq!(discards(&cx, "receiver_aged_discards", "node"), 1);
        assert_eq!(discards(&cx, "receiver_future_discards", "node"), 1);
    }

    #[test]
    fn the_notice_that_a_target_is_gone_is_never_too_old() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let (filter, _) = filter(now);
        let gone = |timestamp| {
            let mut event = event(timestamp, "node");
            event.attributes.insert(crate::support::scrape::TOMBSTONE, "true");
            filter.apply(event).unwrap().is_some()
        };
        assert!(gone(now - MAX_AGE * 1_000));
        assert!(!gone(now + MAX_FUTURE + TICK), "one from the future would keep out what comes until then");
    }

    #[test]
    fn no_time_is_too_strange() {
        let epoch = SystemTime::UNIX_EPOCH;
        // As far as the clock of this machine can tell.
        let end = (0..63).rev().map(|bit| Duration::from_secs(1 << bit));
        let times = end.clone().filter_map(|far| epoch.checked_add(far)).take(1);
        let times: Vec<_> = times.chain(end.filter_map(|far| epoch.checked_sub(far)).take(1)).collect();
        for now in times.iter().copied().chain([epoch]) {
            let (filter, _) = filter(now);
            for timestamp in times.iter().copied().chain([epoch]) {
                let passes = filter.apply(event(timestamp, "")).unwrap().is_some();
                assert_eq!(passes, timestamp == now, "{timestamp:?} at {now:?}");
            }
        }
    }

    #[test]
    fn jobs_without_end_are_counted_together() {
        let (filter, cx) = filter(SystemTime::UNIX_EPOCH + MAX_AGE * 2);
        for job in 0..MOST_JOBS + 5 {
            filter.apply(event(SystemTime::UNIX_EPOCH, &job.to_string())).unwrap();
        }
        assert_eq!(discards(&cx, "receiver_aged_discards", "0"), 1);
        assert_eq!(discards(&cx, "receiver_aged_discards", OTHER_JOBS), 5);
    }

    #[test]
    fn an_age_of_zero_is_refused() {
        let config = AgeFilterConfig { max_age: Span::secs(0), max_future: Span::secs(0) };
        let error = config.build(&context("age_filter")).err().unwrap();
        assert_eq!(error.to_string(), "max_age: must be more than zero");
    }
}
