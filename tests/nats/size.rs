//! Scrapes that are larger than a message may be.

use prometheus_streams_plugins::support::envelope::MOST_PARTS;
use serde_json::json;

use super::*;
use crate::support::nats::NatsServer;
use crate::support::wait::wait_until;

/// Bytes that do not compress, different for every seed.
fn noise(seed: u32, length: usize) -> bytes::Bytes {
    let mut state = u64::from(seed) * 2 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_of_three_megabytes_crosses_a_broker_that_takes_one() {
    let server = NatsServer::start().await;
    let jetstream = server.jetstream().await;
    let sink = sink(&server.url(), json!({}));
    let mut reader = Reader::start(source(&server.url(), json!({})), 2);
    for number in 1..=3 {
        let large = Event { body: noise(number, 3_000_000), ..event(0, number.into()) };
        // The second attempt is what happens after a lost acknowledgement.
        deliver(&*sink, large.clone()).await;
        deliver(&*sink, large.clone()).await;
        let read = reader.read().await;
        assert_eq!(identify(&read), (0, number.into()));
        assert!(read.body == large.body, "the body has changed on the way");
    }
    assert_eq!(server.messages(STREAM).await.len(), 9);
    wait_until("all to be acknowledged", secs(5), async || unacknowledged(&jetstream).await == 0).await;
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_the_stream_counts_too_and_too_many_parts_are_refused() {
    let server = NatsServer::start().await;
    let config = jetstream::stream::Config {
        name: STREAM.into(),
        subjects: vec!["s.>".into()],
        max_message_size: 4096,
        ..Default::default()
    };
    server.jetstream().await.create_stream(config).await.unwrap();
    let sink = sink(&server.url(), json!({}));
    deliver(&*sink, Event { body: noise(1, 20_000), ..event(0, 1) }).await;
    assert!(server.messages(STREAM).await.len() >= 7);
    let error = refusal(&*sink, Event { body: noise(2, 4096 * MOST_PARTS as usize), ..event(0, 2) }).await;
    assert!(
        !error.is_transient() && error.to_string().contains("parts of an event, the limit is 256"),
        "{error}"
    );
}
