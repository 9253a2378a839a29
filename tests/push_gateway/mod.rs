//! The sink `push_gateway` against a real Push Gateway.

mod cuts;
mod life;
mod overload;
mod shared;
mod traps;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Method;
use prometheus_streams_core::error::SendError;
use prometheus_streams_core::event::{Event, Labels};
use prometheus_streams_core::stage::{Sink, SinkConfig};
use prometheus_streams_core::testing::context;
use prometheus_streams_plugins::exposition;
use prometheus_streams_plugins::sinks::push_gateway::PushGatewayConfig;
use prometheus_streams_plugins::support::scrape;
use serde_json::{Value, json};

use crate::support::http;
use crate::support::prometheus::{NodeExporter, PushGateway};
use crate::support::wait::{secs, wait_until};

fn sink_with(gateway: &PushGateway, more: Value) -> Box<dyn Sink> {
    let mut settings = json!({ "url": gateway.url() });
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let config: PushGatewayConfig = serde_json::from_value(settings).unwrap();
    config.build(&context("push_gateway")).unwrap()
}

fn sink(gateway: &PushGateway) -> Box<dyn Sink> {
    sink_with(gateway, json!({}))
}

fn event(labels: &[(&str, &str)], body: &str) -> Event {
    let mut event = Event::new(SystemTime::now(), body.to_owned());
    event.labels = labels.iter().copied().collect();
    event
}

/// Every series on a page, with its value.
fn series(page: &str) -> BTreeMap<String, f64> {
    let families =
        exposition::parse(exposition::Format::Text, exposition::Mode::Compat, page.as_bytes()).unwrap();
    let samples = families.into_iter().flat_map(|family| family.samples);
    samples
        .map(|sample| {
            let labels: Labels = sample.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
            (format!("{}{labels}", sample.name), sample.value)
        })
        .collect()
}

/// Five hundred sets of labels with values that a path does not like.
fn awkward_labels() -> Vec<Labels> {
    const PIECES: [&str; 32] = [
        "a", "Z", "0", "-", "_", "~", ".", "..", "/", "//", "\\", " ", "+", "%", "%2F", "%2E", "?", "#", "&",
        "=", ";", ":", "@base64", "\n", "\t", "\0", "\"", "'", "{}", "é", "\u{2028}", "🚀",
    ];
    // A small generator: the same awkward values in every run.
    let mut state = 1_u64;
    let mut next = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let mut value = |least: usize| {
        let length = least + next(4);
        (0..length).map(|_| PIECES[next(PIECES.len())]).collect::<String>()
    };
    let alone = PIECES.iter().map(|piece| (*piece).to_owned()).collect::<Vec<_>>().into_iter();
    let jobs: Vec<_> = alone.chain((0..468).map(|_| value(1))).collect();
    let labels = |(number, job): (usize, String)| -> Labels {
        let number = number.to_string();
        [("job", job), ("instance", value(0)), ("A_1", value(0)), ("number", number)].into_iter().collect()
    };
    jobs.into_iter().enumerate().map(labels).collect()
}

#[tokio::test]
async fn five_hundred_awkward_keys_read_back_from_a_real_gateway() {
    let gateway = PushGateway::start().await;
    let sink = sink(&gateway);
    let mut sent = BTreeSet::new();
    for labels in awkward_labels() {
        let body = "x 1\n";
        let event = Event { labels: labels.clone(), ..event(&[], body) };
        sink.send(event).await.unwrap_or_else(|error| panic!("{labels}: {error}"));
        sent.insert(labels.iter().filter(|(_, value)| !value.is_empty()).collect::<Labels>());
    }
    let groups = gateway.groups().await;
    let held = groups.iter().map(|group| serde_json::from_value(group["labels"].clone()).unwrap());
    assert_eq!(held.collect::<BTreeSet<Labels>>(), sent);
    assert_eq!(sent.len(), 500);
    assert!(groups.iter().all(|group| group["last_push_successful"] == true));
    assert!(gateway.metrics().await.contains("number=\"499\""));
}

#[tokio::test]
async fn a_node_exporter_lands_whole() {
    let (gateway, exporter) = (PushGateway::start().await, NodeExporter::start().await);
    let body = http::page(&exporter.metrics_url()).await;
    for (encoding, compression, instance) in [
        ("text", "none", "db1:9100"),
        ("text", "gzip", "db2:9100"),
        ("protobuf", "none", "db3:9100"),
        ("auto", "auto", "db4:9100"),
    ] {
        let labels = [("job", "node"), ("instance", instance), ("publisher", "site")];
        let mut event = event(&labels, &body);
        event.attributes.insert(scrape::DURATION, "0.25");
        let settings = json!({ "encoding": encoding, "compression": compression });
        sink_with(&gateway, settings).send(event.clone()).await.unwrap();

        let mut families =
            exposition::parse(exposition::Format::Text, exposition::Mode::Compat, body.as_bytes()).unwrap();
        exposition::apply_target_labels(&mut families, &labels, false);
        let mut expected = Vec::new();
        exposition::encode(&families, &mut expected);
        let expected = series(&String::from_utf8(expected).unwrap());
        assert!(expected.len() > 300, "{} series", expected.len());

        let held = series(&gateway.metrics().await);
        for (name, value) in &expected {
            let landed = held.get(name).unwrap_or_else(|| panic!("{name} is missing"));
            assert!(
                landed == value || (landed.is_nan() && value.is_nan()),
                "{name}: {value} became {landed}"
            );
        }
        let report = |name: &str| held[&format!("{name}{}", event.labels)];
        assert_eq!(report("up"), 1.0);
        assert_eq!(report("scrape_samples_scraped"), expected.len() as f64);
        assert_eq!(report("scrape_duration_seconds"), 0.25);
        let time = event.timestamp.duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((report("scrape_timestamp_seconds") - time).abs() < 0.001);
    }
}

#[tokio::test]
async fn series_that_are_gone_go_and_a_failed_scrape_leaves_its_report() {
    let gateway = PushGateway::start().await;
    let sink = sink(&gateway);
    let labels = [("job", "j"), ("instance", "i")];
    sink.send(event(&labels, "x{a=\"1\"} 1\nx{a=\"2\"} 2\ny 3\n")).await.unwrap();
    sink.send(event(&labels, "x{a=\"2\"} 4\n")).await.unwrap();
    let held = series(&gateway.metrics().await);
    let names: Vec<_> = held.keys().filter(|name| name.starts_with(['x', 'y'])).collect();
    assert_eq!(names, [r#"x{a="2", instance="i", job="j"}"#]);

    let mut failed = event(&labels, "");
    failed.attributes.insert(scrape::ERROR, "connection refused");
    sink.send(failed).await.unwrap();
    let groups = gateway.groups().await;
    let families: BTreeSet<_> = groups[0].as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "labels",
        "last_push_successful",
        "push_failure_time_seconds",
        "push_time_seconds",
        "scrape_samples_post_metric_relabeling",
        "scrape_samples_scraped",
        "scrape_timestamp_seconds",
        "up",
    ];
    assert_eq!(families, BTreeSet::from(expected));
    assert_eq!(gateway.value(r#"up{instance="i",job="j"}"#).await, Some(0.0));
}

#[tokio::test]
async fn an_empty_label_does_not_poison_the_gateway() {
    let gateway = PushGateway::start().await;
    let sink = sink(&gateway);
    sink.send(event(&[("job", "j")], "x 1\n")).await.unwrap();
    sink.send(event(&[("job", "j"), ("instance", ""), ("zone", "")], "x 2\n")).await.unwrap();
    assert_eq!(gateway.groups().await.len(), 1);
    assert_eq!(gateway.value(r#"x{instance="",job="j"}"#).await, Some(2.0));
}

#[tokio::test]
async fn a_federated_page_keeps_the_labels_that_the_gateway_would_overwrite() {
    let gateway = PushGateway::start().await;
    let page =
        "x{job=\"a\",instance=\"1\"} 1\nx{job=\"b\",instance=\"1\"} 2\nup{job=\"a\",instance=\"1\"} 0\n";
    for honor_labels in [false, true] {
        let sink = sink_with(&gateway, json!({ "honor_labels": honor_labels }));
        sink.send(event(&[("job", "federate"), ("instance", "hub")], page)).await.unwrap();
        let held = series(&gateway.metrics().await);
        let value = |name: &str, job: &str| {
            let exported = format!(r#"exported_instance="1", exported_job="{job}""#);
            held.get(&format!(r#"{name}{{{exported}, instance="hub", job="federate"}}"#)).copied()
        };
        assert_eq!((value("x", "a"), value("x", "b"), value("up", "a")), (Some(1.0), Some(2.0), Some(0.0)));
        assert_eq!(held[r#"up{instance="hub", job="federate"}"#], 1.0);
    }
}

#[tokio::test]
async fn what_a_gateway_refuses_or_changes_in_one_body_lands_as_it_was() {
    let gateway = PushGateway::start().await;
    let body = "# TYPE up counter\nup 7\n\
        # TYPE h histogram\nh_bucket{le=\"1\"} 1.5\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\n\
        # TYPE h_count gauge\n\
        y 1 17\ny 2\n# TYPE late gauge\npush_time_seconds 5\nlate 9\n";
    sink(&gateway).send(event(&[("job", "j"), ("instance", "i")], body)).await.unwrap();
    let held = series(&gateway.metrics().await);
    let value = |name: &str| held.get(name).copied();
    assert_eq!(value(r#"h_bucket{instance="i", job="j", le="1"}"#), Some(1.5));
    assert_eq!(value(r#"h_count{instance="i", job="j"}"#), Some(2.0));
    assert_eq!(value(r#"y{instance="i", job="j"}"#), Some(1.0), "the first of equal series stays");
    assert_eq!(value(r#"late{instance="i", job="j"}"#), Some(9.0));
    assert_eq!(value(r#"up{instance="i", job="j"}"#), Some(1.0));
}

#[tokio::test]
async fn a_push_that_was_given_up_does_not_overtake_the_newer_one() {
    let gateway = PushGateway::start().await;
    let sink = sink(&gateway);
    let labels = [("job", "j"), ("instance", "i")];
    let body = |value: u32| (0..2_000).map(|n| format!("x{{n=\"{n}\"}} {value}\n")).collect::<String>();
    sink.send(event(&labels, &body(0))).await.unwrap();
    let (old, new) = (event(&labels, &body(1)), event(&labels, &body(2)));
    gateway.pause();
    for _ in 0..5 {
        let attempt = tokio::time::timeout(Duration::from_millis(100), sink.send(old.clone()));
        assert!(attempt.await.is_err(), "a gateway that stands still has answered");
    }
    gateway.resume();
    sink.send(new).await.unwrap();
    let pushes = r#"pushgateway_http_requests_total{code="200",handler="push",method="put"}"#;
    let (mut seen, mut same) = (None, 0);
    wait_until("no more pushes to land", secs(20), async || {
        let landed = gateway.value(pushes).await;
        same = if landed == std::mem::replace(&mut seen, landed) { same + 1 } else { 0 };
        same == 15
    })
    .await;
    assert!(seen.is_some_and(|pushes| pushes > 3.0), "{seen:?}: none of the old ones landed");
    assert_eq!(gateway.value(r#"x{instance="i",job="j",n="7"}"#).await, Some(2.0));
}
