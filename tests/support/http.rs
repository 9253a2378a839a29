//! A tiny HTTP client.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// No server here needs longer.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }
}

/// GETs a URL; an error says why there is no answer.
pub async fn get(url: &str) -> Result<Answer, String> {
    request(Method::GET, url, Bytes::new()).await
}

/// The body of a page that must be there.
pub async fn page(url: &str) -> String {
    let answer = get(url).await.unwrap_or_else(|error| panic!("cannot get {url}: {error}"));
    assert_eq!(answer.status, 200, "GET {url}: {}", answer.text());
    answer.text()
}

/// Sends a request; an error says why there is no answer.
pub async fn request(method: Method, url: &str, body: impl Into<Bytes>) -> Result<Answer, String> {
    let request = Request::builder()
        .method(method)
        .uri(url)
        .body(Full::new(body.into()))
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    };
    tokio::time::timeout(TIMEOUT, exchange).await.map_err(|_| format!("no answer in {TIMEOUT:?}"))?
}

/// A value as it stands in the query of a URL.
pub fn encode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
