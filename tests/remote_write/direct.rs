//! Targets that play a script, scraped by a Prometheus directly and by a poller, whose scrapes travel through a
//! stream and are written into another Prometheus. Each scraper hears the same answers in the same order, so both
//! must have stored the same, up to the times of the scrapes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prometheus_streams_plugins::support::scrape;
use serde_json::{Value, json};

use crate::support::agent::Agent;
use crate::support::configs::STREAM;
use crate::support::dump::{Dump, dump};
use crate::support::nats::NatsServer;
use crate::support::oracle::{acknowledged, owed};
use crate::support::prometheus::Prometheus;
use crate::support::stored::difference;
use crate::support::targets::{Behaviour, Targets};
use crate::support::wait::{secs, wait_until};

/// The answers that are compared; behind them the last one comes for ever.
const ANSWERS: usize = 12;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The script of each target, with as many answers as are compared.
///
/// A body that cannot be read goes wrong in its first line: of series before the mistake a Prometheus forgets to
/// mark the end.
fn scripts() -> Vec<(&'static str, Vec<Behaviour>)> {
    let text = |body: String| Behaviour::Text(body.into());
    let every = |answer: &dyn Fn(usize) -> Behaviour| (0..ANSWERS).map(answer).collect::<Vec<_>>();
    vec![
        ("steady", every(&|n| text(format!("a {n}\nb{{x=\"1\"}} {}\n", n * 10)))),
        (
            "coming_and_going",
            every(&|n| {
                text(match n % 3 {
                    0 => format!("a {n}\nb {n}\n"),
                    1 => format!("b {n}\nc{{l=\"v\"}} {n}\n"),
                    _ => format!("c{{l=\"w\"}} {n}\na {n}\n"),
                })
            }),
        ),
        ("failing", every(&|n| if n % 4 == 2 { Behaviour::Status(503) } else { text(format!("a {n}\n")) })),
        (
            "broken",
            every(&|n| text(if n % 3 == 1 { format!("b{{ {n}\na {n}\n") } else { format!("a {n}\n") })),
        ),
        ("numbers", every(&|n| text(format!("nan NaN\ninf +Inf\nminus -Inf\ntiny 1e-300\nlast {n}\n")))),
        (
            "types",
            every(&|n| {
                text(format!(
                    "# TYPE h histogram\nh_bucket{{le=\"0.5\"}} {n}\nh_bucket{{le=\"+Inf\"}} {n}\nh_sum 1\nh_count {n}\n\
             # TYPE s summary\ns{{quantile=\"0.9\"}} {n}\ns_sum 1\ns_count {n}\n# TYPE c counter\nc {n}\n"
                ))
            }),
        ),
        (
            "openmetrics",
            every(&|n| {
                Behaviour::Page(OPENMETRICS, format!(
            "# TYPE c counter\nc_total {n} # {{trace_id=\"t\"}} 1\nc_created 1\n# TYPE i info\ni_info{{v=\"{n}\"}} 1\n# EOF\n"
        ).into())
            }),
        ),
        (
            "labels",
            every(&|n| {
                text(format!("a{{job=\"x\",instance=\"y\"}} {n}\nb{{exported_job=\"z\",job=\"q\"}} {n}\n"))
            }),
        ),
        ("duplicates", every(&|n| text(format!("a {n}\na {}\n", n + 1)))),
        ("empty", every(&|n| if n % 2 == 0 { Behaviour::Empty } else { text(format!("a {n}\n")) })),
    ]
}

/// Where scripts end: nothing changes any more.
fn with_an_end(mut script: Vec<Behaviour>) -> Behaviour {
    script.push(Behaviour::Text("the_end 1\n".into()));
    Behaviour::Script(Arc::from(script))
}

fn scrape_configs(targets: &Targets, names: &[&str]) -> Value {
    let target = |name: &&str| {
        let labels = json!({ "__metrics_path__": format!("/{name}/metrics"), "instance": name });
        json!({ "targets": [targets.address()], "labels": labels })
    };
    let all: Vec<_> = names.iter().map(target).collect();
    json!([{ "job_name": "scripts", "static_configs": all }])
}

/// The value of the label `instance`.
fn instance(series: &str) -> Option<&str> {
    let (_, rest) = series.split_once(" instance=\"")?;
    Some(rest.split_once('"')?.0)
}

/// The times of the scrapes of each target, oldest first.
fn scrapes(dump: &Dump) -> BTreeMap<&str, Vec<i64>> {
    let ups = dump.iter().filter(|(series, _)| series.starts_with("{__name__=\"up\", instance="));
    ups.filter_map(|(series, samples)| {
        Some((instance(series)?, samples.iter().map(|(time, _)| *time).collect()))
    })
    .collect()
}

/// What became of each series at each scrape that is compared, these counted from 0.
fn by_scrape(dump: &Dump) -> BTreeMap<String, Vec<(usize, String)>> {
    let scrapes = scrapes(dump);
    let mut found = BTreeMap::new();
    // How long a scrape took is not the same twice.
    for (series, samples) in dump.iter().filter(|(series, _)| !series.contains("scrape_duration")) {
        let Some(times) = instance(series).and_then(|instance| scrapes.get(instance)) else { continue };
        let compared = &times[..ANSWERS.min(times.len())];
        let place = |time: &i64| compared.binary_search(time).ok();
        let known: Vec<_> =
            samples.iter().filter_map(|(time, value)| Some((place(time)?, value.clone()))).collect();
        if !known.is_empty() {
            found.insert(series.replace(", publisher=\"site1\"", ""), known);
        }
    }
    found
}

fn poller(nats: &str, scrape_configs: &Value) -> Value {
    json!({ "identity": "site1", "pipelines": { "poller": {
        "source": { "type": "http_scrape", "interval": "1s", "timeout": "1s", "scrape_configs": scrape_configs },
        "sinks": [{
            "type": "nats", "urls": [nats], "stream": { "name": STREAM },
            "subject": "prometheus.{publisher}.{job}.{instance}",
        }],
    } } })
}

fn receiver(nats: &str, url: &str) -> Value {
    json!({ "pipelines": { "receiver": {
        "source": { "type": "nats", "urls": [nats], "stream": STREAM, "durable": "receiver", "ack_wait": "5s" },
        "sinks": [{
            "type": "remote_write", "url": url,
            "delivery": { "retry": { "initial_interval": "100ms", "max_interval": "1s" } },
        }],
    } } })
}

/// Waits until every target has been scraped so often by each of two scrapers.
async fn all_played(targets: &Targets, names: usize, times: usize) {
    wait_until(&format!("{times} scrapes of each target by both"), secs(90), async || {
        let played = targets.played();
        played.len() == 2 * names && played.values().all(|count| *count >= times)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_stored_as_if_scraped_directly_also_what_came_while_prometheus_was_away() {
    compare(Away::Prometheus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sample_is_stored_as_if_scraped_directly_also_what_came_while_the_receiver_was_killed() {
    compare(Away::Receiver).await;
}

/// Who is killed on the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Away {
    Prometheus,
    /// Also the receiver of the stream, which then does not know which series there were before.
    Receiver,
}

/// What became of each series, without the marks of ends.
fn without_ends(all: BTreeMap<String, Vec<(usize, String)>>) -> BTreeMap<String, Vec<(usize, String)>> {
    let samples = all.into_iter().map(|(series, mut samples)| {
        samples.retain(|(_, value)| value != "NaN");
        (series, samples)
    });
    samples.filter(|(_, samples)| !samples.is_empty()).collect()
}

async fn compare(away: Away) {
    let (targets, nats) = tokio::join!(Targets::start(), NatsServer::start());
    let names: Vec<_> = scripts().iter().map(|(name, _)| *name).collect();
    for (name, script) in scripts() {
        assert_eq!(script.len(), ANSWERS);
        targets.set(name, with_an_end(script));
    }
    let configs = scrape_configs(&targets, &names);
    let (mut direct, mut centre) =
        tokio::join!(Prometheus::start(configs.clone()), Prometheus::receiving(json!({})));
    let mut poller = Agent::start(poller(&nats.url(), &configs));
    let mut receiver = Agent::start(receiver(&nats.url(), &centre.write_url()));

    all_played(&targets, names.len(), 3).await;
    centre.kill9();
    all_played(&targets, names.len(), 6).await;
    centre.restart().await;
    if away == Away::Receiver {
        receiver.restart();
    }
    all_played(&targets, names.len(), ANSWERS + 1).await;
    assert!(poller.terminate().await.success());
    let jetstream = nats.jetstream().await;
    wait_until("the consumer to owe nothing", secs(60), async || {
        owed(&jetstream, STREAM, "receiver").await == Some(0)
    })
    .await;
    let dead_letters = receiver.metric("prometheus_streams_receiver_dead_letters_total").await;
    assert!(receiver.terminate().await.success());
    let published = acknowledged(&nats).await;
    for server in [&mut direct, &mut centre] {
        server.stop().await;
    }

    let (expected, found) = (dump(&direct.dir().join("data")), dump(&centre.dir().join("data")));
    let compared = |dump: &Dump| match away {
        Away::Prometheus => by_scrape(dump),
        Away::Receiver => without_ends(by_scrape(dump)),
    };
    let lines = difference(&compared(&expected), &compared(&found));
    assert!(lines.is_empty(), "the centre has not what the site has:\n{}", lines.join("\n"));
    assert!(by_scrape(&expected).len() > 60, "only {} series", by_scrape(&expected).len());
    assert_eq!(dead_letters, 0.0);
    // The times are those of the scrapes.
    for (instance, times) in scrapes(&found) {
        let of_target = published.iter().filter(|event| event.labels.get(scrape::INSTANCE) == Some(instance));
        let scraped: BTreeSet<_> =
            of_target.map(|event| i64::try_from(scrape::unix_millis(event.timestamp)).unwrap()).collect();
        assert!(times.iter().all(|time| scraped.contains(time)), "{instance}: {times:?} {scraped:?}");
    }
}
