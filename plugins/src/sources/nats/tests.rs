use prometheus_streams_core::settings;
use prometheus_streams_core::testing::context;
use serde_json::{Value, json};

use super::*;

fn build(settings: Value) -> Result<Box<dyn Source>, BuildError> {
    settings::read::<NatsSourceConfig>(settings)?.build(&context("nats"))
}

#[test]
fn the_example_is_right() {
    let example = json!({ "urls": ["nats://nats.dc1.example.net:4222"], "stream": "PROMETHEUS", "durable": "receiver" });
    assert!(build(example).is_ok());
}

#[test]
fn every_mistake_is_told_at_its_place() {
    let settings = json!({
        "urls": [],
        "stream": "A",
        "durable": "a.b",
        "filter_subjects": ["ok.>", "a..b"],
        "ack_wait": "10ms",
        "max_ack_pending": 0,
        "dead_letter": { "stream": "A", "subject": "a.*" },
    });
    let error = build(settings).err().unwrap();
    let paths: Vec<_> = error.problems().iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "urls",
            "durable",
            "filter_subjects[1]",
            "ack_wait",
            "max_ack_pending",
            "dead_letter.stream",
            "dead_letter.subject"
        ],
        "{error}"
    );
}
