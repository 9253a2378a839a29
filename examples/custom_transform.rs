//! A transform of one's own, in one file: the config struct, `register!`, the work. Below it stands a
//! program that runs it between stages that the house has: it scrapes its own metrics and serves them.
//!
//! ```sh
//! cargo run --example custom_transform
//! ```

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use prometheus_streams_core::config::Config;
use prometheus_streams_core::error::{BoxError, BuildError};
use prometheus_streams_core::event::Event;
use prometheus_streams_core::pipeline::Agent;
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{StageContext, SystemClock, Transform, TransformConfig};
use prometheus_streams_plugins as _;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Takes one part of the host name out of the label `instance` and makes it a label of its own: with
/// `part: 2`, `db1.dc1.example.net:9100` gets `site="dc1"`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HostPartConfig {
    /// Which part of the host name, from 1.
    part: usize,
    /// The label to set. Default: `site`.
    #[serde(default = "site")]
    label: String,
}

fn site() -> String {
    "site".to_owned()
}

register!(transform: HostPartConfig);

impl TransformConfig for HostPartConfig {
    const TYPE: &'static str = "host_part";

    fn build(self, _: &StageContext) -> Result<Box<dyn Transform>, BuildError> {
        let mut problems = BuildError::default();
        if self.part == 0 {
            problems.add("part", "parts are counted from 1");
        }
        if self.label.is_empty() {
            problems.add("label", "must not be empty");
        }
        problems.or(Box::new(HostPart(self)))
    }
}

/// The transform itself: called for every event, so it does no I/O and never waits.
struct HostPart(HostPartConfig);

impl Transform for HostPart {
    fn apply(&self, mut event: Event) -> Result<Option<Event>, BoxError> {
        let instance = event.labels.get("instance").ok_or("the event has no label instance")?;
        let host = instance.split(':').next().unwrap_or_default();
        if let Some(part) = host.split('.').nth(self.0.part - 1).map(str::to_owned) {
            event.labels.insert(&self.0.label, part);
        }
        Ok(Some(event))
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (metrics, page) = (free_address()?, free_address()?);
    let config = Config::from_yaml(&format!(
        "
extensions:
  monitor: {{ listen: {metrics} }}
pipelines:
  demo:
    source:
      type: http_scrape
      interval: 500ms
      jobs:
        self: {{ targets: [ {{ name: app1.dc1.example.net, url: 'http://{metrics}/metrics' }} ] }}
    transforms:
      - {{ type: host_part, part: 2 }}
    sinks:
      - {{ type: exposition, listen: {page} }}
"
    ))?;
    let agent = Agent::build(config, prometheus::Registry::new(), Arc::new(SystemClock))?;
    let control = agent.control();
    let running = tokio::spawn(agent.run());

    let up = tokio::time::timeout(Duration::from_secs(30), up_on(page)).await?;
    println!("{up}");

    control.shutdown();
    running.await??;
    Ok(())
}

/// Waits until the page says that the target is up, and returns the line that does.
async fn up_on(page: SocketAddr) -> String {
    let mut every = tokio::time::interval(Duration::from_millis(100));
    loop {
        every.tick().await;
        let text = get(page).await.unwrap_or_default();
        if let Some(up) = text.lines().find(|line| line.starts_with("up{")) {
            return up.to_owned();
        }
    }
}

async fn get(page: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(page).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
