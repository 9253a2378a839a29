//! The policy of tower's retry layer: transient errors are tried again after growing, jittered pauses,
//! permanent ones never.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::time::{Instant, Sleep, sleep};
use tower::retry::{Policy, RetryLayer};

use super::RetryConfig;
use crate::error::SendError;
use crate::event::Event;
use crate::metrics::SinkMetrics;

/// The budget unless the configuration gives one.
const MAX_ELAPSED_TIME: Duration = Duration::from_secs(60);
/// Up to half of a pause is added to it at random, so that many agents do not return in step.
const JITTER: f64 = 0.5;
/// Pauses have long reached the longest one by so many doublings.
const MOST_DOUBLINGS: u32 = 20;

pub(super) fn layer(config: &RetryConfig, metrics: &SinkMetrics) -> RetryLayer<RetryPolicy> {
    RetryLayer::new(RetryPolicy {
        budget: match config.max_elapsed_time {
            _ if config.forever => None,
            Some(budget) => Some(budget.0),
            None => Some(MAX_ELAPSED_TIME),
        },
        first: config.initial_interval.0,
        longest: config.max_interval.0,
        retries: metrics.retries.clone(),
        tries: 0,
        began: None,
    })
}

/// One event's attempts. Tower clones the policy for each event.
///
/// Tower's own backoff is not used: in 0.5 it adds no jitter to whole seconds nor to the longest pause,
/// and gives all clones the same randomness.
#[derive(Clone)]
pub(super) struct RetryPolicy {
    budget: Option<Duration>,
    first: Duration,
    longest: Duration,
    retries: IntCounter,
    tries: u32,
    began: Option<Instant>,
}

impl RetryPolicy {
    fn pause(&self) -> Duration {
        let base = self.first.saturating_mul(1 << self.tries.min(MOST_DOUBLINGS)).min(self.longest);
        base.saturating_add(base.mul_f64(JITTER * random()))
    }
}

impl Policy<Event, (), SendError> for RetryPolicy {
    type Future = Sleep;

    fn retry(&mut self, _: &mut Event, result: &mut Result<(), SendError>) -> Option<Sleep> {
        let Err(SendError::Transient { retry_after, .. }) = result else { return None };
        let began = self.began.unwrap_or_else(Instant::now);
        let pause = self.pause().max(retry_after.unwrap_or_default());
        if self.budget.is_some_and(|budget| began.elapsed().saturating_add(pause) >= budget) {
            return None;
        }
        self.tries += 1;
        self.retries.inc();
        Some(sleep(pause))
    }

    fn clone_request(&mut self, event: &Event) -> Option<Event> {
        self.began.get_or_insert_with(Instant::now);
        Some(event.clone())
    }
}

/// A number from 0 to 1; good enough to keep agents apart.
fn random() -> f64 {
    let bits = u32::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or_default();
    f64::from(bits) / f64::from(u32::MAX)
}
