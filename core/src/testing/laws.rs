//! The delivery laws, checked on a real stage against its real far side. A bench says how to build the
//! stage and how to look at, take away and bring back what is behind it; the laws are the same for all.
//!
//! 1 every event gets exactly one outcome (the types see to it) · 2 confirmed is Delivered · 3 permanent
//! is Rejected after one attempt · 4 transient then fine is Delivered · 5 transient for ever is Failed
//! when the retry budget ends · 6 dropped anywhere is Failed · 7 shutdown in mid-flight loses no answer ·
//! 8 nothing is acked upstream before the far side confirmed · 9 nacked or killed is redelivered · 10 a
//! slow sink bounds memory (core's own tests) · 11 equal labels keep their order, through retries and
//! restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{SinkRig, pipe, until};
use crate::delivery::{Delivery, Outcome};
use crate::event::Event;
use crate::middleware::{DeliveryConfig, RetryConfig};
use crate::stage::{Sink, Source};
use crate::values::Span;

const THINGS: usize = 6;

/// A sink and its far side.
#[async_trait]
pub trait SinkBench: Send + Sync {
    /// The sink, newly built, as after a start of the program.
    fn sink(&self) -> Box<dyn Sink>;

    /// Observation `number` of `thing`. Numbers grow with the event's timestamp; things differ in labels.
    fn event(&self, thing: usize, number: u64) -> Event;

    /// An event that can never land, if there is such a thing for this sink.
    fn bad_event(&self) -> Option<Event>;

    /// The numbers that have landed of `thing`, in the order in which they did. A far side that keeps
    /// only the newest shows just that.
    async fn landed(&self, thing: usize) -> Vec<u64>;

    /// Takes the far side away. False where that cannot be done, as for a sink that is its own far side.
    async fn take_away(&self) -> bool;

    /// Brings the far side back, with what it had confirmed.
    async fn bring_back(&self);
}

/// Quick retries, so that the laws need no long waits.
fn quick(max_elapsed: Duration) -> DeliveryConfig {
    DeliveryConfig {
        timeout: Some(Span::secs(2)),
        retry: RetryConfig {
            initial_interval: Span::millis(20),
            max_interval: Span::millis(200),
            max_elapsed_time: Some(Span(max_elapsed)),
            forever: false,
        },
        ..DeliveryConfig::default()
    }
}

/// Checks the laws of a sink.
///
/// # Panics
/// One is broken; the message names it.
pub async fn check_sink(bench: &dyn SinkBench) {
    confirmed_is_delivered_in_order(bench).await;
    permanent_is_rejected_after_one_attempt(bench).await;
    shutdown_in_mid_flight_delivers_what_is_under_way(bench).await;
    if bench.take_away().await {
        bench.bring_back().await;
        transient_then_fine_is_delivered_in_order(bench).await;
        transient_for_ever_is_failed(bench).await;
        given_up_is_failed_and_answered(bench).await;
    }
}

async fn confirmed_is_delivered_in_order(bench: &dyn SinkBench) {
    let rig = SinkRig::start(bench.sink(), &quick(Duration::from_secs(20)));
    let mut receipts = Vec::new();
    for number in 1..=5 {
        for thing in 0..THINGS {
            receipts.push((thing, number, rig.send(bench.event(thing, number))));
        }
    }
    for (thing, number, receipt) in receipts {
        let outcome = receipt.await;
        assert_eq!(outcome, Outcome::Delivered, "law 2: {number} of {thing}");
        let landed = bench.landed(thing).await;
        assert!(
            landed.iter().any(|known| *known >= number),
            "law 2: {number} of {thing} is not among {landed:?}"
        );
    }
    for thing in 0..THINGS {
        assert_ordered(bench, thing, 5).await;
    }
    rig.finish().await.unwrap_or_else(|error| panic!("law 7: the sink did not end well: {error}"));
}

async fn permanent_is_rejected_after_one_attempt(bench: &dyn SinkBench) {
    let Some(bad) = bench.bad_event() else { return };
    let rig = SinkRig::start(bench.sink(), &quick(Duration::from_secs(20)));
    let outcome = rig.send(bad).await;
    assert!(matches!(outcome, Outcome::Rejected(_)), "law 3: {outcome:?}");
    assert_eq!(rig.attempts(), 1, "law 3: attempts");
    let good = rig.send(bench.event(1, 6)).await;
    assert_eq!(good, Outcome::Delivered, "law 3: a good event after a bad one");
}

async fn shutdown_in_mid_flight_delivers_what_is_under_way(bench: &dyn SinkBench) {
    let rig = SinkRig::start(bench.sink(), &quick(Duration::from_secs(20)));
    let receipts: Vec<_> = (0..THINGS).map(|thing| rig.send(bench.event(thing, 6))).collect();
    rig.finish().await.unwrap_or_else(|error| panic!("law 7: the sink did not end well: {error}"));
    for receipt in receipts {
        assert_eq!(receipt.await, Outcome::Delivered, "law 7");
    }
}

async fn transient_then_fine_is_delivered_in_order(bench: &dyn SinkBench) {
    let rig = SinkRig::start(bench.sink(), &quick(Duration::from_secs(60)));
    assert_eq!(rig.send(bench.event(0, 7)).await, Outcome::Delivered, "law 4: before");
    bench.take_away().await;
    let receipts: Vec<_> = (8..=10).map(|number| rig.send(bench.event(0, number))).collect();
    until("the sink has tried in vain", || async { rig.attempts() >= 2 }).await;
    bench.bring_back().await;
    for receipt in receipts {
        assert_eq!(receipt.await, Outcome::Delivered, "law 4");
    }
    assert_ordered(bench, 0, 10).await;
}

async fn transient_for_ever_is_failed(bench: &dyn SinkBench) {
    let rig = SinkRig::start(bench.sink(), &quick(Duration::from_millis(300)));
    bench.take_away().await;
    let outcome = rig.send(bench.event(1, 11)).await;
    bench.bring_back().await;
    assert!(matches!(outcome, Outcome::Failed(_)), "law 5: {outcome:?}");
}

async fn given_up_is_failed_and_answered(bench: &dyn SinkBench) {
    let rig = SinkRig::start(bench.sink(), &quick(Duration::from_secs(60)));
    bench.take_away().await;
    let receipts: Vec<_> = (0..THINGS).map(|thing| rig.send(bench.event(thing, 12))).collect();
    until("all are in flight", || async { rig.in_flight() == i64::try_from(THINGS).unwrap_or(0) }).await;
    rig.abort();
    for receipt in receipts {
        let outcome = receipt.await;
        assert!(matches!(outcome, Outcome::Failed(_)), "laws 6 and 7: {outcome:?}");
    }
    bench.bring_back().await;
}

/// Law 11: what is seen of a thing never goes back, and ends with `last`.
async fn assert_ordered(bench: &dyn SinkBench, thing: usize, last: u64) {
    let landed = bench.landed(thing).await;
    // A retry may have landed twice; the order of first sights counts.
    let mut seen = BTreeSet::new();
    let firsts: Vec<_> = landed.iter().copied().filter(|number| seen.insert(*number)).collect();
    assert!(firsts.is_sorted(), "law 11: {landed:?}");
    assert_eq!(firsts.last(), Some(&last), "law 11: {landed:?}");
}

/// A source and its upstream.
#[async_trait]
pub trait SourceBench: Send + Sync {
    /// The source, newly built, as after a start of the program. It finds what it had not acknowledged.
    fn source(&self) -> Box<dyn Source>;

    /// Puts observation `number` of `thing` upstream.
    async fn offer(&self, thing: usize, number: u64);

    /// Which observation an event is.
    fn identify(&self, event: &Event) -> (usize, u64);

    /// How many observations upstream holds that the source has not acknowledged.
    async fn unacknowledged(&self) -> usize;

    /// How many dead letters there are; `None` where the upstream has no place for them.
    async fn dead_letters(&self) -> Option<usize>;
}

/// Checks the laws of a source that acknowledges upstream.
///
/// # Panics
/// One is broken; the message names it.
pub async fn check_source(bench: &dyn SourceBench) {
    nothing_is_acknowledged_before_it_is_answered(bench).await;
    failed_is_redelivered_and_rejected_is_not(bench).await;
    killed_is_redelivered(bench).await;
    a_paused_pipeline_holds(bench).await;
}

async fn nothing_is_acknowledged_before_it_is_answered(bench: &dyn SourceBench) {
    for number in 1..=3 {
        for thing in 0..THINGS {
            bench.offer(thing, number).await;
        }
    }
    let (out, mut inlet) = pipe(64);
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(bench.source().run(out, shutdown.clone()));
    let mut held: Vec<Delivery> = Vec::new();
    let mut order: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    while held.len() < 3 * THINGS {
        let Some(delivery) = inlet.next().await else { panic!("law 8: the source ended early") };
        let (thing, number) = bench.identify(&delivery.event);
        order.entry(thing).or_default().push(number);
        held.push(delivery);
    }
    assert!(order.values().all(|numbers| numbers.is_sorted()), "law 11: {order:?}");
    assert_eq!(bench.unacknowledged().await, 3 * THINGS, "law 8: acknowledged before it was answered");

    // Law 7: the source is told to end while every answer is still owed.
    shutdown.cancel();
    for delivery in held {
        delivery.acker.finish(Outcome::Delivered);
    }
    ended_well(running).await;
    until("law 7: all is acknowledged", || async { bench.unacknowledged().await == 0 }).await;
}

async fn failed_is_redelivered_and_rejected_is_not(bench: &dyn SourceBench) {
    let dead_before = bench.dead_letters().await;
    bench.offer(0, 10).await;
    bench.offer(1, 10).await;
    bench.offer(2, 10).await;
    let (out, mut inlet) = pipe(64);
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(bench.source().run(out, shutdown.clone()));
    let (mut failures, mut delivered) = (0, false);
    while !delivered {
        let Some(Delivery { event, acker }) = inlet.next().await else {
            panic!("law 9: the source ended early")
        };
        match bench.identify(&event).0 {
            0 if failures < 2 => {
                failures += 1;
                acker.finish(Outcome::failed("law 9"));
            }
            0 => {
                delivered = true;
                acker.finish(Outcome::Delivered);
            }
            1 => acker.finish(Outcome::rejected("law 3")),
            _ => acker.finish(Outcome::Filtered),
        }
    }
    until("law 3 and 9: all is answered", || async { bench.unacknowledged().await == 0 }).await;
    if let (Some(before), Some(after)) = (dead_before, bench.dead_letters().await) {
        assert_eq!(after, before + 1, "law 3: dead letters");
    }
    shutdown.cancel();
    ended_well(running).await;
}

async fn killed_is_redelivered(bench: &dyn SourceBench) {
    for thing in 0..THINGS {
        bench.offer(thing, 20).await;
    }
    let (out, mut inlet) = pipe(64);
    let running = tokio::spawn(bench.source().run(out, CancellationToken::new()));
    let mut held = Vec::new();
    for _ in 0..THINGS {
        held.push(inlet.next().await);
    }
    running.abort();
    // The task must be gone, and with it what it holds, before the next one may take its place.
    let _ = running.await;
    drop(held);

    let (out, mut inlet) = pipe(64);
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(bench.source().run(out, shutdown.clone()));
    let mut again = BTreeSet::new();
    while again.len() < THINGS {
        let Some(Delivery { event, acker }) = inlet.next().await else {
            panic!("law 9: the source ended early")
        };
        again.insert(bench.identify(&event));
        acker.finish(Outcome::Delivered);
    }
    assert!(again.iter().all(|(_, number)| *number == 20), "law 9: {again:?}");
    until("law 9: all is acknowledged", || async { bench.unacknowledged().await == 0 }).await;
    shutdown.cancel();
    ended_well(running).await;
}

async fn a_paused_pipeline_holds(bench: &dyn SourceBench) {
    let (out, mut inlet) = pipe(64);
    inlet.pause();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(bench.source().run(out, shutdown.clone()));
    bench.offer(0, 30).await;
    bench.offer(0, 31).await;
    assert_eq!(bench.unacknowledged().await, 2, "a paused pipeline acknowledged something");
    assert!(inlet.try_next().is_none(), "a paused pipeline took an event");
    inlet.resume();
    for expected in [30, 31] {
        let Some(Delivery { event, acker }) = inlet.next().await else {
            panic!("the source ended while paused")
        };
        assert_eq!(bench.identify(&event), (0, expected), "law 11: after a pause");
        acker.finish(Outcome::Delivered);
    }
    until("all is acknowledged after a pause", || async { bench.unacknowledged().await == 0 }).await;
    shutdown.cancel();
    ended_well(running).await;
}

async fn ended_well(running: tokio::task::JoinHandle<Result<(), crate::error::BoxError>>) {
    match tokio::time::timeout(super::PATIENCE, running).await {
        Ok(Ok(Ok(()))) => {}
        other => panic!("law 7: the source did not end well: {other:?}"),
    }
}
