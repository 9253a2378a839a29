//! Which requests go through a proxy, and which proxy.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hyper::header::{HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use hyper::{HeaderMap, Uri};
use percent_encoding::percent_decode_str;
use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::Secret;
use url::Url;

use super::auth;
use super::no_proxy::Bypass;

/// The keys about proxies, which stand in two places of Prometheus' configuration.
#[derive(Debug)]
pub(super) struct ProxyKeys<'a> {
    pub(super) url: Option<&'a Secret>,
    pub(super) no_proxy: Option<&'a str>,
    pub(super) from_environment: bool,
    pub(super) connect_header: &'a BTreeMap<String, Vec<Secret>>,
}

/// What is done with addresses of either scheme.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    http: Option<Arc<Proxy>>,
    https: Option<Arc<Proxy>>,
    /// What needs no proxy; `None` where everything does, even the machine itself.
    bypass: Option<Bypass>,
}

/// How a proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Http,
    Https,
    Socks5,
}

/// A proxy. Prints as its address, without the credentials.
pub(super) struct Proxy {
    pub(super) kind: Kind,
    /// Its address as `http://host:port`, or `https`.
    pub(super) uri: Uri,
    /// User name and password, if it wants some.
    pub(super) login: Option<(String, String)>,
    /// What goes with every `CONNECT`, credentials included.
    pub(super) connect_headers: HeaderMap,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.uri.authority().map_or("", |authority| authority.as_str()))
    }
}

impl Proxies {
    /// Checks the keys.
    ///
    /// # Errors
    /// Keys that do not go together, a URL that is not that of a proxy, headers that cannot be sent.
    pub(super) fn new(keys: ProxyKeys<'_>) -> Result<Self, BuildError> {
        Self::with_environment(keys, |name| std::env::var(name).ok())
    }

    pub(super) fn with_environment(
        keys: ProxyKeys<'_>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, BuildError> {
        let mut problems = BuildError::default();
        let url = keys.url.map(Secret::expose).filter(|url| !url.is_empty());
        let no_proxy = keys.no_proxy.filter(|rules| !rules.is_empty());
        if keys.from_environment && url.is_some() {
            problems.add("proxy_url", "set proxy_url or proxy_from_environment, not both");
        }
        if keys.from_environment && no_proxy.is_some() {
            problems.add("no_proxy", "set no_proxy or proxy_from_environment, not both");
        } else if url.is_none() && no_proxy.is_some() {
            problems.add("no_proxy", "needs proxy_url beside it");
        }
        if !keys.connect_header.is_empty() && !keys.from_environment && url.is_none() {
            problems.add("proxy_connect_header", "needs proxy_url or proxy_from_environment beside it");
        }
        let headers = connect_headers(keys.connect_header);
        let headers = problems.take("proxy_connect_header", headers).unwrap_or_default();
        if keys.from_environment {
            let found = Self::from_environment(&headers, variable);
            let found = problems.take("proxy_from_environment", found).unwrap_or_default();
            return problems.or(found);
        }
        let proxy = url.map(|url| Proxy::parse(url, &headers)).transpose();
        let proxy = problems.take("proxy_url", proxy).flatten().map(Arc::new);
        problems.or(Self { http: proxy.clone(), https: proxy, bypass: no_proxy.map(Bypass::parse) })
    }

    fn from_environment(
        headers: &HeaderMap,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, BuildError> {
        let mut problems = BuildError::default();
        let variable = |name: &str| {
            let found = [name.to_owned(), name.to_ascii_lowercase()];
            found.iter().filter_map(|name| variable(name)).find(|value| !value.is_empty())
        };
        let mut proxy = |name| {
            let text = variable(name)?;
            let text = if text.contains("://") { text } else { format!("http://{text}") };
            let proxy = Proxy::parse(&text, headers).map_err(|error| {
                problems.add("", format!("the environment has a {name} that is none: {error}"));
            });
            proxy.ok().map(Arc::new)
        };
        let (http, https) = (proxy("HTTP_PROXY"), proxy("HTTPS_PROXY"));
        let bypass = Some(Bypass::parse(&variable("NO_PROXY").unwrap_or_default()));
        problems.or(Self { http, https, bypass })
    }

    /// The proxy for an address, if it is reached through one.
    pub(super) fn choose(&self, uri: &Uri) -> Option<&Arc<Proxy>> {
        let is_https = uri.scheme_str() == Some("https");
        let proxy = if is_https { &self.https } else { &self.http }.as_ref()?;
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let direct = self.bypass.as_ref().is_some_and(|rules| rules.covers(uri.host().unwrap_or(""), port));
        (!direct).then_some(proxy)
    }
}

impl Proxy {
    fn parse(text: &str, headers: &HeaderMap) -> Result<Self, BuildError> {
        // The text is not quoted: it may hold a password.
        let wrong = |reason: String| BuildError::at("", reason);
        let url = Url::parse(text).map_err(|error| wrong(format!("is not a URL: {error}")))?;
        let (kind, scheme, port) = match url.scheme() {
            "http" => (Kind::Http, "http", 80),
            "https" => (Kind::Https, "https", 443),
            "socks5" | "socks5h" => (Kind::Socks5, "http", 1080),
            _ => return Err(wrong("must begin with http://, https:// or socks5://".to_owned())),
        };
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| wrong("has no host".to_owned()))?;
        let uri = format!("{scheme}://{host}:{}/", url.port().unwrap_or(port));
        let uri = Uri::try_from(uri).map_err(|error| wrong(format!("is not a URL: {error}")))?;
        let decode = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let login = (!url.username().is_empty() || url.password().is_some())
            .then(|| (decode(url.username()), decode(url.password().unwrap_or_default())));
        let mut proxy = Self { kind, uri, login, connect_headers: headers.clone() };
        if let Some(credentials) = proxy.authorization() {
            proxy.connect_headers.insert(PROXY_AUTHORIZATION, credentials);
        }
        Ok(proxy)
    }

    /// What the proxy wants to see before it serves.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        let (username, password) = self.login.as_ref()?;
        let value = auth::basic_credentials(&Secret::new(username), &Secret::new(password));
        auth::sensitive(value).ok()
    }
}

fn connect_headers(settings: &BTreeMap<String, Vec<Secret>>) -> Result<HeaderMap, BuildError> {
    let mut problems = BuildError::default();
    let mut headers = HeaderMap::new();
    for (text, values) in settings {
        let Ok(name) = HeaderName::try_from(text) else {
            problems.add(text, "is not the name of a header: it has characters that cannot be sent");
            continue;
        };
        for (index, value) in values.iter().enumerate() {
            match auth::sensitive(value.expose().to_owned()) {
                Ok(value) => drop(headers.append(&name, value)),
                Err(_) => {
                    problems.add(format!("{text}[{index}]"), "the value has characters that cannot be sent")
                }
            }
        }
    }
    problems.or(headers)
}
