//! Many targets in a process of their own, good ones and hostile ones, which remembers when it was asked
//! for what. A benchmark starts itself once more with `serve PORT`, and that copy calls [`serve`].
//!
//! It listens on every loopback address, so each target can have a host of its own, as in a real fleet.

use std::collections::BTreeMap;
use std::io;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::http;
use super::server::{Ready, Server, temp_dir};

/// What hostile targets do; the first part of their path.
pub const HOSTILE: [&str; 8] =
    ["endless", "trickle", "bomb", "labels", "redirects", "headers", "tls_stall", "reset"];

/// Samples in the body of a good target.
pub const SAMPLES: usize = 100;

/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// As much as anybody asks.
const LONGEST_REQUEST: usize = 16 << 10;
/// Unpacked size of the bomb.
const BOMB_MIB: usize = 1000;

/// The process with the targets.
pub struct Fleet(Server);

impl Fleet {
    /// Starts this program once more as the fleet, on the CPUs that `taskset` takes as a list.
    pub async fn start(cpus: Option<&'static str>) -> Self {
        let this = std::env::current_exe().expect("find this program");
        let server = Server::start("fleet", Ready::Http("/-/ready"), temp_dir(), move |port, _| {
            let mut command = match cpus {
                Some(cpus) => {
                    let mut command = Command::new("taskset");
                    command.args(["-c", cpus]).arg(&this);
                    command
                }
                None => Command::new(&this),
            };
            command.args(["serve", &port.to_string()]);
            command
        });
        Self(server.await)
    }

    /// `127.A.B.C:PORT`, another host for each number.
    pub fn host(&self, number: usize) -> String {
        format!("127.1.{}.{}:{}", number / 250, number % 250 + 1, self.0.port())
    }

    /// When each path was asked for since [`Fleet::forget`], in milliseconds since 1970.
    pub async fn times(&self) -> BTreeMap<String, Vec<u64>> {
        let times = http::get(&format!("{}/-/times", self.0.url())).await.expect("ask for the times");
        serde_json::from_slice(&times.body).expect("times by path")
    }

    /// Forgets what was asked for.
    pub async fn forget(&self) {
        http::get(&format!("{}/-/forget", self.0.url())).await.expect("ask to forget");
    }
}

#[derive(Default)]
struct State {
    times: Mutex<BTreeMap<String, Vec<u64>>>,
    good: String,
    /// Ten times as much.
    large: String,
    labels: String,
    bomb: Vec<u8>,
}

/// Serves until it is killed.
pub async fn serve(port: &str) {
    let listener = TcpListener::bind(format!("0.0.0.0:{port}")).await.expect("bind the fleet");
    let state = Arc::new(State {
        good: good(SAMPLES),
        large: good(10 * SAMPLES),
        labels: labels(),
        bomb: bomb(),
        ..State::default()
    });
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            // An error is a client that went away.
            let _ = answer_all(socket, &state).await;
        });
    }
}

impl State {
    fn note(&self, path: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.times().entry(path.to_owned()).or_default().push(now as u64);
    }

    fn times(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u64>>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer_all(mut socket: TcpStream, state: &State) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(1024);
    while let Some(path) = request(&mut socket, &mut buffer).await? {
        let kind = path.split('/').nth(1).unwrap_or_default();
        if kind != "-" {
            state.note(&path);
        }
        let answer = match path.as_str() {
            "/-/ready" => page("text/plain", ""),
            "/-/times" => page("application/json", &json!(*state.times()).to_string()),
            "/-/forget" => {
                state.times().clear();
                page("text/plain", "")
            }
            _ if kind == "good" => state.good.clone(),
            _ if kind == "large" => state.large.clone(),
            _ => return misbehave(kind, &path, socket, state).await,
        };
        socket.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

/// The path of the next request; `None` when the client has no more, or stalls in a handshake of TLS.
async fn request(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<Option<String>> {
    buffer.clear();
    while !buffer.ends_with(b"\r\n\r\n") {
        if socket.read_buf(buffer).await? == 0 || buffer.len() > LONGEST_REQUEST {
            return Ok(None);
        }
        if buffer[0] == TLS_HANDSHAKE {
            return until_closed(socket).await.map(|()| None);
        }
    }
    let head = String::from_utf8_lossy(buffer);
    Ok(head.split(' ').nth(1).map(str::to_owned))
}

async fn until_closed(socket: &mut TcpStream) -> io::Result<()> {
    let mut waste = [0; 1024];
    while socket.read(&mut waste).await? > 0 {}
    Ok(())
}

async fn misbehave(kind: &str, path: &str, mut socket: TcpStream, state: &State) -> io::Result<()> {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n";
    match kind {
        "endless" => {
            socket.write_all(format!("{HEAD}\r\n").as_bytes()).await?;
            let lines = "endless_metric_with_a_long_name{label=\"value\"} 1\n".repeat(1_000);
            loop {
                socket.write_all(lines.as_bytes()).await?;
            }
        }
        "trickle" => {
            socket.write_all(format!("{HEAD}\r\n").as_bytes()).await?;
            loop {
                socket.write_all(b"#").await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        "bomb" => {
            let head =
                format!("{HEAD}Content-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", state.bomb.len());
            socket.write_all(head.as_bytes()).await?;
            socket.write_all(&state.bomb).await?;
        }
        "labels" => {
            let head = format!("{HEAD}Content-Length: {}\r\n\r\n", state.labels.len());
            socket.write_all(head.as_bytes()).await?;
            socket.write_all(state.labels.as_bytes()).await?;
        }
        "redirects" => {
            let head = format!("HTTP/1.1 302 Found\r\nLocation: {path}\r\nContent-Length: 0\r\n\r\n");
            socket.write_all(head.as_bytes()).await?;
            return Box::pin(answer_all(socket, state)).await;
        }
        "headers" => {
            socket.write_all(HEAD.as_bytes()).await?;
            loop {
                socket.write_all("X-Flood: 0123456789012345678901234567890123456789\r\n".as_bytes()).await?;
            }
        }
        "reset" => socket.set_zero_linger()?,
        _ => {}
    }
    Ok(())
}

fn page(content_type: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn good(samples: usize) -> String {
    let families = (0..samples / 20).map(|family| {
        let name = format!("demo_requests_{family}_total");
        let samples = (0..20).map(|n| format!("{name}{{handler=\"/api/v1/{n}\",code=\"200\"}} {}\n", 1000 * n + 7));
        let samples: String = samples.collect();
        format!("# HELP {name} Requests that were answered, by handler and code.\n# TYPE {name} counter\n{samples}")
    });
    page("text/plain; version=0.0.4; charset=utf-8", &families.collect::<String>())
}

/// One series with a million labels.
fn labels() -> String {
    let labels: Vec<_> = (0..1_000_000).map(|n| format!("l{n}=\"\"")).collect();
    format!("hostile{{{}}} 1\n", labels.join(","))
}

fn bomb() -> Vec<u8> {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let lines = b"bomb 1\n".repeat((1 << 20) / 7);
    for _ in 0..BOMB_MIB {
        gzip.write_all(&lines).expect("compress");
    }
    gzip.finish().expect("compress")
}
