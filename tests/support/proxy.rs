//! A recording proxy before a Push Gateway: it passes pushes on, remembers each with the gateway's answer,
//! and misbehaves as the test says.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prometheus_streams_plugins::exposition::{self, Format, Mode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// How the proxy treats requests whose path has a given part.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It passes them on after so long.
    Slow(Duration),
    /// It answers with this status and text, and passes nothing on.
    Answer(u16, &'static str),
    /// It passes them on and hangs up instead of answering.
    LoseTheAnswer,
    /// It passes on the head, which announces the whole, and so many bytes of the body, and hangs up on both sides
    /// when the far side has answered that.
    Cut(usize),
}

/// One push that the gateway answered.
#[derive(Clone, Debug)]
pub struct Push {
    pub at: Instant,
    pub method: Method,
    /// The path, which names the group.
    pub group: String,
    /// The value of `probe_seq` in the body, if it has one.
    pub seq: Option<u64>,
    pub status: u16,
    pub headers: hyper::HeaderMap,
}

struct State {
    upstream: String,
    client: Client<HttpConnector, Full<Bytes>>,
    faults: Mutex<Vec<(String, Fault)>>,
    pushes: Mutex<Vec<Push>>,
}

pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// A proxy before the server at `upstream`, as `http://127.0.0.1:9091`.
    pub async fn start(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind the proxy");
        let address = listener.local_addr().expect("read the address of the proxy");
        let client = Client::builder(TokioExecutor::new()).build_http();
        let state = Arc::new(State { upstream, client, faults: Mutex::default(), pushes: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, accepting }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Treats requests whose path has `part` in this way from now on; the empty part is in all.
    pub fn set(&self, part: &str, fault: Fault) {
        self.state.faults().push((part.to_owned(), fault));
    }

    /// Behaves from now on.
    pub fn heal(&self) {
        self.state.faults().clear();
    }

    /// The pushes that were answered so far, oldest first.
    pub fn pushes(&self) -> Vec<Push> {
        self.state.pushes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn count(&self) -> usize {
        self.state.pushes.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl State {
    fn faults(&self) -> std::sync::MutexGuard<'_, Vec<(String, Fault)>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault_of(&self, path: &str) -> Option<Fault> {
        self.faults().iter().find(|(part, _)| path.contains(part)).map(|(_, fault)| fault.clone())
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&state)));
            let mut server = hyper::server::conn::http1::Builder::new();
            // An error is a client that went away, or that was hung up on.
            let _ = server.timer(TokioTimer::new()).serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

/// An error hangs up.
async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
) -> Result<Response<Full<Bytes>>, &'static str> {
    let path = request.uri().path().to_owned();
    let fault = state.fault_of(&path);
    match &fault {
        Some(Fault::Slow(time)) => tokio::time::sleep(*time).await,
        Some(Fault::Answer(status, text)) => {
            let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
            *response.status_mut() = StatusCode::from_u16(*status).expect("a status");
            return Ok(response);
        }
        Some(Fault::Cut(length)) => return cut(request, *length, &state).await,
        Some(Fault::LoseTheAnswer) | None => {}
    }
    let response = pass_on(request, &state).await?;
    match fault {
        Some(Fault::LoseTheAnswer) => Err("told to hang up"),
        _ => Ok(response),
    }
}

async fn pass_on(request: Request<Incoming>, state: &State) -> Result<Response<Full<Bytes>>, &'static str> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| "the client hung up")?.to_bytes();
    let seq = probe_seq(&head.headers, &body);
    let (method, group, headers) = (head.method.clone(), head.uri.path().to_owned(), head.headers.clone());
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    head.uri = format!("{}{target}", state.upstream).parse().map_err(|_| "not a target")?;
    head.headers.remove(header::HOST);
    let response = state.client.request(Request::from_parts(head, Full::new(body))).await;
    let (head, body) = response.map_err(|_| "the gateway is away")?.into_parts();
    let body = body.collect().await.map_err(|_| "the gateway hung up")?.to_bytes();
    let push = Push { at: Instant::now(), method, group, seq, status: head.status.as_u16(), headers };
    // What only asks is no push.
    if push.method != Method::GET {
        state.pushes.lock().unwrap_or_else(PoisonError::into_inner).push(push);
    }
    Ok(Response::from_parts(head, Full::new(body)))
}

async fn cut(
    request: Request<Incoming>,
    length: usize,
    state: &State,
) -> Result<Response<Full<Bytes>>, &'static str> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| "the client hung up")?.to_bytes();
    let address = state.upstream.trim_start_matches("http://");
    let mut upstream = TcpStream::connect(address).await.map_err(|_| "the gateway is away")?;
    let mut message = format!("{} {} HTTP/1.1\r\n", head.method, head.uri).into_bytes();
    for (name, value) in &head.headers {
        message.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    message.extend_from_slice(b"\r\n");
    message.extend_from_slice(&body[..length.min(body.len())]);
    upstream.write_all(&message).await.map_err(|_| "the gateway hung up")?;
    upstream.shutdown().await.map_err(|_| "the gateway hung up")?;
    let mut answer = Vec::new();
    // However it ends, the gateway is done with it.
    let _ = upstream.read_to_end(&mut answer).await;
    let status = String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|status| status.parse().ok());
    let push = Push {
        at: Instant::now(),
        method: head.method,
        group: head.uri.path().to_owned(),
        seq: None,
        status: status.unwrap_or_default(),
        headers: head.headers,
    };
    state.pushes.lock().unwrap_or_else(PoisonError::into_inner).push(push);
    Err("told to cut it")
}

fn probe_seq(headers: &hyper::HeaderMap, body: &Bytes) -> Option<u64> {
    let gzip = headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip");
    let mut bytes = body.to_vec();
    if gzip {
        bytes.clear();
        flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut bytes).ok()?;
    }
    let format = Format::from_content_type(headers.get(header::CONTENT_TYPE)?.to_str().ok()?)?;
    let families = exposition::parse(format, Mode::Compat, &bytes).ok()?;
    let mut samples = families.iter().flat_map(|family| &family.samples);
    Some(samples.find(|sample| sample.name == "probe_seq")?.value as u64)
}
