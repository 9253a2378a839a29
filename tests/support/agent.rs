//! The program under test as a child process: its configuration in a directory of its own, its JSON log
//! kept for the test to read, and printed when the test fails.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::http;
use super::process::Process;
use super::server::{free_port, temp_dir};
use super::wait::{secs, wait_for};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_prometheus-streams");

/// The file in the directory of an agent that has what it wrote.
const LOG: &str = "prometheus-streams.log";

/// Runs the program to its end, as `check FILE` or `list`, with nothing of this process' settings.
pub fn run(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).output().expect("run the program")
}

pub struct Agent {
    process: Process,
    args: Vec<String>,
    monitor: u16,
    dir: TempDir,
}

impl Agent {
    /// `run` with this configuration, in YAML or as a JSON value, which is YAML too. The harness adds a JSON log and a monitor on a port of its own.
    pub fn start(config: impl Display) -> Self {
        let (dir, monitor) = (temp_dir(), free_port());
        let harness = format!(
            "log:\n  level: info\n  format: json\nextensions:\n  monitor:\n    listen: 127.0.0.1:{monitor}\n"
        );
        let files = [dir.path().join("harness.yaml"), dir.path().join("test.yaml")];
        std::fs::write(&files[0], harness).expect("write a configuration");
        std::fs::write(&files[1], config.to_string()).expect("write a configuration");
        let args = ["run".to_owned()].into_iter().chain(files.iter().map(|file| file.display().to_string()));
        Self::with_args(dir, monitor, args.collect())
    }

    /// `poller` or `receiver` with a classic configuration file. Where it has a monitor, that is not known here.
    pub fn classic(role: &str, config: &str) -> Self {
        let dir = temp_dir();
        let file = dir.path().join("classic.yaml");
        // A log file that the configuration names is the one that the harness reads.
        let config =
            config.replace("/var/log/prometheus-streams.log", &dir.path().join(LOG).display().to_string());
        std::fs::write(&file, config).expect("write a configuration");
        let args = [role.to_owned(), "--config".to_owned(), file.display().to_string()];
        Self::with_args(dir, 0, args.to_vec())
    }

    fn with_args(dir: TempDir, monitor: u16, args: Vec<String>) -> Self {
        let process = spawn(dir.path(), &args);
        Self { process, args, monitor, dir }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file in the directory of this agent, which outlives its kills.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The base of its monitor, `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.monitor)
    }

    /// Everything that it wrote so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The lines of its JSON log so far.
    pub fn log_lines(&self) -> Vec<Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a line of the JSON log of which `find` can make something, as an address.
    pub async fn wait_for_log<T>(&self, what: &str, find: impl Fn(&Value) -> Option<T>) -> T {
        wait_for(what, secs(15), async || self.log_lines().iter().find_map(&find)).await
    }

    /// Waits until `/-/ready` says 200.
    pub async fn ready(&self) {
        self.ready_says(200).await;
    }

    /// Waits until `/-/ready` answers with `status`, and returns what it says.
    pub async fn ready_says(&self, status: u16) -> String {
        let url = format!("{}/-/ready", self.url());
        wait_for(&format!("{url} to say {status}"), secs(30), async || {
            let answer = http::get(&url).await.ok()?;
            (answer.status == status).then(|| answer.text())
        })
        .await
    }

    /// The sum of its own metric `name` over all labels; 0 when it is not there.
    pub async fn metric(&self, name: &str) -> f64 {
        self.metric_where(name, "").await
    }

    /// The sum of its own metric `name` over the series in whose labels `part` is found.
    pub async fn metric_where(&self, name: &str, part: &str) -> f64 {
        let page = http::page(&format!("{}/metrics", self.url())).await;
        let samples = page.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
        samples
            .filter(|(labels, _)| (labels.is_empty() || labels.starts_with('{')) && labels.contains(part))
            .filter_map(|(_, value)| value.parse::<f64>().ok())
            .sum()
    }

    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again with the same files.
    pub fn restart(&mut self) {
        self.process.kill9();
        self.process = spawn(self.dir.path(), &self.args);
    }

    pub fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    /// Asks it to end, as `kill` does, and waits until it has.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.process.signal("TERM");
        self.process.wait(secs(30)).await
    }

    /// Waits for an end that it comes to by itself.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        self.process.wait(deadline).await
    }
}

fn spawn(dir: &Path, args: &[String]) -> Process {
    let mut command = Command::new(PROGRAM);
    command.args(args).current_dir(dir);
    Process::start("prometheus-streams", &mut command, &dir.join(LOG))
}
