//! What the sink answers: the page of all targets, the list of targets, and each of them.

use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderValue};
use serde_json::Value;

use super::entry::Original;
use super::negotiate::{Wanted, negotiate, takes};
use super::rendering::Dialect;
use super::store::Store;
use super::targets::{self, Base};
use crate::exposition::{
    self, Family, Mode, ParseError, Sample, as_text, encode, encode_openmetrics, encode_protobuf,
    is_plain_label_name, is_plain_metric_name,
};
use crate::support::scrape;
use crate::support::server::web::WebConfig;
use crate::support::server::{self, Request, Response};

/// Where the list of targets is.
pub(super) const SD: &str = "/sd";

/// What is served, and how readers come to it.
#[derive(Debug)]
pub(super) struct Pages {
    /// The path of the page of all targets.
    pub(super) path: String,
    pub(super) web: Option<WebConfig>,
    /// Where readers reach this sink; if absent, where the request for the list of targets went.
    pub(super) base: Option<Base>,
}

impl Pages {
    pub(super) async fn answer(&self, store: Arc<Store>, request: Request) -> Response {
        if !server::reads(request.method()) {
            return server::method_not_allowed("GET, HEAD");
        }
        let (head, _) = request.into_parts();
        let path = head.uri.path();
        if path == self.path {
            return all(store, &head.headers).await;
        }
        if path == SD {
            let host = head.uri.authority().map(|authority| authority.as_str());
            return match self.base(host, &head.headers) {
                Some(base) => apart(move || list(&store, &base, &head.headers)).await,
                None => server::text(
                    StatusCode::BAD_REQUEST,
                    "a request without a host cannot be told where the targets are",
                ),
            };
        }
        if let Some(labels) = targets::labels(path) {
            let headers = head.headers;
            return apart(move || one(&store, &labels, &headers)).await;
        }
        if path == "/" {
            let lines = format_args!(
                "The newest scrape of every target: {}\nFor http_sd_configs: {SD}\nEach target: {}PUBLISHER/JOB/INSTANCE/metrics",
                self.path,
                targets::PREFIX
            );
            return server::text(StatusCode::OK, lines);
        }
        server::not_found()
    }

    fn base(&self, authority: Option<&str>, headers: &HeaderMap) -> Option<Base> {
        if let Some(base) = &self.base {
            return Some(base.clone());
        }
        let asked = headers.get(header::HOST).and_then(|host| host.to_str().ok()).or(authority)?;
        let is_tls = self.web.as_ref().is_some_and(WebConfig::is_tls);
        let (scheme, port) = if is_tls { ("https", 443) } else { ("http", 80) };
        let authority: hyper::http::uri::Authority = asked.parse().ok()?;
        let port = authority.port_u16().unwrap_or(port);
        let address = format!("{}:{port}", authority.host());
        Some(Base { scheme: scheme.to_owned(), address, prefix: String::new() })
    }
}

/// Runs what may take a while away from the threads that serve others.
async fn apart(make: impl FnOnce() -> Response + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(make).await {
        Ok(answer) => answer,
        Err(error) => server::text(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

/// The page of all targets.
async fn all(store: Arc<Store>, headers: &HeaderMap) -> Response {
    let wanted = negotiate(headers);
    match tokio::task::spawn_blocking(move || store.page(wanted)).await {
        Ok(page) => vary(server::streamed(headers, wanted.content_type, Box::new(page))),
        Err(error) => server::text(StatusCode::INTERNAL_SERVER_ERROR, error),
    }
}

/// The list of targets.
fn list(store: &Store, base: &Base, headers: &HeaderMap) -> Response {
    let entries = store.entries();
    let all = entries.iter().map(|entry| {
        let interval = scrape::number(&entry.event.attributes, scrape::INTERVAL);
        targets::discovered(entry.labels(), interval, base)
    });
    let body = Value::Array(all.collect()).to_string() + "\n";
    server::page(headers, "application/json", body)
}

/// The last scrape of one target, or why there is none.
fn one(store: &Store, labels: &prometheus_streams_core::event::Labels, headers: &HeaderMap) -> Response {
    let Some(entry) = store.get(labels) else {
        let age = humantime::format_duration(store.expire_after);
        let reason = format_args!("nothing has been heard of {labels} for {age}");
        return server::text(StatusCode::SERVICE_UNAVAILABLE, reason);
    };
    match entry.original() {
        Ok(original) if takes(headers, original.format, original.has_quotes) => {
            vary(server::page_of(headers, original.content_type.clone(), original.body.clone()))
        }
        Ok(original) => {
            let wanted = negotiate(headers);
            match converted(original, wanted) {
                Ok(body) => {
                    let content_type = HeaderValue::from_static(wanted.content_type);
                    vary(server::page_of(headers, content_type, body))
                }
                Err(error) => server::text(StatusCode::INTERNAL_SERVER_ERROR, error),
            }
        }
        Err(error) => server::text(
            StatusCode::SERVICE_UNAVAILABLE,
            format_args!("the scrape of {labels} failed: {error}"),
        ),
    }
}

/// A scrape in another format.
fn converted(original: &Original, wanted: Wanted) -> Result<Bytes, ParseError> {
    let mut families = exposition::parse(original.format, Mode::Compat, &original.body)?;
    if wanted.dialect == Dialect::Text {
        families = as_text(families);
    }
    if !wanted.with_quotes {
        leave_out_quoted(&mut families);
    }
    let mut body = Vec::new();
    match wanted.dialect {
        Dialect::Text => encode(&families, &mut body),
        Dialect::OpenMetrics => encode_openmetrics(&families, &mut body),
        Dialect::Protobuf => encode_protobuf(&families, &mut body),
    }
    Ok(body.into())
}

fn leave_out_quoted(families: &mut Vec<Family<'_>>) {
    families.retain(|family| is_plain_metric_name(&family.name));
    for family in families {
        family.samples.retain(Sample::is_plain);
        let is_plain = |name: &str| is_plain_label_name(name);
        family.histograms.retain(|histogram| histogram.labels.iter().all(|(name, _)| is_plain(name)));
    }
}

fn vary(mut response: Response) -> Response {
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
    response
}
