//! How the nats source and the nats sink reach JetStream: one connection that is never given up, that
//! reads its credentials anew whenever it connects, and that says at once when it is lost.

pub mod api;
mod auth;
pub mod publish;
mod settings;
pub mod subject;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Client, ConnectOptions, Event};
use prometheus_streams_core::error::BoxError;
use tokio::sync::{RwLock, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(crate) use settings::nats_settings;
pub use settings::{ConnectionSettings, Endpoint};

/// How long a request to the broker may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A ping that often, and a connection that misses two in a row is dead: 12 s until a broker that
/// hangs, or a network that swallows everything, is noticed.
const PING_INTERVAL: Duration = Duration::from_secs(4);

/// The longest wait between two attempts to connect.
const LONGEST_RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// How long the first connection may take before somebody who needs it is told that there is none.
const FIRST_CONNECT: Duration = Duration::from_secs(2);

/// The state of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// It was never up; the last failed attempt, if there was one.
    Connecting(Option<Arc<str>>),
    /// It is up.
    Up,
    /// It was lost; why, as far as known. It is being made again.
    Down(Arc<str>),
}

/// There is no connection to the broker now.
#[derive(Clone, Debug, thiserror::Error)]
#[error("not connected to {servers}: {reason}")]
pub struct NotConnected {
    servers: Arc<str>,
    reason: Arc<str>,
}

/// A connection to JetStream that is opened at its first use and kept for good.
pub struct Connection {
    endpoint: Endpoint,
    servers: Arc<str>,
    link: watch::Sender<Link>,
    complaint: Arc<Mutex<Option<String>>>,
    watchdog: publish::Watchdog,
    client: RwLock<Option<Live>>,
}

/// A client, and how to see that it has ended. It never should, but a header that its parser does not
/// expect can end it.
struct Live {
    context: Context,
    ended: CancellationToken,
}

impl Connection {
    /// A connection to `endpoint`; nothing is opened yet.
    pub fn new(endpoint: Endpoint) -> Self {
        let servers = endpoint.to_string().into();
        let link = watch::Sender::new(Link::Connecting(None));
        Self {
            endpoint,
            servers,
            link,
            complaint: Arc::default(),
            watchdog: publish::Watchdog::default(),
            client: RwLock::default(),
        }
    }

    /// The state of the connection, for whoever wants to watch it. Wakes up early rather than
    /// reliably: what must be right asks [`Connection::jetstream`].
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// JetStream behind this connection, which is opened if it was not yet, and need not be up.
    ///
    /// # Errors
    /// The TLS configuration cannot be used. Never that the broker is away.
    pub async fn open(&self) -> Result<Context, BoxError> {
        let living = |client: &Option<Live>| {
            client.as_ref().filter(|live| !live.ended.is_cancelled()).map(|live| live.context.clone())
        };
        if let Some(context) = living(&*self.client.read().await) {
            return Ok(context);
        }
        let mut client = self.client.write().await;
        if let Some(context) = living(&client) {
            return Ok(context);
        }
        if client.is_some() {
            tracing::error!(servers = %self.servers, "the nats client has ended; starting another one");
            self.link.send_replace(Link::Connecting(None));
        }
        Ok(client.insert(self.connect().await?).context.clone())
    }

    /// Gives the client up for another one, which the next use starts. Asked to connect again it would wait
    /// until a connection that may be dead has taken its farewell, and it remembers for as long as it
    /// lives whatever it was asked and did not have an answer to.
    async fn renew(&self) {
        if let Some(live) = self.client.write().await.take() {
            live.ended.cancel();
            self.link.send_replace(Link::Connecting(None));
        }
    }

    /// JetStream, if the connection is up. Waits only for the very first connect, and not for long.
    ///
    /// # Errors
    /// The connection is not up.
    pub async fn jetstream(&self) -> Result<Context, NotConnected> {
        let context = self.open().await.map_err(|error| self.not_connected(error.to_string()))?;
        if is_up(&context.client()) {
            return Ok(context);
        }
        let mut link = self.link();
        let first = link.wait_for(|link| !matches!(link, Link::Connecting(None)));
        // Neither a timeout nor an end of the watch matters: the state says what is.
        let _ = timeout(FIRST_CONNECT, first).await;
        if is_up(&context.client()) { Ok(context) } else { Err(self.lost()) }
    }

    /// Why the connection is not up.
    pub fn lost(&self) -> NotConnected {
        let reason = match &*self.link.borrow() {
            Link::Connecting(Some(reason)) | Link::Down(reason) => Arc::clone(reason),
            Link::Connecting(None) => "still connecting".into(),
            Link::Up => "the connection was lost".into(),
        };
        NotConnected { servers: Arc::clone(&self.servers), reason }
    }

    /// What the server complained about last on this connection, as a missing permission. It does not
    /// answer a request that it does not permit, so this is the only hint for a request that timed out.
    pub fn complaint(&self) -> Option<String> {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn not_connected(&self, reason: String) -> NotConnected {
        NotConnected { servers: Arc::clone(&self.servers), reason: reason.into() }
    }

    async fn connect(&self) -> Result<Live, BoxError> {
        let ended = CancellationToken::new();
        let client = self.options(ended.clone()).connect(self.endpoint.servers.clone()).await?;
        let context = ContextBuilder::new().timeout(REQUEST_TIMEOUT).api_prefix(&self.endpoint.api_prefix);
        Ok(Live { context: context.build(client), ended })
    }

    fn options(&self, ended: CancellationToken) -> ConnectOptions {
        let endpoint = &self.endpoint;
        // The client drops its event callback, and so this, when it ends.
        let (given_up, ended) = (ended.clone(), ended.drop_guard());
        let (link, complaint) = (self.link.clone(), Arc::clone(&self.complaint));
        let auth = endpoint.auth.clone();
        let mut options =
            ConnectOptions::with_auth_callback(move |nonce| std::future::ready(auth.answer(&nonce)))
                .name(&endpoint.client_name)
                .retry_on_initial_connect()
                .max_reconnects(None)
                .ping_interval(PING_INTERVAL)
                .request_timeout(Some(REQUEST_TIMEOUT))
                .reconnect_delay_callback(reconnect_delay)
                .event_callback(move |event| {
                    let _alive = &ended;
                    if !given_up.is_cancelled() {
                        note(&link, &complaint, event);
                    }
                    std::future::ready(())
                });
        if let Some(tls) = &endpoint.tls {
            options = options.require_tls(true).tls_client_config(tls.clone());
        }
        options
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.servers)
    }
}

/// True while the client is connected.
pub fn is_up(client: &Client) -> bool {
    client.connection_state() == State::Connected
}

/// At once, then doubling from 20 ms.
fn reconnect_delay(attempts: usize) -> Duration {
    match u32::try_from(attempts).unwrap_or(u32::MAX) {
        0 | 1 => Duration::ZERO,
        attempts => {
            Duration::from_millis(10).saturating_mul(1 << (attempts - 1).min(16)).min(LONGEST_RECONNECT_DELAY)
        }
    }
}

/// Takes note of an event of the connection.
fn note(link: &watch::Sender<Link>, complaint: &Mutex<Option<String>>, event: Event) {
    let down = |reason: String| {
        link.send_if_modified(|link| match link {
            Link::Connecting(_) => replace(link, Link::Connecting(Some(reason.into()))),
            Link::Up | Link::Down(_) => replace(link, Link::Down(reason.into())),
        });
    };
    match event {
        Event::Connected => {
            link.send_replace(Link::Up);
            *complaint.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Event::Disconnected => down("the connection was lost".to_owned()),
        Event::ClientError(error) => down(match error.to_string().trim_start_matches("nats: ") {
            "IO error" => "it cannot be reached, or TLS with it fails".to_owned(),
            "DNS error" => "its name cannot be resolved".to_owned(),
            other => other.to_owned(),
        }),
        Event::ServerError(error) => {
            let text = error.to_string();
            let before = complaint.lock().unwrap_or_else(PoisonError::into_inner).replace(text.clone());
            if before.as_ref() != Some(&text) {
                tracing::warn!(error = text, "the nats server complains");
            }
        }
        Event::LameDuckMode | Event::Draining | Event::Closed | Event::SlowConsumer(_) => {}
    }
}

fn replace(link: &mut Link, new: Link) -> bool {
    let changed = *link != new;
    *link = new;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnecting_starts_at_once_and_never_waits_long() {
        let delays: Vec<_> = (0..5).map(|n| reconnect_delay(n).as_millis()).collect();
        assert_eq!(delays, [0, 0, 20, 40, 80]);
        assert_eq!(reconnect_delay(usize::MAX), LONGEST_RECONNECT_DELAY);
    }

    #[test]
    fn a_refused_password_is_the_reason_that_is_given() {
        let (link, complaint) = (watch::Sender::new(Link::Connecting(None)), Mutex::default());
        let refused = async_nats::ClientError::Other("authorization violation".to_owned());
        note(&link, &complaint, Event::ClientError(refused));
        assert_eq!(*link.borrow(), Link::Connecting(Some("authorization violation".into())));
        note(&link, &complaint, Event::Connected);
        note(&link, &complaint, Event::Disconnected);
        assert_eq!(*link.borrow(), Link::Down("the connection was lost".into()));
    }

    #[tokio::test]
    async fn a_broker_that_is_not_there_is_an_answer_and_not_a_wait() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let settings = ConnectionSettings { urls: vec![format!("nats://{address}")], ..Default::default() };
        let connection = Connection::new(settings.check("test").unwrap());
        let error = connection.jetstream().await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("not connected to nats://{address}: ")), "{error}");
    }
}
