//! The main job on real parts: from a node_exporter through a poller, a nats-server, a receiver and a Push
//! Gateway into a Prometheus, plainly, over TLS, over two streams, and with the classic file.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::certs::Certs;
use crate::support::configs::{poller, receiver};
use crate::support::http;
use crate::support::nats::NatsServer;
use crate::support::prometheus::{NodeExporter, Prometheus, PushGateway, sample};
use crate::support::targets::Targets;
use crate::support::wait::secs;

fn node_job(exporter: &NodeExporter) -> Value {
    json!({ "node": { "targets": [{ "name": "db1", "url": exporter.metrics_url() }] } })
}

/// Everything that `exporter` tells must be found in `prometheus`, under the labels of the scrape.
async fn assert_everything_arrived(exporter: &NodeExporter, prometheus: &Prometheus, selector: &str) {
    let memory = prometheus.value(&format!("node_memory_MemTotal_bytes{{{selector}}}")).await;
    let page = http::page(&exporter.metrics_url()).await;
    assert_eq!(Some(memory), sample(&page, "node_memory_MemTotal_bytes"));
    assert_eq!(prometheus.value(&format!("up{{{selector}}}")).await, 1.0);
    assert!(prometheus.value(&format!("scrape_samples_scraped{{{selector}}}")).await > 100.0);
    assert!(prometheus.value(&format!("scrape_duration_seconds{{{selector}}}")).await > 0.0);

    let found = prometheus.query(&format!("group by (__name__) ({{{selector}}})")).await;
    let found: BTreeSet<_> =
        found.iter().filter_map(|series| series["metric"]["__name__"].as_str()).collect();
    let told = page.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let told: BTreeSet<_> = told.filter_map(|line| line.split(['{', ' ']).next()).collect();
    let missing: Vec<_> = told.difference(&found).collect();
    assert!(missing.is_empty(), "these metrics were lost on the way: {missing:?}");
}

#[tokio::test]
async fn node_metrics_travel_from_an_exporter_to_prometheus() {
    let (exporter, nats, gateway) =
        tokio::join!(NodeExporter::start(), NatsServer::start(), PushGateway::start());
    let mut poller = Agent::start(poller(&nats.url(), node_job(&exporter)));
    let mut receiver = Agent::start(receiver(&nats.url(), &gateway.url()));
    let prometheus = Prometheus::reading(&gateway.address()).await;
    assert_everything_arrived(&exporter, &prometheus, "job='node', instance='db1', publisher='site1'").await;
    poller.ready().await;
    receiver.ready().await;
    assert!(poller.terminate().await.success());
    assert!(receiver.terminate().await.success());
}

/// The sample of the classic program, with nothing changed but addresses.
#[tokio::test]
async fn the_classic_sample_does_what_it_did() {
    let (exporter, nats, gateway) =
        tokio::join!(NodeExporter::start(), NatsServer::start(), PushGateway::start());
    let mut sample = include_str!("data/classic.yaml").to_owned();
    for (theirs, ours) in [
        ("nats://nats.dc1.example.net:4222", nats.url()),
        ("nats://nats.dc2.example.net:4222", nats.url()),
        ("http://prometheus.dc2.example.net:9091", gateway.url()),
        ("http://choria1.dc1.example.net:8222/choria/prometheus", exporter.metrics_url()),
        ("http://choria2.dc1.example.net:8222/choria/prometheus", exporter.metrics_url()),
        ("http://choria3.dc1.example.net:8222/choria/prometheus", exporter.metrics_url()),
    ] {
        assert!(sample.contains(theirs), "the sample has no {theirs}");
        sample = sample.replace(theirs, &ours);
    }
    let mut poller = Agent::classic("poller", &sample);
    let mut receiver = Agent::classic("receiver", &sample);
    let prometheus = Prometheus::reading(&gateway.address()).await;
    // The sample scrapes once a minute.
    for instance in ["choria1", "choria2", &exporter.address()] {
        let query =
            format!("node_memory_MemTotal_bytes{{job='choria', instance='{instance}', publisher=''}}");
        prometheus.wait_for(&query, secs(75)).await;
    }
    assert!(poller.terminate().await.success());
    assert!(receiver.terminate().await.success());
}

#[tokio::test]
async fn everything_travels_over_tls_with_client_certificates() {
    let certs = Certs::new();
    let targets = Targets::start_tls(certs.server_config()).await;
    let nats = NatsServer::with(&certs.nats_tls()).await;
    let gateway = PushGateway::start_tls(&certs).await;
    let tls =
        json!({ "ca_file": certs.ca(), "cert_file": certs.cert("client"), "key_file": certs.key("client") });

    let jobs = json!({ "probes": { "tls": tls, "targets": [{ "name": "a", "url": targets.url("a") }] } });
    let mut config = poller(&nats.url(), jobs);
    config["pipelines"]["poller"]["sinks"][0]["tls"] = tls.clone();
    let _poller = Agent::start(config);

    let mut config = receiver(&nats.url(), &gateway.url());
    config["pipelines"]["receiver"]["source"]["tls"] = tls.clone();
    config["pipelines"]["receiver"]["sinks"][0]["tls"] = tls;
    let _receiver = Agent::start(config);

    let prometheus = Prometheus::reading_tls(&gateway.address(), &certs).await;
    let selector = "probe_seq{job='probes', instance='a', publisher='site1', target='a'}";
    let first = prometheus.value(selector).await;
    prometheus.wait_for(&format!("{selector} > {first}"), secs(15)).await;
}

#[tokio::test]
async fn a_relay_carries_scrapes_from_one_broker_to_another() {
    let (site, centre, gateway) =
        tokio::join!(NatsServer::start(), NatsServer::start(), PushGateway::start());
    let exporter = NodeExporter::start().await;
    let relay = json!({
        "identity": "relay1",
        "pipelines": { "relay": {
            "source": { "type": "nats", "urls": [site.url()], "stream": "PROMETHEUS", "durable": "relay" },
            "sinks": [{
                "type": "nats",
                "urls": [centre.url()],
                "stream": { "name": "PROMETHEUS" },
                "subject": "prometheus.{publisher}.{job}.{instance}",
            }],
        } },
    });
    let _poller = Agent::start(poller(&site.url(), node_job(&exporter)));
    let _relay = Agent::start(relay);
    let _receiver = Agent::start(receiver(&centre.url(), &gateway.url()));
    let prometheus = Prometheus::reading(&gateway.address()).await;
    assert_everything_arrived(&exporter, &prometheus, "job='node', instance='db1', publisher='site1'").await;
}

#[tokio::test]
async fn the_whole_job_runs_with_nothing_installed_but_the_reader() {
    let exporter = NodeExporter::start().await;
    let port = crate::support::server::free_port();
    let mut agent = Agent::start(json!({
        "identity": "site1",
        "pipelines": {
            "poller": {
                "source": { "type": "http_scrape", "interval": "1s", "jobs": node_job(&exporter) },
                "sinks": [{ "type": "local_stream", "path": "stream" }],
            },
            "receiver": {
                "source": { "type": "local_stream", "path": "stream" },
                "sinks": [{ "type": "exposition", "listen": format!("127.0.0.1:{port}") }],
            },
        },
    }));
    let prometheus = Prometheus::reading(&format!("127.0.0.1:{port}")).await;
    let selector = "job='node', instance='db1', publisher='site1'";
    assert_everything_arrived(&exporter, &prometheus, selector).await;

    agent.restart();
    let boot = prometheus.value(&format!("timestamp(up{{{selector}}})")).await;
    prometheus.wait_for(&format!("timestamp(up{{{selector}}}) > {boot} + 3"), secs(20)).await;
    assert!(agent.terminate().await.success());
}
