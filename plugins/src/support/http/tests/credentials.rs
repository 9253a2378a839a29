//! What goes into requests by itself, where it does not go, and tokens.

use serde_json::json;

use super::*;

#[tokio::test]
async fn credentials_stay_with_the_host_that_they_are_for() {
    let other = TestServer::start(|_| Answer::ok("")).await;
    // The same server under another name.
    let elsewhere = format!("Location: http://localhost:{}/", other.address.rsplit(':').next().unwrap());
    let same = format!("Location: http://{}/", other.address);
    let server = TestServer::start(move |head| {
        let location = if head.starts_with("GET /same ") { &same } else { &elsewhere };
        Answer::complete("302 Found", &[location], "")
    })
    .await;
    let auth = Auth::bearer(Some(Secret::new("s3cret")), None).unwrap().unwrap();
    let client = HttpClient::new(&TlsSettings::default()).unwrap();
    for path in ["/same", "/other"] {
        let mut request = get(format!("http://{}{path}", server.address));
        auth.apply(request.headers_mut()).unwrap();
        client.send(request, &limits()).await.unwrap();
    }
    let sent: Vec<_> = other.requests().iter().map(|head| head.contains("Bearer s3cret")).collect();
    assert_eq!(sent, [true, false]);
}

#[test]
fn credentials_are_one_kind_and_read_again_for_every_request() {
    let value = |auth: &Auth| {
        let mut headers = hyper::HeaderMap::new();
        auth.apply(&mut headers).map(|()| headers[AUTHORIZATION].to_str().unwrap().to_owned())
    };
    let basic =
        BasicAuth { username: "me".to_owned(), password: Some(Secret::new("pw")), ..BasicAuth::default() };
    let auth = Auth::from_keys(Some(basic.clone()), None, None).unwrap().unwrap();
    assert_eq!(value(&auth).unwrap(), "Basic bWU6cHc=");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "one\n").unwrap();
    let auth = Auth::from_keys(None, None, Some(path.clone())).unwrap().unwrap();
    assert_eq!(value(&auth).unwrap(), "Bearer one");
    std::fs::write(&path, "two\n").unwrap();
    assert_eq!(value(&auth).unwrap(), "Bearer two");
    std::fs::write(&path, "t\nwo").unwrap();
    let error = value(&auth).unwrap_err().to_string();
    assert_eq!(error, "credentials: the bearer token has characters that cannot be sent");
    std::fs::remove_file(&path).unwrap();
    let error = value(&auth).unwrap_err().to_string();
    assert!(error.starts_with("credentials: cannot read "), "{error}");

    let both = Auth::from_keys(Some(basic.clone()), Some(Secret::new("t")), None).unwrap_err();
    assert_eq!(both.to_string(), "basic_auth: set basic_auth or a bearer token, not both");
    let wrong = BasicAuth { username: "a:b".to_owned(), password_file: Some(path), ..basic };
    let wrong = Auth::from_keys(Some(wrong), Some(Secret::new("t")), Some("/nowhere".into())).unwrap_err();
    let paths: Vec<_> = wrong.problems().iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["bearer_token", "basic_auth.username", "basic_auth.password"]);
    assert_eq!(Auth::from_keys(None, None, None), Ok(None));
}

/// A server that redirects `/same` to itself, `/other` to itself under another name, and from there
/// `/back`, to itself again.
async fn wanderer() -> TestServer {
    let answer = |request: &str| {
        let address = request.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
        let port = address.rsplit(':').next().unwrap_or_default();
        let path = request.split(' ').nth(1).unwrap_or_default();
        let to = match path {
            "/same" => "/end".to_owned(),
            "/other" => format!("http://localhost:{port}/end"),
            "/round" => format!("http://localhost:{port}/back"),
            "/back" => format!("http://127.0.0.1:{port}/end"),
            _ => return Answer::ok("end"),
        };
        Answer::complete("302 Found", &[&format!("Location: {to}")], "")
    };
    TestServer::start(answer).await
}

/// The last request that `server` got, without its first line, sorted.
fn last_headers(server: &TestServer) -> Vec<String> {
    let requests = server.requests();
    let mut lines: Vec<_> = requests[requests.len() - 1].lines().skip(1).map(str::to_owned).collect();
    lines.retain(|line| !line.is_empty() && !line.starts_with("host: "));
    lines.sort();
    lines
}

#[tokio::test]
async fn headers_go_with_every_request_and_private_ones_only_home() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tenant");
    std::fs::write(&file, " one \n").unwrap();
    let client = client(json!({
        "authorization": { "type": "GenieKey", "credentials_file": file },
        "http_headers": {
            "X-Scope": { "values": ["a", "b"] }, "X-Key": { "secrets": ["s3cret"] },
            "X-Tenant": { "files": [file] }, "Cookie": { "values": ["c"] },
        },
    }));
    let server = wanderer().await;
    let ask = async |path| {
        body_of(&client, &format!("http://{}{path}", server.address)).await.unwrap();
        last_headers(&server)
    };
    let all = ["authorization: GenieKey one", "cookie: c", "x-key: s3cret", "x-scope: a", "x-scope: b"];
    assert_eq!(ask("/end").await, [&all[..], &["x-tenant: one"]].concat());
    std::fs::write(&file, "two").unwrap();
    let all = ["authorization: GenieKey two", "cookie: c", "x-key: s3cret", "x-scope: a", "x-scope: b"];
    assert_eq!(ask("/same").await, [&all[..], &["x-tenant: two"]].concat());
    assert_eq!(ask("/other").await, ["x-scope: a", "x-scope: b"]);
    assert_eq!(ask("/round").await, ["x-scope: a", "x-scope: b"], "who was away is a stranger at home");

    std::fs::remove_file(&file).unwrap();
    let error = body_of(&client, &format!("http://{}/", server.address)).await.unwrap_err();
    assert!(error.starts_with("http_headers: x-tenant: cannot read "), "{error}");
}

#[tokio::test]
async fn credentials_do_not_go_from_https_to_http() {
    let authority = Authority::new();
    let plain = TestServer::start(|_| Answer::ok("plain")).await;
    let location = format!("Location: http://{}/", plain.address);
    let secure = TestServer::start_tls(authority.server("127.0.0.1", false), move |_| {
        Answer::complete("307 Temporary Redirect", &[&location], "")
    })
    .await;
    let client = client(json!({
        "bearer_token": "s3cret", "tls_config": { "ca_file": authority.settings().ca_file },
    }));
    assert_eq!(body_of(&client, &format!("https://{}/", secure.address)).await.unwrap(), "plain");
    assert!(secure.requests()[0].contains("authorization: Bearer s3cret"));
    assert!(!plain.requests()[0].contains("s3cret"));
}

#[tokio::test]
async fn redirects_that_are_not_followed_are_answers() {
    let server = wanderer().await;
    let client = client(json!({ "follow_redirects": false }));
    let answer = client.send(get(format!("http://{}/same", server.address)), &limits()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::FOUND);
}

#[tokio::test]
async fn the_tenth_redirect_is_one_too_many() {
    let chain = |length: usize| {
        TestServer::start(move |request| {
            let at: usize = request.split(['/', ' ']).nth(2).and_then(|at| at.parse().ok()).unwrap_or(0);
            match at {
                at if at == length => Answer::ok("end"),
                at => Answer::complete("308 Permanent Redirect", &[&format!("Location: /{}", at + 1)], ""),
            }
        })
    };
    let client = HttpClient::new(&TlsSettings::default()).unwrap();
    let nine = chain(9).await;
    assert_eq!(body_of(&client, &format!("http://{}/0", nine.address)).await.unwrap(), "end");
    assert_eq!((nine.requests().len(), nine.connections()), (10, 1), "over one connection");
    let ten = chain(10).await;
    let error = body_of(&client, &format!("http://{}/0", ten.address)).await.unwrap_err();
    assert_eq!((error.as_str(), ten.requests().len()), ("stopped after 10 redirects", 10));
}

/// A client that gets its tokens from `server`, and the target that shows which it sent.
async fn with_tokens(server: &TestServer, more: serde_json::Value) -> (HttpClient, TestServer) {
    let mut oauth2 = json!({ "client_id": "me@x", "client_secret": "s3/cret",
        "token_url": format!("http://{}/token", server.address) });
    oauth2.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let target = TestServer::start(|request| {
        let line = request.lines().find(|line| line.starts_with("authorization: "));
        Answer::ok(line.unwrap_or("nobody"))
    });
    (client(json!({ "oauth2": oauth2 })), target.await)
}

/// A server whose tokens count up, and live for so many seconds.
async fn token_server(lifetime: u32) -> TestServer {
    let count = AtomicUsize::new(1);
    TestServer::start(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        let token =
            json!({ "access_token": format!("t{number}"), "token_type": "bearer", "expires_in": lifetime });
        Answer::complete("200 OK", &["Content-Type: application/json;charset=UTF-8"], token.to_string())
    })
    .await
}

#[tokio::test]
async fn a_token_is_fetched_once_and_again_when_it_is_about_to_expire() {
    let tokens = token_server(3600).await;
    let more = json!({ "scopes": ["a", "b"], "endpoint_params": { "audience": "x y" } });
    let (client, target) = with_tokens(&tokens, more).await;
    let url = format!("http://{}/", target.address);
    let all = futures_util::future::join_all((0..20).map(|_| body_of(&client, &url))).await;
    assert!(all.iter().all(|body| body.as_ref().unwrap() == "authorization: Bearer t1"), "{all:?}");

    let requests = tokens.requests();
    let [request] = &requests[..] else { panic!("one request: {requests:?}") };
    assert!(request.starts_with("POST /token HTTP/1.1\r\n"), "{request}");
    // me%40x:s3%2Fcret
    assert!(request.contains("authorization: Basic bWUlNDB4OnMzJTJGY3JldA=="), "{request}");
    assert!(request.ends_with("\r\n\r\naudience=x+y&grant_type=client_credentials&scope=a+b"), "{request}");

    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3589)).await;
    tokio::time::resume();
    assert_eq!(body_of(&client, &url).await.unwrap(), "authorization: Bearer t1");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(2)).await;
    tokio::time::resume();
    assert_eq!(body_of(&client, &url).await.unwrap(), "authorization: Bearer t2");
}

#[tokio::test]
async fn another_secret_gets_another_token() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, "one\n").unwrap();
    let tokens = token_server(3600).await;
    let (client, target) =
        with_tokens(&tokens, json!({ "client_secret": "", "client_secret_file": file })).await;
    let url = format!("http://{}/", target.address);
    for (secret, token) in [("one", "t1"), ("one ", "t1"), ("two", "t2")] {
        std::fs::write(&file, secret).unwrap();
        assert_eq!(body_of(&client, &url).await.unwrap(), format!("authorization: Bearer {token}"));
    }
}

#[tokio::test]
async fn a_server_that_wants_to_be_told_in_the_body_is_told_so() {
    let tokens = TestServer::start(|request| match request.contains("client_secret=s3%2Fcret") {
        true => Answer::complete("200 OK", &["Content-Type: text/plain"], "access_token=t&expires_in=1"),
        false => Answer::complete("401 Unauthorized", &[], r#"{"error":"invalid_client"}"#),
    })
    .await;
    let (client, target) = with_tokens(&tokens, json!({})).await;
    let url = format!("http://{}/", target.address);
    for requests in [2, 3] {
        // A token that lives a second is good for one request.
        assert_eq!(body_of(&client, &url).await.unwrap(), "authorization: Bearer t");
        assert_eq!(tokens.requests().len(), requests, "the way is found out once");
    }
    assert!(tokens.requests()[2].contains("client_id=me%40x"));
}

#[tokio::test]
async fn without_a_token_there_is_no_request() {
    for (answer, expected) in [
        (
            Answer::complete("400 Bad Request", &[], r#"{"error":"invalid_scope"}"#),
            "broken answer: status 400 Bad Request, \"invalid_scope\"",
        ),
        (Answer::complete("500 Internal Server Error", &[], "oops"), "status 500 Internal Server Error"),
        (Answer::complete("200 OK", &[], "{}"), "broken answer: there is no access_token in it"),
        (Answer::complete("200 OK", &[], vec![b' '; (1 << 20) + 1]), "body larger than 1MiB"),
        (Answer::Last(Bytes::new()), "broken answer: connection closed before message completed"),
    ] {
        let tokens = TestServer::start(move |_| answer.clone()).await;
        let (client, target) = with_tokens(&tokens, json!({})).await;
        let error = body_of(&client, &format!("http://{}/", target.address)).await.unwrap_err();
        assert_eq!(error, format!("cannot get a token from {}: {expected}", tokens.address));
        assert!(target.requests().is_empty());
    }
}

#[tokio::test]
async fn what_a_token_server_says_does_not_fill_the_log() {
    for (status, answer) in
        [("400 Bad Request", json!({ "error": "x".repeat(100_000) })), ("200 OK", json!("x".repeat(100_000)))]
    {
        let tokens = TestServer::start(move |_| Answer::complete(status, &[], answer.to_string())).await;
        let (client, target) = with_tokens(&tokens, json!({})).await;
        let error = body_of(&client, &format!("http://{}/", target.address)).await.unwrap_err();
        assert!(error.contains("xxxxx") && error.len() < 300, "{} bytes", error.len());
    }
}

#[tokio::test]
async fn a_token_server_that_stalls_costs_no_more_than_the_request_may_take() {
    let tokens = TestServer::start(|_| Answer::Stall(Bytes::new())).await;
    let (client, target) = with_tokens(&tokens, json!({})).await;
    let short = Limits { timeout: Duration::from_millis(200), ..limits() };
    let url = format!("http://{}/", target.address);
    let both =
        futures_util::future::join(client.send(get(&url), &short), client.send(get(&url), &short)).await;
    for answer in [both.0, both.1] {
        assert_eq!(answer.unwrap_err().to_string(), "timed out after 200ms");
    }
    assert_eq!(tokens.connections(), 1, "one asks, the other waits");
}
