//! The other two ways to land: through a real Push Gateway, and by remote write.

use super::*;
use crate::support::prometheus::PushGateway;

/// What a gateway has of real exporters. It adds when something was pushed.
const OF_EXPORTERS: &str =
    "{job=~\"exporters.*\",__name__!~\"scrape_(duration|timestamp)_seconds|push_(failure_)?time_seconds\"}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_pushed_or_written_is_what_a_prometheus_at_the_site_would_have() {
    let (exporters, targets, nats) =
        tokio::join!(exporters::start_all(), Targets::start(), NatsServer::start());
    let behind = exporters.iter().map(|exporter| (exporter.name.to_owned(), exporter.address()));
    let freezer = Freezer::start(behind.collect()).await;
    awkward::set_all(&targets);
    let names: Vec<_> = exporters.iter().map(|exporter| exporter.name).collect();
    let configs = scrape_configs(&freezer.address(), &names, &targets.address());

    let (gateway, written) = tokio::join!(PushGateway::start(), Prometheus::receiving(json!({})));
    let mut poller = Agent::start(poller(&nats.url(), &configs));
    let mut receiver = Agent::start(landing(&nats.url(), &gateway.url(), &written.write_url()));
    let address = gateway.address();
    let (site, pushed) = tokio::join!(Prometheus::start(configs), Prometheus::reading(&address));

    let (by_gateway, by_write) = tokio::join!(
        lasting_difference(&site, &pushed, OF_EXPORTERS),
        lasting_difference_of_series(&site, &written)
    );
    for (what, (lines, count)) in [("the gateway", by_gateway), ("remote write", by_write)] {
        let shown = lines[..lines.len().min(MOST_LINES)].join("\n");
        assert!(lines.is_empty(), "{what} gives the centre something else than the site has:\n{shown}");
        assert!(count > 2_000, "only {count} series were compared");
    }
    assert!(poller.terminate().await.success());
    assert!(receiver.terminate().await.success());
}

/// Without the types, which Prometheus 2 does not take from remote write.
async fn lasting_difference_of_series(site: &Prometheus, centre: &Prometheus) -> (Vec<String>, usize) {
    let start = Instant::now();
    loop {
        let expected = stored(site, EVERYTHING, &[]).await.series;
        let lines = difference(&expected, &stored(centre, EVERYTHING, &["publisher"]).await.series);
        if !expected.is_empty() && lines.is_empty() || start.elapsed() > secs(60) {
            return (lines, expected.len());
        }
        tokio::time::sleep(secs(1)).await;
    }
}

fn landing(nats: &str, gateway: &str, write: &str) -> Value {
    let source =
        |durable: &str| json!({ "type": "nats", "urls": [nats], "stream": STREAM, "durable": durable });
    let of_exporters = json!([{ "source_labels": ["job"], "regex": "exporters.*", "action": "keep" }]);
    json!({ "pipelines": {
        "pushed": {
            "source": source("pushed"),
            "transforms": [{ "type": "relabel", "relabel_configs": of_exporters }],
            "sinks": [{ "type": "push_gateway", "url": gateway, "group_by": ["publisher"] }],
        },
        "written": {
            "source": source("written"),
            "sinks": [{ "type": "remote_write", "url": write }],
        },
    } })
}
