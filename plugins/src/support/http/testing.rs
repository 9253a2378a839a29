//! A web server for tests that does what no good server would: it answers with whatever bytes the
//! test says, or closes, or stalls, or never ends.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::support::tls::TlsSettings;

/// What the server does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Writes these bytes and waits for the next request on the connection.
    Bytes(Bytes),
    /// Writes these bytes and closes.
    Last(Bytes),
    /// Writes these bytes and nothing more, and keeps the connection open.
    Stall(Bytes),
    /// Writes the first, and then the second for ever.
    Endless(Bytes, Bytes),
    /// As a proxy does: says 200 and connects the client to the host that it asked for.
    Tunnel,
}

impl Answer {
    /// A complete answer: `status` as in `404 Not Found`, headers as in `Content-Type: text/plain`.
    pub(crate) fn complete(status: &str, headers: &[&str], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut bytes = head(status, headers, Some(body.len()));
        bytes.extend_from_slice(body);
        Self::Bytes(bytes.into())
    }

    /// A good scrape.
    pub(crate) fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::complete("200 OK", &["Content-Type: text/plain; version=0.0.4"], body)
    }

    /// Headers of an answer whose length is not announced.
    pub(crate) fn head(headers: &[&str]) -> Bytes {
        head("200 OK", headers, None).into()
    }
}

fn head(status: &str, headers: &[&str], length: Option<usize>) -> Vec<u8> {
    let length = length.map(|length| format!("Content-Length: {length}\r\n")).unwrap_or_default();
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("HTTP/1.1 {status}\r\n{length}{headers}\r\n").into_bytes()
}

/// A server on a port of its own, that ends with its value.
pub(crate) struct TestServer {
    /// `127.0.0.1:port`
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
}

impl TestServer {
    /// Serves plain HTTP; `answer` gets each request, head and body.
    pub(crate) async fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        Self::serve(None, Arc::new(answer)).await
    }

    /// Serves HTTPS.
    pub(crate) async fn start_tls(
        config: ServerConfig,
        answer: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::serve(Some(TlsAcceptor::from(Arc::new(config))), Arc::new(answer)).await
    }

    async fn serve(tls: Option<TlsAcceptor>, answer: Arc<dyn Fn(&str) -> Answer + Send + Sync>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let (seen, opened) = (Arc::clone(&requests), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                *opened.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                let (tls, answer, seen) = (tls.clone(), Arc::clone(&answer), Arc::clone(&seen));
                open.spawn(async move {
                    match tls {
                        // A client that does not like us goes away; the test sees that on its side.
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => connection(stream, &*answer, &seen).await,
                            Err(_) => Ok(()),
                        },
                        None => connection(stream, &*answer, &seen).await,
                    }
                });
            }
        });
        Self { address, requests, connections, task }
    }

    /// The requests so far, head and body.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many connections were opened so far.
    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves one connection to its end.
async fn connection(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &(dyn Fn(&str) -> Answer + Send + Sync),
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    while let Some(request) = read_request(&mut stream).await? {
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        match answer(&request) {
            Answer::Bytes(bytes) => stream.write_all(&bytes).await?,
            Answer::Last(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Answer::Stall(bytes) => {
                stream.write_all(&bytes).await?;
                stream.flush().await?;
                std::future::pending::<()>().await;
            }
            Answer::Endless(bytes, more) => {
                stream.write_all(&bytes).await?;
                loop {
                    stream.write_all(&more).await?;
                }
            }
            Answer::Tunnel => {
                let host = request.split(' ').nth(1).unwrap_or_default();
                let mut far = TcpStream::connect(host).await?;
                stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
                tokio::io::copy_bidirectional(&mut stream, &mut far).await?;
                return Ok(());
            }
        }
        stream.flush().await?;
    }
    Ok(())
}

/// The next request, if it has a length or no body.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<String>> {
    let Some(mut request) = read_head(stream).await? else { return Ok(None) };
    let length =
        request.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    request.push_str(&String::from_utf8_lossy(&body));
    Ok(Some(request))
}

/// The head of the next request, or the first byte of what is none.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.first().is_none_or(u8::is_ascii_uppercase) {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

/// An authority, and the files and configurations that its servers and clients need.
pub(crate) struct Authority {
    dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    /// A certificate for `name` and its key, PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A server that calls itself `name`, and wants client certificates of this authority or none.
    pub(crate) fn server(&self, name: &str, client_certificates: bool) -> ServerConfig {
        self.server_of(name, client_certificates, rustls::ALL_VERSIONS)
    }

    /// The same, for these versions of TLS.
    pub(crate) fn server_of(
        &self,
        name: &str,
        client_certificates: bool,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap();
        let builder = if client_certificates {
            let mut roots = RootCertStore::empty();
            roots.add(self.issuer.der().clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let (certificate, key) = self.issue(name);
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
    }

    /// The same, for a server that has HTTP/2.
    pub(crate) fn http2_server(&self, name: &str) -> ServerConfig {
        let mut config = self.server(name, false);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }

    /// What a client must know to trust this authority.
    pub(crate) fn settings(&self) -> TlsSettings {
        TlsSettings { ca_file: Some(self.dir.path().join("ca.pem")), ..TlsSettings::default() }
    }

    /// The same, for a client that shows a certificate for `name`.
    pub(crate) fn settings_of(&self, name: &str) -> TlsSettings {
        let (certificate, key) = self.issue(name);
        let path = |name: &str| self.dir.path().join(name);
        std::fs::write(path("cert.pem"), certificate).unwrap();
        std::fs::write(path("key.pem"), key).unwrap();
        let (cert_file, key_file) = (Some(path("cert.pem")), Some(path("key.pem")));
        TlsSettings { cert_file, key_file, ..self.settings() }
    }
}
