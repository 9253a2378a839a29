//! Certificates for a test: an authority, a server of 127.0.0.1 and a client, as PEM files.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

use super::server::temp_dir;

/// `ca.pem`, `server.pem`, `server.key`, `client.pem` and `client.key` in a directory.
pub struct Certs {
    dir: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Certs {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("generate a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(params, key).expect("sign the authority");
        let certs = Self { dir: temp_dir(), authority };
        std::fs::write(certs.ca(), certs.authority.pem()).expect("write ca.pem");
        certs.issue("server", ExtendedKeyUsagePurpose::ServerAuth);
        certs.issue("client", ExtendedKeyUsagePurpose::ClientAuth);
        certs
    }

    /// Writes `NAME.pem` and `NAME.key`, valid for 127.0.0.1 and localhost.
    pub fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) {
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).expect("names of a certificate");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("generate a key");
        let certificate = params.signed_by(&key, &self.authority).expect("sign a certificate");
        std::fs::write(self.cert(name), certificate.pem()).expect("write a certificate");
        std::fs::write(self.key(name), key.serialize_pem()).expect("write a key");
    }

    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The certificate of `server` or `client`.
    pub fn cert(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.pem"))
    }

    /// The key of `server` or `client`.
    pub fn key(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.key"))
    }

    /// The `tls` block of a nats-server that asks for client certificates of this authority.
    pub fn nats_tls(&self) -> String {
        format!(
            "tls {{ ca_file: {:?}, cert_file: {:?}, key_file: {:?}, verify: true }}",
            self.ca(),
            self.cert("server"),
            self.key("server")
        )
    }

    /// What a server of this process needs to ask for client certificates of this authority.
    pub fn server_config(&self) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca()).expect("read ca.pem")).expect("trust ca.pem");
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&provider),
        )
        .build()
        .expect("build the client verifier");
        let chain = vec![CertificateDer::from_pem_file(self.cert("server")).expect("read server.pem")];
        let key = PrivateKeyDer::from_pem_file(self.key("server")).expect("read server.key");
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .expect("server certificate");
        Arc::new(config)
    }
}
