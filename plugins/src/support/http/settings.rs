//! The keys with which Prometheus configures a client, under the names that Prometheus has for them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::Secret;
use schemars::JsonSchema;
use serde::Deserialize;

use super::auth::{Auth, Authorization, BasicAuth};
use super::headers::{ExtraHeaders, HeaderSettings};
use super::oauth2::{OAuth2, TokenSource};
use super::proxy::{Proxies, ProxyKeys};
use super::reload::ReloadingTls;
use super::transport::Transport;
use super::{Credentials, HttpClient, MOST_REDIRECTS};
use crate::support::tls::TlsSettings;

/// How to reach something over HTTP: Prometheus' `HTTPClientConfig`, key by key.
///
/// It cannot be flattened into another struct, because serde then neither refuses unknown keys nor knows
/// their paths. A struct that has these keys among others declares them itself, and fills in this one:
/// the paths of the mistakes that [`HttpClientSettings::client`] finds are then right as they are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpClientSettings {
    /// User name and password. At most one of `basic_auth`, `authorization`, `oauth2`, `bearer_token`,
    /// `bearer_token_file`.
    pub basic_auth: Option<BasicAuth>,
    /// Credentials of another kind, as a bearer token.
    pub authorization: Option<Authorization>,
    /// A bearer token that is fetched from an OAuth 2.0 server.
    pub oauth2: Option<OAuth2>,
    /// The old form of `authorization: { credentials: ... }`.
    pub bearer_token: Option<Secret>,
    /// The old form of `authorization: { credentials_file: ... }`.
    pub bearer_token_file: Option<PathBuf>,
    /// TLS for `https` addresses.
    pub tls_config: TlsSettings,
    /// Whether redirects are followed, up to 10. Credentials do not go to another host. Default: true.
    pub follow_redirects: bool,
    /// Whether HTTP/2 is used where the far side has it, over TLS only. Default: true.
    pub enable_http2: bool,
    /// The proxy to go through: an URL with the scheme `http`, `https` or `socks5`, with credentials if
    /// the proxy wants some.
    pub proxy_url: Option<Secret>,
    /// What is reached without the proxy: hosts, domains, addresses, networks as `10.0.0.0/8`, each with
    /// a port or without, separated by commas; or `*`. Needs `proxy_url`.
    pub no_proxy: Option<String>,
    /// Takes the proxy from `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` in the environment. Default: false.
    pub proxy_from_environment: bool,
    /// Headers for the proxy, where a tunnel through it is asked for (for `https` addresses).
    pub proxy_connect_header: BTreeMap<String, Vec<Secret>>,
    /// Headers for every request.
    pub http_headers: BTreeMap<String, HeaderSettings>,
}

impl Default for HttpClientSettings {
    fn default() -> Self {
        Self {
            basic_auth: None,
            authorization: None,
            oauth2: None,
            bearer_token: None,
            bearer_token_file: None,
            tls_config: TlsSettings::default(),
            follow_redirects: true,
            enable_http2: true,
            proxy_url: None,
            no_proxy: None,
            proxy_from_environment: false,
            proxy_connect_header: BTreeMap::new(),
            http_headers: BTreeMap::new(),
        }
    }
}

impl HttpClientSettings {
    /// The client that these settings mean. Opens no connection; reads the files that they name, to check
    /// them, and the environment where they say so.
    ///
    /// # Errors
    /// Everything that is wrong with the settings, with paths relative to them.
    pub fn client(&self) -> Result<HttpClient, BuildError> {
        let mut problems = BuildError::default();
        let credentials = problems.take("", self.credentials());
        let proxies = problems.take("", Proxies::new(self.proxy()));
        let headers = problems.take("http_headers", ExtraHeaders::new(&self.http_headers));
        let tls = problems.take("tls_config", ReloadingTls::new(&self.tls_config, self.enable_http2));
        let (Some(credentials), Some(proxies), Some(headers), Some(tls)) =
            (credentials, proxies, headers, tls)
        else {
            return Err(problems);
        };
        let redirects = if self.follow_redirects { MOST_REDIRECTS } else { 0 };
        problems.or(HttpClient::assemble(Transport::new(tls, proxies), credentials, headers, redirects))
    }

    fn proxy(&self) -> ProxyKeys<'_> {
        ProxyKeys {
            url: self.proxy_url.as_ref(),
            no_proxy: self.no_proxy.as_deref(),
            from_environment: self.proxy_from_environment,
            connect_header: &self.proxy_connect_header,
        }
    }

    fn credentials(&self) -> Result<Option<Credentials>, BuildError> {
        let mut problems = BuildError::default();
        // An empty text is no text, as in Prometheus.
        let token = self.bearer_token.clone().filter(|token| !token.expose().is_empty());
        let token_file = self.bearer_token_file.clone().filter(|path| !path.as_os_str().is_empty());
        let kinds = [
            ("basic_auth", self.basic_auth.is_some()),
            ("authorization", self.authorization.is_some()),
            ("oauth2", self.oauth2.is_some()),
            ("bearer_token", token.is_some()),
            ("bearer_token_file", token_file.is_some()),
        ];
        let set: Vec<_> = kinds.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| *name).collect();
        if let [first, .., last] = set[..] {
            let all = kinds.map(|(name, _)| name).join(", ");
            problems.add(last, format!("there is {first} already; set at most one of {all}"));
        }
        let basic = self.basic_auth.clone().map(Auth::basic).transpose();
        let basic = problems.take("basic_auth", basic).flatten();
        let other = self.authorization.clone().map(Auth::authorization).transpose();
        let other = problems.take("authorization", other).flatten();
        let bearer = match (token, token_file) {
            // Said above.
            (Some(_), Some(_)) => None,
            (token, file) => problems.take("", Auth::bearer(token, file)).flatten(),
        };
        let oauth2 = self.oauth2.as_ref().map(TokenSource::new).transpose();
        let oauth2 = problems.take("oauth2", oauth2).flatten();
        let known = basic.or(other).or(bearer).map(Credentials::Known);
        problems.or(known.or(oauth2.map(|source| Credentials::OAuth2(Arc::new(source)))))
    }
}
