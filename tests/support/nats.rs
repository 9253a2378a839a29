//! A real nats-server with JetStream.

use std::ops::{Deref, DerefMut};
use std::process::Command;
use std::time::Duration;

use async_nats::jetstream;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;

use super::process::program;
use super::server::{Ready, Server, temp_dir};

pub struct NatsServer(Server);

impl NatsServer {
    /// A server without authentication or TLS.
    pub async fn start() -> Self {
        Self::with("").await
    }

    /// A server with more lines in its configuration file: users, TLS, limits. Its JetStream has no
    /// limits of its own unless the lines have a `jetstream` block.
    pub async fn with(more: &str) -> Self {
        let program = program("nats-server", "nats-server");
        let more = more.to_owned();
        let server = Server::start("nats-server", Ready::Nats, temp_dir(), move |port, dir| {
            let store = dir.join("store");
            let mut text = format!("listen: \"127.0.0.1:{port}\"\n{more}\n");
            if !more.contains("jetstream") {
                text.push_str(&format!("jetstream {{ store_dir: {store:?} }}\n"));
            }
            let file = dir.join("nats.conf");
            std::fs::write(&file, text).expect("write the configuration of nats-server");
            let mut command = Command::new(&program);
            // A store_dir given in the lines is relative to the server's own directory.
            command.arg("-c").arg(file).current_dir(dir);
            command
        });
        Self(server.await)
    }

    /// `nats://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// A client without credentials.
    pub async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.url()).await.expect("connect to nats-server")
    }

    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client().await)
    }

    /// Every message that a stream holds now, oldest first.
    pub async fn messages(&self, stream: &str) -> Vec<jetstream::message::StreamMessage> {
        messages(&self.jetstream().await, stream).await
    }
}

/// Every message that a stream holds now, oldest first.
pub async fn messages(
    jetstream: &jetstream::Context,
    stream: &str,
) -> Vec<jetstream::message::StreamMessage> {
    let mut stream = jetstream.get_stream(stream).await.expect("find the stream");
    let state = stream.info().await.expect("ask for the state of the stream").state.clone();
    let mut found = Vec::new();
    for sequence in state.first_sequence..=state.last_sequence {
        // A message that is gone by now has expired or been deleted.
        if let Ok(message) = stream.get_raw_message(sequence).await {
            found.push(message);
        }
    }
    found
}

impl Deref for NatsServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl DerefMut for NatsServer {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.0
    }
}

/// True when a nats-server with JetStream answers on `port`; it greets in the clear, whatever follows.
pub async fn greets(port: u16) -> bool {
    let greeting = async {
        let connection = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let mut line = String::new();
        BufReader::new(connection).read_line(&mut line).await.ok()?;
        Some(line)
    };
    let greeting = tokio::time::timeout(Duration::from_secs(1), greeting).await;
    matches!(greeting, Ok(Some(line)) if line.starts_with("INFO ") && line.contains("\"jetstream\":true"))
}
