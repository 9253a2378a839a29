//! The delivery laws, with a broker that hangs and comes back; one that is killed is in `faults`.

use async_trait::async_trait;
use prometheus_streams_core::event::Event;
use prometheus_streams_core::stage::{Sink, Source};
use prometheus_streams_core::testing::{SinkBench, SourceBench, check_sink, check_source};
use prometheus_streams_plugins::support::envelope::{self, Limits};
use serde_json::json;

use super::*;
use crate::support::nats::NatsServer;

struct Broker(NatsServer);

#[async_trait]
impl SinkBench for Broker {
    fn sink(&self) -> Box<dyn Sink> {
        sink(&self.0.url(), json!({}))
    }

    fn event(&self, thing: usize, number: u64) -> Event {
        event(thing, number)
    }

    fn bad_event(&self) -> Option<Event> {
        let mut bad = event(0, 6);
        bad.attributes.insert("hops", "relay@1;".repeat(32));
        Some(bad)
    }

    async fn landed(&self, thing: usize) -> Vec<u64> {
        let subject = format!("s.j.t{thing}");
        let messages = self.0.messages(STREAM).await;
        let event = |message: &async_nats::jetstream::message::StreamMessage| {
            envelope::decode(message.payload.clone(), &Limits::default()).unwrap()
        };
        messages
            .iter()
            .filter(|message| *message.subject == *subject)
            .map(|m| identify(&event(m)).1)
            .collect()
    }

    async fn take_away(&self) -> bool {
        self.0.pause();
        true
    }

    async fn bring_back(&self) {
        self.0.resume();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sink_keeps_the_laws() {
    check_sink(&Broker(NatsServer::start().await)).await;
}

struct Upstream {
    _server: NatsServer,
    url: String,
    sink: Box<dyn Sink>,
    jetstream: async_nats::jetstream::Context,
}

#[async_trait]
impl SourceBench for Upstream {
    fn source(&self) -> Box<dyn Source> {
        source(&self.url, json!({}))
    }

    async fn offer(&self, thing: usize, number: u64) {
        deliver(&*self.sink, event(thing, number)).await;
    }

    fn identify(&self, event: &Event) -> (usize, u64) {
        identify(event)
    }

    async fn unacknowledged(&self) -> usize {
        unacknowledged(&self.jetstream).await
    }

    async fn dead_letters(&self) -> Option<usize> {
        let stream = self.jetstream.get_stream(format!("{STREAM}_DLQ")).await;
        Some(stream.map_or(0, |stream| stream.cached_info().state.messages as usize))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_keeps_the_laws() {
    let server = NatsServer::start().await;
    let (url, jetstream) = (server.url(), server.jetstream().await);
    check_source(&Upstream { sink: sink(&url, json!({})), _server: server, url, jetstream }).await;
}
