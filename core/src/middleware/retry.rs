//! The policy of tower's retry layer: transient errors are tried again after growing, jittered pauses,
//! permanent ones never.

use futures_util::future::{self, BoxFuture, FutureExt};
use prometheus::IntCounter;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tower::retry::Policy;
use tower::retry::RetryLayer;
use tower::retry::backoff::{Backoff, ExponentialBackoff, ExponentialBackoffMaker, MakeBackoff};
use tower::util::rng::HasherRng;

use super::RetryConfig;
use crate::error::SendError;
use crate::event::Event;
use crate::metrics::SinkMetrics;

/// The budget unless the configuration gives one.
const MAX_ELAPSED_TIME: Duration = Duration::from_secs(60);
/// Up to half of a pause is added to it at random, so that many agents do not return in step.
const JITTER: f64 = 0.5;

pub(super) fn layer(config: &RetryConfig, metrics: &SinkMetrics) -> RetryLayer<RetryPolicy> {
    let (least, most) = (config.initial_interval.0, config.max_interval.0);
    // Validated settings cannot be refused; unvalidated ones fall back to tower's defaults.
    let mut pauses = ExponentialBackoffMaker::new(least, most, JITTER, HasherRng::new()).unwrap_or_default();
    RetryLayer::new(RetryPolicy {
        budget: match config.max_elapsed_time {
            _ if config.forever => None,
            Some(budget) => Some(budget.0),
            None => Some(MAX_ELAPSED_TIME),
        },
        pauses: pauses.make_backoff(),
        retries: metrics.retries.clone(),
        began: None,
    })
}

/// One event's attempts. Tower clones the policy for each event.
#[derive(Clone)]
pub(super) struct RetryPolicy {
    budget: Option<Duration>,
    pauses: ExponentialBackoff,
    retries: IntCounter,
    began: Option<Instant>,
}

impl Policy<Event, (), SendError> for RetryPolicy {
    type Future = BoxFuture<'static, ()>;

    fn retry(&mut self, _: &mut Event, result: &mut Result<(), SendError>) -> Option<Self::Future> {
        let Err(SendError::Transient { retry_after, .. }) = result else { return None };
        let began = self.began.unwrap_or_else(Instant::now);
        let least = retry_after.unwrap_or_default();
        if self.budget.is_some_and(|budget| began.elapsed() + least >= budget) {
            return None;
        }
        self.retries.inc();
        Some(future::join(self.pauses.next_backoff(), sleep(least)).map(drop).boxed())
    }

    fn clone_request(&mut self, event: &Event) -> Option<Event> {
        self.began.get_or_insert_with(Instant::now);
        Some(event.clone())
    }
}
