//! Targets from an HTTP server, as Prometheus' `http_sd_configs`: a list in JSON, asked for again and again.
//!
//! ```yaml
//! http_sd_configs:
//!   - url: https://inventory.example.net/targets
//!     refresh_interval: 60s
//!     basic_auth: { username: scraper, password_file: /etc/prometheus-streams/inventory }
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Request, StatusCode, Uri};
use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::{Secret, Size};
use schemars::JsonSchema;
use serde::Deserialize;

use super::super::config::PromDuration;
use super::{TargetGroup, Teller, list, ticks};
use crate::support::http::{
    Authorization, BasicAuth, Endpoint, HeaderSettings, HttpClient, HttpClientSettings, HttpError, Limits,
    MOST_REDIRECTS, OAuth2,
};
use crate::support::tls::TlsSettings;

const URL: &str = "__meta_url";
const REFRESH_INTERVAL: HeaderName = HeaderName::from_static("x-prometheus-refresh-interval-seconds");
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("prometheus-streams/", env!("CARGO_PKG_VERSION")));

/// Targets from an HTTP server that lists them in JSON.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSdSettings {
    /// Where the list is.
    pub url: String,
    /// How often it is asked for. Default: 60s.
    #[serde(default = "a_minute")]
    pub refresh_interval: PromDuration,
    /// User name and password. At most one of `basic_auth`, `authorization`, `oauth2`, `bearer_token`,
    /// `bearer_token_file`.
    #[serde(default)]
    pub basic_auth: Option<BasicAuth>,
    /// Credentials of another kind, as a bearer token.
    #[serde(default)]
    pub authorization: Option<Authorization>,
    /// A bearer token that is fetched from an OAuth 2.0 server.
    #[serde(default)]
    pub oauth2: Option<OAuth2>,
    /// The old form of `authorization: { credentials: ... }`.
    #[serde(default)]
    pub bearer_token: Option<Secret>,
    /// The old form of `authorization: { credentials_file: ... }`.
    #[serde(default)]
    pub bearer_token_file: Option<PathBuf>,
    /// TLS for an `https` URL.
    #[serde(default)]
    pub tls_config: TlsSettings,
    /// Whether redirects are followed, up to 10. Default: true.
    #[serde(default = "yes")]
    pub follow_redirects: bool,
    /// Whether HTTP/2 is used where the server has it. Default: true.
    #[serde(default = "yes")]
    pub enable_http2: bool,
    /// The proxy to go through.
    #[serde(default)]
    pub proxy_url: Option<Secret>,
    /// What is reached without the proxy.
    #[serde(default)]
    pub no_proxy: Option<String>,
    /// Takes the proxy from the environment. Default: false.
    #[serde(default)]
    pub proxy_from_environment: bool,
    /// Headers for the proxy, where a tunnel through it is asked for.
    #[serde(default)]
    pub proxy_connect_header: BTreeMap<String, Vec<Secret>>,
    /// Headers for every request.
    #[serde(default)]
    pub http_headers: BTreeMap<String, HeaderSettings>,
}

fn yes() -> bool {
    true
}

fn a_minute() -> PromDuration {
    PromDuration(Duration::from_secs(60))
}

impl HttpSdSettings {
    /// The discovery that these settings mean.
    ///
    /// # Errors
    /// Everything that is wrong with them, each with its path.
    pub(crate) fn discovery(&self) -> Result<HttpSd, BuildError> {
        let mut problems = BuildError::default();
        let endpoint = problems.take("url", Endpoint::parse(&self.url));
        if self.refresh_interval.0.is_zero() {
            problems.add("refresh_interval", "must be more than zero");
        }
        let client = problems.take("", self.client_settings().client());
        let (Some(endpoint), Some(client)) = (endpoint, client) else { return Err(problems) };
        problems.or(HttpSd {
            url: self.url.clone(),
            uri: endpoint.uri,
            client,
            interval: self.refresh_interval.0,
        })
    }

    fn client_settings(&self) -> HttpClientSettings {
        HttpClientSettings {
            basic_auth: self.basic_auth.clone(),
            authorization: self.authorization.clone(),
            oauth2: self.oauth2.clone(),
            bearer_token: self.bearer_token.clone(),
            bearer_token_file: self.bearer_token_file.clone(),
            tls_config: self.tls_config.clone(),
            follow_redirects: self.follow_redirects,
            enable_http2: self.enable_http2,
            proxy_url: self.proxy_url.clone(),
            no_proxy: self.no_proxy.clone(),
            proxy_from_environment: self.proxy_from_environment,
            proxy_connect_header: self.proxy_connect_header.clone(),
            http_headers: self.http_headers.clone(),
        }
    }
}

/// A list on a server, and the way to it.
#[derive(Clone, Debug)]
pub(crate) struct HttpSd {
    url: String,
    uri: Uri,
    client: HttpClient,
    interval: Duration,
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
enum ListError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("unsupported content type {0:?}")]
    ContentType(String),
    #[error("not a list of target groups: {0}")]
    List(String),
}

/// Tells the targets of the list, until it is dropped.
pub(super) async fn run(discovery: HttpSd, mut teller: Teller) {
    let mut ticks = ticks(discovery.interval);
    loop {
        ticks.tick().await;
        match discovery.fetch().await {
            Ok(groups) => {
                teller.is_well(&discovery.url);
                teller.tell(groups).await;
            }
            Err(error) => teller.failed(&discovery.url, error),
        }
    }
}

impl HttpSd {
    async fn fetch(&self) -> Result<Vec<TargetGroup>, ListError> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, AGENT);
        if let Ok(seconds) = HeaderValue::try_from(self.interval.as_secs_f64().to_string()) {
            headers.insert(REFRESH_INTERVAL, seconds);
        }
        let max_body = Size(list::LARGEST);
        let limits = Limits { timeout: self.interval, max_body, redirects: MOST_REDIRECTS };
        let answer = self.client.send(request, &limits).await?;
        if answer.status() != StatusCode::OK {
            return Err(HttpError::Status(answer.status()).into());
        }
        check_content_type(answer.headers())?;
        let mut groups = list::from_json(answer.body()).map_err(ListError::List)?;
        for group in &mut groups {
            Arc::make_mut(&mut group.labels).insert(URL.to_owned(), self.url.clone());
        }
        Ok(groups)
    }
}

/// `application/json`, in UTF-8 if it says so.
fn check_content_type(headers: &HeaderMap) -> Result<(), ListError> {
    let text = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let text = text.unwrap_or_default();
    let (kind, charset) = text.trim().split_once(';').unwrap_or((text.trim(), "charset=utf-8"));
    let charset = charset.trim_start();
    let is_json = kind.eq_ignore_ascii_case("application/json");
    let is_utf8 =
        ["charset=utf-8", "charset=\"utf-8\""].iter().any(|known| charset.eq_ignore_ascii_case(known));
    if is_json && is_utf8 { Ok(()) } else { Err(ListError::ContentType(text.chars().take(100).collect())) }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use prometheus_streams_core::testing::until;
    use serde_json::json;

    use super::super::DiscoverySettings;
    use super::super::testing::Rig;
    use super::*;
    use crate::support::http::testing::{Answer, TestServer};

    const JSON: [&str; 1] = ["Content-Type: application/json; charset=utf-8"];

    #[tokio::test]
    async fn a_list_is_followed_and_stays_when_the_server_fails() {
        let answer = Arc::new(Mutex::new(Answer::complete("200 OK", &JSON, r#"[{"targets":["a:1"]}]"#)));
        let served = Arc::clone(&answer);
        let server = TestServer::start(move |_| served.lock().unwrap().clone()).await;
        let url = format!("http://{}/targets?x=y", server.address);
        let settings: HttpSdSettings = serde_json::from_value(json!({
            "url": url, "refresh_interval": "50ms", "basic_auth": { "username": "me", "password": "pw" },
        }))
        .unwrap();
        let mut rig = Rig::start(DiscoverySettings::Http(settings.discovery().unwrap()));
        assert_eq!(rig.next().await, [format!("a:1 __meta_url={url}")]);
        let request = server.requests().remove(0).to_lowercase();
        for line in [
            "get /targets?x=y http/1.1",
            "accept: application/json",
            "x-prometheus-refresh-interval-seconds: 0.05",
            "authorization: basic bwu6chc=",
        ] {
            assert!(request.lines().any(|found| found == line), "{line:?} is not in {request}");
        }

        let list = r#"[{"targets":["b:1"]}]"#;
        for wrong in [
            Answer::complete("500 Internal Server Error", &JSON, list),
            Answer::complete("201 Created", &JSON, list),
            Answer::complete("200 OK", &["Content-Type: text/plain"], list),
            Answer::complete("200 OK", &["Content-Type: application/json; charset=latin1"], list),
            Answer::complete("200 OK", &[], list),
            Answer::complete("200 OK", &JSON, r#"[{"targets":["b:1"]"#),
            Answer::Last(Bytes::new()),
        ] {
            let before = rig.failures();
            *answer.lock().unwrap() = wrong;
            until("two failures are counted", || async { rig.failures() >= before + 2.0 }).await;
        }
        *answer.lock().unwrap() = Answer::complete(
            "200 OK",
            &["content-type: Application/JSON;charset=\"UTF-8\""],
            r#"[{"targets":["c:1"]}]"#,
        );
        // Nothing was told in between.
        assert_eq!(rig.next().await, [format!("c:1 __meta_url={url}")]);
    }

    #[test]
    fn mistakes_have_their_paths() {
        let settings = json!({ "url": "ftp://x/", "refresh_interval": "0s", "basic_auth": { "username": "x" }, "bearer_token": "t" });
        let settings: HttpSdSettings = serde_json::from_value(settings).unwrap();
        let error = settings.discovery().unwrap_err().to_string();
        let paths: Vec<_> = error.lines().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(paths, ["url", "refresh_interval", "bearer_token"]);
        assert!(serde_json::from_value::<HttpSdSettings>(json!({ "url": "http://x/", "tls": {} })).is_err());
    }
}
