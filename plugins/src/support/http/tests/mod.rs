//! Exchanges with servers that behave, and with servers that do not.

mod credentials;
mod http2;
mod no_proxy;
mod pool;
mod proxy;
mod settings;
mod tls;

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::StatusCode;
use prometheus_streams_core::values::Secret;

use super::testing::{Answer, Authority, TestServer};
use super::*;

fn limits() -> Limits {
    Limits { timeout: Duration::from_secs(10), max_body: Size(1 << 20), redirects: 10 }
}

fn get(url: impl AsRef<str>) -> Request<Bytes> {
    Request::get(url.as_ref()).body(Bytes::new()).unwrap()
}

async fn fetch(server: &TestServer, limits: &Limits) -> Result<Response<Bytes>, HttpError> {
    let client = HttpClient::new(&TlsSettings::default()).unwrap();
    client.send(get(format!("http://{}/", server.address)), limits).await
}

/// Settings as they stand in a file.
fn settings(keys: serde_json::Value) -> HttpClientSettings {
    serde_json::from_value(keys).unwrap()
}

/// A client with the settings that `keys` are.
fn client(keys: serde_json::Value) -> HttpClient {
    settings(keys).client().unwrap()
}

/// The body that comes from `url`, or what goes wrong.
async fn body_of(client: &HttpClient, url: &str) -> Result<Bytes, String> {
    client.send(get(url), &limits()).await.map(Response::into_body).map_err(|error| error.to_string())
}

/// What goes wrong with a server that answers so, in the words of the error.
async fn failure(answer: Answer, limits: Limits) -> String {
    let server = TestServer::start(move |_| answer.clone()).await;
    fetch(&server, &limits).await.unwrap_err().to_string()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn bodies_come_through_plain_and_gzip_over_one_connection() {
    let server = TestServer::start(|head| match head {
        _ if head.starts_with("GET /gzip ") => {
            Answer::complete("200 OK", &["Content-Encoding: gzip"], gzip(b"packed"))
        }
        _ if head.starts_with("GET /empty ") => Answer::complete("200 OK", &["Content-Encoding: gzip"], ""),
        _ => Answer::ok("plain"),
    })
    .await;
    let client = HttpClient::new(&TlsSettings::default()).unwrap();
    for (path, body) in [("/", "plain"), ("/gzip", "packed"), ("/empty", "")] {
        let request = get(format!("http://{}{path}", server.address));
        assert_eq!(client.send(request, &limits()).await.unwrap().body(), body);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_refused_by_name() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = HttpClient::new(&TlsSettings::default()).unwrap();
    let error = client.send(get(format!("http://{address}/")), &limits()).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot connect: connection refused");
}

#[tokio::test]
async fn every_way_to_stall_ends_at_the_time_limit() {
    let short = Limits { timeout: Duration::from_millis(200), ..limits() };
    for answer in [
        Answer::Stall(Bytes::new()),
        Answer::Stall("HTTP/1.1 200 OK\r\nContent-".into()),
        Answer::Stall("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".into()),
        Answer::Endless(Answer::head(&["Transfer-Encoding: chunked"]), "0".into()),
    ] {
        assert_eq!(failure(answer, short.clone()).await, "timed out after 200ms");
    }
}

#[tokio::test]
async fn a_body_ends_at_its_limit() {
    let small = Limits { max_body: Size(64 << 10), ..limits() };
    let endless = Answer::Endless(Answer::head(&["Connection: close"]), Bytes::from(vec![b'x'; 8192]));
    assert_eq!(failure(endless, small.clone()).await, "body larger than 64KiB");

    let announced = Answer::Stall("HTTP/1.1 200 OK\r\nContent-Length: 2147483648\r\n\r\n".into());
    assert_eq!(failure(announced, small.clone()).await, "body larger than 64KiB");

    let bomb = Answer::complete("200 OK", &["Content-Encoding: gzip"], gzip(&vec![0; 100 << 20]));
    assert_eq!(failure(bomb, small).await, "body larger than 64KiB");

    let exact = Limits { max_body: Size(5), ..limits() };
    let server = TestServer::start(|_| Answer::ok("12345")).await;
    assert_eq!(fetch(&server, &exact).await.unwrap().body(), "12345");
}

#[tokio::test]
async fn a_connection_that_failed_is_not_used_again() {
    let server = TestServer::start(|_| Answer::ok(vec![b'x'; 1 << 20])).await;
    let client = HttpClient::new(&TlsSettings::default()).unwrap();
    let small = Limits { max_body: Size(10), ..limits() };
    for _ in 0..2 {
        let request = get(format!("http://{}/", server.address));
        client.send(request, &small).await.unwrap_err();
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn answers_that_are_not_http_or_not_whole_say_so() {
    for (answer, expected) in [
        (Answer::Last(Bytes::new()), "broken answer: connection closed before message completed"),
        (Answer::Last("SSH-2.0-OpenSSH_9.2\r\n\r\n".into()), "broken answer: invalid HTTP version parsed"),
        (
            Answer::Last("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".into()),
            "broken answer: end of file before message length reached",
        ),
        (
            Answer::complete("200 OK", &["Content-Encoding: br"], "x"),
            "the body has the encoding \"br\"; gzip was offered",
        ),
        (
            Answer::complete("200 OK", &["Content-Encoding: gzip"], "this is not gzip at all"),
            "cannot decompress the body: invalid gzip header",
        ),
        (
            Answer::complete(
                "200 OK",
                &["Content-Encoding: gzip"],
                &gzip(b"cut short, says the server")[..25],
            ),
            "cannot decompress the body: incomplete deflate stream",
        ),
    ] {
        let text = format!("{answer:?}");
        assert_eq!(failure(answer, limits()).await, expected, "{text}");
    }
}

#[tokio::test]
async fn an_answer_without_success_comes_with_the_beginning_of_its_body() {
    let server = TestServer::start(|head| match head {
        _ if head.starts_with("GET /stall ") => {
            Answer::Stall("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5\r\n\r\n".into())
        }
        _ => Answer::complete("400 Bad Request", &[], vec![b'e'; 5000]),
    })
    .await;
    let answer = fetch(&server, &limits()).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.body().len()), (400, 1024));

    let client = HttpClient::new(&TlsSettings::default()).unwrap();
    let short = Limits { timeout: Duration::from_millis(200), ..limits() };
    let answer = client.send(get(format!("http://{}/stall", server.address)), &short).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.body().len()), (500, 0));
}

#[tokio::test]
async fn an_idle_connection_that_was_just_closed_is_no_failure() {
    let count = AtomicUsize::new(0);
    let server = TestServer::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        // The second request finds that the connection ends.
        1 => Answer::Last(Bytes::new()),
        _ => Answer::ok("here"),
    })
    .await;
    let client = HttpClient::new(&TlsSettings::default()).unwrap();
    for _ in 0..2 {
        let request = get(format!("http://{}/", server.address));
        assert_eq!(client.send(request, &limits()).await.unwrap().body(), "here");
    }
}

#[tokio::test]
async fn redirects_are_followed_as_far_as_allowed() {
    let server = TestServer::start(|head| match head {
        _ if head.starts_with("GET /once ") => Answer::complete("302 Found", &["Location: metrics"], ""),
        _ if head.starts_with("GET /metrics ") => Answer::ok("there"),
        _ if head.starts_with("GET /away ") => Answer::complete("301 Moved", &["Location: ftp://x/"], ""),
        _ => Answer::complete("307 Temporary Redirect", &["Location: /circle"], ""),
    })
    .await;
    let client = HttpClient::new(&TlsSettings::default()).unwrap();
    let url = |path| format!("http://{}{path}", server.address);
    assert_eq!(client.send(get(url("/once")), &limits()).await.unwrap().body(), "there");

    let circle = client.send(get(url("/circle")), &limits()).await.unwrap_err();
    assert_eq!(circle.to_string(), "stopped after 10 redirects");
    let away = client.send(get(url("/away")), &limits()).await.unwrap_err();
    assert_eq!(away.to_string(), "redirected to \"ftp://x/\", which is not an HTTP address");

    let never = Limits { redirects: 0, ..limits() };
    assert_eq!(client.send(get(url("/once")), &never).await.unwrap().status(), StatusCode::FOUND);
    let put = Request::put(url("/once")).body(Bytes::new()).unwrap();
    assert_eq!(client.send(put, &limits()).await.unwrap().status(), StatusCode::TEMPORARY_REDIRECT);
}

#[test]
fn endpoints_are_web_addresses_with_a_host() {
    let good = Endpoint::parse("http://db1.example.net:9100/metrics?x=1").unwrap();
    assert_eq!(good.uri.to_string(), "http://db1.example.net:9100/metrics?x=1");
    assert_eq!(good.authority, "db1.example.net:9100");
    assert_eq!(Endpoint::parse("https://[::1]:9100").unwrap().authority, "[::1]:9100");
    assert_eq!(Endpoint::parse("http://db1").unwrap().authority, "db1");
    assert_eq!(Endpoint::parse("http://db1:80/").unwrap().authority, "db1:80");

    for (text, expected) in [
        ("", "\"\" is not a URL: relative URL without a base"),
        ("db1/metrics", "\"db1/metrics\" is not a URL: relative URL without a base"),
        ("db1:9100", "\"db1:9100\" has the scheme \"db1\"; http and https are known"),
        ("ftp://db1/", "\"ftp://db1/\" has the scheme \"ftp\"; http and https are known"),
        ("http://", "\"http://\" is not a URL: empty host"),
        ("http:///metrics", "\"http:///metrics\" does not read like http://host:port/path"),
        ("http:db1/metrics", "\"http:db1/metrics\" does not read like http://host:port/path"),
        ("http://db1:99999/", "\"http://db1:99999/\" is not a URL: invalid port number"),
        ("http://me:s3cret@db1/", "credentials do not belong in a URL; use basic_auth"),
    ] {
        assert_eq!(Endpoint::parse(text).unwrap_err().to_string(), expected);
    }
}
