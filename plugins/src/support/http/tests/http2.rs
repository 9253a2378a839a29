//! HTTP/2: many requests over one connection, and none over one that is stuck.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A server that counts its connections, says in its answers which one they came over, and of which the
/// first can be told to do nothing more, or answers nothing to `/stall`.
struct Http2Server {
    address: String,
    connections: Arc<Mutex<usize>>,
    freeze: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Http2Server {
    async fn start(authority: &Authority) -> Self {
        let tls = TlsAcceptor::from(Arc::new(authority.http2_server("127.0.0.1")));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (freeze, frozen) = watch::channel(false);
        let connections = Arc::new(Mutex::new(0));
        let count = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = {
                    let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
                    *count += 1;
                    *count
                };
                let (tls, mut frozen) = (tls.clone(), frozen.clone());
                open.spawn(async move {
                    let stream = TokioIo::new(tls.accept(stream).await.unwrap());
                    let service = service_fn(move |request| answer(number, request));
                    let mut connection = std::pin::pin!(
                        http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service)
                    );
                    let frozen = async { frozen.wait_for(|frozen| *frozen && number == 1).await.is_ok() };
                    let is_frozen = tokio::select! {
                        _ = connection.as_mut() => false,
                        is_frozen = frozen => is_frozen,
                    };
                    if is_frozen {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { address, connections, freeze, _tasks: tasks }
    }

    fn connections(&self) -> usize {
        *self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }
}

async fn answer(number: usize, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/stall" {
        std::future::pending().await
    }
    let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
    let body = format!("{:?} over {number} for {}", request.version(), host.split(':').next().unwrap_or(""));
    Ok(Response::new(Full::new(body.into())))
}

fn http2_client(authority: &Authority) -> HttpClient {
    client(json!({ "tls_config": { "ca_file": authority.settings().ca_file } }))
}

#[tokio::test]
async fn requests_share_a_connection_where_the_far_side_has_http2() {
    let authority = Authority::new();
    let server = Http2Server::start(&authority).await;
    let client = http2_client(&authority);
    let (first, others) = ("HTTP/2.0 over 1 for 127.0.0.1", server.url("/"));
    assert_eq!(body_of(&client, &others).await.unwrap(), first);
    let all = futures_util::future::join_all((0..50).map(|_| body_of(&client, &others))).await;
    assert!(all.iter().all(|body| body.as_ref().unwrap() == first), "{all:?}");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn where_it_is_not_enabled_or_not_there_it_is_not_used() {
    let authority = Authority::new();
    let both = TestServer::start_tls(authority.http2_server("127.0.0.1"), |_| Answer::ok("one")).await;
    let old = client(json!({
        "enable_http2": false, "tls_config": { "ca_file": authority.settings().ca_file },
    }));
    assert_eq!(body_of(&old, &format!("https://{}/", both.address)).await.unwrap(), "one");
    let only_one = TestServer::start_tls(authority.server("127.0.0.1", false), |_| Answer::ok("one")).await;
    let url = format!("https://{}/", only_one.address);
    assert_eq!(body_of(&http2_client(&authority), &url).await.unwrap(), "one");
}

#[tokio::test]
async fn a_connection_whose_answer_does_not_come_is_never_used_again() {
    let authority = Authority::new();
    let server = Http2Server::start(&authority).await;
    let client = http2_client(&authority);
    assert_eq!(body_of(&client, &server.url("/")).await.unwrap(), "HTTP/2.0 over 1 for 127.0.0.1");

    // Every answer that is under way when it is noticed still comes.
    let short = Limits { timeout: Duration::from_millis(200), ..limits() };
    let error = client.send(get(server.url("/stall")), &short).await.unwrap_err();
    assert_eq!(error.to_string(), "timed out after 200ms");
    assert_eq!(body_of(&client, &server.url("/")).await.unwrap(), "HTTP/2.0 over 2 for 127.0.0.1");

    // The far side is frozen, as behind a cable that was pulled.
    let other = http2_client(&authority);
    let server = Http2Server::start(&authority).await;
    body_of(&other, &server.url("/")).await.unwrap();
    server.freeze.send(true).unwrap();
    let error = other.send(get(server.url("/")), &short).await.unwrap_err();
    assert_eq!(error.to_string(), "timed out after 200ms");
    assert_eq!(body_of(&other, &server.url("/")).await.unwrap(), "HTTP/2.0 over 2 for 127.0.0.1");
}

#[tokio::test]
async fn an_idle_connection_that_answers_no_ping_is_gone_before_anybody_needs_it() {
    let authority = Authority::new();
    let server = Http2Server::start(&authority).await;
    let client = http2_client(&authority);
    body_of(&client, &server.url("/")).await.unwrap();
    server.freeze.send(true).unwrap();
    tokio::time::pause();
    for seconds in [31, 16] {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::resume();
    assert_eq!(body_of(&client, &server.url("/")).await.unwrap(), "HTTP/2.0 over 2 for 127.0.0.1");
}
