//! What was lost? The stream says what the broker acknowledged, the gateway says what landed.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{Info, PullConsumer};
use prometheus_streams_core::event::Event;
use prometheus_streams_plugins::support::envelope::{self, Limits};
use prometheus_streams_plugins::support::scrape;

use super::configs::STREAM;
use super::nats::NatsServer;
use super::prometheus::{PushGateway, sample};
use super::wait::wait_until;

/// Numbers by instance.
pub type Seqs = BTreeMap<String, u64>;

/// Every scrape that the broker has acknowledged and still holds, oldest first. What is not an envelope is
/// left out.
pub async fn acknowledged(nats: &NatsServer) -> Vec<Event> {
    let messages = nats.messages(STREAM).await;
    messages
        .into_iter()
        .filter_map(|message| envelope::decode(message.payload, &Limits::default()).ok())
        .collect()
}

/// The `probe_seq` in the body of a scrape, with the instance.
pub fn probe(event: &Event) -> Option<(String, u64)> {
    let body = std::str::from_utf8(&event.body).ok()?;
    let instance = event.labels.get(scrape::INSTANCE)?.to_owned();
    let seq = sample(body, &format!("probe_seq{{target=\"{instance}\"}}"))?;
    Some((instance, seq as u64))
}

/// The newest `probe_seq` that the broker acknowledged, of each instance.
pub async fn newest_acknowledged(nats: &NatsServer) -> Seqs {
    let mut newest = Seqs::new();
    for (instance, seq) in acknowledged(nats).await.iter().filter_map(probe) {
        let known = newest.entry(instance).or_default();
        *known = seq.max(*known);
    }
    newest
}

/// The `probe_seq` that the gateway holds, of each instance.
pub async fn landed(gateway: &PushGateway) -> Seqs {
    let page = gateway.metrics().await;
    let samples = page.lines().filter(|line| line.starts_with("probe_seq{"));
    samples
        .filter_map(|line| {
            let (labels, value) = line.rsplit_once(' ')?;
            let instance = labels.split_once("instance=\"")?.1.split_once('"')?.0;
            Some((instance.to_owned(), value.parse::<f64>().ok()? as u64))
        })
        .collect()
}

/// Waits until the gateway holds, for each instance, the newest scrape that the broker acknowledged, and
/// the consumer owes nothing. To be called once the poller has ended.
pub async fn wait_until_all_landed(nats: &NatsServer, gateway: &PushGateway, deadline: Duration) -> Seqs {
    let newest = newest_acknowledged(nats).await;
    assert!(!newest.is_empty(), "the broker has acknowledged nothing at all");
    let what = "the gateway to hold the newest scrape of every target that the broker acknowledged";
    wait_until(what, deadline, async || landed(gateway).await == newest).await;
    let jetstream = nats.jetstream().await;
    wait_until("the consumer to owe nothing", deadline, async || {
        owed(&jetstream, STREAM, "receiver").await == Some(0)
    })
    .await;
    newest
}

/// What the broker says of the receiver's consumer.
pub async fn consumer_info(nats: &NatsServer) -> Info {
    info(&nats.jetstream().await, STREAM, "receiver").await.expect("ask for the state of the consumer")
}

/// Messages that a consumer has not acknowledged, delivered or not; `None` when there is no such consumer.
pub async fn owed(jetstream: &jetstream::Context, stream: &str, durable: &str) -> Option<usize> {
    let info = info(jetstream, stream, durable).await?;
    Some(info.num_ack_pending + usize::try_from(info.num_pending).ok()?)
}

async fn info(jetstream: &jetstream::Context, stream: &str, durable: &str) -> Option<Info> {
    let stream = jetstream.get_stream(stream).await.ok()?;
    let mut consumer: PullConsumer = stream.get_consumer(durable).await.ok()?;
    consumer.info().await.ok().cloned()
}
