//! The harness itself: every real part starts, answers, dies and comes back. When one of these tests
//! fails, look here before anywhere else.

use async_nats::jetstream;
use hyper::Method;

use crate::support::certs::Certs;
use crate::support::http;
use crate::support::nats::NatsServer;
use crate::support::prometheus::{NodeExporter, Prometheus, PushGateway};
use crate::support::targets::{Behaviour, Targets};
use crate::support::wait::{secs, wait_until};

#[tokio::test]
async fn a_broker_keeps_its_streams_through_a_kill_and_can_be_paused() {
    let mut nats = NatsServer::start().await;
    let jetstream = nats.jetstream().await;
    let config =
        jetstream::stream::Config { name: "S".into(), subjects: vec!["s.>".into()], ..Default::default() };
    jetstream.create_stream(config).await.unwrap();
    jetstream.publish("s.a", "one".into()).await.unwrap().await.unwrap();

    nats.kill9();
    nats.restart().await;
    let messages = nats.messages("S").await;
    assert_eq!(messages.iter().map(|message| &message.payload[..]).collect::<Vec<_>>(), [b"one"]);

    nats.pause();
    let asked = tokio::time::timeout(secs(1), jetstream.get_stream("S")).await;
    assert!(!matches!(asked, Ok(Ok(_))), "a paused broker answers nobody");
    nats.resume();
    let back = async || nats.jetstream().await.get_stream("S").await.is_ok();
    wait_until("the broker to answer again", secs(10), back).await;
}

#[tokio::test]
async fn a_broker_with_client_certificates_lets_nobody_else_in() {
    let certs = Certs::new();
    let nats = NatsServer::with(&certs.nats_tls()).await;
    let stranger = async_nats::ConnectOptions::new().add_root_certificates(certs.ca());
    assert!(stranger.require_tls(true).connect(nats.url()).await.is_err());
    let known = async_nats::ConnectOptions::new()
        .add_root_certificates(certs.ca())
        .add_client_certificate(certs.cert("client"), certs.key("client"));
    assert!(known.require_tls(true).connect(nats.url()).await.is_ok());
}

#[tokio::test]
async fn prometheus_reads_what_was_pushed_into_the_gateway() {
    let mut gateway = PushGateway::start().await;
    assert_eq!(gateway.put("job/parts/instance/a", "x 1\n").await.status, 200);
    assert_eq!(gateway.value("x{instance=\"a\",job=\"parts\"}").await, Some(1.0));
    assert_eq!(gateway.groups().await[0]["labels"]["instance"], "a");

    let prometheus = Prometheus::reading(&gateway.address()).await;
    assert_eq!(prometheus.value("x{job='parts', instance='a'}").await, 1.0);

    gateway.restart().await;
    assert!(gateway.groups().await.is_empty(), "a gateway without a file forgets");
}

#[tokio::test]
async fn a_node_exporter_is_up() {
    let exporter = NodeExporter::start().await;
    assert!(http::page(&exporter.metrics_url()).await.contains("node_cpu_seconds_total"));
}

#[tokio::test]
async fn scripted_targets_answer_as_told_and_remember() {
    let targets = Targets::start().await;
    targets.set("bad", Behaviour::Status(500));
    targets.set("long", Behaviour::Huge(1 << 20));
    assert!(http::page(&targets.url("a")).await.contains("probe_seq{target=\"a\"} 1\n"));
    assert!(http::page(&targets.url("b")).await.contains("probe_seq{target=\"b\"} 2\n"));
    assert_eq!(http::get(&targets.url("bad")).await.unwrap().status, 500);
    assert!(http::page(&targets.url("long")).await.len() >= 1 << 20);
    let served = targets.served();
    assert_eq!(served.iter().map(|served| served.seq).collect::<Vec<_>>(), [1, 2, 0, 0]);
    assert_eq!(targets.newest()["b"], 2);
}

#[tokio::test]
async fn a_target_with_client_certificates_refuses_strangers() {
    let certs = Certs::new();
    let targets = Targets::start_tls(certs.server_config()).await;
    let plain = targets.url("a").replace("https", "http");
    assert!(http::request(Method::GET, &plain, "").await.is_err());
}
