//! Keys as they stand in a `prometheus.yml`, good ones and bad ones.

use serde_json::{Value, json};

use super::*;

/// What is wrong with settings, as `path: message`.
fn mistakes(keys: Value) -> Vec<String> {
    match settings(keys).client() {
        Ok(_) => Vec::new(),
        Err(error) => error.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn everything_that_prometheus_has_is_taken() {
    assert_eq!(settings(json!({})), HttpClientSettings::default());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, "s3cret\n").unwrap();
    for good in [
        json!({ "basic_auth": {} }),
        json!({ "basic_auth": { "username": "me", "password": "pw" } }),
        json!({ "basic_auth": { "username_file": file, "password_file": file } }),
        json!({ "authorization": { "type": " ", "credentials": "t" } }),
        json!({ "authorization": { "type": "GenieKey", "credentials_file": file } }),
        json!({ "authorization": {} }),
        json!({ "bearer_token": "t" }),
        json!({ "bearer_token": "", "bearer_token_file": file }),
        json!({ "oauth2": {
            "client_id": "me", "client_secret": "s", "scopes": ["a", "b"], "token_url": "https://t/token",
            "endpoint_params": { "audience": "x" }, "tls_config": { "insecure_skip_verify": true },
            "proxy_url": "http://p:1", "no_proxy": "x", "proxy_connect_header": { "a": ["b"] },
            "grant_type": "client_credentials",
        } }),
        json!({ "tls_config": { "server_name": "x", "insecure_skip_verify": true,
            "min_version": "TLS12", "max_version": "TLS13" } }),
        json!({ "tls_config": { "max_version": "TLS12" } }),
        json!({ "follow_redirects": false, "enable_http2": false }),
        json!({ "proxy_url": "socks5://me:pw@p", "no_proxy": "10.0.0.0/8, .example.net",
            "proxy_connect_header": { "x-a": ["one", "two"] } }),
        json!({ "http_headers": { "X-A": { "values": ["a"], "secrets": ["b"], "files": [file] } } }),
    ] {
        assert_eq!(mistakes(good.clone()), Vec::<String>::new(), "{good}");
    }
}

#[test]
fn every_mistake_is_told_at_its_place() {
    let several = json!({
        "basic_auth": { "username": "a:b", "password": "x", "password_file": "/f", "username_ref": "r" },
        "oauth2": { "client_secret": "x", "client_secret_file": "/f", "claims": {}, "scopes": ["a"],
            "endpoint_params": { "scope": "b" }, "grant_type": "urn:x" },
        "tls_config": { "ca": "x", "ca_file": "/f", "key_ref": "r", "min_version": "TLS10" },
        "no_proxy": "x",
        "proxy_connect_header": { "a b": ["x"], "a": ["b\n"] },
        "http_headers": { "Host": { "values": ["x"] }, "X-A": { "values": ["ok", "a\nb"] } },
    });
    assert_eq!(
        mistakes(several),
        [
            "oauth2: there is basic_auth already; set at most one of basic_auth, authorization, oauth2, \
             bearer_token, bearer_token_file",
            "basic_auth.username_ref: Prometheus has this, prometheus-streams does not yet",
            "basic_auth.username: must not contain a colon",
            "basic_auth.password: set password or password_file, not both",
            "oauth2.claims: Prometheus has this, prometheus-streams does not yet",
            "oauth2.grant_type: prometheus-streams knows client_credentials only, yet",
            "oauth2.client_id: must be set",
            "oauth2.client_secret: set client_secret or client_secret_file, not both",
            "oauth2.token_url: must be set",
            "oauth2.endpoint_params.scope: is set by scopes already",
            "no_proxy: needs proxy_url beside it",
            "proxy_connect_header: needs proxy_url or proxy_from_environment beside it",
            "proxy_connect_header.a[0]: the value has characters that cannot be sent",
            "proxy_connect_header.a b: is not the name of a header: it has characters that cannot be sent",
            "http_headers.Host: must not be set here; Prometheus reserves this header",
            "http_headers.X-A.values[1]: credentials: the value has characters that cannot be sent",
            "tls_config.key_ref: Prometheus has this, prometheus-streams does not yet",
            "tls_config.ca: set ca or ca_file, not both",
            "tls_config.min_version: TLS 1.0 and 1.1 are broken, and rustls does not have them: TLS12 or \
             TLS13",
        ]
    );
}

#[test]
fn what_does_not_go_together_is_refused() {
    for (keys, expected) in [
        (
            json!({ "authorization": { "type": "BASIC" } }),
            "authorization.type: must not be \"basic\"; use basic_auth instead",
        ),
        (
            json!({ "authorization": { "credentials": "a", "credentials_file": "/b" } }),
            "authorization.credentials: set credentials or credentials_file, not both",
        ),
        (
            json!({ "bearer_token": "a", "bearer_token_file": "/b" }),
            "bearer_token_file: there is bearer_token already; set at most one of basic_auth, \
             authorization, oauth2, bearer_token, bearer_token_file",
        ),
        (
            json!({ "basic_auth": { "username": "a", "username_file": "/b" } }),
            "basic_auth.username: set username or username_file, not both",
        ),
        (
            json!({ "tls_config": { "min_version": "TLS13", "max_version": "TLS12" } }),
            "tls_config.max_version: must not be older than min_version",
        ),
        (json!({ "tls_config": { "cert": "x" } }), "tls_config.cert: needs key_file beside it"),
        (
            json!({ "tls_config": { "ca": "x" } }),
            "tls_config.ca: cannot read a PEM certificate: there is none in it",
        ),
        (
            json!({ "proxy_url": "http://p", "proxy_from_environment": true }),
            "proxy_url: set proxy_url or proxy_from_environment, not both",
        ),
        (
            json!({ "no_proxy": "p", "proxy_from_environment": true }),
            "no_proxy: set no_proxy or proxy_from_environment, not both",
        ),
        (
            json!({ "proxy_url": "ftp://me:s3cret@p" }),
            "proxy_url: must begin with http://, https:// or socks5://",
        ),
        (json!({ "proxy_url": "p:x" }), "proxy_url: must begin with http://, https:// or socks5://"),
        (
            json!({ "oauth2": { "client_id": "a", "token_url": "x" } }),
            "oauth2.token_url: \"x\" is not a URL: relative URL without a base",
        ),
    ] {
        assert_eq!(mistakes(keys.clone()), [expected], "{keys}");
    }
}

#[test]
fn keys_that_nobody_has_are_refused_wherever_they_stand() {
    for keys in [
        json!({ "proxy": "x" }),
        json!({ "basic_auth": { "user": "x" } }),
        json!({ "authorization": { "kind": "x" } }),
        json!({ "oauth2": { "secret": "x" } }),
        json!({ "tls_config": { "ca_path": "x" } }),
        json!({ "http_headers": { "x": { "value": "x" } } }),
    ] {
        let error = serde_json::from_value::<HttpClientSettings>(keys.clone()).unwrap_err().to_string();
        assert!(error.starts_with("unknown field "), "{keys}: {error}");
    }
}

#[test]
fn nothing_secret_is_printed() {
    let keys = json!({
        "basic_auth": { "username": "me", "password": "s3cret" },
        "proxy_url": "http://me:s3cret@p", "proxy_connect_header": { "a": ["s3cret"] },
        "http_headers": { "a": { "secrets": ["s3cret"] } },
    });
    let client = client(keys.clone());
    let shown = format!("{:?} {client:?}", settings(keys));
    assert!(!shown.contains("s3cret") && shown.contains("p:80"), "{shown}");
}
