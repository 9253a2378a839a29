//! The settings that the nats source and the nats sink have in common.

use std::fmt;
use std::path::PathBuf;

use async_nats::ServerAddr;
use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::{Secret, SecretSource};
use rustls::ClientConfig;

use super::auth::Method;
use crate::support::tls::TlsSettings;

/// Declares the settings of a stage that connects to NATS: those of the connection, and its own.
/// Not a nested struct, so that `urls:` stands where everybody looks for it; not serde's `flatten`,
/// which loses the place of a mistake.
macro_rules! nats_settings {
    (
        $(#[$meta:meta])*
        pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// The servers, as `nats://host:4222` or `tls://host:4222`. One is enough; the others of its
            /// cluster are learned from it.
            pub urls: Vec<String>,
            $($(#[$field_meta])* pub $field: $type,)*
            /// The user to connect as. Needs a password. At most one of user, token, nkey and
            /// credentials may be set.
            #[serde(default)]
            pub user: Option<String>,
            /// The password of `user`.
            #[serde(default)]
            pub password: Option<prometheus_streams_core::values::Secret>,
            /// A file with the password of `user`, read again at every connect.
            #[serde(default)]
            pub password_file: Option<std::path::PathBuf>,
            /// The token to connect with.
            #[serde(default)]
            pub token: Option<prometheus_streams_core::values::Secret>,
            /// A file with the token to connect with, read again at every connect.
            #[serde(default)]
            pub token_file: Option<std::path::PathBuf>,
            /// A file with the seed of an nkey, read again at every connect.
            #[serde(default)]
            pub nkey_file: Option<std::path::PathBuf>,
            /// A credentials file as `nsc` writes it (a JWT and its seed), read again at every connect.
            #[serde(default)]
            pub credentials_file: Option<std::path::PathBuf>,
            /// How to connect with TLS. Without it TLS is used where the URL or the server says so,
            /// and the authorities of the system are trusted.
            #[serde(default)]
            pub tls: Option<crate::support::tls::TlsSettings>,
            /// The JetStream domain, where JetStream is behind a leaf node.
            #[serde(default)]
            pub domain: Option<String>,
            /// The prefix of the JetStream API, where it is imported from another account. Default: `$JS.API`.
            #[serde(default)]
            pub api_prefix: Option<String>,
        }

        impl $name {
            /// The settings of the connection alone.
            fn connection(&self) -> $crate::support::nats::ConnectionSettings {
                $crate::support::nats::ConnectionSettings {
                    urls: self.urls.clone(),
                    user: self.user.clone(),
                    password: self.password.clone(),
                    password_file: self.password_file.clone(),
                    token: self.token.clone(),
                    token_file: self.token_file.clone(),
                    nkey_file: self.nkey_file.clone(),
                    credentials_file: self.credentials_file.clone(),
                    tls: self.tls.clone(),
                    domain: self.domain.clone(),
                    api_prefix: self.api_prefix.clone(),
                }
            }
        }
    };
}

pub(crate) use nats_settings;

/// How to connect, as the user wrote it. The fields are described where the stages declare them.
#[allow(missing_docs)]
#[derive(Clone, Debug, Default)]
pub struct ConnectionSettings {
    pub urls: Vec<String>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub password_file: Option<PathBuf>,
    pub token: Option<Secret>,
    pub token_file: Option<PathBuf>,
    pub nkey_file: Option<PathBuf>,
    pub credentials_file: Option<PathBuf>,
    pub tls: Option<TlsSettings>,
    pub domain: Option<String>,
    pub api_prefix: Option<String>,
}

/// Where to connect and how, checked. Prints as its servers.
#[derive(Clone)]
pub struct Endpoint {
    pub(super) servers: Vec<ServerAddr>,
    pub(super) auth: Method,
    pub(super) tls: Option<ClientConfig>,
    pub(super) api_prefix: String,
    pub(super) client_name: String,
}

impl ConnectionSettings {
    /// Checks the settings; `client_name` is how the server will list us.
    ///
    /// # Errors
    /// Every mistake in the settings, each with its path.
    pub fn check(self, client_name: &str) -> Result<Endpoint, BuildError> {
        let mut problems = BuildError::default();
        let servers = problems.take("", self.servers()).unwrap_or_default();
        let tls = problems.take("tls", self.tls(&servers)).flatten();
        let api_prefix = problems.take("", self.api_prefix()).unwrap_or_default();
        let auth = problems.take("", self.auth()).unwrap_or_default();
        problems.or(Endpoint { servers, auth, tls, api_prefix, client_name: client_name.to_owned() })
    }

    fn servers(&self) -> Result<Vec<ServerAddr>, BuildError> {
        let mut problems = BuildError::default();
        if self.urls.is_empty() {
            problems.add("urls", "name at least one server, as nats://host:4222");
        }
        let servers = self.urls.iter().enumerate().filter_map(|(index, url)| {
            server(url).map_err(|message| problems.add(format!("urls[{index}]"), message)).ok()
        });
        let servers = servers.collect();
        problems.or(servers)
    }

    fn tls(&self, servers: &[ServerAddr]) -> Result<Option<ClientConfig>, BuildError> {
        match &self.tls {
            Some(tls) if tls.server_name.is_some() => Err(BuildError::at(
                "server_name",
                "is not supported for nats; connect to a host that the certificate names",
            )),
            Some(tls) => tls.client_config().map(Some),
            None if servers.iter().any(ServerAddr::tls_required) => {
                TlsSettings::default().client_config().map(Some)
            }
            None => Ok(None),
        }
    }

    fn api_prefix(&self) -> Result<String, BuildError> {
        let (name, prefix) = match (&self.domain, &self.api_prefix) {
            (None, None) => return Ok("$JS.API".to_owned()),
            (Some(_), Some(_)) => return Err(BuildError::at("domain", "set domain or api_prefix, not both")),
            (Some(domain), None) => ("domain", format!("$JS.{domain}.API")),
            (None, Some(prefix)) => ("api_prefix", prefix.clone()),
        };
        match super::subject::check_literal(&prefix) {
            Ok(()) => Ok(prefix),
            Err(reason) => Err(BuildError::at(name, reason)),
        }
    }

    fn auth(self) -> Result<Method, BuildError> {
        let mut problems = BuildError::default();
        let password = problems
            .take("", SecretSource::from_keys("password", self.password, self.password_file))
            .flatten();
        let token =
            problems.take("", SecretSource::from_keys("token", self.token, self.token_file)).flatten();
        let mut methods: Vec<(&str, Method)> = Vec::new();
        match (self.user, password) {
            (Some(user), Some(password)) => methods.push(("user", Method::UserPassword { user, password })),
            (Some(_), None) if problems.problems().is_empty() => {
                problems.add("user", "needs password or password_file beside it");
            }
            (None, Some(_)) => problems.add("password", "needs user beside it"),
            _ => {}
        }
        methods.extend(token.map(|token| ("token", Method::Token(token))));
        methods.extend(self.nkey_file.map(|path| ("nkey_file", Method::Nkey(path))));
        methods.extend(self.credentials_file.map(|path| ("credentials_file", Method::Credentials(path))));
        for (name, method) in &methods {
            if let Err(error) = method.answer(b"check") {
                let text = error.to_string();
                let text = text.strip_prefix("AuthError(").and_then(|text| text.strip_suffix(')'));
                problems.add(*name, text.unwrap_or("cannot be used"));
            }
        }
        if let [(first, _), (second, _), ..] = &methods[..] {
            problems.add(*second, format!("set {first} or {second}, not both"));
        }
        let method = methods.pop().map(|(_, method)| method).unwrap_or_default();
        problems.or(method)
    }
}

fn server(url: &str) -> Result<ServerAddr, String> {
    let expected = format!("{url:?} is not the URL of a server, as nats://host:4222 or tls://host:4222");
    let server: ServerAddr = url.parse().map_err(|error| format!("{expected}: {error}"))?;
    if server.has_user_pass() {
        return Err("put user and password into their own keys, not into the URL".to_owned());
    }
    if !["nats", "tls"].contains(&server.scheme()) || server.host().is_empty() {
        return Err(expected);
    }
    Ok(server)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, server) in self.servers.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}://{}:{}", server.scheme(), server.host(), server.port())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> ConnectionSettings {
        ConnectionSettings { urls: vec!["nats://127.0.0.1:4222".to_owned()], ..Default::default() }
    }

    fn problems(settings: ConnectionSettings) -> String {
        settings.check("test").err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn every_mistake_is_told_at_its_place() {
        let urls = ["nats://a:1", "http://b", "nats://", "nats://user:pass@c"].map(str::to_owned).to_vec();
        let text = problems(ConnectionSettings {
            urls,
            user: Some("u".to_owned()),
            token_file: Some("/nowhere/token".into()),
            domain: Some("a b".to_owned()),
            ..Default::default()
        });
        let paths: Vec<_> = text.lines().filter_map(|line| line.split(": ").next()).collect();
        assert_eq!(paths, ["urls[1]", "urls[2]", "urls[3]", "domain", "token_file"], "{text}");
        assert_eq!(
            problems(ConnectionSettings::default()),
            "urls: name at least one server, as nats://host:4222"
        );
    }

    #[test]
    fn one_way_to_prove_who_we_are() {
        let user = ConnectionSettings { user: Some("u".to_owned()), ..settings() };
        assert_eq!(problems(user.clone()), "user: needs password or password_file beside it");
        let both =
            ConnectionSettings { password: Some(Secret::new("p")), token: Some(Secret::new("t")), ..user };
        assert_eq!(problems(both), "token: set user or token, not both");
        let missing = ConnectionSettings { nkey_file: Some("/nowhere/seed".into()), ..settings() };
        assert!(problems(missing).starts_with("nkey_file: cannot read /nowhere/seed"));
        assert_eq!(problems(settings()), "");
    }

    #[test]
    fn a_domain_is_a_prefix_of_the_api() {
        let endpoint = ConnectionSettings { domain: Some("hub".to_owned()), ..settings() }.check("test");
        assert_eq!(endpoint.map(|endpoint| endpoint.api_prefix).unwrap(), "$JS.hub.API");
    }
}
