//! Answers, and what a handler asks of a request.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};

use super::Response;
use super::body::{Body, Pieces};
use super::coding::Coding;

/// The time in which a client must send the body of its request.
const READ_TIMEOUT: Duration = super::READ_TIMEOUT;
/// Bodies smaller than this are not worth compressing.
const SMALLEST_COMPRESSED: usize = 1024;

/// An answer of this status, type and body. Browsers are told not to guess another type.
pub fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    with_type(status, HeaderValue::from_static(content_type), body.into().into())
}

fn with_type(status: StatusCode, content_type: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
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

/// An answer with status 200, compressed where the client takes it and the body is worth it.
pub fn page(request: &HeaderMap, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    page_of(request, HeaderValue::from_static(content_type), body.into())
}

/// As [`page`], of a type that is known only now.
pub fn page_of(request: &HeaderMap, content_type: HeaderValue, body: Bytes) -> Response {
    let coding =
        if body.len() >= SMALLEST_COMPRESSED { Coding::negotiate(request) } else { Coding::Identity };
    match coding.compress(&body) {
        Some(compressed) => coded(coding, with_type(StatusCode::OK, content_type, compressed.into())),
        None => coded(Coding::Identity, with_type(StatusCode::OK, content_type, body.into())),
    }
}

/// As [`page`], for a body that is large and made piece by piece while it is sent.
pub fn streamed(request: &HeaderMap, content_type: &'static str, pieces: Pieces) -> Response {
    let coding = Coding::negotiate(request);
    match coding.compress_pieces(pieces) {
        Ok(pieces) => {
            let body = Body::streamed(pieces);
            coded(coding, with_type(StatusCode::OK, HeaderValue::from_static(content_type), body))
        }
        Err(error) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, format_args!("cannot compress the page: {error}"))
        }
    }
}

/// As [`page`], for a body that is made only now, as a whole: `write` runs away from the threads that serve others,
/// and where the client takes a coding only the compressed body is ever in memory.
pub async fn large_page<W>(request: &HeaderMap, content_type: &'static str, write: W) -> Response
where
    W: FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
{
    let coding = Coding::negotiate(request);
    let written = tokio::task::spawn_blocking(move || coding.collect(write)).await;
    match written.map_err(io::Error::other).and_then(|body| body) {
        Ok(body) => coded(coding, answer(StatusCode::OK, content_type, body)),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format_args!("cannot write the page: {error}")),
    }
}

fn coded(coding: Coding, mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Some(name) = coding.name() {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    response
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
