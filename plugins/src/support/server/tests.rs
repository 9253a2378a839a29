use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use std::io;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderValue};

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
async fn a_streamed_page_is_compressed_when_asked_for() {
    let pieces = || -> Pieces { Box::new(["x 1\n", "", "y 2\n"].into_iter().map(Bytes::from)) };
    let plain = streamed(&HeaderMap::new(), "text/plain", pieces());
    assert!(!plain.headers().contains_key(header::CONTENT_ENCODING));
    assert_eq!(plain.into_body().collect().await.unwrap().to_bytes(), "x 1\ny 2\n");

    let gzip = [(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"))].into_iter().collect();
    let zipped = streamed(&gzip, "text/plain", pieces());
    assert_eq!(zipped.headers()[header::CONTENT_ENCODING], "gzip");
    let body = zipped.into_body().collect().await.unwrap().to_bytes();
    let unzipped = io::read_to_string(flate2::read::GzDecoder::new(&body[..])).unwrap();
    assert_eq!(unzipped, "x 1\ny 2\n");
}

#[tokio::test]
async fn a_large_page_is_compressed_when_asked_for() {
    let write = |out: &mut dyn io::Write| out.write_all(b"x 1\n");
    let plain = large_page(&HeaderMap::new(), "text/plain", write).await;
    assert!(!plain.headers().contains_key(header::CONTENT_ENCODING));
    assert_eq!(plain.into_body().collect().await.unwrap().to_bytes(), "x 1\n");
    let zstd = [(header::ACCEPT_ENCODING, HeaderValue::from_static("zstd"))].into_iter().collect();
    let packed = large_page(&zstd, "text/plain", write).await;
    assert_eq!(packed.headers()[header::CONTENT_ENCODING], "zstd");
    let body = packed.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(zstd::stream::decode_all(&body[..]).unwrap(), b"x 1\n");
}

#[tokio::test]
async fn a_piece_that_cannot_be_made_cuts_the_page() {
    let mut left = 2;
    let pieces = std::iter::from_fn(move || {
        left -= 1;
        assert!(left > 0, "the second piece");
        Some(Bytes::from_static(b"x 1\n"))
    });
    let page = streamed(&HeaderMap::new(), "text/plain", Box::new(pieces));
    page.into_body().collect().await.unwrap_err();
}

#[test]
fn an_address_needs_its_port() {
    for text in ["", "10000", ":10000", "127.0.0.1", "localhost:1"] {
        assert!(serde_json::from_value::<Listen>(text.into()).is_err(), "{text}");
    }
    let listen: Listen = serde_json::from_value("[::1]:0".into()).unwrap();
    assert_eq!(serde_json::to_value(listen).unwrap(), "[::1]:0");
}
