//! From an address to a stream of bytes that speaks HTTP: TCP, the proxy if there is one, and TLS.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::rt::{Read, ReadBuf, Write};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Uri};
use hyper_rustls::{DefaultServerNameResolver, FixedServerNameResolver, HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::SocksV5;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use prometheus_streams_core::error::BoxError;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::util::{ServiceExt, service_fn};

use super::HttpError;
use super::proxy::{Kind, Proxy};

/// The largest head of the answer of a proxy, in bytes.
const MOST_PROXY_HEAD: usize = 16 << 10;

/// Anything that bytes come from and go to.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The way to the far side as far as it is not TLS: a socket, or a tunnel through a proxy.
pub(super) struct Path(Box<dyn Stream>);

impl Path {
    fn new(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> TokioIo<Self> {
        TokioIo::new(Self(Box::new(stream)))
    }
}

impl Connection for Path {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Path {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Path {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

/// A stream that speaks HTTP.
pub(super) struct Io {
    stream: TokioIo<Path>,
    /// Whether the two sides agreed on HTTP/2.
    pub(super) is_http2: bool,
    /// Whether the last thing that was written did not go out.
    stuck: bool,
}

impl Io {
    /// In little memory for a plain stream, of which there may be thousands.
    fn new(stream: MaybeHttpsStream<TokioIo<Path>>) -> Self {
        let (stream, is_http2) = match stream {
            MaybeHttpsStream::Http(path) => (path, false),
            MaybeHttpsStream::Https(tls) => {
                let tls = tls.into_inner();
                let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
                (Path::new(tls), is_http2)
            }
        };
        Self { stream, is_http2, stuck: false }
    }

    /// Whether everything that was written went out.
    pub(super) fn is_flushed(&self) -> bool {
        !self.stuck
    }

    /// Whether the far side neither closed nor said anything unasked.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.stream).poll_read(&mut cx, buffer.unfilled()).is_pending()
    }
}

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        self.stuck = written.is_pending();
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.stuck = written.is_pending();
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// How to make a connection.
pub(super) struct Dialer {
    pub(super) tcp: HttpConnector,
    pub(super) proxy: Option<Arc<Proxy>>,
    pub(super) tls: Arc<ClientConfig>,
    /// The name that the far side must have instead of its host's.
    pub(super) server_name: Option<ServerName<'static>>,
}

impl Dialer {
    /// Connects to the host of `uri`, with TLS if it is `https`.
    ///
    /// # Errors
    /// There is no way to it, the proxy refuses, or the two sides do not trust each other.
    pub(super) async fn dial(self, uri: Uri) -> Result<Io, HttpError> {
        let Self { tcp, proxy, tls, server_name } = self;
        let proxy_tls = Arc::clone(&tls);
        let path = service_fn(move |uri| path(tcp.clone(), proxy.clone(), Arc::clone(&proxy_tls), uri));
        let https = match server_name {
            Some(name) => HttpsConnector::new(path, tls, false, Arc::new(FixedServerNameResolver::new(name))),
            None => HttpsConnector::new(path, tls, false, Arc::new(DefaultServerNameResolver::default())),
        };
        let stream = https.oneshot(uri).await.map_err(HttpError::from_connect)?;
        Ok(Io::new(stream))
    }
}

/// The way to the host of `uri`.
async fn path(
    tcp: HttpConnector,
    proxy: Option<Arc<Proxy>>,
    tls: Arc<ClientConfig>,
    uri: Uri,
) -> Result<TokioIo<Path>, BoxError> {
    let Some(proxy) = proxy else {
        return Ok(Path::new(tcp.oneshot(uri).await?.into_inner()));
    };
    // A boxed error boxes itself once more where it is not said that it is one.
    let blame = |error: BoxError| -> BoxError { Box::new(HttpError::from_connect(error).through(&proxy)) };
    if proxy.kind == Kind::Socks5 {
        let mut socks = SocksV5::new(proxy.uri.clone(), tcp);
        if let Some((user, password)) = &proxy.login {
            socks = socks.with_auth(user.clone(), password.clone());
        }
        let stream = socks.oneshot(with_port(&uri)?).await.map_err(|error| blame(error.into()))?;
        return Ok(Path::new(stream.into_inner()));
    }
    // A proxy is spoken to in HTTP/1.1.
    let mut tls = ClientConfig::clone(&tls);
    tls.alpn_protocols.clear();
    let https = HttpsConnector::new(tcp, tls, false, Arc::new(DefaultServerNameResolver::default()));
    let stream = https.oneshot(proxy.uri.clone()).await.map_err(blame)?;
    if uri.scheme_str() != Some("https") {
        return Ok(Path::new(TokioIo::new(stream)));
    }
    let tunnel = tunnel(stream, &proxy, &uri).await.map_err(|error| blame(error.into()))?;
    Ok(Path::new(TokioIo::new(tunnel)))
}

/// Asks a proxy for a tunnel to the host of `uri`.
async fn tunnel(
    stream: impl Read + Write + Unpin + Send + 'static,
    proxy: &Proxy,
    uri: &Uri,
) -> Result<Upgraded, HttpError> {
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(MOST_PROXY_HEAD).handshake::<_, Empty<Bytes>>(stream).await?;
    let authority = with_port(uri).map_err(HttpError::from_connect)?;
    let authority = authority.authority().map_or("", |authority| authority.as_str());
    let request = Request::builder().method(Method::CONNECT).uri(authority).header(HOST, authority);
    let mut request = request.body(Empty::new()).map_err(|error| HttpError::from_connect(error.into()))?;
    request.headers_mut().extend(proxy.connect_headers.clone());

    let mut ask = pin!(async {
        let response = sender.send_request(request).await?;
        match response.status() {
            status if status.is_success() => Ok(hyper::upgrade::on(response).await?),
            status => Err(HttpError::Status(status)),
        }
    });
    let mut connection = pin!(connection.with_upgrades());
    let mut served = false;
    poll_fn(|cx| {
        if let Poll::Ready(answer) = ask.as_mut().poll(cx) {
            return Poll::Ready(answer);
        }
        // What goes wrong here is told to the one who asks.
        if !served && connection.as_mut().poll(cx).is_ready() {
            served = true;
        }
        ask.as_mut().poll(cx)
    })
    .await
}

/// The same host with its port, as the address of a tunnel.
fn with_port(uri: &Uri) -> Result<Uri, BoxError> {
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let host = uri.host().unwrap_or_default();
    let authority = format!("{host}:{}", uri.port_u16().unwrap_or(default));
    Ok(Uri::builder().scheme("http").authority(authority).path_and_query("/").build()?)
}
