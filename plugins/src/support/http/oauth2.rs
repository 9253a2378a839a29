//! Bearer tokens from an OAuth 2.0 server, by the client credentials grant: fetched when they are first
//! wanted, kept until shortly before they expire, and fetched by one request at a time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::{Secret, SecretSource, Size};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use url::form_urlencoded::{Serializer, byte_serialize, parse};

use super::auth::{self, basic_credentials, sensitive};
use super::proxy::{Proxies, ProxyKeys};
use super::reload::ReloadingTls;
use super::transport::Transport;
use super::{Endpoint, HttpError, body};
use crate::support::not_yet::NotYet;
use crate::support::tls::TlsSettings;

/// A server that takes longer keeps nobody else from trying.
const TIMEOUT: Duration = Duration::from_secs(30);
const MOST_ANSWER: Size = Size(1 << 20);
/// So long before it expires a token is not used any more.
const MARGIN: Duration = Duration::from_secs(10);
/// As much of what the server says as anybody reads, in characters.
const MOST_SAID: usize = 200;
const GRANT: &str = "client_credentials";

/// How to get a token by the client credentials grant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OAuth2 {
    /// Who we are there.
    pub client_id: String,
    /// The secret that goes with it; better in `client_secret_file` or from `${env:NAME}`.
    pub client_secret: Option<Secret>,
    /// A file with the secret, read again for every request; another secret gets another token.
    pub client_secret_file: Option<PathBuf>,
    /// The scopes to ask for.
    pub scopes: Vec<String>,
    /// Where the tokens are.
    pub token_url: String,
    /// More parameters of the request for a token.
    pub endpoint_params: BTreeMap<String, String>,
    /// TLS for the token server.
    pub tls_config: TlsSettings,
    /// As beside `oauth2`, for the token server.
    pub proxy_url: Option<Secret>,
    /// As beside `oauth2`, for the token server.
    pub no_proxy: Option<String>,
    /// As beside `oauth2`, for the token server.
    pub proxy_from_environment: bool,
    /// As beside `oauth2`, for the token server.
    pub proxy_connect_header: BTreeMap<String, Vec<Secret>>,
    /// `client_credentials`, which is the only one.
    pub grant_type: Option<String>,
    #[allow(missing_docs)]
    #[schemars(skip)]
    pub client_secret_ref: NotYet,
    #[allow(missing_docs)]
    #[schemars(skip)]
    pub client_certificate_key_id: NotYet,
    #[allow(missing_docs)]
    #[schemars(skip)]
    pub client_certificate_key: NotYet,
    #[allow(missing_docs)]
    #[schemars(skip)]
    pub client_certificate_key_file: NotYet,
    #[allow(missing_docs)]
    #[schemars(skip)]
    pub client_certificate_key_ref: NotYet,
    #[allow(missing_docs)]
    #[schemars(skip)]
    pub signature_algorithm: NotYet,
    #[allow(missing_docs)]
    #[schemars(skip)]
    pub iss: NotYet,
    #[allow(missing_docs)]
    #[schemars(skip)]
    pub audience: NotYet,
    #[allow(missing_docs)]
    #[schemars(skip)]
    pub claims: NotYet,
}

impl OAuth2 {
    fn refuse_what_is_not_there_yet(&self, problems: &mut BuildError) {
        for (key, value) in [
            ("client_secret_ref", self.client_secret_ref),
            ("client_certificate_key_id", self.client_certificate_key_id),
            ("client_certificate_key", self.client_certificate_key),
            ("client_certificate_key_file", self.client_certificate_key_file),
            ("client_certificate_key_ref", self.client_certificate_key_ref),
            ("signature_algorithm", self.signature_algorithm),
            ("iss", self.iss),
            ("audience", self.audience),
            ("claims", self.claims),
        ] {
            value.refuse(key, problems);
        }
        if self.grant_type.as_deref().is_some_and(|grant| !grant.is_empty() && grant != GRANT) {
            problems.add("grant_type", format!("prometheus-streams knows {GRANT} only, yet"));
        }
    }
}

/// Where tokens come from, and the one that is in use.
#[derive(Debug)]
pub(super) struct TokenSource {
    transport: Transport,
    endpoint: Endpoint,
    client_id: String,
    secret: SecretSource,
    parameters: BTreeMap<String, String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    token: Option<Token>,
    /// How this server wants to be told who we are, once it has taken one of the two ways.
    way: Option<Way>,
}

/// The two ways to say who we are. Servers should know the first, and some know only the second.
#[derive(Clone, Copy, Debug)]
enum Way {
    Header,
    Body,
}

struct Token {
    header: HeaderValue,
    expires: Option<Instant>,
    /// The secret that it was fetched with.
    secret: Secret,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// What a token server says, as far as it matters.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Grant {
    access_token: String,
    token_type: String,
    expires_in: Option<serde_json::Value>,
    error: Option<String>,
}

impl TokenSource {
    /// Checks the settings. Opens nothing yet.
    ///
    /// # Errors
    /// Everything that is wrong with the settings, with paths relative to them.
    pub(super) fn new(settings: &OAuth2) -> Result<Self, BuildError> {
        let mut problems = BuildError::default();
        settings.refuse_what_is_not_there_yet(&mut problems);
        if settings.client_id.is_empty() {
            problems.add("client_id", "must be set");
        }
        let (secret, file) = (settings.client_secret.clone(), settings.client_secret_file.clone());
        let secret = problems.take("", auth::from_keys("client_secret", secret, file)).flatten();
        let endpoint = match settings.token_url.as_str() {
            "" => Err(BuildError::at("", "must be set")),
            url => Endpoint::parse(url),
        };
        let endpoint = problems.take("token_url", endpoint);
        let parameters = problems.take("endpoint_params", parameters(settings));
        let proxies = problems.take(
            "",
            Proxies::new(ProxyKeys {
                url: settings.proxy_url.as_ref(),
                no_proxy: settings.no_proxy.as_deref(),
                from_environment: settings.proxy_from_environment,
                connect_header: &settings.proxy_connect_header,
            }),
        );
        let tls = problems.take("tls_config", ReloadingTls::new(&settings.tls_config, false));
        let (Some(endpoint), Some(parameters), Some(proxies), Some(tls)) =
            (endpoint, parameters, proxies, tls)
        else {
            return Err(problems);
        };
        problems.or(Self {
            transport: Transport::new(tls, proxies),
            endpoint,
            client_id: settings.client_id.clone(),
            secret: secret.unwrap_or_else(|| SecretSource::Inline(Secret::new(""))),
            parameters,
            state: Mutex::default(),
        })
    }

    /// Sets the `Authorization` header, with a new token if there is none that is good for a while.
    ///
    /// # Errors
    /// The secret cannot be read, or the server gives no token.
    pub(super) async fn apply(&self, headers: &mut HeaderMap) -> Result<(), HttpError> {
        let secret = auth::read(&self.secret)?;
        // Whoever waits here waits within the time of its own request.
        let mut state = self.state.lock().await;
        let known = state.token.as_ref().filter(|token| token.secret == secret && token.is_fresh());
        let header = match known {
            Some(token) => token.header.clone(),
            None => {
                state.token = None;
                let agent = headers.get(USER_AGENT).cloned();
                let (token, way) = timeout(TIMEOUT, self.fetch(secret, state.way, agent))
                    .await
                    .unwrap_or(Err(HttpError::TimedOut(TIMEOUT)))
                    .map_err(|error| self.explain(&error))?;
                state.way = Some(way);
                state.token.insert(token).header.clone()
            }
        };
        headers.insert(AUTHORIZATION, header);
        Ok(())
    }

    fn explain(&self, error: &HttpError) -> HttpError {
        let said = error.to_string().chars().take(MOST_SAID).collect();
        HttpError::Token(self.endpoint.authority.clone(), said)
    }

    async fn fetch(
        &self,
        secret: Secret,
        way: Option<Way>,
        agent: Option<HeaderValue>,
    ) -> Result<(Token, Way), HttpError> {
        let mut failure = None;
        for way in way.map_or(vec![Way::Header, Way::Body], |way| vec![way]) {
            let request = self.request(&secret, way, agent.clone())?;
            let (head, body) = self.transport.send(request).await?.into_parts();
            let body = body::read(&head.headers, body, MOST_ANSWER).await?;
            match self::Token::read(&Response::from_parts(head, body), &secret) {
                Ok(token) => return Ok((token, way)),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| HttpError::Broken("nothing was asked".to_owned())))
    }

    fn request(
        &self,
        secret: &Secret,
        way: Way,
        agent: Option<HeaderValue>,
    ) -> Result<Request<Bytes>, HttpError> {
        let mut form = Serializer::new(String::new());
        form.extend_pairs(&self.parameters);
        let mut request = Request::new(Bytes::new());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        agent.map(|agent| headers.insert(USER_AGENT, agent));
        let escape = |text: &str| Secret::new(byte_serialize(text.as_bytes()).collect::<String>());
        match way {
            Way::Header => {
                let value = basic_credentials(&escape(&self.client_id), &escape(secret.expose()));
                headers.insert(AUTHORIZATION, sensitive(value)?);
            }
            Way::Body => {
                form.append_pair("client_id", &self.client_id);
                form.append_pair("client_secret", secret.expose());
            }
        }
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::clone(&self.endpoint.uri);
        *request.body_mut() = form.finish().into();
        Ok(request)
    }
}

impl Token {
    fn read(response: &Response<Bytes>, secret: &Secret) -> Result<Self, HttpError> {
        let grant = Grant::read(response.headers(), response.body());
        let grant = match (response.status(), grant) {
            (StatusCode::OK, grant) => grant?,
            (status, Ok(Grant { error: Some(error), .. })) => {
                return Err(HttpError::Broken(format!("status {status}, {error:?}")));
            }
            (status, _) => return Err(HttpError::Status(status)),
        };
        if grant.access_token.is_empty() {
            return Err(HttpError::Broken("there is no access_token in it".to_owned()));
        }
        let kind = match grant.token_type.as_str() {
            "" => "Bearer",
            kind if kind.eq_ignore_ascii_case("bearer") => "Bearer",
            kind => kind,
        };
        let expires = grant.lifetime().map(|lifetime| Instant::now() + lifetime.saturating_sub(MARGIN));
        let header = sensitive(format!("{kind} {}", grant.access_token))?;
        Ok(Self { header, expires, secret: secret.clone() })
    }

    fn is_fresh(&self) -> bool {
        self.expires.is_none_or(|expires| Instant::now() < expires)
    }
}

impl Grant {
    fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, HttpError> {
        let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let kind = String::from_utf8_lossy(kind);
        let media_type = kind.split(';').next().unwrap_or_default().trim();
        if !matches!(media_type, "application/x-www-form-urlencoded" | "text/plain") {
            return serde_json::from_slice(body)
                .map_err(|error| HttpError::Broken(format!("not the JSON of a token: {error}")));
        }
        let fields: BTreeMap<_, _> = parse(body).into_owned().collect();
        let field = |name: &str| fields.get(name).cloned();
        Ok(Self {
            access_token: field("access_token").unwrap_or_default(),
            token_type: field("token_type").unwrap_or_default(),
            expires_in: field("expires_in").map(serde_json::Value::String),
            error: field("error"),
        })
    }

    /// How long the token is good for; `None` for ever. Some servers write the number as text.
    fn lifetime(&self) -> Option<Duration> {
        let seconds = match self.expires_in.as_ref()? {
            serde_json::Value::String(text) => text.trim().parse().ok()?,
            value => value.as_f64()?,
        };
        // More than anything needs, and far from what an Instant cannot hold.
        (seconds > 0.0).then(|| Duration::from_secs_f64(seconds.min(1e9)))
    }
}

/// The parameters of the request for a token.
fn parameters(settings: &OAuth2) -> Result<BTreeMap<String, String>, BuildError> {
    let mut problems = BuildError::default();
    let mut parameters = BTreeMap::from([("grant_type".to_owned(), GRANT.to_owned())]);
    if !settings.scopes.is_empty() {
        parameters.insert("scope".to_owned(), settings.scopes.join(" "));
    }
    for (name, value) in &settings.endpoint_params {
        // Some servers want another grant type for the same thing.
        if name != "grant_type" && parameters.contains_key(name) {
            problems.add(name, "is set by scopes already");
        }
        parameters.insert(name.clone(), value.clone());
    }
    problems.or(parameters)
}
