//! Fails at once while the far side is known to be away. After so many transient failures in a row the
//! circuit opens; when it has been open long enough, one event may try, and its success closes it. A
//! permanent failure says nothing about the far side: the sink may have judged the event by itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use prometheus::IntGauge;
use tokio::time::Instant;
use tower::Service;
use tracing::{info, warn};

use super::CircuitBreakerConfig;
use crate::error::SendError;
use crate::event::Event;
use crate::metrics::SinkMetrics;

pub(super) fn layer<S>(
    config: &CircuitBreakerConfig,
    metrics: &SinkMetrics,
    place: &str,
    inner: S,
) -> CircuitBreaker<S> {
    let circuit = Arc::new(Circuit {
        config: config.clone(),
        place: place.to_owned(),
        open: metrics.circuit_open.clone(),
        state: Mutex::new(State::Closed { failures: 0 }),
    });
    CircuitBreaker { inner, circuit }
}

/// A service behind a circuit that its clones share.
#[derive(Clone)]
pub(super) struct CircuitBreaker<S> {
    inner: S,
    circuit: Arc<Circuit>,
}

struct Circuit {
    config: CircuitBreakerConfig,
    /// The sink, for the log.
    place: String,
    open: IntGauge,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
    },
    /// One event tries; the others are refused until it is answered.
    HalfOpen,
}

impl<S> Service<Event> for CircuitBreaker<S>
where
    S: Service<Event, Response = (), Error = SendError, Future: Send + 'static>,
{
    type Response = ();
    type Error = SendError;
    type Future = BoxFuture<'static, Result<(), SendError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, event: Event) -> Self::Future {
        let admitted = Circuit::admit(&self.circuit);
        let sending = admitted.map(|pass| (pass, self.inner.call(event)));
        Box::pin(async move {
            let (pass, sending) = sending?;
            let result = sending.await;
            pass.settle(Verdict::of(&result));
            result
        })
    }
}

impl Circuit {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(circuit: &Arc<Self>) -> Result<Pass, SendError> {
        let mut state = circuit.lock();
        let now = Instant::now();
        match *state {
            State::Closed { .. } => return Ok(Pass { circuit: Arc::clone(circuit), is_probe: false }),
            State::Open { until } if until <= now => {
                *state = State::HalfOpen;
                return Ok(Pass { circuit: Arc::clone(circuit), is_probe: true });
            }
            State::Open { .. } | State::HalfOpen => {}
        }
        let failures = circuit.config.failures;
        Err(SendError::transient(format!("the circuit is open after {failures} failures in a row")))
    }

    fn record(&self, verdict: Verdict) {
        let mut state = self.lock();
        let now = Instant::now();
        let next = match (verdict, *state) {
            (Verdict::Fine, _) => State::Closed { failures: 0 },
            // Nothing was learnt: the next event may try.
            (Verdict::Neutral, State::HalfOpen) => State::Open { until: now },
            (Verdict::Neutral, same) => same,
            (Verdict::Away, State::Closed { failures }) if failures + 1 < self.config.failures => {
                State::Closed { failures: failures + 1 }
            }
            // A straggler that fails late does not prolong the pause.
            (Verdict::Away, State::Open { until }) => State::Open { until },
            (Verdict::Away, _) => State::Open { until: now + self.config.open_for.0 },
        };
        self.show(*state, next);
        *state = next;
    }

    fn show(&self, before: State, after: State) {
        let (was_closed, is_closed) =
            (matches!(before, State::Closed { .. }), matches!(after, State::Closed { .. }));
        self.open.set(i64::from(!is_closed));
        match (was_closed, is_closed) {
            (true, false) => {
                warn!(sink = self.place, open_for = %self.config.open_for, "circuit opened: the far side is away");
            }
            (false, true) => info!(sink = self.place, "circuit closed: the far side is back"),
            _ => {}
        }
    }
}

/// What an answer says about the far side.
#[derive(Clone, Copy)]
enum Verdict {
    Fine,
    Neutral,
    Away,
}

impl Verdict {
    fn of(result: &Result<(), SendError>) -> Self {
        match result {
            Ok(()) => Self::Fine,
            Err(SendError::Permanent(_)) => Self::Neutral,
            Err(SendError::Transient { .. }) => Self::Away,
        }
    }
}

/// Leave to try once. A probe that is dropped unsettled, because its attempt was cancelled, counts as failed.
struct Pass {
    circuit: Arc<Circuit>,
    is_probe: bool,
}

impl Pass {
    fn settle(mut self, verdict: Verdict) {
        self.is_probe = false;
        self.circuit.record(verdict);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.is_probe {
            self.circuit.record(Verdict::Away);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use prometheus::Registry;
    use tower::ServiceExt;
    use tower_test::mock;

    use super::*;
    use crate::metrics::Metrics;
    use crate::values::Span;

    type Handle = mock::Handle<Event, ()>;

    fn breaker() -> (
        CircuitBreaker<impl Service<Event, Response = (), Error = SendError, Future: Send + 'static> + Clone>,
        Handle,
    ) {
        let (service, handle) = mock::pair::<Event, ()>();
        let service = service.map_err(|error| SendError::transient(error.to_string()));
        let config = CircuitBreakerConfig { failures: 2, open_for: Span::secs(30) };
        let metrics = SinkMetrics::new(&Metrics::new(Registry::new()), "p", "s");
        (layer(&config, &metrics, "p/s", service), handle)
    }

    fn event() -> Event {
        Event::new(SystemTime::UNIX_EPOCH, "")
    }

    /// Sends one event, which the far side answers as told.
    async fn attempt<S>(breaker: &CircuitBreaker<S>, handle: &mut Handle, ok: bool) -> Result<(), SendError>
    where
        S: Service<Event, Response = (), Error = SendError, Future: Send + 'static> + Clone,
    {
        handle.allow(1);
        let answer = async {
            let (_, reply) = handle.next_request().await.expect("a request");
            if ok { reply.send_response(()) } else { reply.send_error("away") }
        };
        tokio::join!(breaker.clone().oneshot(event()), answer).0
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_closes_after_one_success() {
        let (breaker, mut handle) = breaker();
        attempt(&breaker, &mut handle, false).await.unwrap_err();
        attempt(&breaker, &mut handle, true).await.unwrap();
        attempt(&breaker, &mut handle, false).await.unwrap_err();
        attempt(&breaker, &mut handle, false).await.unwrap_err();

        handle.allow(1);
        let refused = breaker.clone().oneshot(event()).await.unwrap_err();
        assert!(refused.to_string().contains("circuit is open"), "{refused}");
        assert!(refused.is_transient());

        tokio::time::advance(Duration::from_secs(31)).await;
        attempt(&breaker, &mut handle, true).await.unwrap();
        attempt(&breaker, &mut handle, true).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_probe_does_not_leave_it_half_open_for_ever() {
        let (breaker, mut handle) = breaker();
        attempt(&breaker, &mut handle, false).await.unwrap_err();
        attempt(&breaker, &mut handle, false).await.unwrap_err();
        tokio::time::advance(Duration::from_secs(31)).await;

        handle.allow(1);
        let mut probe = Box::pin(breaker.clone().oneshot(event()));
        assert!(futures_util::poll!(&mut probe).is_pending());
        let second = breaker.clone();
        handle.allow(1);
        second.oneshot(event()).await.unwrap_err();
        drop(probe);

        tokio::time::advance(Duration::from_secs(31)).await;
        let (_, reply) = handle.next_request().await.expect("the probe's request");
        drop(reply);
        attempt(&breaker, &mut handle, true).await.unwrap();
    }
}
