use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::delivery::Outcome;
use crate::error::SendError;
use crate::event::Event;
use crate::middleware::{CircuitBreakerConfig, DeliveryConfig, RateLimitConfig, RetryConfig};
use crate::stage::Sink;
use crate::testing::{MemorySink, SinkRig, until};
use crate::values::Span;

fn event(thing: &str, second: u64) -> Event {
    let mut event = Event::new(SystemTime::UNIX_EPOCH + Duration::from_secs(second), second.to_string());
    event.labels.insert("thing", thing);
    event
}

/// A sink that takes an event for each permit, and notes when it began with which.
struct Gated {
    permits: Arc<Semaphore>,
    begun: Begun,
}

#[async_trait]
impl Sink for Gated {
    async fn send(&self, event: Event) -> Result<(), SendError> {
        let thing = event.labels.get("thing").unwrap_or_default().to_owned();
        let body = String::from_utf8_lossy(&event.body).into_owned();
        self.begun.lock().unwrap().push((thing, body));
        self.permits.acquire().await.map_err(SendError::transient)?.forget();
        Ok(())
    }
}

/// Which thing and which of its bodies, in the order in which they were begun.
type Begun = Arc<Mutex<Vec<(String, String)>>>;

fn gated(delivery: &DeliveryConfig) -> (SinkRig, Arc<Semaphore>, Begun) {
    let (permits, begun) = (Arc::new(Semaphore::new(0)), Arc::default());
    let sink = Gated { permits: Arc::clone(&permits), begun: Arc::clone(&begun) };
    (SinkRig::start(Box::new(sink), delivery), permits, begun)
}

#[tokio::test]
async fn a_busy_lane_keeps_its_own_waiting_and_nobody_else() {
    let (rig, permits, begun) =
        gated(&DeliveryConfig { max_in_flight: Some(2), ..DeliveryConfig::default() });
    let receipts =
        [("a", 1), ("a", 2), ("b", 1), ("c", 1)].map(|(thing, second)| rig.send(event(thing, second)));
    until("two are in flight", || async { begun.lock().unwrap().len() == 2 }).await;
    assert_eq!(*begun.lock().unwrap(), [("a".to_owned(), "1".to_owned()), ("b".into(), "1".into())]);
    permits.add_permits(4);
    for receipt in receipts {
        assert_eq!(receipt.await, Outcome::Delivered);
    }
    rig.finish().await.unwrap();
}

#[tokio::test]
async fn only_the_newest_waits_whatever_the_order_of_arrival() {
    let delivery =
        DeliveryConfig { max_in_flight: Some(1), newest_only: Some(true), ..DeliveryConfig::default() };
    let (rig, permits, begun) = gated(&delivery);
    let first = rig.send(event("a", 1));
    until("the first is in flight", || async { begun.lock().unwrap().len() == 1 }).await;
    let [two, four, three, other] =
        [("a", 2), ("a", 4), ("a", 3), ("b", 1)].map(|(thing, second)| rig.send(event(thing, second)));
    assert_eq!((two.await, three.await), (Outcome::Filtered, Outcome::Filtered));
    permits.add_permits(3);
    assert_eq!(
        (first.await, four.await, other.await),
        (Outcome::Delivered, Outcome::Delivered, Outcome::Delivered)
    );
    let bodies: Vec<_> = begun.lock().unwrap().iter().map(|(thing, body)| format!("{thing}{body}")).collect();
    assert_eq!(bodies, ["a1", "b1", "a4"]);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_too_long_is_repeated_until_the_budget_is_spent() {
    let delivery = DeliveryConfig {
        timeout: Some(Span::secs(1)),
        retry: RetryConfig { max_elapsed_time: Some(Span::secs(10)), ..RetryConfig::default() },
        ..DeliveryConfig::default()
    };
    let (rig, _permits, begun) = gated(&delivery);
    let began = tokio::time::Instant::now();
    let outcome = rig.send(event("a", 1)).await;
    assert_eq!(outcome, Outcome::failed("no answer within 1s"));
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(5) && took <= Duration::from_secs(11), "{took:?}");
    let attempts = begun.lock().unwrap().len();
    assert!((3..=7).contains(&attempts), "{attempts}");
}

#[tokio::test(start_paused = true)]
async fn the_far_side_may_ask_for_a_longer_pause() {
    let asked = Mutex::new(0);
    let (sink, received) = MemorySink::judging(move |_| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        if *asked == 1 {
            Err(SendError::transient("busy").retry_after(Duration::from_secs(30)))
        } else {
            Ok(())
        }
    });
    let rig = SinkRig::start(Box::new(sink), &DeliveryConfig::default());
    let began = tokio::time::Instant::now();
    assert_eq!(rig.send(event("a", 1)).await, Outcome::Delivered);
    assert!(began.elapsed() >= Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(received.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_spreads_attempts_and_keeps_the_kind_of_error() {
    let (sink, received) = MemorySink::judging(|event| match event.labels.get("thing") {
        Some("bad") => Err(SendError::permanent("bad")),
        _ => Ok(()),
    });
    let delivery = DeliveryConfig {
        rate_limit: Some(RateLimitConfig { requests: 2, per: Span::secs(10) }),
        ..DeliveryConfig::default()
    };
    let rig = SinkRig::start(Box::new(sink), &delivery);
    let began = tokio::time::Instant::now();
    let receipts: Vec<_> = (0..5).map(|i| rig.send(event(&i.to_string(), 1))).collect();
    for receipt in receipts {
        assert_eq!(receipt.await, Outcome::Delivered);
    }
    assert!(began.elapsed() >= Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(received.lock().unwrap().len(), 5);
    assert_eq!(rig.send(event("bad", 1)).await, Outcome::rejected("bad"));
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_failed_event_fails_with_it_so_that_all_come_again_in_order() {
    let away = Arc::new(AtomicBool::new(true));
    let is_away = Arc::clone(&away);
    let (sink, received) = MemorySink::judging(move |event| {
        let first = &event.body[..] == b"1";
        if first && is_away.load(Ordering::SeqCst) { Err(SendError::transient("away")) } else { Ok(()) }
    });
    let rig = SinkRig::start(Box::new(sink), &DeliveryConfig::default());
    let receipts = [("a", 1), ("a", 2), ("b", 3)].map(|(thing, second)| rig.send(event(thing, second)));
    let mut outcomes = Vec::new();
    for receipt in receipts {
        outcomes.push(receipt.await.as_str());
    }
    assert_eq!(outcomes, ["failed", "failed", "delivered"]);

    away.store(false, Ordering::SeqCst);
    for second in [1, 2] {
        assert_eq!(rig.send(event("a", second)).await, Outcome::Delivered);
    }
    let bodies: Vec<_> = received.lock().unwrap().iter().map(|event| event.body.clone()).collect();
    assert_eq!(bodies, ["3", "1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn retries_end_within_the_budget_and_do_not_go_in_step() {
    let began = tokio::time::Instant::now();
    let times: Arc<Mutex<Vec<(String, Duration)>>> = Arc::default();
    let noted = Arc::clone(&times);
    let (sink, _) = MemorySink::judging(move |event| {
        noted.lock().unwrap().push((event.labels.to_string(), began.elapsed()));
        Err(SendError::transient("away"))
    });
    let rig = SinkRig::start(Box::new(sink), &DeliveryConfig::default());
    let receipts: Vec<_> = (0..8).map(|i| rig.send(event(&i.to_string(), 1))).collect();
    for receipt in receipts {
        assert_eq!(receipt.await, Outcome::failed("away"));
    }
    let times = times.lock().unwrap();
    let last = times.iter().map(|(_, at)| *at).max().unwrap();
    assert!(last > Duration::from_secs(45) && last <= Duration::from_secs(60), "{last:?}");
    let late: BTreeSet<_> =
        times.iter().map(|(_, at)| *at).filter(|at| *at > Duration::from_secs(20)).collect();
    assert!(late.len() > 8, "many events, few instants: {late:?}");
}

/// An error whose text cannot even be read.
#[derive(Debug)]
struct Nasty;

impl std::fmt::Display for Nasty {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("a bug in Display")
    }
}

impl std::error::Error for Nasty {}

#[tokio::test(start_paused = true)]
async fn a_lane_survives_whatever_panics() {
    let (sink, _) = MemorySink::judging(|event| match &event.body[..] {
        b"1" => Err(SendError::permanent(Nasty)),
        _ => Ok(()),
    });
    let rig = SinkRig::start(Box::new(sink), &DeliveryConfig::default());
    assert_eq!(rig.send(event("a", 1)).await.as_str(), "failed");
    let next = tokio::time::timeout(Duration::from_secs(3600), rig.send(event("a", 2))).await;
    assert_eq!(next.expect("the lane is blocked"), Outcome::Delivered);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_sink_refuses_by_itself_does_not_close_the_circuit() {
    let (sink, _) = MemorySink::judging(|event| match event.labels.get("thing") {
        Some("bad") => Err(SendError::permanent("cannot read it")),
        _ => Err(SendError::transient("away")),
    });
    let delivery = DeliveryConfig {
        retry: RetryConfig { max_elapsed_time: Some(Span::millis(1)), ..RetryConfig::default() },
        circuit_breaker: Some(CircuitBreakerConfig { failures: 2, open_for: Span::secs(30) }),
        ..DeliveryConfig::default()
    };
    let rig = SinkRig::start(Box::new(sink), &delivery);
    for thing in ["a", "bad", "a", "bad"] {
        let _ = rig.send(event(thing, 1)).await;
    }
    let attempts = rig.attempts();
    let refused = rig.send(event("a", 1)).await;
    assert_eq!((rig.attempts(), refused.as_str()), (attempts, "failed"), "the circuit is closed");
}

/// Counts the lines that a person would see.
struct Lines(Arc<AtomicUsize>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn one_bad_target_among_good_ones_does_not_fill_the_log() {
    let lines = Arc::new(AtomicUsize::new(0));
    let _guard = tracing::subscriber::set_default(Lines(Arc::clone(&lines)));
    let (sink, _) = MemorySink::judging(|event| match event.labels.get("thing") {
        Some("bad") => Err(SendError::permanent("bad")),
        _ => Ok(()),
    });
    let rig = SinkRig::start(Box::new(sink), &DeliveryConfig::default());
    for second in 0..100 {
        let _ = rig.send(event("good", second)).await;
        let _ = rig.send(event("bad", second)).await;
    }
    let lines = lines.load(Ordering::SeqCst);
    assert!((1..=4).contains(&lines), "{lines} lines for 200 events");
}
