//! A sink of one's own, in one file: the config struct, `register!`, the work. Below it stands a
//! program that runs it behind a source that the house has.
//!
//! ```sh
//! cargo run --example custom_sink
//! ```

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use prometheus_streams_core::config::Config;
use prometheus_streams_core::error::{BoxError, BuildError, SendError};
use prometheus_streams_core::event::Event;
use prometheus_streams_core::pipeline::Agent;
use prometheus_streams_core::register;
use prometheus_streams_core::stage::{Sink, SinkConfig, StageContext, SystemClock};
use prometheus_streams_plugins as _;
use schemars::JsonSchema;
use serde::Deserialize;

/// Writes a line for every scrape into a file: when, of what, how large.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ScrapeLogConfig {
    /// The file; lines are added at its end.
    path: PathBuf,
}

register!(sink: ScrapeLogConfig);

impl SinkConfig for ScrapeLogConfig {
    const TYPE: &'static str = "scrape_log";

    // Checks, and does nothing yet: `check` builds stages on machines where they will never run.
    fn build(self, _: &StageContext) -> Result<Box<dyn Sink>, BuildError> {
        if self.path.as_os_str().is_empty() {
            return Err(BuildError::at("path", "must not be empty"));
        }
        Ok(Box::new(ScrapeLog { path: self.path, file: Mutex::new(None) }))
    }
}

/// The sink itself. It makes one attempt for each send; timeout, retry and order are around it.
struct ScrapeLog {
    path: PathBuf,
    file: Mutex<Option<File>>,
}

#[async_trait]
impl Sink for ScrapeLog {
    async fn send(&self, event: Event) -> Result<(), SendError> {
        let since = event.timestamp.duration_since(UNIX_EPOCH).map_err(SendError::permanent)?;
        let line = format!("{} {} {} bytes\n", since.as_millis(), event.labels, event.body.len());
        // A full disk may have room later, so a second try can help.
        self.write(&line).map_err(SendError::transient)
    }
}

impl ScrapeLog {
    fn write(&self, line: &str) -> std::io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.is_none() {
            *file = Some(OpenOptions::new().create(true).append(true).open(&self.path)?);
        }
        file.as_mut().map_or(Ok(()), |file| file.write_all(line.as_bytes()))
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (dir, metrics) = (tempfile::tempdir()?, free_address()?);
    let path = dir.path().join("scrapes.log");
    let config = Config::from_yaml(&format!(
        "
extensions:
  monitor: {{ listen: {metrics} }}
pipelines:
  demo:
    source:
      type: http_scrape
      interval: 200ms
      jobs: {{ self: {{ targets: [ 'http://{metrics}/metrics' ] }} }}
    sinks:
      - {{ type: scrape_log, path: {path:?}, delivery: {{ timeout: 1s }} }}
"
    ))?;
    let agent = Agent::build(config, prometheus::Registry::new(), Arc::new(SystemClock))?;
    let control = agent.control();
    let running = tokio::spawn(agent.run());

    let lines = tokio::time::timeout(Duration::from_secs(30), three_lines(&path)).await?;
    print!("{lines}");

    control.shutdown();
    running.await??;
    Ok(())
}

/// Waits until the file has three lines.
async fn three_lines(path: &Path) -> String {
    let mut every = tokio::time::interval(Duration::from_millis(50));
    loop {
        every.tick().await;
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.lines().count() >= 3 {
            return text;
        }
    }
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
