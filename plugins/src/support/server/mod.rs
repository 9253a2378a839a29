//! A small HTTP server for pages that people and Prometheus read: bounded in connections, in the
//! time that a client may take, and in what it may send; and it ends in an orderly way.
//!
//! A handler is an async function from [`Request`] to [`Response`]. `HEAD` needs no care: a handler
//! answers as to `GET`, and the body stays behind. TLS (with HTTP/2), basic auth and more headers are those of a
//! web configuration file, see [`web`].

mod answer;
mod body;
mod coding;
pub mod web;

use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::answer::{
    answer, large_page, method_not_allowed, not_found, page, page_of, read_body, reads, streamed, text,
};
pub use self::body::{Body, Pieces};
pub use self::coding::Coding;
use self::web::WebConfig;

/// What a handler is asked.
pub type Request = hyper::Request<Incoming>;
/// What a handler answers.
pub type Response = hyper::Response<Body>;

/// Connections at once; more wait in the queue of the operating system.
const MOST_CONNECTIONS: usize = 256;
/// The time in which a client must send the head, or the body, of its next request.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// The age at which a connection takes no further request, so that no client holds one for ever.
const CONNECTION_AGE: Duration = Duration::from_secs(600);
/// The time that requests still get once a connection has to end.
const GRACE: Duration = Duration::from_secs(5);
/// The pause after a failed accept, as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Requests at once on one connection of HTTP/2.
const MOST_STREAMS: u32 = 32;

/// An address to listen on, as `127.0.0.1:10000` or `[::1]:0`, where port 0 is any free port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Listen(pub SocketAddr);

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|_| {
            serde::de::Error::custom(format!(
                "{text:?} is not an address and port, as 127.0.0.1:10000, [::1]:10000, or 0.0.0.0:10000 for all"
            ))
        })
    }
}

impl JsonSchema for Listen {
    fn schema_name() -> Cow<'static, str> {
        "address".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// A port that is open; requests wait until it is served.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    web: Option<WebConfig>,
}

impl Server {
    /// Opens the port.
    ///
    /// # Errors
    /// The address cannot be had; the message names it.
    pub async fn bind(listen: Listen) -> io::Result<Self> {
        let Listen(address) = listen;
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
        let listener = TcpListener::bind(address).await.map_err(named)?;
        let address = listener.local_addr().map_err(named)?;
        Ok(Self { listener, address, web: None })
    }

    /// The same with TLS, authentication and headers as a web configuration file says.
    pub fn with_web_config(self, web: Option<WebConfig>) -> Self {
        Self { web, ..self }
    }

    /// The address with the port that it really got.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `shutdown`, and then lets those that are under way end, for five seconds
    /// at most. `what` says in the log what can be read here.
    pub async fn serve<H, F>(self, what: &str, handler: H, shutdown: CancellationToken)
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let scheme = if self.web.as_ref().is_some_and(WebConfig::is_tls) { "https" } else { "http" };
        tracing::info!(url = format!("{scheme}://{}/", self.address), "serving {what}");
        let hall = Arc::new(Hall { handler, web: self.web.clone(), shutdown: shutdown.clone() });
        let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let connections = TaskTracker::new();
        while let Some(Some((stream, slot))) = shutdown.run_until_cancelled(self.accept(&slots)).await {
            connections.spawn(Arc::clone(&hall).connection(stream, slot));
        }
        drop(self.listener);
        connections.close();
        connections.wait().await;
    }

    /// The next connection, once there is a slot for it.
    async fn accept(&self, slots: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        let slot = Arc::clone(slots).acquire_owned().await.ok()?;
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return Some((stream, slot)),
                Err(error) => {
                    tracing::warn!(address = %self.address, %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// What every connection of a server shares.
struct Hall<H> {
    handler: H,
    web: Option<WebConfig>,
    shutdown: CancellationToken,
}

impl<H, F> Hall<H>
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    /// Serves one connection to its end.
    async fn connection(self: Arc<Self>, stream: TcpStream, _slot: OwnedSemaphorePermit) {
        let Some(web) = self.web.as_ref().filter(|web| web.is_tls()) else {
            return self.requests(stream, Protocol::Http1).await;
        };
        let accepted = self.shutdown.run_until_cancelled(timeout(READ_TIMEOUT, web.accept(stream))).await;
        match accepted {
            Some(Ok(Ok(stream))) => {
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(web::HTTP2);
                self.requests(stream, if is_http2 { Protocol::Http2 } else { Protocol::Http1 }).await;
            }
            Some(Ok(Err(error))) => tracing::debug!(%error, "a TLS handshake failed"),
            Some(Err(_)) => tracing::debug!("a TLS handshake took too long"),
            None => {}
        }
    }

    async fn requests<S>(self: Arc<Self>, stream: S, protocol: Protocol)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let hall = Arc::clone(&self);
        let service = service_fn(move |request| {
            let hall = Arc::clone(&hall);
            async move { Ok::<_, std::convert::Infallible>(hall.answer(request).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(READ_TIMEOUT)
            .max_concurrent_streams(MOST_STREAMS);
        let builder = match protocol {
            Protocol::Http1 => builder.http1_only(),
            Protocol::Http2 => builder.http2_only(),
        };
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
        let aged = timeout(CONNECTION_AGE, self.shutdown.cancelled());
        let ended = tokio::select! {
            ended = &mut connection => ended,
            _ = aged => {
                connection.as_mut().graceful_shutdown();
                timeout(GRACE, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error, "a connection ended early");
        }
    }

    async fn answer(&self, request: Request) -> Response {
        let Some(web) = &self.web else { return (self.handler)(request).await };
        match web.admit(request.headers()).await {
            Ok(settings) => {
                let mut response = (self.handler)(request).await;
                settings.add_headers(response.headers_mut());
                response
            }
            Err(refusal) => refusal,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Http1,
    Http2,
}

#[cfg(test)]
mod tests;
