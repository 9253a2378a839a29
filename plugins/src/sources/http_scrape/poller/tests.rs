//! Targets that come and go while the poller runs.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use prometheus_streams_core::delivery::Delivery;
use prometheus_streams_core::testing::{self, Inlet, pipe, until};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::sources::http_scrape::HttpScrapeConfig;
use crate::sources::http_scrape::discovery::{DiscoverySettings, Place, TargetGroup};
use crate::sources::http_scrape::job::Job;
use crate::sources::http_scrape::status::Board;
use crate::support::http::testing::{Answer, TestServer};
use crate::support::schedule::Rhythm;
use crate::support::scrape::{SEQUENCE, TOMBSTONE, number};

/// A poller that runs, and its surroundings.
struct Rig {
    inlet: Inlet,
    found: mpsc::Sender<Found>,
    board: Board,
    metrics: prometheus_streams_core::metrics::Metrics,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

/// Jobs with these keys, called j0 and so on, each with one list that the test tells.
fn jobs(keys: &[Value]) -> Vec<Arc<Job>> {
    let configs: Vec<_> = keys.iter().enumerate().map(|(index, keys)| {
        let mut config = json!({ "job_name": format!("j{index}"), "scrape_interval": "40ms", "scrape_timeout": "40ms", "fallback_scrape_protocol": "PrometheusText0.0.4" });
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        config
    }).collect();
    let config: HttpScrapeConfig = serde_json::from_value(json!({ "scrape_configs": configs })).unwrap();
    let mut jobs = config.jobs().unwrap();
    jobs.iter_mut().for_each(|job| job.discoveries = vec![DiscoverySettings::Static(Vec::new())]);
    jobs.into_iter().map(Arc::new).collect()
}

impl Rig {
    fn start(keys: &[Value], capacity: usize) -> Self {
        let cx = testing::context("http_scrape");
        let metrics = Arc::new(PollerMetrics::new(&cx.metrics));
        let fleet = Fleet::new(&jobs(keys), "me", Arc::clone(&metrics), unix_millis(cx.clock.now()));
        let (board, (out, inlet)) = (fleet.board().clone(), pipe(capacity));
        let (sender, found) = mpsc::channel(4);
        let shutdown = CancellationToken::new();
        let poller = Poller::new(fleet, metrics, cx.clock, out);
        let running = tokio::spawn(poller.run(found, shutdown.clone()));
        Self { inlet, found: sender, board, metrics: cx.metrics, shutdown, running }
    }

    /// Tells what a job has: addresses, each with a label `x`.
    async fn tell(&self, job: usize, targets: &[(&str, &str)]) {
        let groups = targets.iter().map(|(address, x)| TargetGroup {
            targets: vec![(*address).to_owned()],
            labels: Arc::new(BTreeMap::from([("x".to_owned(), (*x).to_owned())])),
        });
        let found = Found { place: Place { job, discovery: 0 }, groups: Arc::new(groups.collect()) };
        self.found.send(found).await.unwrap();
    }

    /// The next event, answered at once: its label `x` and what it is.
    async fn next(&mut self) -> (String, Event) {
        let Delivery { event, acker } = self.inlet.next().await.unwrap();
        acker.finish(Outcome::Delivered);
        (label(&event.labels, "x").to_owned(), event)
    }

    /// Events until the tombstone of `x`, which is returned, with those before it.
    async fn until_tombstone(&mut self, x: &str) -> (Vec<String>, Event) {
        let mut before = Vec::new();
        loop {
            let (of, event) = self.next().await;
            if event.attributes.get(TOMBSTONE).is_some() {
                assert_eq!(of, x);
                return (before, event);
            }
            before.push(of);
        }
    }

    /// The next scrape of `x` that comes without a tombstone before it.
    async fn scrape_of(&mut self, x: &str) -> Event {
        loop {
            let (of, event) = self.next().await;
            assert_eq!(event.attributes.get(TOMBSTONE), None, "{of} has gone");
            if of == x {
                return event;
            }
        }
    }

    /// How many series there are of a metric, and their sum.
    fn metric(&self, name: &str) -> (usize, f64) {
        let families = self.metrics.registry().gather();
        let family = families.iter().find(|family| family.name() == format!("prometheus_streams_{name}"));
        let metrics = family.map(|family| family.get_metric()).unwrap_or_default();
        let sum =
            metrics.iter().map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value());
        (metrics.len(), sum.sum())
    }

    async fn stop(self) {
        self.shutdown.cancel();
        // What nobody has read is answered by that.
        drop(self.inlet);
        self.running.await.unwrap();
    }
}

async fn server() -> TestServer {
    TestServer::start(|_| Answer::ok("up 1\n")).await
}

fn sequence(event: &Event) -> u64 {
    number(&event.attributes, SEQUENCE).unwrap()
}

#[tokio::test]
async fn targets_come_and_go_and_the_others_do_not_notice() {
    let server = server().await;
    let address = server.address.as_str();
    let mut rig = Rig::start(&[json!({})], 64);
    rig.tell(0, &[(address, "a"), (address, "b")]).await;
    let a = sequence(&rig.scrape_of("a").await);
    rig.scrape_of("b").await;
    assert_eq!(rig.metric("poller_targets"), (1, 2.0));
    assert_eq!(rig.metric("poller_jobs").1, 1.0);

    rig.tell(0, &[(address, "c"), (address, "a")]).await;
    let (_, tombstone) = rig.until_tombstone("b").await;
    assert!(tombstone.body.is_empty());
    let c = sequence(&rig.scrape_of("c").await);
    let later = rig.scrape_of("a").await;
    assert!(c < sequence(&later) && a < sequence(&later), "a did not go on");
    until("the metrics follow", || async { rig.metric("poller_targets") == (1, 2.0) }).await;

    rig.tell(0, &[]).await;
    let mut gone = vec![];
    while gone.len() < 2 {
        let (of, event) = rig.next().await;
        if event.attributes.get(TOMBSTONE).is_some() {
            gone.push(of);
        }
    }
    gone.sort();
    assert_eq!(gone, ["a", "c"]);
    // a, b and c share an instance, and its series goes with the last of them.
    assert_eq!(rig.metric("poller_poll_time_count").0, 0);
    assert_eq!((rig.metric("poller_targets").1, rig.metric("poller_jobs").1), (0.0, 0.0));
    assert_eq!(rig.metric("poller_tombstones_total").1, 3.0);
    rig.stop().await;
}

#[tokio::test]
async fn one_that_comes_back_before_it_was_announced_was_never_gone() {
    let server = server().await;
    let address = server.address.as_str();
    let mut rig = Rig::start(&[json!({})], 64);
    rig.tell(0, &[(address, "a"), (address, "b")]).await;
    let before = sequence(&rig.scrape_of("a").await);
    rig.inlet.pause();
    rig.tell(0, &[]).await;
    until("they are gone", || async { rig.metric("poller_targets").1 == 0.0 }).await;
    rig.tell(0, &[(address, "a")]).await;
    until("one is back", || async { rig.metric("poller_targets").1 == 1.0 }).await;
    rig.inlet.resume();
    rig.until_tombstone("b").await;
    let after = sequence(&rig.scrape_of("a").await);
    assert!(after > before, "{before} {after}: it began anew");
    assert_eq!(rig.metric("poller_tombstones_total").1, 1.0);
    rig.stop().await;
}

#[tokio::test]
async fn a_scrape_that_runs_is_cancelled_before_its_target_is_announced_as_gone() {
    let stuck = TestServer::start(|_| Answer::Stall(Bytes::new())).await;
    let keys = json!({ "scrape_interval": "60s", "scrape_timeout": "60s" });
    let mut rig = Rig::start(&[keys], 64);
    // With a pace of a minute no slot would come in time, so it comes from the clock of another label.
    let mut soonest: Vec<_> = (0..3_000)
        .map(|n| {
            let labels = [
                ("instance", stuck.address.clone()),
                ("job", "j0".into()),
                ("publisher", "me".into()),
                ("x", n.to_string()),
            ];
            let now = unix_millis(SystemTime::now());
            (
                Rhythm::new(&labels.into_iter().collect(), Duration::from_secs(60)).next(now + 500, None),
                n.to_string(),
            )
        })
        .collect();
    soonest.sort();
    let x = soonest.remove(0).1;
    rig.tell(0, &[(&stuck.address, &x)]).await;
    until("the target is asked", || async { !stuck.requests().is_empty() }).await;
    let asked = Instant::now();
    rig.tell(0, &[]).await;
    let (before, _) = rig.until_tombstone(&x).await;
    assert!(before.is_empty() && asked.elapsed() < Duration::from_secs(30));
    rig.stop().await;
}

#[tokio::test]
async fn tombstones_wait_for_room_and_do_not_hold_up_the_shutdown() {
    let server = server().await;
    let address = server.address.as_str();
    let mut rig = Rig::start(&[json!({})], 1);
    rig.tell(0, &[(address, "a")]).await;
    let held = rig.inlet.next().await.unwrap();
    rig.tell(0, &[]).await;
    until("it is gone", || async { rig.metric("poller_targets").1 == 0.0 }).await;
    assert!(rig.inlet.try_next().is_none());
    held.acker.finish(Outcome::Delivered);
    let gone = rig.inlet.next().await.unwrap();
    assert_eq!(gone.event.attributes.get(TOMBSTONE), Some("true"));
    rig.tell(0, &[(address, "b")]).await;
    rig.tell(0, &[]).await;
    until("both lists are taken in", || async { rig.found.capacity() == rig.found.max_capacity() }).await;
    rig.shutdown.cancel();
    gone.acker.finish(Outcome::Delivered);
    rig.running.await.unwrap();
}

#[tokio::test]
async fn too_many_targets_fail_all_of_their_job_and_of_no_other() {
    let server = server().await;
    let address = server.address.as_str();
    let mut rig = Rig::start(&[json!({ "target_limit": 1 }), json!({ "target_limit": 2 })], 64);
    rig.tell(0, &[(address, "a"), (address, "b")]).await;
    rig.tell(1, &[(address, "c"), (address, "d")]).await;
    let error = "target_limit exceeded (number of targets: 2, limit: 1)";
    for (x, expected) in [("a", Some(error)), ("b", Some(error)), ("c", None), ("d", None)] {
        assert_eq!(rig.scrape_of(x).await.attributes.get(ERROR), expected, "{x}");
    }
    rig.tell(0, &[(address, "a")]).await;
    rig.until_tombstone("b").await;
    until("the target is scraped again", || async { rig.metric("poller_targets").1 == 3.0 }).await;
    while rig.scrape_of("a").await.attributes.get(ERROR).is_some() {}
    rig.stop().await;
}

#[tokio::test]
async fn of_two_targets_with_the_labels_of_one_the_first_is_scraped() {
    let rules = json!({ "relabel_configs": [{ "replacement": "same", "target_label": "instance" }, { "replacement": "j", "target_label": "job" }] });
    let (first, second) = (server().await, server().await);
    let mut rig = Rig::start(&[rules.clone(), rules], 64);
    rig.tell(1, &[(&second.address, "a")]).await;
    rig.scrape_of("a").await;
    // A job that stands earlier in the configuration comes first, whenever its targets are found.
    rig.tell(0, &[(&first.address, "a")]).await;
    until("the first is asked", || async { !first.requests().is_empty() }).await;
    let report = rig.board.report();
    let urls = |list: &str| report[list].as_array().unwrap().len();
    assert_eq!((urls("activeTargets"), urls("droppedTargets")), (1, 1));
    assert_eq!(report["droppedTargets"][0]["discoveredLabels"]["__address__"], second.address);
    assert_eq!(rig.metric("poller_refused_targets_total").1, 1.0);

    rig.tell(0, &[]).await;
    let before = second.requests().len();
    until("the second takes its place", || async { second.requests().len() > before }).await;
    assert_eq!(rig.metric("poller_tombstones_total").1, 0.0);
    rig.stop().await;
}

#[tokio::test]
async fn a_target_that_moves_to_another_job_is_judged_by_the_rules_of_that_one() {
    let server = server().await;
    let job = |dropped: &str| {
        json!({
            "relabel_configs": [{ "replacement": "j", "target_label": "job" }],
            "metric_relabel_configs": [{ "source_labels": ["__name__"], "regex": dropped, "action": "drop" }],
        })
    };
    let mut rig = Rig::start(&[job("other"), job("up")], 64);
    rig.tell(1, &[(&server.address, "a")]).await;
    assert_eq!(rig.scrape_of("a").await.body, "");
    rig.tell(0, &[(&server.address, "a")]).await;
    until("the job has changed", || async { rig.board.report()["activeTargets"][0]["scrapePool"] == "j0" })
        .await;
    let mut scrapes = 0;
    while rig.scrape_of("a").await.body != "up 1\n" {
        scrapes += 1;
        assert!(scrapes < 70, "the rules of the other job still hold");
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_scrape_whose_end_is_noticed_late_takes_nothing_from_the_next() {
    let mut job = Arc::unwrap_or_clone(jobs(&[json!({})]).remove(0));
    let group = TargetGroup { targets: vec!["x:1".to_owned()], ..TargetGroup::default() };
    job.discoveries = vec![DiscoverySettings::Static(vec![group])];
    let metrics = Arc::new(PollerMetrics::new(&testing::context("http_scrape").metrics));
    let mut fleet = Fleet::new(&[Arc::new(job)], "me", metrics, 0);
    let due = fleet.due(1_000_000).unwrap();
    let polled = fleet.get_mut(due.target).unwrap();
    let (before, next) = (tokio::spawn(async {}), tokio::spawn(std::future::pending::<()>()));
    polled.running = Some(next.abort_handle());
    let target = Arc::clone(&polled.watched.target);
    polled.ended(before.id(), &target, Memory::default());
    assert!(polled.is_running());
    polled.ended(next.id(), &target, Memory::default());
    assert!(!polled.is_running());
    next.abort();
}

#[tokio::test]
async fn the_report_is_that_of_prometheus() {
    let server = server().await;
    let address = server.address.as_str();
    let rules = json!([
        { "source_labels": ["x"], "regex": "drop.*", "action": "drop" },
        { "source_labels": ["__meta_x"], "target_label": "seen" },
    ]);
    let keys = json!({ "relabel_configs": rules, "params": { "p": ["v"] }, "keep_dropped_targets": 1 });
    let mut rig = Rig::start(&[keys], 64);
    let unknown = json!({ "activeTargets": [], "droppedTargets": [], "droppedTargetCounts": { "j0": 0 } });
    assert_eq!(rig.board.report(), unknown);
    rig.tell(0, &[(address, "a"), ("x", "drop1"), ("y", "drop2"), ("127.0.0.1:1", "down")]).await;
    rig.scrape_of("a").await;
    rig.scrape_of("down").await;
    until("both scrapes are noted", || async {
        let report = rig.board.report();
        (0..2).all(|index| report["activeTargets"][index]["health"] != "unknown")
    })
    .await;
    let mut report = rig.board.report();
    assert!(report["activeTargets"][0]["lastScrapeDuration"].take().as_f64().unwrap() > 0.0);
    let at = report["activeTargets"][0]["lastScrape"].take();
    assert!(at.as_str().unwrap().starts_with("20") && at.as_str().unwrap().ends_with('Z'), "{at}");
    let discovered = |address: &str, x: &str| {
        json!({
            "__address__": address, "__metrics_path__": "/metrics", "__param_p": "v", "__scheme__": "http",
            "__scrape_interval__": "40ms", "__scrape_timeout__": "40ms", "job": "j0", "x": x,
        })
    };
    let url = format!("http://{address}/metrics?p=v");
    assert_eq!(
        report["activeTargets"][0],
        json!({
            "discoveredLabels": discovered(address, "a"),
            "labels": { "instance": address, "job": "j0", "x": "a" },
            "scrapePool": "j0", "scrapeUrl": url, "globalUrl": url,
            "lastError": "", "lastScrape": null, "lastScrapeDuration": null, "health": "up",
            "scrapeInterval": "40ms", "scrapeTimeout": "40ms",
        })
    );
    assert_eq!(report["activeTargets"][1]["health"], "down");
    assert_ne!(report["activeTargets"][1]["lastError"], "");
    let dropped = json!([{ "discoveredLabels": discovered("x", "drop1"), "scrapePool": "j0" }]);
    assert_eq!((&report["droppedTargets"], &report["droppedTargetCounts"]), (&dropped, &json!({ "j0": 2 })));
    rig.stop().await;
}
