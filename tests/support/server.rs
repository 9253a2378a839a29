//! A real server as a child process: on a port of its own, in a directory of its own, back on the same
//! port and directory after a kill.

use std::collections::HashSet;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::process::Process;
use super::wait::{secs, wait_for};

/// How long a server may take to answer after its start.
const START: Duration = secs(30);
/// How often another port is tried when somebody took the one that was free.
const TRIES: usize = 5;

/// A port that is free now, and that no other test of this run is given.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
        let port = listener.local_addr().expect("read the port").port();
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        if given.get_or_insert_default().insert(port) {
            return port;
        }
    }
}

/// A directory that is gone after the test.
pub fn temp_dir() -> TempDir {
    tempfile::Builder::new().prefix("prometheus-streams-test-").tempdir().expect("create a directory")
}

/// The command that starts a server on a port and in a directory.
type Start = dyn Fn(u16, &Path) -> Command + Send + Sync;

/// How to see that a server is ready.
#[derive(Clone, Copy)]
pub enum Ready {
    /// It answers 200 on this path.
    Http(&'static str),
    /// It takes connections.
    Tcp,
    /// It greets as a nats-server with JetStream does.
    Nats,
}

pub struct Server {
    name: &'static str,
    /// The scheme of its URL.
    pub scheme: &'static str,
    command: Box<Start>,
    ready: Ready,
    port: u16,
    process: Process,
    dir: TempDir,
}

impl Server {
    /// Starts a server in `dir` and waits until it is ready.
    pub async fn start(
        name: &'static str,
        ready: Ready,
        dir: TempDir,
        command: impl Fn(u16, &Path) -> Command + Send + Sync + 'static,
    ) -> Self {
        let command: Box<Start> = Box::new(command);
        let mut port = free_port();
        let mut process = spawn(name, &command, port, dir.path());
        for _ in 1..TRIES {
            if until_ready(name, ready, port, &mut process).await {
                break;
            }
            port = free_port();
            process = spawn(name, &command, port, dir.path());
        }
        let mut server = Self { name, scheme: "http", command, ready, port, process, dir };
        server.until_ready().await;
        server
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address())
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Kills it as `kill -9` does.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Asks it to end, as `kill` does, and waits until it has.
    pub async fn stop(&mut self) -> ExitStatus {
        self.process.signal("TERM");
        self.process.wait(secs(30)).await
    }

    /// Starts it again, with the port and the directory that it had, and waits until it is ready.
    pub async fn restart(&mut self) {
        self.kill9();
        self.process = spawn(self.name, &self.command, self.port, self.dir.path());
        self.until_ready().await;
    }

    /// Stops it in its tracks; its connections stay open and unanswered.
    pub fn pause(&self) {
        self.process.signal("STOP");
        let start = Instant::now();
        // The signal is sent before the last thread stands still, and that one may answer yet.
        while !self.process.stands_still() {
            assert!(start.elapsed() < secs(10), "{} does not stop", self.name);
            std::thread::yield_now();
        }
    }

    pub fn resume(&self) {
        self.process.signal("CONT");
    }

    pub fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    async fn until_ready(&mut self) {
        let ready = until_ready(self.name, self.ready, self.port, &mut self.process).await;
        assert!(ready, "{} ended at its start:\n{}", self.name, self.process.log());
    }
}

fn spawn(name: &str, command: &Start, port: u16, dir: &Path) -> Process {
    Process::start(name, &mut command(port, dir), &dir.join(format!("{name}.log")))
}

/// True when the server is ready, false when its process has ended instead.
async fn until_ready(name: &str, ready: Ready, port: u16, process: &mut Process) -> bool {
    wait_for(&format!("{name} to be ready"), START, async || {
        if process.exited().is_some() {
            return Some(false);
        }
        let ready = match ready {
            Ready::Http(path) => {
                let answer = super::http::get(&format!("http://127.0.0.1:{port}{path}")).await;
                answer.is_ok_and(|answer| answer.status == 200)
            }
            Ready::Tcp => TcpStream::connect(("127.0.0.1", port)).is_ok(),
            Ready::Nats => super::nats::greets(port).await,
        };
        ready.then_some(true)
    })
    .await
}
