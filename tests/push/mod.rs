//! The source `push`: a real Push Gateway beside it, the delivery laws, and the way to the centre.

mod delivery;
mod differential;
mod encodings;
mod end_to_end;
mod laws;
mod limits;
mod restart;
mod web;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use prometheus_streams_core::delivery::Outcome;
use prometheus_streams_core::event::{Event, Labels};
use prometheus_streams_core::stage::{Source, SourceConfig};
use prometheus_streams_core::testing::{Inlet, context, pipe};
use prometheus_streams_plugins::exposition::{self, Format, Mode};
use prometheus_streams_plugins::sources::push::PushConfig;
use prometheus_streams_plugins::support::scrape;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::http;
use crate::support::server::free_port;
use crate::support::wait::{secs, wait_until};

/// The content type of protobuf.
const PROTOBUF: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";

/// A source on a port of its own.
struct Site {
    port: u16,
    running: JoinHandle<Result<(), String>>,
    shutdown: CancellationToken,
}

impl Site {
    /// Starts a source with more settings, and waits until it answers. The other end of its pipe is for the test.
    async fn start(more: Value) -> (Self, Inlet) {
        Self::with_capacity(64, more).await
    }

    /// The same with a pipe that holds so many events.
    async fn with_capacity(capacity: usize, more: Value) -> (Self, Inlet) {
        let port = free_port();
        let (out, inlet) = pipe(capacity);
        let shutdown = CancellationToken::new();
        let running = source(port, more).run(out, shutdown.clone());
        let running = tokio::spawn(async { running.await.map_err(|error| error.to_string()) });
        let site = Self { port, running, shutdown };
        site.ready().await;
        (site, inlet)
    }

    /// Starts a source whose events are delivered at once, and kept.
    async fn delivering(more: Value) -> (Self, Arc<Mutex<Vec<Event>>>) {
        let (site, mut inlet) = Self::start(more).await;
        let events = Arc::<Mutex<Vec<Event>>>::default();
        let kept = Arc::clone(&events);
        tokio::spawn(async move {
            loop {
                match inlet.try_next() {
                    Some(delivery) => {
                        kept.lock().unwrap().push(delivery.event);
                        delivery.acker.finish(Outcome::Delivered);
                    }
                    None => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
                }
            }
        });
        (site, events)
    }

    async fn ready(&self) {
        let url = format!("{}/-/ready", self.url());
        wait_until("the source to answer", secs(20), async || http::get(&url).await.is_ok()).await;
    }

    fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    async fn push(&self, method: &str, group: &str, body: impl AsRef<[u8]>) -> Answer {
        ask(self.address(), method, &format!("/metrics/{group}"), &[], body).await
    }

    async fn metrics(&self) -> String {
        http::page(&format!("{}/metrics", self.url())).await
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.running.await.unwrap().unwrap();
    }
}

fn source(port: u16, more: Value) -> Box<dyn Source> {
    let mut settings = json!({ "listen": format!("127.0.0.1:{port}"), "interval": "1h" });
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let config: PushConfig = serde_json::from_value(settings).unwrap();
    config.build(&context("push")).unwrap()
}

/// What a server says to a request.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    text: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Sends a request whose path stays as it is written; no client is as frank.
async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> Answer {
    let body = body.as_ref();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if matches!(method, "PUT" | "POST") || !body.is_empty() {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    // A server that has said no need not read the rest.
    let _ = stream.write_all(&[head.as_bytes(), b"\r\n", body].concat()).await;
    let mut answer = Vec::new();
    let read =
        tokio::time::timeout(secs(30), stream.read_to_end(&mut answer)).await.expect("an answer in time");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, text) =
        answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {read:?} {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_owned(), text: text.to_owned() }
}

/// Every series of a page of text, with its value as text, so that NaN is NaN.
fn series(page: &[u8]) -> BTreeMap<String, String> {
    let families = exposition::parse(Format::Text, Mode::Compat, page).unwrap_or_else(|error| {
        panic!("{error} in\n{}", String::from_utf8_lossy(page));
    });
    let mut series = BTreeMap::new();
    for sample in families.into_iter().flat_map(|family| family.samples) {
        let labels: Labels = sample.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        let mut name = format!("{}{labels}", sample.name);
        while series.contains_key(&name) {
            name.push_str(" again");
        }
        series.insert(name, sample.value.to_string());
    }
    series
}

/// Whether an event tells of what was pushed.
fn is_of_push(event: &Event) -> bool {
    event.attributes.get(scrape::PUSHED) == Some("true")
        && event.attributes.get(scrape::HONOR_LABELS) == Some("true")
}
