//! A receiver of remote write that takes everything and keeps nothing, for a process of its own: so that what is
//! measured is the sender.

use std::convert::Infallible;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::http;
use super::server::{Ready, Server, temp_dir};

/// The first argument of a program that is to be a sinkhole; the second is its port.
pub const SINKHOLE: &str = "sinkhole";

pub struct Sinkhole(Server);

impl Sinkhole {
    /// Starts this program once more, as a sinkhole.
    pub async fn start() -> Self {
        let this = std::env::current_exe().expect("find this program");
        let server = Server::start("sinkhole", Ready::Http("/written"), temp_dir(), move |port, _| {
            let mut command = Command::new(&this);
            command.args([SINKHOLE, &port.to_string()]);
            command
        });
        Self(server.await)
    }

    /// Where to write.
    pub fn url(&self) -> String {
        format!("{}/api/v1/write", self.0.url())
    }

    /// Bytes of requests so far.
    pub async fn written(&self) -> u64 {
        let page = http::page(&format!("{}/written", self.0.url())).await;
        page.trim().parse().expect("a number of bytes")
    }
}

/// Is a sinkhole until it is killed.
pub async fn serve(port: &str) {
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await.expect("bind the sinkhole");
    let written = Arc::new(AtomicU64::new(0));
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let written = Arc::clone(&written);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, &written));
            // An error is a client that went away.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    written: &AtomicU64,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/written" {
        let written = written.load(Ordering::Relaxed).to_string();
        return Ok(Response::new(Full::new(written.into())));
    }
    let size = request.into_body().collect().await.map_or(0, |body| body.to_bytes().len());
    written.fetch_add(size as u64, Ordering::Relaxed);
    let mut response = Response::new(Full::default());
    *response.status_mut() = hyper::StatusCode::NO_CONTENT;
    // What a receiver of remote write 2.0 says; others do not look.
    let all = hyper::header::HeaderValue::from_static("1");
    response.headers_mut().insert("x-prometheus-remote-write-samples-written", all);
    Ok(response)
}
