//! A small HTTP/1.1 server for pages that people and Prometheus read: bounded in connections, in the
//! time that a client may take, and in what it may send; and it ends in an orderly way.
//!
//! A handler is an async function from [`Request`] to [`Response`]. `HEAD` needs no care: a handler
//! answers as to `GET`, and the body stays behind.

use std::borrow::Cow;
use std::future::Future;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a handler is asked.
pub type Request = hyper::Request<Incoming>;
/// What a handler answers.
pub type Response = hyper::Response<Full<Bytes>>;

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
/// Bodies smaller than this are not worth compressing.
const SMALLEST_GZIP: usize = 1024;

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
        Ok(Self { listener, address })
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
        tracing::info!(url = format!("http://{}/", self.address), "serving {what}");
        let handler = Arc::new(handler);
        let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let connections = TaskTracker::new();
        while let Some(Some((stream, slot))) = shutdown.run_until_cancelled(self.accept(&slots)).await {
            connections.spawn(serve_connection(stream, Arc::clone(&handler), shutdown.clone(), slot));
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

async fn serve_connection<H, F>(
    stream: TcpStream,
    handler: Arc<H>,
    shutdown: CancellationToken,
    _slot: OwnedSemaphorePermit,
) where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let aged = tokio::time::timeout(CONNECTION_AGE, shutdown.cancelled());
    let ended = tokio::select! {
        ended = &mut connection => ended,
        _ = aged => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// An answer of this status, type and body. Browsers are told not to guess another type.
pub fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// An answer of one line of plain text.
pub fn text(status: StatusCode, line: impl std::fmt::Display) -> Response {
    answer(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

/// An answer for paths that are not there.
pub fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "not found")
}

/// An answer for methods that a path does not know; `allow` lists those that it does.
pub fn method_not_allowed(allow: &'static str) -> Response {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format_args!("use {allow}"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

/// True for `GET` and `HEAD`.
pub fn reads(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// An answer with status 200, compressed where the client takes gzip and the body is worth it.
pub fn page(request: &HeaderMap, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let body = body.into();
    let zipped = (body.len() >= SMALLEST_GZIP && accepts_gzip(request)).then(|| gzip(&body).ok()).flatten();
    let encoded = zipped.is_some();
    let mut response = answer(StatusCode::OK, content_type, zipped.unwrap_or(body));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if encoded {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// As [`page`], for a body that is large and made only now: `write` runs away from the threads that
/// serve others, and where the client takes gzip only the compressed body is ever in memory.
pub async fn large_page<W>(request: &HeaderMap, content_type: &'static str, write: W) -> Response
where
    W: FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
{
    let encoded = accepts_gzip(request);
    let written = tokio::task::spawn_blocking(move || {
        if !encoded {
            let mut body = Vec::new();
            return write(&mut body).map(|()| body);
        }
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let mut buffered = BufWriter::with_capacity(64 * 1024, encoder);
        write(&mut buffered)?;
        buffered.into_inner()?.finish()
    });
    let body = match written.await.map_err(io::Error::other).and_then(|body| body) {
        Ok(body) => body,
        Err(error) => {
            return text(StatusCode::INTERNAL_SERVER_ERROR, format_args!("cannot write the page: {error}"));
        }
    };
    let mut response = answer(StatusCode::OK, content_type, body);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if encoded {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Compresses at the level at which Prometheus' own exporters do: quickly.
fn gzip(body: &[u8]) -> io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish().map(Bytes::from)
}

/// True when an `Accept-Encoding` names gzip, or anything, with a weight above zero.
pub fn accepts_gzip(request: &HeaderMap) -> bool {
    let values = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let weights = values.flat_map(|value| value.split(',')).filter_map(|coding| {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = parameters.trim().strip_prefix("q=").and_then(|q| q.trim().parse::<f32>().ok());
        let rank = match name.trim() {
            name if name.eq_ignore_ascii_case("gzip") => 1,
            "*" => 0,
            _ => return None,
        };
        Some((rank, weight.unwrap_or(1.0) > 0.0))
    });
    weights.max().is_some_and(|(_, wanted)| wanted)
}

/// The body of a request of at most `most` bytes.
///
/// # Errors
/// The answer to give: the body is larger, was cut, or did not come in time.
pub async fn read_body(body: Incoming, most: usize) -> Result<Bytes, Response> {
    let read = tokio::time::timeout(READ_TIMEOUT, Limited::new(body, most).collect());
    match read.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let reason = format!("the body is larger than {most} bytes");
            Err(text(StatusCode::PAYLOAD_TOO_LARGE, reason))
        }
        Ok(Err(error)) => Err(text(StatusCode::BAD_REQUEST, format_args!("cannot read the body: {error}"))),
        Err(_) => Err(text(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Notify;

    use super::*;

    const LOOPBACK: Listen = Listen(SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0));

    async fn start() -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let server = Server::bind(LOOPBACK).await.unwrap();
        let (address, shutdown) = (server.address(), CancellationToken::new());
        let handler = |request: Request| async move {
            match read_body(request.into_body(), 4).await {
                Ok(body) => text(StatusCode::OK, format_args!("{} bytes", body.len())),
                Err(answer) => answer,
            }
        };
        let token = shutdown.clone();
        let task = tokio::spawn(async move { server.serve("a test", handler, token).await });
        (address, shutdown, task)
    }

    async fn exchange(stream: &mut TcpStream, request: &str) -> String {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        String::from_utf8(answer[..length].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn serves_requests_and_bounds_their_bodies() {
        let (address, ..) = start().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let answer = exchange(&mut stream, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n0 bytes\n"), "{answer}");
        let answer = exchange(&mut stream, "HEAD / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.contains("content-length: 8\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
        let large = "PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12345";
        let answer = exchange(&mut stream, large).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }

    #[tokio::test]
    async fn an_idle_connection_does_not_hold_up_the_end() {
        let (address, shutdown, task) = start().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        exchange(&mut stream, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        shutdown.cancel();
        task.await.unwrap();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(TcpStream::connect(address).await.is_err(), "the port is still open");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_half_a_head_is_let_go() {
        let (address, ..) = start().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nho").await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let (address, ..) = start().await;
        let error = Server::bind(Listen(address)).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot listen on {address}: ")), "{error}");
    }

    #[tokio::test]
    async fn an_answer_under_way_is_finished_after_shutdown() {
        let server = Server::bind(LOOPBACK).await.unwrap();
        let (address, shutdown) = (server.address(), CancellationToken::new());
        let (begun, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let signals = (Arc::clone(&begun), Arc::clone(&finish));
        let handler = move |_request| {
            let (begun, finish) = signals.clone();
            async move {
                begun.notify_one();
                finish.notified().await;
                text(StatusCode::OK, "at last")
            }
        };
        let token = shutdown.clone();
        let task = tokio::spawn(async move { server.serve("a test", handler, token).await });
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        begun.notified().await;
        shutdown.cancel();
        finish.notify_one();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("at last\n"), "{answer}");
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_large_page_is_compressed_when_asked_for() {
        let write = |out: &mut dyn Write| out.write_all(b"x 1\n");
        let plain = large_page(&HeaderMap::new(), "text/plain", write).await;
        assert!(!plain.headers().contains_key(header::CONTENT_ENCODING));
        assert_eq!(plain.into_body().collect().await.unwrap().to_bytes(), "x 1\n");

        let gzip = [(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"))].into_iter().collect();
        let zipped = large_page(&gzip, "text/plain", write).await;
        assert_eq!(zipped.headers()[header::CONTENT_ENCODING], "gzip");
        let body = zipped.into_body().collect().await.unwrap().to_bytes();
        let unzipped = io::read_to_string(flate2::read::GzDecoder::new(&body[..])).unwrap();
        assert_eq!(unzipped, "x 1\n");
    }

    #[test]
    fn gzip_is_a_matter_of_weights() {
        let accepts = |value: &str| {
            accepts_gzip(&[(header::ACCEPT_ENCODING, value.parse().unwrap())].into_iter().collect())
        };
        for value in ["gzip", "deflate, GZIP;q=0.5", "*", "gzip ; q=1, *;q=0"] {
            assert!(accepts(value), "{value}");
        }
        for value in ["", "identity", "gzip;q=0", "*;q=1, gzip;q=0.0", "gzipped"] {
            assert!(!accepts(value), "{value}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn an_address_needs_its_port() {
        for text in ["", "10000", ":10000", "127.0.0.1", "localhost:1"] {
            assert!(serde_json::from_value::<Listen>(text.into()).is_err(), "{text}");
        }
        let listen: Listen = serde_json::from_value("[::1]:0".into()).unwrap();
        assert_eq!(serde_json::to_value(listen).unwrap(), "[::1]:0");
    }
}
