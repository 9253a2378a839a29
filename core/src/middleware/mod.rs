//! What surrounds a sink: its `delivery:` settings, made into a stack of tower layers. The order of
//! the layers is fixed here, outermost first; only the numbers are configured.
//!
//! | layer | from | what it does |
//! | --- | --- | --- |
//! | lanes | [`lanes`] | so many in flight, equal labels one after the other |
//! | buffer | (a later release) | keeps on disk what cannot be delivered now |
//! | circuit breaker | [`circuit_breaker`] | fails at once while the far side is known to be away |
//! | retry | tower, [`retry`] | tries again what a second try may help, with growing, jittered pauses |
//! | rate limit | tower | so many attempts in a period |
//! | timeout | tower | bounds one attempt |
//! | the sink | a plugin | one attempt |

mod circuit_breaker;
mod lanes;
mod retry;

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tower::buffer::BufferLayer;
use tower::limit::RateLimitLayer;
use tower::timeout::TimeoutLayer;
use tower::timeout::error::Elapsed;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceBuilder, ServiceExt};

use crate::error::{BoxError, BuildError, SendError};
use crate::event::Event;
use crate::metrics::SinkMetrics;
use crate::stage::Sink;
use crate::values::Span;

pub(crate) use lanes::Lanes;

/// More than any far side answers at once; a larger number is a slip of the pen.
const MOST_IN_FLIGHT: usize = 100_000;
/// How long an attempt may take where neither the configuration nor the sink says it.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than anybody waits; a longer time is a slip of the pen.
const LONGEST: Span = Span::secs(365 * 24 * 3600);

/// A sink with its layers around it.
pub(crate) type Stack = BoxCloneSyncService<Event, (), SendError>;

/// How events are delivered to a sink. Every key is optional.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeliveryConfig {
    /// How long one attempt may take. The default is the sink's own, `10s` unless its reference says otherwise.
    pub timeout: Option<Span>,
    /// How attempts that may yet succeed are repeated.
    pub retry: RetryConfig,
    /// At most so many attempts in a period. No limit unless set.
    pub rate_limit: Option<RateLimitConfig>,
    /// Stops trying for a while after so many failures in a row. Off unless set.
    pub circuit_breaker: Option<CircuitBreakerConfig>,
    /// How many events are in flight at once; events of equal labels never are. The default is the
    /// sink's own, 8 unless its reference says otherwise.
    pub max_in_flight: Option<usize>,
    /// Deliver only the newest of several waiting events of equal labels; the older ones are
    /// acknowledged and counted as superseded. The default is the sink's own.
    pub newest_only: Option<bool>,
}

/// How attempts are repeated: pauses double from `initial_interval` to `max_interval`, each with up to
/// half of it added at random, until `max_elapsed_time` is over.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// The first pause. Default `500ms`.
    pub initial_interval: Span,
    /// The longest pause. Default `5s`.
    pub max_interval: Span,
    /// No new attempt begins when so much time has passed since the first. Default `60s`; for a sink
    /// that keeps its events in order, as `remote_write`, no end.
    pub max_elapsed_time: Option<Span>,
    /// Never give up. Default `false`.
    pub forever: bool,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            initial_interval: Span::millis(500),
            max_interval: Span::secs(5),
            max_elapsed_time: None,
            forever: false,
        }
    }
}

/// At most so many attempts in a period.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimitConfig {
    /// How many attempts.
    pub requests: u64,
    /// In which period, as `1s`.
    pub per: Span,
}

/// When to stop trying, and for how long.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CircuitBreakerConfig {
    /// So many events given up in a row, each after all its attempts, open the circuit.
    pub failures: u32,
    /// How long it stays open before one event may try again.
    pub open_for: Span,
}

impl DeliveryConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// Every value that makes no sense, with its path.
    pub fn validate(&self) -> Result<(), BuildError> {
        let mut problems = BuildError::default();
        let mut positive = |path: &str, ok: bool| {
            if !ok {
                problems.add(path, "must be more than zero");
            }
        };
        positive("timeout", self.timeout.is_none_or(|timeout| !timeout.0.is_zero()));
        positive("retry.initial_interval", !self.retry.initial_interval.0.is_zero());
        positive("max_in_flight", self.max_in_flight != Some(0));
        if let Some(limit) = &self.rate_limit {
            positive("rate_limit.requests", limit.requests > 0);
            positive("rate_limit.per", !limit.per.0.is_zero());
        }
        if let Some(breaker) = &self.circuit_breaker {
            positive("circuit_breaker.failures", breaker.failures > 0);
            positive("circuit_breaker.open_for", !breaker.open_for.0.is_zero());
        }
        if self.retry.max_interval < self.retry.initial_interval {
            problems.add("retry.max_interval", "must not be less than initial_interval");
        }
        if self.retry.forever && self.retry.max_elapsed_time.is_some() {
            problems.add("retry.forever", "set forever or max_elapsed_time, not both");
        }
        if self.retry.forever && self.circuit_breaker.is_some() {
            problems.add("circuit_breaker", "can never open while retry.forever is set; remove one of them");
        }
        if self.max_in_flight.is_some_and(|count| count > MOST_IN_FLIGHT) {
            problems.add("max_in_flight", format!("must not be more than {MOST_IN_FLIGHT}"));
        }
        if self.circuit_breaker.as_ref().is_some_and(|breaker| breaker.open_for > LONGEST) {
            problems.add("circuit_breaker.open_for", format!("must not be longer than {LONGEST}"));
        }
        problems.or(())
    }

    /// Tries for ever, unless the settings say when to end.
    pub(crate) fn never_give_up(&mut self) {
        self.retry.forever |= self.retry.max_elapsed_time.is_none() && self.circuit_breaker.is_none();
    }

    /// Puts the layers around a sink. Needs a runtime: a rate limit is shared by a task.
    /// `place` names the sink in the log.
    pub(crate) fn stack(&self, sink: Arc<dyn Sink>, metrics: &SinkMetrics, place: &str) -> Stack {
        let attempts = metrics.attempts.clone();
        let attempt = tower::service_fn(move |event: Event| {
            let (sink, attempts) = (Arc::clone(&sink), attempts.clone());
            async move {
                attempts.inc();
                sink.send(event).await
            }
        });
        let timeout = self.timeout.unwrap_or(Span(TIMEOUT));
        let timed = ServiceBuilder::new().layer(TimeoutLayer::new(timeout.0)).service(attempt);
        match &self.rate_limit {
            None => self.outer_layers(timed.map_err(move |error| send_error(error, timeout)), metrics, place),
            Some(limit) => {
                let limited = ServiceBuilder::new()
                    .layer(BufferLayer::new(self.max_in_flight.unwrap_or(1)))
                    .layer(RateLimitLayer::new(limit.requests, limit.per.0))
                    .service(timed);
                self.outer_layers(limited.map_err(move |error| send_error(error, timeout)), metrics, place)
            }
        }
    }

    fn outer_layers<S>(&self, inner: S, metrics: &SinkMetrics, place: &str) -> Stack
    where
        S: Service<Event, Response = (), Error = SendError, Future: Send> + Clone + Send + Sync + 'static,
    {
        let retried = ServiceBuilder::new().layer(retry::layer(&self.retry, metrics)).service(inner);
        match &self.circuit_breaker {
            None => BoxCloneSyncService::new(retried),
            Some(config) => BoxCloneSyncService::new(circuit_breaker::layer(config, metrics, place, retried)),
        }
    }
}

/// Finds the sink's own error again in what tower's layers made of it.
fn send_error(error: BoxError, timeout: Span) -> SendError {
    match error.downcast::<SendError>() {
        Ok(error) => *error,
        Err(error) if error.is::<Elapsed>() => SendError::transient(format!("no answer within {timeout}")),
        Err(error) => SendError::transient(error),
    }
}

/// Waits until the stack takes an event, and passes it.
pub(crate) async fn deliver(mut stack: Stack, event: Event) -> Result<(), SendError> {
    stack.ready().await?.call(event).await
}
