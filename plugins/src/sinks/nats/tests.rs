use std::time::UNIX_EPOCH;

use prometheus_streams_core::settings;
use prometheus_streams_core::testing::context;
use serde_json::{Value, json};

use super::*;

fn build(settings: Value) -> Result<Box<dyn Sink>, BuildError> {
    settings::read::<NatsSinkConfig>(settings)?.build(&context("nats"))
}

fn event() -> Event {
    Event {
        labels: [("publisher", "p"), ("job", "a b"), ("instance", "x\r\ny.z")].into_iter().collect(),
        attributes: [("slot", "60000")].into_iter().collect(),
        ..Event::new(UNIX_EPOCH + Duration::from_millis(60_007), "up 1\n")
    }
}

#[test]
fn every_mistake_is_told_at_its_place() {
    let settings = json!({
        "urls": ["http://x"],
        "stream": { "name": "A B", "replicas": 9, "max_age": "1m", "duplicate_window": "2m" },
        "subject": "{job}.x",
        "compression_level": 20,
        "ack_timeout": "0s",
        "token": "t",
        "nkey_file": "/nowhere/seed",
    });
    let error = build(settings).err().unwrap();
    let paths: Vec<_> = error.problems().iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "urls[0]",
            "nkey_file",
            "nkey_file",
            "stream.name",
            "stream.subjects",
            "stream.replicas",
            "stream.duplicate_window",
            "compression_level",
            "ack_timeout"
        ],
        "{error}"
    );
}

#[test]
fn the_example_is_right() {
    let example = json!({
        "urls": ["nats://nats.dc1.example.net:4222"],
        "stream": { "name": "PROMETHEUS", "max_age": "10m" },
        "subject": "prometheus.{publisher}.{job}.{instance}",
    });
    assert!(build(example).is_ok());
}

#[test]
fn the_id_depends_on_what_was_observed_and_on_nothing_else() {
    let id = messages::id(&event());
    assert!(id.starts_with("p/a_b/x__y_z/60000/") && id.is_ascii(), "{id}");
    let mut again = Event { timestamp: UNIX_EPOCH, body: "up 0\n".into(), ..event() };
    scrape::add_hop(&mut again.attributes, "relay", UNIX_EPOCH).unwrap();
    assert_eq!(messages::id(&again), id);

    // What looks alike in the readable part is kept apart by the hash.
    let mut other = event();
    other.labels.insert("instance", "x  y_z");
    assert_ne!(messages::id(&other), id);
    let mut relabelled = event();
    relabelled.labels.insert("rack", "r7");
    assert_ne!(messages::id(&relabelled), id);

    let mut failed = event();
    failed.attributes.insert("error", "connection refused");
    assert_ne!(
        messages::id(&failed),
        messages::id(&event()),
        "a failure would keep out a pair's good scrape"
    );
    let mut gone = event();
    gone.attributes.insert("tombstone", "true");
    assert_ne!(messages::id(&gone), messages::id(&event()));
    let mut without_slot = event();
    without_slot.attributes.remove("slot");
    assert!(messages::id(&without_slot).contains("/t60007000000/"));
    let long = Event { labels: [("job", "j".repeat(10_000))].into_iter().collect(), ..event() };
    assert!(messages::id(&long).len() < 200);
}

#[test]
fn parts_fit_and_those_of_another_body_have_other_ids() {
    let pack = |seed: u32| {
        let noise = (0..5_000).flat_map(|n: u32| (n ^ seed).wrapping_mul(2_654_435_761).to_le_bytes());
        let event = Event { body: noise.collect(), ..event() };
        messages::pack(&event, "id", 3, 6_000).unwrap()
    };
    let (one, two) = (pack(1), pack(2));
    assert!(one.len() > 3 && one.iter().all(|(_, message)| message.len() + 1024 <= 6_000));
    assert!(one.iter().all(|(id, _)| two.iter().all(|(other, _)| id != other)));
    assert_eq!(pack(1), one);
    assert_eq!(messages::pack(&event(), "id", 3, 6_000).unwrap()[0].0, "id");
}

#[test]
fn only_the_data_itself_is_refused_for_good() {
    let refused = |code: u64| {
        let error = json!({ "code": 400, "err_code": code, "description": "no" });
        let error = serde_json::from_value(error).unwrap();
        SendError::from(Failure::Publish(PublishError::Refused { stream: "S".to_owned(), error }))
    };
    assert!(!refused(10_054).is_transient());
    for code in [10_077, 10_023] {
        assert!(
            matches!(refused(code), SendError::Transient { retry_after: Some(FULL_PAUSE), .. }),
            "{code}"
        );
    }
    for code in [10_060, 10_158, 10_109] {
        assert!(matches!(refused(code), SendError::Transient { retry_after: None, .. }), "{code}");
    }
    assert!(!SendError::from(Failure::Hops(TooManyHops)).is_transient());
}
