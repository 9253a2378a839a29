//! Which requests go through a proxy, and what the proxy sees of them. (Real proxies are asked in the
//! tests of the whole.)

use std::collections::BTreeMap;

use serde_json::json;

use super::super::proxy::ProxyKeys;
use super::*;

/// A proxy that answers for plain targets, and opens tunnels.
async fn proxy() -> TestServer {
    TestServer::start(|request| match request.starts_with("CONNECT ") {
        true => Answer::Tunnel,
        false => Answer::ok("from the proxy"),
    })
    .await
}

#[tokio::test]
async fn plain_targets_are_asked_for_in_full_over_one_connection() {
    let proxy = proxy().await;
    let client = client(json!({
        "proxy_url": format!("http://me:p%40w@{}", proxy.address), "no_proxy": "10.0.0.0/8",
        "proxy_connect_header": { "X-Tunnel": ["t"] },
    }));
    for host in ["db1.invalid:9100", "db2.invalid"] {
        let url = format!("http://{host}/metrics?x=1");
        assert_eq!(body_of(&client, &url).await.unwrap(), "from the proxy");
        let request = proxy.requests().pop().unwrap();
        assert!(request.starts_with(&format!("GET {url} HTTP/1.1\r\n")), "{request}");
        assert!(request.contains(&format!("host: {host}\r\n")), "{request}");
        // me:p@w
        assert!(request.contains("proxy-authorization: Basic bWU6cEB3\r\n"), "{request}");
        assert!(!request.contains("x-tunnel"), "{request}");
    }
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn secure_targets_are_reached_through_a_tunnel() {
    let authority = Authority::new();
    let target = TestServer::start_tls(authority.server("127.0.0.1", false), |_| Answer::ok("safe")).await;
    let proxy = proxy().await;
    let client = client(json!({
        "proxy_url": format!("http://me:pw@{}", proxy.address), "bearer_token": "s3cret",
        "proxy_connect_header": { "X-Tunnel": ["a", "b"] },
        "tls_config": { "ca_file": authority.settings().ca_file },
    }));
    for _ in 0..2 {
        assert_eq!(body_of(&client, &format!("https://{}/", target.address)).await.unwrap(), "safe");
    }
    let requests = proxy.requests();
    let [request] = &requests[..] else { panic!("one tunnel: {requests:?}") };
    let address = &target.address;
    assert!(request.starts_with(&format!("CONNECT {address} HTTP/1.1\r\nhost: {address}\r\n")), "{request}");
    for line in ["x-tunnel: a\r\n", "x-tunnel: b\r\n", "proxy-authorization: Basic bWU6cHc=\r\n"] {
        assert!(request.contains(line), "{request}");
    }
    assert!(!request.contains("s3cret"), "the proxy sees no credentials of the target: {request}");
    assert!(!target.requests()[0].contains("proxy-authorization"));
}

#[tokio::test]
async fn a_proxy_may_be_secure_itself() {
    let authority = Authority::new();
    let proxy = TestServer::start_tls(authority.server("127.0.0.1", false), |request| {
        if request.starts_with("CONNECT ") { Answer::Tunnel } else { Answer::ok("from the proxy") }
    })
    .await;
    let target = TestServer::start_tls(authority.server("127.0.0.1", false), |_| Answer::ok("safe")).await;
    let client = client(json!({
        "proxy_url": format!("https://{}", proxy.address),
        "tls_config": { "ca_file": authority.settings().ca_file },
    }));
    assert_eq!(body_of(&client, &format!("https://{}/", target.address)).await.unwrap(), "safe");
    assert_eq!(body_of(&client, "http://db1.invalid/").await.unwrap(), "from the proxy");
}

#[tokio::test]
async fn a_proxy_that_does_not_let_us_through_is_the_reason() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = listener.local_addr().unwrap().to_string();
    drop(listener);
    let of = |address: &str| client(json!({ "proxy_url": format!("http://me:pw@{address}") }));
    let error = body_of(&of(&gone), "https://db1.invalid/").await.unwrap_err();
    assert_eq!(error, format!("proxy {gone}: cannot connect: connection refused"));

    for (answer, expected) in [
        (Answer::complete("403 Forbidden", &[], "no"), "status 403 Forbidden"),
        (
            Answer::complete("407 Proxy Authentication Required", &[], ""),
            "status 407 Proxy Authentication Required",
        ),
        (Answer::Last(Bytes::new()), "broken answer: connection closed before message completed"),
        (Answer::Last("nonsense\r\n\r\n".into()), "broken answer: invalid HTTP version parsed"),
    ] {
        let proxy = TestServer::start(move |_| answer.clone()).await;
        let error = body_of(&of(&proxy.address), "https://db1.invalid/").await.unwrap_err();
        assert_eq!(error, format!("proxy {}: {expected}", proxy.address));
    }
    for answer in
        [Answer::Stall(Bytes::new()), Answer::Endless("HTTP/1.1 200 OK\r\n".into(), "a: b\r\n".into())]
    {
        let proxy = TestServer::start(move |_| answer.clone()).await;
        let short = Limits { timeout: Duration::from_millis(300), ..limits() };
        let answer = of(&proxy.address).send(get("https://db1.invalid/"), &short).await;
        let error = answer.unwrap_err().to_string();
        let prefix = format!("proxy {}: ", proxy.address);
        assert!(error == "timed out after 300ms" || error.starts_with(&prefix), "{error}");
    }
}

fn chosen(keys: ProxyKeys<'_>, environment: &[(&str, &str)], url: &str) -> Option<String> {
    let variable =
        |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
    let proxies = Proxies::with_environment(keys, variable).unwrap();
    proxies.choose(&url.parse().unwrap()).map(ToString::to_string)
}

#[test]
fn the_environment_names_a_proxy_for_each_scheme() {
    let none = BTreeMap::new();
    let choose = |environment: &[(&str, &str)], url: &str| {
        let keys = ProxyKeys { url: None, no_proxy: None, from_environment: true, connect_header: &none };
        chosen(keys, environment, url)
    };
    let upper = [("HTTP_PROXY", "http://plain:1"), ("HTTPS_PROXY", "secure"), ("NO_PROXY", "example.net")];
    let proxy = |name: &str| Some(name.to_owned());
    assert_eq!(choose(&upper, "http://db1/"), proxy("plain:1"));
    assert_eq!(choose(&upper, "https://db1/"), proxy("secure:80"));
    assert_eq!(choose(&upper, "http://db1.example.net/"), None);
    assert_eq!(choose(&upper, "http://localhost/"), None);
    let lower = [("http_proxy", "plain:2"), ("HTTP_PROXY", ""), ("no_proxy", "db1:9100")];
    assert_eq!(choose(&lower, "http://db1/"), proxy("plain:2"));
    assert_eq!(choose(&lower, "http://db1:9100/"), None);
    assert_eq!(choose(&lower, "https://db1/"), None);
    assert_eq!(choose(&[], "http://db1/"), None);
}

#[test]
fn a_proxy_without_exceptions_is_for_everything_even_this_machine() {
    let (none, url) = (BTreeMap::new(), Secret::new("socks5://p"));
    let keys =
        |no_proxy| ProxyKeys { url: Some(&url), no_proxy, from_environment: false, connect_header: &none };
    assert_eq!(chosen(keys(None), &[], "http://localhost/"), Some("p:1080".to_owned()));
    assert_eq!(chosen(keys(Some("x")), &[], "http://localhost/"), None);
    assert_eq!(chosen(keys(Some("x")), &[], "http://y/"), Some("p:1080".to_owned()));
}

#[test]
fn an_environment_that_names_no_proxy_is_a_mistake() {
    let none = BTreeMap::new();
    let keys = ProxyKeys { url: None, no_proxy: None, from_environment: true, connect_header: &none };
    let variable = |name: &str| (name == "HTTPS_PROXY").then(|| "ftp://me:s3cret@p".to_owned());
    assert_eq!(
        Proxies::with_environment(keys, variable).unwrap_err().to_string(),
        "proxy_from_environment: the environment has a HTTPS_PROXY that is none: must begin with http://, \
         https:// or socks5://"
    );
}
