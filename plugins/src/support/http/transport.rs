//! One request at a time to wherever it goes: the connection for it, from the pool or new, and a second
//! try where an idle connection turns out to be dead.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::connect::HttpConnector;

use super::HttpError;
use super::connect::Dialer;
use super::exchange::{self, AnswerBody, Lease};
use super::pool::{Key, Pool, Ready};
use super::proxy::{Kind, Proxies, Proxy};
use super::reload::{Current, ReloadingTls};

/// What makes and keeps the connections of a client.
#[derive(Debug)]
pub(super) struct Transport {
    tcp: HttpConnector,
    tls: ReloadingTls,
    proxies: Proxies,
    pool: Arc<Pool>,
}

/// The way of one request.
struct Route {
    key: Key,
    proxy: Option<Arc<Proxy>>,
    tls: Current,
}

impl Route {
    /// Whether the proxy is told the whole address in every request, as it is for plain targets.
    fn is_relayed(&self) -> bool {
        !self.key.is_https && self.proxy.as_ref().is_some_and(|proxy| proxy.kind != Kind::Socks5)
    }
}

impl Transport {
    pub(super) fn new(tls: ReloadingTls, proxies: Proxies) -> Self {
        Self::with_pool(tls, proxies, Pool::default())
    }

    pub(super) fn with_pool(tls: ReloadingTls, proxies: Proxies, pool: Pool) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        Self { tcp, tls, proxies, pool: Arc::new(pool) }
    }

    /// Sends a request and returns the head of its answer, with the body to be read. Takes as long as it
    /// takes: whoever calls sets the limit, and by dropping this future closes the connection.
    ///
    /// # Errors
    /// There is no connection, or no answer over it.
    pub(super) async fn send(&self, request: Request<Bytes>) -> Result<Response<AnswerBody>, HttpError> {
        let route = self.route(request.uri())?;
        if let Some(connection) = self.pool.take(&route.key) {
            // A far side may close an idle connection just when it is used.
            let again = request.method().is_idempotent().then(|| request.clone());
            match (self.exchange(&route, connection, request).await, again) {
                (Err(_), Some(again)) => return self.send_anew(&route, again).await,
                (answer, _) => return answer.map_err(HttpError::from),
            }
        }
        self.send_anew(&route, request).await
    }

    async fn send_anew(
        &self,
        route: &Route,
        request: Request<Bytes>,
    ) -> Result<Response<AnswerBody>, HttpError> {
        let dialer = Dialer {
            tcp: self.tcp.clone(),
            proxy: route.proxy.clone(),
            tls: Arc::clone(&route.tls.config),
            server_name: self.tls.server_name().cloned(),
        };
        let io = dialer.dial(request.uri().clone()).await?;
        let connection = if io.is_http2 {
            let sender = exchange::start_http2(io).await?;
            Ready::Http2(self.pool.share(route.key.clone(), sender))
        } else {
            Ready::Http1(io)
        };
        Ok(self.exchange(route, connection, request).await?)
    }

    async fn exchange(
        &self,
        route: &Route,
        connection: Ready,
        request: Request<Bytes>,
    ) -> hyper::Result<Response<AnswerBody>> {
        let lease = Lease { pool: Arc::clone(&self.pool), key: route.key.clone() };
        let request = request.map(Full::new);
        match connection {
            Ready::Http1(io) => exchange::over_http1(lease, io, for_http1(request, route)).await,
            Ready::Http2(shared) => exchange::over_http2(lease, shared, request).await,
        }
    }

    fn route(&self, uri: &Uri) -> Result<Route, HttpError> {
        let proxy = self.proxies.choose(uri).cloned();
        let is_https = uri.scheme_str() == Some("https");
        let uses_tls = is_https || proxy.as_ref().is_some_and(|proxy| proxy.kind == Kind::Https);
        let tls = if uses_tls { self.tls.current()? } else { self.tls.known() };
        let authority = uri.authority().map_or_else(String::new, ToString::to_string);
        let generation = if uses_tls { tls.generation } else { 0 };
        let by = proxy.as_ref().map(ToString::to_string);
        let mut route = Route { key: Key { is_https, authority, proxy: by, generation }, proxy, tls };
        if route.is_relayed() {
            // One connection to the proxy is good for all targets.
            route.key.authority = String::new();
        }
        Ok(route)
    }
}

/// The request as HTTP/1.1 writes it: with a `Host`, and the path alone unless a proxy must know the rest.
fn for_http1(mut request: Request<Full<Bytes>>, route: &Route) -> Request<Full<Bytes>> {
    let uri = request.uri();
    let default = if route.key.is_https { 443 } else { 80 };
    let host = match (uri.host().unwrap_or_default(), uri.port_u16().filter(|port| *port != default)) {
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    };
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    if route.is_relayed() {
        if let Some(credentials) = route.proxy.as_ref().and_then(|proxy| proxy.authorization()) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, credentials);
        }
    } else {
        *request.uri_mut() = path.into();
    }
    if let Ok(host) = HeaderValue::try_from(host) {
        request.headers_mut().entry(HOST).or_insert(host);
    }
    request
}
