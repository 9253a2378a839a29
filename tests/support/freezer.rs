//! A proxy in front of real exporters that asks each of them once, and gives the same page to everybody from
//! then on, so that two Prometheus servers scrape the same values. It remembers the `Accept` header of each
//! client, so that a test can ask an exporter what that client would really have got.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub struct Freezer {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    /// By the first part of the path, where the exporter is.
    behind: BTreeMap<String, String>,
    pages: tokio::sync::Mutex<BTreeMap<String, (HeaderValue, Bytes)>>,
    accepts: Mutex<BTreeSet<String>>,
}

impl Freezer {
    /// A proxy that answers `/NAME/metrics` with the page of `behind[NAME]`, an address.
    pub async fn start(behind: BTreeMap<String, String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind the freezer");
        let address = listener.local_addr().expect("read the address of the freezer");
        let state = Arc::new(State { behind, pages: Default::default(), accepts: Default::default() });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, accepting }
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The `Accept` headers of all clients.
    pub fn accepts(&self) -> BTreeSet<String> {
        self.state.accepts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The media type with which an exporter answers somebody who accepts `accept`.
    pub async fn negotiated(&self, name: &str, accept: &str) -> String {
        let accept = HeaderValue::try_from(accept).expect("a header");
        let (content_type, _) = fetch(&self.state.behind[name], accept).await;
        let content_type = content_type.to_str().expect("a content type").to_owned();
        content_type.split(';').next().unwrap_or_default().to_owned()
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let state = Arc::clone(&state);
        let service = service_fn(move |request| {
            let state = Arc::clone(&state);
            async move { Ok::<_, Infallible>(answer(&request, &state).await) }
        });
        // An error is a client that went away.
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service),
        );
    }
}

async fn answer(request: &Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    let name = request.uri().path().split('/').nth(1).unwrap_or_default().to_owned();
    let accept = request.headers().get(ACCEPT).cloned().unwrap_or(HeaderValue::from_static("*/*"));
    let text = String::from_utf8_lossy(accept.as_bytes()).into_owned();
    state.accepts.lock().unwrap_or_else(PoisonError::into_inner).insert(text);
    let mut pages = state.pages.lock().await;
    let (content_type, body) = match pages.get(&name) {
        Some(page) => page.clone(),
        None => {
            let page = fetch(&state.behind[&name], accept).await;
            pages.insert(name, page.clone());
            page
        }
    };
    Response::builder().header(CONTENT_TYPE, content_type).body(Full::new(body)).expect("build a response")
}

async fn fetch(address: &str, accept: HeaderValue) -> (HeaderValue, Bytes) {
    let request = Request::get(format!("http://{address}/metrics")).header(ACCEPT, accept);
    let request = request.body(Full::<Bytes>::default()).expect("build a request");
    let response = Client::builder(TokioExecutor::new()).build_http().request(request).await;
    let (head, body) = response.expect("ask an exporter").into_parts();
    let content_type = head.headers.get(CONTENT_TYPE).cloned().expect("a content type");
    (content_type, body.collect().await.expect("read the page of an exporter").to_bytes())
}
