//! The night when something is down: a broker that is not there, or goes away; a gateway that is down,
//! slow, or refuses; garbage on the stream; a pipeline that somebody paused.

use hyper::Method;
use serde_json::json;

use crate::support::agent::Agent;
use crate::support::configs::{STREAM, poller, probes, receiver};
use crate::support::http;
use crate::support::nats::NatsServer;
use crate::support::oracle::{consumer_info, landed, owed, wait_until_all_landed};
use crate::support::prometheus::PushGateway;
use crate::support::proxy::{Fault, Proxy};
use crate::support::targets::Targets;
use crate::support::wait::{secs, wait_for, wait_until};

/// The stream of dead letters, unless told otherwise.
const DEAD_LETTERS: &str = "PROMETHEUS_DLQ";

/// Two healthy targets on real parts, with a proxy before the gateway.
struct Site {
    nats: NatsServer,
    gateway: PushGateway,
    proxy: Proxy,
    targets: Targets,
    poller: Agent,
    receiver: Agent,
}

impl Site {
    async fn start() -> Self {
        Self::start_with(NatsServer::start().await).await
    }

    /// A site with this broker, which may be down.
    async fn start_with(nats: NatsServer) -> Self {
        let (gateway, targets) = tokio::join!(PushGateway::start(), Targets::start());
        let proxy = Proxy::start(gateway.url()).await;
        let jobs = probes(["a", "b"].map(|name| (name, targets.url(name))));
        let poller = Agent::start(poller(&nats.url(), jobs));
        let mut config = receiver(&nats.url(), &proxy.url());
        config["pipelines"]["receiver"]["source"]["ack_wait"] = json!("3s");
        let receiver = Agent::start(config);
        Self { nats, gateway, proxy, targets, poller, receiver }
    }

    /// Waits until a scrape that is served from now on has landed, of each instance.
    async fn fresh(&self, instances: &[&str]) {
        let served = self.targets.newest();
        wait_until("fresh scrapes to land", secs(30), async || {
            let landed = landed(&self.gateway).await;
            instances.iter().all(|name| {
                landed.get(*name).is_some_and(|seq| *seq > served.get(*name).copied().unwrap_or_default())
            })
        })
        .await;
    }

    /// Waits until the targets have been scraped so many times more.
    async fn polled_on(&self, times: usize) {
        let before = self.targets.served().len();
        let what = "the targets to be scraped on";
        wait_until(what, secs(30), async || self.targets.served().len() >= before + times).await;
    }

    /// Ends the poller, and waits until all that the broker has acknowledged has landed.
    async fn nothing_is_lost(&mut self) {
        assert!(self.poller.terminate().await.success());
        wait_until_all_landed(&self.nats, &self.gateway, secs(30)).await;
    }
}

#[tokio::test]
async fn without_a_broker_at_start_both_sides_say_so_and_keep_trying() {
    let mut nats = NatsServer::start().await;
    nats.kill9();
    let mut site = Site::start_with(nats).await;
    assert!(site.poller.ready_says(503).await.contains("poller/sink/nats"));
    assert!(site.receiver.ready_says(503).await.contains("receiver/source/nats"));
    site.nats.restart().await;
    site.poller.ready().await;
    site.receiver.ready().await;
    site.fresh(&["a", "b"]).await;
    site.nothing_is_lost().await;
}

#[tokio::test]
async fn a_broker_that_goes_away_comes_back_to_both_sides() {
    let mut site = Site::start().await;
    site.fresh(&["a", "b"]).await;
    site.nats.kill9();
    assert!(!site.poller.ready_says(503).await.is_empty());
    assert!(!site.receiver.ready_says(503).await.is_empty());
    let gone = site.targets.served().len();
    // The targets are polled on: a newer scrape is worth more than the memory of an old one.
    wait_until("the poller to go on polling", secs(30), async || site.targets.served().len() >= gone + 20)
        .await;
    site.nats.restart().await;
    site.fresh(&["a", "b"]).await;
    site.poller.ready().await;
    site.receiver.ready().await;
    site.nothing_is_lost().await;
}

#[tokio::test]
async fn a_broker_that_hangs_is_noticed_and_survived() {
    let mut site = Site::start().await;
    site.fresh(&["a", "b"]).await;
    site.nats.pause();
    assert!(!site.poller.ready_says(503).await.is_empty());
    site.nats.resume();
    site.fresh(&["a", "b"]).await;
    site.nothing_is_lost().await;
}

#[tokio::test]
async fn a_gateway_that_is_down_is_waited_for() {
    let mut site = Site::start().await;
    site.fresh(&["a", "b"]).await;
    site.gateway.kill9();
    let gone = site.targets.served().len();
    wait_until("the targets to be polled on", secs(30), async || site.targets.served().len() >= gone + 12)
        .await;
    // Older scrapes are superseded by newer ones; the newest of both targets are still owed.
    let jetstream = site.nats.jetstream().await;
    assert!(owed(&jetstream, STREAM, "receiver").await >= Some(2), "acknowledged and not landed");
    site.gateway.restart().await;
    site.fresh(&["a", "b"]).await;
    site.nothing_is_lost().await;
}

#[tokio::test]
async fn a_gateway_that_is_slow_for_one_group_holds_up_no_other() {
    let mut site = Site::start().await;
    site.fresh(&["a", "b"]).await;
    site.proxy.set("instance/a", Fault::Slow(secs(60)));
    let stuck = wait_for("a push to get stuck", secs(10), async || {
        let before = landed(&site.gateway).await["a"];
        site.fresh(&["b"]).await;
        (landed(&site.gateway).await["a"] == before).then_some(before)
    })
    .await;
    for _ in 0..3 {
        site.fresh(&["b"]).await;
    }
    assert_eq!(landed(&site.gateway).await["a"], stuck);
    site.proxy.heal();
    site.fresh(&["a", "b"]).await;
    site.nothing_is_lost().await;
}

#[tokio::test]
async fn a_gateway_that_hangs_up_instead_of_answering_is_asked_again() {
    let mut site = Site::start().await;
    site.fresh(&["a", "b"]).await;
    site.proxy.set("/metrics/job", Fault::LoseTheAnswer);
    let before = site.proxy.count();
    wait_until("answers to be lost", secs(10), async || site.proxy.count() >= before + 4).await;
    assert!(consumer_info(&site.nats).await.num_ack_pending > 0, "acknowledged without an answer");
    site.proxy.heal();
    site.fresh(&["a", "b"]).await;
    site.nothing_is_lost().await;
}

#[tokio::test]
async fn what_the_gateway_refuses_is_dead_lettered_and_the_rest_goes_on() {
    let site = Site::start().await;
    site.fresh(&["a", "b"]).await;
    site.proxy.set("instance/a", Fault::Answer(400, "text format parsing error in line 1"));
    let reason = dead_letter(&site.nats).await;
    assert!(reason.contains("text format parsing error"), "{reason}");
    site.fresh(&["b"]).await;
    site.proxy.heal();
    site.fresh(&["a", "b"]).await;
}

#[tokio::test]
async fn garbage_on_the_stream_is_dead_lettered_and_the_rest_goes_on() {
    let mut site = Site::start().await;
    site.fresh(&["a", "b"]).await;
    let jetstream = site.nats.jetstream().await;
    let garbage: [&[u8]; 4] = [b"", b"garbage", &[0xff; 100], b"{\"job\":\"node\"}"];
    for payload in garbage {
        let subject = "prometheus.somebody.else.entirely";
        jetstream.publish(subject, payload.to_vec().into()).await.unwrap().await.unwrap();
    }
    site.fresh(&["a", "b"]).await;
    assert!(dead_letter(&site.nats).await.contains("envelope"));
    site.nothing_is_lost().await;
}

#[tokio::test]
async fn a_paused_receiver_holds_and_acknowledges_nothing() {
    let mut site = Site::start().await;
    site.fresh(&["a", "b"]).await;
    steer(&site.receiver, "pause").await;
    wait_until("what was under way to end", secs(10), async || {
        site.receiver.metric("prometheus_streams_pipeline_events_held").await == 0.0
    })
    .await;
    let (acked, pushed) = (consumer_info(&site.nats).await.ack_floor, site.proxy.count());
    site.polled_on(8).await;
    assert_eq!(consumer_info(&site.nats).await.ack_floor.stream_sequence, acked.stream_sequence);
    assert_eq!(site.proxy.count(), pushed);
    steer(&site.receiver, "resume").await;
    site.fresh(&["a", "b"]).await;
    site.nothing_is_lost().await;
}

async fn steer(agent: &Agent, verb: &str) {
    let url = format!("{}/api/v1/pipelines/receiver/{verb}", agent.url());
    let answer = http::request(Method::POST, &url, "").await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Waits for a dead letter, and returns the reason of the newest.
async fn dead_letter(nats: &NatsServer) -> String {
    let jetstream = nats.jetstream().await;
    wait_for("a dead letter", secs(15), async || {
        let mut stream = jetstream.get_stream(DEAD_LETTERS).await.ok()?;
        let last = stream.info().await.ok()?.state.last_sequence;
        let message = stream.get_raw_message(last).await.ok()?;
        message.headers.get("Prometheus-Streams-Reason").map(|reason| reason.as_str().to_owned())
    })
    .await
}
