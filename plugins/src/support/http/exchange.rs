//! One request and its answer over a connection. An exchange that does not come to its end takes its
//! connection with it: one of HTTP/1.1 is closed, one of HTTP/2 is never given to another request.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connect::Io;
use super::pool::{Key, Pool, Shared};

/// What is read at once, and the largest head of an answer, in bytes.
const READ_BUFFER: usize = 32 << 10;
/// Where the far side of an HTTP/2 connection is silent for so long, it is asked whether it is there ...
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// ... and is not, if it does not answer within this.
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// What the far side may send of one answer before we have read it, in bytes; and of all together.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Where the connection of an exchange belongs.
pub(super) struct Lease {
    pub(super) pool: Arc<Pool>,
    pub(super) key: Key,
}

/// The body of an answer. Once it is read to its end, the connection is free for the next request.
pub(super) struct AnswerBody {
    incoming: Incoming,
    connection: Connection,
}

enum Connection {
    Http1(Option<Box<Http1>>),
    Http2(Http2),
}

/// An HTTP/1.1 connection in use. It moves only while somebody waits for it.
struct Http1 {
    connection: http1::Connection<Io, Full<Bytes>>,
    sender: http1::SendRequest<Full<Bytes>>,
    closed: bool,
    lease: Lease,
}

/// A share in an HTTP/2 connection. It lives as long as somebody has one.
struct Http2 {
    shared: Shared,
    lease: Lease,
    finished: bool,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        if !self.finished {
            self.lease.pool.forget(&self.lease.key, self.shared.id);
        }
    }
}

/// Sends a request over a connection that has no other.
pub(super) async fn over_http1(
    lease: Lease,
    io: Io,
    request: Request<Full<Bytes>>,
) -> hyper::Result<Response<AnswerBody>> {
    let mut builder = http1::Builder::new();
    let (sender, connection) = builder.read_buf_exact_size(Some(READ_BUFFER)).handshake(io).await?;
    let mut http1 = Box::new(Http1 { connection, sender, closed: false, lease });
    let mut answer = Box::pin(http1.sender.send_request(request));
    let response = poll_fn(|cx| {
        http1.drive(cx);
        match answer.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            Poll::Pending if http1.closed => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    let (response, connection) = match response.await {
        Some(response) => {
            drop(answer);
            (response?, Some(http1))
        }
        None => {
            // Without its connection the request learns what became of it.
            drop(http1);
            (answer.await?, None)
        }
    };
    Ok(response.map(|incoming| AnswerBody { incoming, connection: Connection::Http1(connection) }))
}

/// Makes an HTTP/2 connection of a stream, for many requests.
pub(super) async fn start_http2(io: Io) -> hyper::Result<http2::SendRequest<Full<Bytes>>> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(READ_BUFFER as u32)
        .handshake(io)
        .await?;
    tokio::spawn(async move {
        // The requests over it hear of it.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an HTTP/2 connection ended");
        }
    });
    Ok(sender)
}

/// Sends a request over a connection that others share.
pub(super) async fn over_http2(
    lease: Lease,
    shared: Shared,
    request: Request<Full<Bytes>>,
) -> hyper::Result<Response<AnswerBody>> {
    let mut http2 = Http2 { shared, lease, finished: false };
    http2.shared.sender.ready().await?;
    let response = http2.shared.sender.send_request(request).await?;
    Ok(response.map(|incoming| AnswerBody { incoming, connection: Connection::Http2(http2) }))
}

impl Http1 {
    fn drive(&mut self, cx: &mut Context<'_>) {
        // What goes wrong is told to the one who waits for the answer or reads its body.
        if !self.closed && self.connection.poll_without_shutdown(cx).is_ready() {
            self.closed = true;
        }
    }

    /// Gives the stream back, if both sides are done and keep it open.
    fn release(mut self) {
        self.drive(&mut Context::from_waker(Waker::noop()));
        if self.closed || !self.sender.is_ready() {
            return;
        }
        let http1::Parts { io, read_buf, .. } = self.connection.into_parts();
        if io.is_flushed() && read_buf.is_empty() {
            self.lease.pool.put(self.lease.key, io);
        }
    }
}

impl AnswerBody {
    fn finish(&mut self) {
        match &mut self.connection {
            Connection::Http1(http1) => {
                if let Some(http1) = http1.take() {
                    http1.release();
                }
            }
            Connection::Http2(http2) => http2.finished = true,
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        let mut frame = Pin::new(&mut this.incoming).poll_frame(cx);
        if frame.is_pending()
            && let Connection::Http1(Some(http1)) = &mut this.connection
        {
            // Asking for a frame made the connection read on.
            http1.drive(cx);
            frame = Pin::new(&mut this.incoming).poll_frame(cx);
        }
        let frame = ready!(frame);
        if frame.is_none() {
            this.finish();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
