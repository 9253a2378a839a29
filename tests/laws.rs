//! The delivery laws, for every stage with a far side of its own, against the real servers. Stages that are
//! their own far side, as `exposition`, are held against them beside their code.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use prometheus_streams_core::event::{Event, Labels};
use prometheus_streams_core::stage::{Sink, SinkConfig};
use prometheus_streams_core::testing::{SinkBench, check_sink, context};
use prometheus_streams_plugins::sinks::push_gateway::PushGatewayConfig;
use serde_json::json;

use crate::support::prometheus::PushGateway;

/// Observations are so far apart, and the last of them in the recent past.
const APART: Duration = Duration::from_secs(1);
/// More observations than any law needs.
const OBSERVATIONS: u32 = 100;

fn labels(thing: usize) -> Labels {
    let instance = format!("t{thing}");
    [("job", "laws"), ("instance", &instance), ("publisher", "tester")].into_iter().collect()
}

/// Observation `number` of `thing`, as a scrape.
fn scrape(began: SystemTime, thing: usize, number: u64) -> Event {
    let number = u32::try_from(number).unwrap();
    let mut event = Event::new(began - APART * (OBSERVATIONS - number), format!("seq {number}\n"));
    event.labels = labels(thing);
    event
}

/// A Push Gateway; what takes it away is SIGSTOP, as it forgets what it has when it ends.
struct Gateway {
    server: PushGateway,
    group_by: Option<&'static [&'static str]>,
    began: SystemTime,
}

#[async_trait]
impl SinkBench for Gateway {
    fn sink(&self) -> Box<dyn Sink> {
        let settings = json!({ "url": self.server.url(), "group_by": self.group_by });
        let config: PushGatewayConfig = serde_json::from_value(settings).unwrap();
        config.build(&context("push_gateway")).unwrap()
    }

    fn event(&self, thing: usize, number: u64) -> Event {
        scrape(self.began, thing, number)
    }

    fn bad_event(&self) -> Option<Event> {
        let mut event = self.event(0, 6);
        event.body = "this is not a scrape\n".into();
        event.labels.insert("instance", "bad");
        Some(event)
    }

    async fn landed(&self, thing: usize) -> Vec<u64> {
        let series = format!("seq{{instance=\"t{thing}\",job=\"laws\",publisher=\"tester\"}}");
        self.server.value(&series).await.map(|value| value as u64).into_iter().collect()
    }

    async fn take_away(&self) -> bool {
        self.server.pause();
        true
    }

    async fn bring_back(&self) {
        self.server.resume();
    }
}

#[tokio::test]
async fn push_gateway_keeps_the_laws_of_a_sink() {
    let server = PushGateway::start().await;
    check_sink(&Gateway { server, group_by: None, began: SystemTime::now() }).await;
}

#[tokio::test]
async fn push_gateway_keeps_the_laws_of_a_sink_with_several_targets_in_a_group() {
    let server = PushGateway::start().await;
    check_sink(&Gateway { server, group_by: Some(&["publisher"]), began: SystemTime::now() }).await;
}
