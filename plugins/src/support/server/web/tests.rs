use std::net::SocketAddr;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::{Listen, Request, Server};
use super::*;

/// Of the passwords "secret" and "other", at the lowest cost.
const SECRET: &str = "$2b$04$wg1YPL7bX21WVTr//gfVwOn8VUnY3aqwjpCD1Nwd4nIMCIHTW/hva";
const OTHER: &str = "$2b$04$QGN8Y8XH37DB/i5ZCpc6Z.j3D3boXXJ1.LcjMDyvouoBn7HdIPSVG";

/// A directory with `ca.pem`, and certificates of that authority.
struct Site {
    dir: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Site {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, key).unwrap();
        let site = Self { dir: tempfile::tempdir().unwrap(), authority };
        std::fs::write(site.file("ca.pem"), site.authority.pem()).unwrap();
        site.issue("server", &["127.0.0.1"]);
        site
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn issue(&self, name: &str, names: &[&str]) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        std::fs::write(self.file(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn write(&self, config: &str) {
        std::fs::write(self.file("web.yml"), config).unwrap();
    }

    fn load(&self, config: &str) -> Result<WebConfig, String> {
        self.write(config);
        WebConfigFile(self.file("web.yml")).load().map_err(|error| error.to_string())
    }

    /// A server with this configuration, until the guard is dropped.
    async fn serve(&self, config: &str) -> (SocketAddr, DropGuard) {
        let web = self.load(config).unwrap();
        let server = Server::bind(Listen(([127, 0, 0, 1], 0).into())).await.unwrap();
        let (address, shutdown) = (server.address(), CancellationToken::new());
        let (server, token) = (server.with_web_config(Some(web)), shutdown.clone());
        let handler =
            |request: Request| async move { text(StatusCode::OK, format_args!("{:?}", request.version())) };
        tokio::spawn(async move { server.serve("a test", handler, token).await });
        (address, shutdown.drop_guard())
    }

    /// A client that trusts this site, and shows a certificate of `shown`.
    fn client(&self, shown: Option<(&Site, &str)>, alpn: &[u8]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file("ca.pem")).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shown {
            Some((site, name)) => {
                let certificate = CertificateDer::from_pem_file(site.file(&format!("{name}.pem"))).unwrap();
                let key = PrivateKeyDer::from_pem_file(site.file(&format!("{name}.key"))).unwrap();
                builder.with_client_auth_cert(vec![certificate], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";

/// The answer over TLS, or why there is none.
async fn ask(address: SocketAddr, client: TlsConnector, header: &str) -> io::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = client.connect(name, stream).await?;
    stream.write_all(format!("{GET}{header}\r\n").as_bytes()).await?;
    let mut answer = String::new();
    // A server that refuses a certificate of TLS 1.3 says so only now.
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn ask_plainly(address: SocketAddr, header: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{GET}{header}\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn basic(user: &str, password: &str) -> String {
    use base64::Engine;
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("authorization: Basic {credentials}\r\n")
}

#[tokio::test]
async fn users_are_asked_for_their_passwords() {
    let site = Site::new();
    let config = format!(
        "basic_auth_users: {{ ann: {SECRET} }}\nhttp_server_config: {{ headers: {{ X-Frame-Options: deny }} }}\n"
    );
    let (address, _running) = site.serve(&config).await;
    for _ in 0..2 {
        let answer = ask_plainly(address, &basic("ann", "secret")).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("x-frame-options: deny\r\n"),
            "{answer}"
        );
    }
    let wrong = [
        basic("ann", "other"),
        basic("bob", "secret"),
        "authorization: Bearer x\r\n".to_owned(),
        String::new(),
    ];
    for header in wrong {
        let answer = ask_plainly(address, &header).await;
        assert!(
            answer.starts_with("HTTP/1.1 401") && answer.contains("www-authenticate: Basic\r\n"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn the_file_is_followed_and_while_it_is_broken_nobody_is_let_in() {
    let site = Site::new();
    let users = |hash: &str| format!("basic_auth_users: {{ ann: {hash} }}\n");
    let (address, _running) = site.serve(&users(SECRET)).await;
    let status = async |password: &str| {
        ask_plainly(address, &basic("ann", password)).await["HTTP/1.1 ".len()..][..3].to_owned()
    };
    assert_eq!(status("secret").await, "200");
    site.write(&users(OTHER));
    assert_eq!((status("secret").await, status("other").await), ("401".to_owned(), "200".to_owned()));
    site.write("basic_auth_users: [");
    assert_eq!(status("other").await, "500");
    site.write(&users(SECRET));
    assert_eq!(status("secret").await, "200");
}

#[tokio::test]
async fn a_certificate_that_is_renewed_is_shown_to_the_next_client() {
    let (site, other) = (Site::new(), Site::new());
    let config = "tls_server_config: { cert_file: server.pem, key_file: server.key }\n";
    let (address, _running) = site.serve(config).await;
    ask(address, site.client(None, b"http/1.1"), "").await.unwrap();
    for file in ["server.pem", "server.key"] {
        std::fs::copy(other.file(file), site.file(file)).unwrap();
    }
    ask(address, site.client(None, b"http/1.1"), "").await.unwrap_err();
    ask(address, other.client(None, b"http/1.1"), "").await.unwrap();
    std::fs::remove_file(site.file("server.key")).unwrap();
    ask(address, other.client(None, b"http/1.1"), "").await.unwrap_err();
    std::fs::copy(other.file("server.key"), site.file("server.key")).unwrap();
    ask(address, other.client(None, b"http/1.1"), "").await.unwrap();
    site.write("basic_auth_users: {}\n");
    ask(address, other.client(None, b"http/1.1"), "").await.unwrap_err();
}

#[tokio::test]
async fn clients_are_asked_for_certificates_in_five_ways() {
    let (site, foreign) = (Site::new(), Site::new());
    site.issue("client", &["client.example.net"]);
    foreign.issue("client", &["client.example.net"]);
    for (kind, [without, ours, theirs]) in [
        ("NoClientCert", [true, true, true]),
        ("RequestClientCert", [true, true, true]),
        ("RequireAnyClientCert", [false, true, true]),
        ("VerifyClientCertIfGiven", [true, true, false]),
        ("RequireAndVerifyClientCert", [false, true, false]),
    ] {
        let ca = if kind == "NoClientCert" { "" } else { ", client_ca_file: ca.pem" };
        let config = format!(
            "tls_server_config: {{ cert_file: server.pem, key_file: server.key, client_auth_type: {kind}{ca} }}\n"
        );
        let (address, _running) = site.serve(&config).await;
        for (shown, is_let_in) in
            [(None, without), (Some((&site, "client")), ours), (Some((&foreign, "client")), theirs)]
        {
            let answer = ask(address, site.client(shown, b"http/1.1"), "").await;
            assert_eq!(answer.is_ok(), is_let_in, "{kind} {:?}: {answer:?}", shown.map(|(_, name)| name));
        }
    }
}

#[tokio::test]
async fn a_client_needs_a_name_that_is_allowed() {
    let site = Site::new();
    let config = "tls_server_config:\n  { cert_file: server.pem, key_file: server.key, client_ca_file: ca.pem,\n    \
                  client_auth_type: RequireAndVerifyClientCert, client_allowed_sans: [a.example.net, 10.0.0.1] }\n";
    let (address, _running) = site.serve(config).await;
    for (names, is_let_in) in [
        (&["a.example.net"][..], true),
        (&["b.example.net", "10.0.0.1"], true),
        (&["b.example.net", "10.0.0.2"], false),
        (&[], false),
    ] {
        site.issue("client", names);
        let answer = ask(address, site.client(Some((&site, "client")), b"http/1.1"), "").await;
        assert_eq!(answer.is_ok(), is_let_in, "{names:?}: {answer:?}");
    }
}

#[tokio::test]
async fn http_2_is_spoken_unless_it_is_forbidden() {
    let site = Site::new();
    let tls = "tls_server_config: { cert_file: server.pem, key_file: server.key }\n";
    let http2 = async |config: &str| {
        let (address, _running) = site.serve(config).await;
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = site.client(None, b"h2").connect(name, stream).await?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(executor, io).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        let request = hyper::Request::get("https://127.0.0.1/").body(super::super::Body::default()).unwrap();
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        Ok::<_, io::Error>((answer.version(), answer.status()))
    };
    assert_eq!(http2(tls).await.unwrap(), (hyper::Version::HTTP_2, StatusCode::OK));
    http2(&format!("{tls}http_server_config: {{ http2: false }}\n")).await.unwrap_err();
}

#[test]
fn an_empty_file_asks_for_nothing() {
    let site = Site::new();
    for config in ["", "# nothing\n", "basic_auth_users:\n", "tls_server_config: {}\n"] {
        assert!(!site.load(config).unwrap().is_tls(), "{config}");
    }
}

#[test]
fn every_mistake_names_its_place() {
    let site = Site::new();
    let tls = |more: &str| {
        format!("tls_server_config: {{ cert_file: server.pem, key_file: server.key, {more} }}\n")
    };
    for (config, said) in [
        ("tls_config: {}\n".to_owned(), "unknown field `tls_config`"),
        (tls("cert_fil: x"), "unknown field `cert_fil`"),
        (
            "tls_server_config: { cert_file: server.pem }\n".to_owned(),
            "tls_server_config.key_file: is missing",
        ),
        (
            "tls_server_config: { cert_file: none.pem, key_file: server.key }\n".to_owned(),
            "none.pem: No such file",
        ),
        (tls("client_auth_type: Always"), "unknown variant `Always`"),
        (tls("client_ca_file: ca.pem"), "client_auth_type: must be set"),
        (tls("min_version: TLS10"), "min_version: TLS 1.0 and 1.1 are broken"),
        (
            tls("cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]"),
            "\"TLS_RSA_WITH_RC4_128_SHA\" is not one of those",
        ),
        (tls("curve_preferences: [CurveP521]"), "\"CurveP521\" is not one of X25519"),
        ("basic_auth_users: { ann: secret }\n".to_owned(), "basic_auth_users.ann: is not a bcrypt hash"),
        ("http_server_config: { headers: { Server: x } }\n".to_owned(), "headers.Server: cannot be set"),
        (
            "http_server_config: { headers: { X-Frame-Options: allow } }\n".to_owned(),
            "headers.X-Frame-Options: must be one of deny, sameorigin",
        ),
    ] {
        let error = site.load(&config).unwrap_err();
        assert!(error.contains(said) && error.contains("web.yml"), "{config}: {error}");
        assert!(!error.contains("ann: secret"), "{error}");
    }
    let good = tls(
        "cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256], curve_preferences: [X25519, CurveP256]",
    );
    assert!(site.load(&good).unwrap().is_tls());
}

#[test]
fn the_hash_of_nobody_takes_as_long_as_one_of_somebody() {
    use std::str::FromStr;
    assert_eq!(bcrypt::HashParts::from_str(users::NOBODY).unwrap().get_cost(), 10);
    assert!(!bcrypt::verify("", users::NOBODY).unwrap());
}
