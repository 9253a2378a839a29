//! Scripted targets: an HTTP server in this process that answers `/NAME/metrics` as the test says, hands
//! out a number that never repeats with every good body, and remembers what it served.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How a target answers.
#[derive(Clone, Debug, Default)]
pub enum Behaviour {
    /// 200 with `probe_seq{target="NAME"} N`, where N is unique and grows.
    #[default]
    Probe,
    /// 200 with this text.
    Text(Bytes),
    /// 200 with this content type and body.
    Page(&'static str, Bytes),
    /// A status without a body.
    Status(u16),
    /// 200 and a page for people.
    Html,
    /// 200 and no body.
    Empty,
    /// Headers at once, then a line now and then, without an end.
    Forever,
    /// No answer at all.
    Hang,
    /// 200 and so many bytes of good text, sent as fast as they are read.
    Huge(u64),
    /// 200 and these bytes, said to be gzip.
    Gzip(Bytes),
    /// One after the other, to each scraper from the first on; the last one for ever.
    Script(Arc<[Behaviour]>),
}

impl Behaviour {
    /// 200 and a gzip of so many MiB of zeros.
    pub fn bomb(mib: usize) -> Self {
        Self::Gzip(bomb(mib).into())
    }
}

/// One request that was answered.
#[derive(Clone, Debug)]
pub struct Served {
    pub target: String,
    /// The number in the body; 0 unless the target behaved as [`Behaviour::Probe`].
    pub seq: u64,
    pub headers: HeaderMap,
}

#[derive(Default)]
struct State {
    seq: AtomicU64,
    behaviours: Mutex<HashMap<String, Behaviour>>,
    served: Mutex<Vec<Served>>,
    /// How far each scraper has come in the script of each target.
    played: Mutex<HashMap<(String, String), usize>>,
}

impl State {
    /// What a target does next for the scraper of this name.
    fn next(&self, target: &str, scraper: &str) -> Behaviour {
        let behaviour = lock(&self.behaviours).get(target).cloned().unwrap_or_default();
        let Behaviour::Script(script) = behaviour else { return behaviour };
        let mut played = lock(&self.played);
        let at = played.entry((target.to_owned(), scraper.to_owned())).or_default();
        *at += 1;
        script[(*at - 1).min(script.len() - 1)].clone()
    }
}

pub struct Targets {
    address: SocketAddr,
    scheme: &'static str,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

impl Targets {
    pub async fn start() -> Self {
        Self::listen(None).await
    }

    /// The same over TLS.
    pub async fn start_tls(config: Arc<rustls::ServerConfig>) -> Self {
        Self::listen(Some(TlsAcceptor::from(config))).await
    }

    async fn listen(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind the targets");
        let address = listener.local_addr().expect("read the address of the targets");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = Arc::new(State::default());
        let accepting = tokio::spawn(accept(listener, tls, Arc::clone(&state)));
        Self { address, scheme, state, accepting }
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The URL of the target `name`.
    pub fn url(&self, name: &str) -> String {
        format!("{}://{}/{name}/metrics", self.scheme, self.address)
    }

    pub fn set(&self, name: &str, behaviour: Behaviour) {
        lock(&self.state.behaviours).insert(name.to_owned(), behaviour);
    }

    /// What was served so far, oldest first.
    pub fn served(&self) -> Vec<Served> {
        lock(&self.state.served).clone()
    }

    /// How many answers each scraper has had from each target that plays a script.
    pub fn played(&self) -> HashMap<(String, String), usize> {
        lock(&self.state.played).clone()
    }

    /// The newest number that each target has handed out.
    pub fn newest(&self) -> HashMap<String, u64> {
        self.served().into_iter().map(|served| (served.target, served.seq)).collect()
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            match tls {
                None => serve(socket, state).await,
                // A handshake that fails is the client's to report.
                Some(tls) => {
                    if let Ok(socket) = tls.accept(socket).await {
                        serve(socket, state).await;
                    }
                }
            }
        });
    }
}

async fn serve(socket: impl AsyncRead + AsyncWrite + Unpin + 'static, state: Arc<State>) {
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(request, &state).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    // An error is a client that went away.
    let _ = server.timer(TokioTimer::new()).serve_connection(TokioIo::new(socket), service).await;
}

async fn answer(request: Request<Incoming>, state: &State) -> Response<Body> {
    let target =
        request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default().to_owned();
    let headers = request.headers().clone();
    let scraper = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let behaviour = state.next(&target, scraper);
    let remember = |seq| lock(&state.served).push(Served { target: target.clone(), seq, headers });
    let Behaviour::Probe = behaviour else {
        remember(0);
        return scripted(behaviour).await;
    };
    let seq = state.seq.fetch_add(1, Ordering::SeqCst) + 1;
    remember(seq);
    let text = format!(
        "# HELP probe_seq Unique, and growing.\n# TYPE probe_seq gauge\nprobe_seq{{target=\"{target}\"}} {seq}\n"
    );
    text_of(text)
}

async fn scripted(behaviour: Behaviour) -> Response<Body> {
    match behaviour {
        Behaviour::Probe | Behaviour::Empty | Behaviour::Script(_) => text_of(""),
        Behaviour::Text(text) => text_of(text),
        Behaviour::Html => {
            let mut page = text_of("<html><body><h1>Sign in</h1></body></html>\n");
            page.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/html"));
            page
        }
        Behaviour::Page(content_type, body) => {
            let mut page = text_of(body);
            page.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
            page
        }
        Behaviour::Status(status) => {
            let mut response = text_of("no\n");
            *response.status_mut() = StatusCode::from_u16(status).expect("a status");
            response
        }
        Behaviour::Hang => std::future::pending().await,
        Behaviour::Forever => endless(Bytes::from_static(b"drip 1\n"), u64::MAX, Duration::from_millis(100)),
        Behaviour::Huge(bytes) => {
            let chunk = Bytes::from("huge_metric_with_a_long_name 1\n".repeat(2048));
            let chunks = bytes.div_ceil(chunk.len() as u64);
            endless(chunk, chunks, Duration::ZERO)
        }
        Behaviour::Gzip(bytes) => {
            let mut response = text_of(bytes);
            response.headers_mut().insert(header::CONTENT_ENCODING, header::HeaderValue::from_static("gzip"));
            response
        }
    }
}

fn text_of(text: impl Into<Bytes>) -> Response<Body> {
    Response::builder()
        .header(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")
        .body(Full::new(text.into()).boxed_unsync())
        .expect("build a response")
}

/// A body of `chunks` chunks with a rest between them.
fn endless(chunk: Bytes, chunks: u64, rest: Duration) -> Response<Body> {
    let body = stream::unfold(0, move |sent| {
        let chunk = chunk.clone();
        async move {
            if sent == chunks {
                return None;
            }
            if !rest.is_zero() {
                tokio::time::sleep(rest).await;
            }
            Some((Ok::<_, Infallible>(Frame::data(chunk)), sent + 1))
        }
    });
    text_of("").map(|_| StreamBody::new(body).boxed_unsync())
}

fn bomb(mib: usize) -> Vec<u8> {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![b'0'; 1 << 20];
    for _ in 0..mib {
        gzip.write_all(&zeros).expect("compress");
    }
    gzip.finish().expect("compress")
}
