//! Whom a client trusts, who it is, and that it notices when files change.

use serde_json::json;

use super::*;

async fn fetch_tls(server: &TestServer, tls: &TlsSettings) -> Result<Bytes, String> {
    let client = HttpClient::new(tls).unwrap();
    let answer = client.send(get(format!("https://{}/", server.address)), &limits()).await;
    answer.map(Response::into_body).map_err(|error| error.to_string())
}

#[tokio::test]
async fn tls_trusts_the_authority_and_the_name_that_it_is_told_to() {
    let authority = Authority::new();
    let server = TestServer::start_tls(authority.server("127.0.0.1", false), |_| Answer::ok("safe")).await;
    assert_eq!(fetch_tls(&server, &authority.settings()).await.unwrap(), "safe");

    let stranger = fetch_tls(&server, &Authority::new().settings()).await.unwrap_err();
    assert!(stranger.starts_with("TLS: invalid peer certificate: "), "{stranger}");

    let named =
        TestServer::start_tls(authority.server("db1.example.net", false), |_| Answer::ok("named")).await;
    let wrong = fetch_tls(&named, &authority.settings()).await.unwrap_err();
    assert!(wrong.contains("certificate not valid for name"), "{wrong}");
    let told = TlsSettings { server_name: Some("db1.example.net".to_owned()), ..authority.settings() };
    assert_eq!(fetch_tls(&named, &told).await.unwrap(), "named");
    let blind = TlsSettings { insecure_skip_verify: true, ..TlsSettings::default() };
    assert_eq!(fetch_tls(&named, &blind).await.unwrap(), "named");

    let plain = TestServer::start(|_| Answer::Last("HTTP/1.1 400 Bad Request\r\n\r\n".into())).await;
    let error = fetch_tls(&plain, &authority.settings()).await.unwrap_err();
    assert!(error.starts_with("TLS: "), "{error}");
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_it_is_wanted() {
    let authority = Authority::new();
    let server = TestServer::start_tls(authority.server("127.0.0.1", true), |_| Answer::ok("known")).await;
    let error = fetch_tls(&server, &authority.settings()).await.unwrap_err();
    assert_eq!(error, "TLS: received fatal alert: CertificateRequired");

    let settings = authority.settings_of("poller");
    assert_eq!(fetch_tls(&server, &settings).await.unwrap(), "known");
}

/// The body of `server`, as somebody gets it who trusts what stands in `ca_file`.
fn trusting(ca_file: &std::path::Path) -> HttpClient {
    client(json!({ "tls_config": { "ca_file": ca_file }, "enable_http2": false }))
}

#[tokio::test]
async fn files_that_change_are_read_again_and_old_connections_not_used() {
    let (ours, other) = (Authority::new(), Authority::new());
    let server = TestServer::start_tls(ours.server("127.0.0.1", false), |_| Answer::ok("safe")).await;
    let url = format!("https://{}/", server.address);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    let write = |authority: &Authority| {
        let pem = std::fs::read(authority.settings().ca_file.unwrap()).unwrap();
        // In one step, as those do who rotate certificates.
        std::fs::write(dir.path().join("new"), pem).unwrap();
        std::fs::rename(dir.path().join("new"), &file).unwrap();
    };
    write(&ours);
    let client = trusting(&file);
    for _ in 0..2 {
        assert_eq!(body_of(&client, &url).await.unwrap(), "safe");
    }
    assert_eq!(server.connections(), 1);

    write(&other);
    let error = body_of(&client, &url).await.unwrap_err();
    assert!(error.starts_with("TLS: invalid peer certificate: "), "{error}");

    std::fs::remove_file(&file).unwrap();
    let error = body_of(&client, &url).await.unwrap_err();
    assert!(error.starts_with(&format!("TLS: ca_file: cannot read {}: ", file.display())), "{error}");

    std::fs::write(&file, "nonsense").unwrap();
    let error = body_of(&client, &url).await.unwrap_err();
    assert!(error.ends_with("there is none in it"), "{error}");

    write(&ours);
    assert_eq!(body_of(&client, &url).await.unwrap(), "safe");
    assert_eq!(server.connections(), 3, "one at first, one that was not trusted, and a new one");
}

#[tokio::test]
async fn a_new_client_certificate_is_shown_on_a_new_connection() {
    let authority = Authority::new();
    let server = TestServer::start_tls(authority.server("127.0.0.1", true), |_| Answer::ok("known")).await;
    let url = format!("https://{}/", server.address);
    let tls = authority.settings_of("poller");
    let client = HttpClient::new(&tls).unwrap();
    assert_eq!(body_of(&client, &url).await.unwrap(), "known");
    // A new pair, in the same files.
    authority.settings_of("poller");
    assert_eq!(body_of(&client, &url).await.unwrap(), "known");
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn certificates_may_stand_in_the_configuration() {
    let authority = Authority::new();
    let server = TestServer::start_tls(authority.server("127.0.0.1", true), |_| Answer::ok("known")).await;
    let text = |path: Option<std::path::PathBuf>| std::fs::read_to_string(path.unwrap()).unwrap();
    let tls = authority.settings_of("poller");
    let keys = json!({ "ca": text(tls.ca_file), "cert": text(tls.cert_file), "key": text(tls.key_file) });
    let client = client(json!({ "tls_config": keys }));
    assert_eq!(body_of(&client, &format!("https://{}/", server.address)).await.unwrap(), "known");
}

#[tokio::test]
async fn versions_of_tls_are_agreed_within_bounds() {
    let authority = Authority::new();
    let old = authority.server_of("127.0.0.1", false, &[&rustls::version::TLS12]);
    let server = TestServer::start_tls(old, |_| Answer::ok("old")).await;
    let url = format!("https://{}/", server.address);
    let ca = authority.settings().ca_file.unwrap();
    let ask = async |bounds: serde_json::Value| {
        let mut keys = bounds;
        keys["ca_file"] = json!(ca);
        body_of(&client(json!({ "tls_config": keys })), &url).await
    };
    assert_eq!(ask(json!({})).await.unwrap(), "old");
    assert_eq!(ask(json!({ "max_version": "TLS12" })).await.unwrap(), "old");
    assert_eq!(
        ask(json!({ "min_version": "TLS13" })).await.unwrap_err(),
        "TLS: received fatal alert: ProtocolVersion"
    );
}
