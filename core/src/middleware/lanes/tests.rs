use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::delivery::Outcome;
use crate::error::SendError;
use crate::event::Event;
use crate::middleware::{DeliveryConfig, RateLimitConfig, RetryConfig};
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
        timeout: Span::secs(1),
        retry: RetryConfig { max_elapsed_time: Some(Span::secs(10)), ..RetryConfig::default() },
        ..DeliveryConfig::default()
    };
    let (rig, _permits, begun) = gated(&delivery);
    let began = tokio::time::Instant::now();
    let outcome = rig.send(event("a", 1)).await;
    assert_eq!(outcome, Outcome::failed("no answer within 1s"));
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(10) && took <= Duration::from_secs(17), "{took:?}");
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
