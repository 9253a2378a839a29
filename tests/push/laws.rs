//! The delivery laws. The upstream of this source are jobs that push until they are told that it is done.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use prometheus_streams_core::event::Event;
use prometheus_streams_core::stage::Source;
use prometheus_streams_core::testing::{SourceBench, check_source};
use serde_json::json;

use super::source;
use crate::support::http;
use crate::support::server::free_port;
use hyper::Method;

/// The pause of a job before it tries again.
const PAUSE: Duration = Duration::from_millis(10);

type Observation = (usize, u64);

/// Jobs with something to push.
#[derive(Default)]
struct Jobs {
    /// What was not answered yet, or with 503.
    waiting: BTreeSet<Observation>,
    /// What the source has sent on.
    seen: BTreeSet<Observation>,
    /// What was answered with 400.
    refused: usize,
    /// The newest observation that was handed to the job of a thing.
    newest: BTreeMap<usize, u64>,
}

struct Site {
    port: u16,
    jobs: Arc<Mutex<Jobs>>,
}

impl Site {
    /// Pushes an observation until it is answered, once the source has taken the one before of its thing.
    async fn push(jobs: Arc<Mutex<Jobs>>, port: u16, (thing, number): Observation, before: Option<u64>) {
        let is_free = || {
            let jobs = jobs.lock().unwrap();
            before.is_none_or(|before| {
                jobs.seen.contains(&(thing, before)) || !jobs.waiting.contains(&(thing, before))
            })
        };
        while !is_free() {
            tokio::time::sleep(PAUSE).await;
        }
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let url = format!("http://{address}/metrics/job/laws/thing/{thing}/number/{number}");
        loop {
            let answer = http::request(Method::PUT, &url, format!("seq {number}\n")).await;
            match answer.map(|answer| answer.status) {
                Ok(200) => break,
                Ok(400) => {
                    jobs.lock().unwrap().refused += 1;
                    break;
                }
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
        jobs.lock().unwrap().waiting.remove(&(thing, number));
    }
}

#[async_trait]
impl SourceBench for Site {
    fn source(&self) -> Box<dyn Source> {
        self.jobs.lock().unwrap().seen.clear();
        source(self.port, json!({}))
    }

    async fn offer(&self, thing: usize, number: u64) {
        let before = {
            let mut jobs = self.jobs.lock().unwrap();
            jobs.waiting.insert((thing, number));
            jobs.newest.insert(thing, number)
        };
        tokio::spawn(Self::push(Arc::clone(&self.jobs), self.port, (thing, number), before));
    }

    fn identify(&self, event: &Event) -> Observation {
        let number = |label| event.labels.get(label).and_then(|value| value.parse::<u64>().ok()).unwrap();
        let observation = (number("thing") as usize, number("number"));
        self.jobs.lock().unwrap().seen.insert(observation);
        observation
    }

    async fn unacknowledged(&self) -> usize {
        self.jobs.lock().unwrap().waiting.len()
    }

    async fn dead_letters(&self) -> Option<usize> {
        Some(self.jobs.lock().unwrap().refused)
    }
}

#[tokio::test]
async fn push_keeps_the_laws_of_a_source() {
    check_source(&Site { port: free_port(), jobs: Arc::default() }).await;
}
