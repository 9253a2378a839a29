//! TLS as a client: the `tls:` block of every stage that connects to something, and the rustls
//! configuration that it means. Files are PEM; they are read when the stage is built.
//!
//! ```yaml
//! tls:
//!   ca_file: /etc/prometheus-streams/ca.pem
//!   cert_file: /etc/prometheus-streams/cert.pem
//!   key_file: /etc/prometheus-streams/key.pem
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt;
use prometheus_streams_core::error::BuildError;
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, WantsVerifier,
};
use schemars::JsonSchema;
use serde::Deserialize;

/// How to know the far side, and how to be known by it. At least TLS 1.2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSettings {
    /// The certificates of the authorities to trust, PEM. Default: those of the system.
    pub ca_file: Option<PathBuf>,
    /// The certificate to show to the far side, PEM, with those between it and the authority. Needs `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The private key of `cert_file`, PEM.
    pub key_file: Option<PathBuf>,
    /// The name that the certificate of the far side must have. Default: the host that is connected to.
    pub server_name: Option<String>,
    /// Trusts whatever certificate the far side shows. For experiments. Default: false.
    pub insecure_skip_verify: bool,
}

/// The certificate that a client shows, and its key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl TlsSettings {
    /// The rustls configuration that these settings mean. It does not depend on the process-wide
    /// crypto provider.
    ///
    /// # Errors
    /// Every setting that is wrong: a file that cannot be read or is not what it should be, a
    /// certificate without its key, a server name that cannot be one.
    pub fn client_config(&self) -> Result<ClientConfig, BuildError> {
        let mut problems = BuildError::default();
        let roots = problems.take("", self.roots());
        let identity = problems.take("", self.identity());
        let name = problems.take("", self.server_name());
        let (Some(roots), Some(identity), Some(_)) = (roots, identity, name) else { return Err(problems) };
        let config = self.verifier(roots).map_err(|error| BuildError::at("", error))?;
        match identity {
            Some((chain, key)) => config
                .with_client_auth_cert(chain, key)
                .map_err(|error| BuildError::at("key_file", format!("does not fit cert_file: {error}"))),
            None => Ok(config.with_no_client_auth()),
        }
    }

    /// The name to ask for and to verify instead of the host, if one is set.
    ///
    /// # Errors
    /// It is neither a DNS name nor an IP address.
    pub fn server_name(&self) -> Result<Option<ServerName<'static>>, BuildError> {
        let Some(name) = &self.server_name else { return Ok(None) };
        ServerName::try_from(name.clone()).map(Some).map_err(|_| {
            BuildError::at("server_name", format!("{name:?} is not a DNS name or an IP address"))
        })
    }

    /// The authorities of `ca_file`, or `None` for those of the system.
    fn roots(&self) -> Result<Option<RootCertStore>, BuildError> {
        let Some(path) = &self.ca_file else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for certificate in certificates("ca_file", path)? {
            roots.add(certificate).map_err(|error| {
                BuildError::at("ca_file", format!("{} holds a bad certificate: {error}", path.display()))
            })?;
        }
        Ok(Some(roots))
    }

    fn identity(&self) -> Result<Option<Identity>, BuildError> {
        match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => {
                let mut problems = BuildError::default();
                let chain = problems.take("", certificates("cert_file", cert));
                let key = problems.take("", private_key(key));
                chain.zip(key).map(Some).ok_or(problems)
            }
            (Some(_), None) => Err(BuildError::at("cert_file", "needs key_file beside it")),
            (None, Some(_)) => Err(BuildError::at("key_file", "needs cert_file beside it")),
            (None, None) => Ok(None),
        }
    }

    /// A configuration that trusts whom these settings trust.
    fn verifier(
        &self,
        roots: Option<RootCertStore>,
    ) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
        if self.insecure_skip_verify {
            let trust_all = Arc::new(TrustAll(ring::default_provider()));
            return Ok(builder()?.dangerous().with_custom_certificate_verifier(trust_all));
        }
        if let Some(roots) = roots {
            return Ok(builder()?.with_root_certificates(roots));
        }
        builder()?.with_native_roots().or_else(|error| {
            // Most stages never meet TLS; a machine without authorities must not keep them from running.
            tracing::debug!(%error, "the system has no certificate authorities; TLS without ca_file will fail");
            Ok(builder()?.with_root_certificates(RootCertStore::empty()))
        })
    }
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, Error> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, BuildError> {
    let pem = read(key, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(not_pem(key, path, "certificate", &PemError::NoItemsFound)),
        Err(error) => Err(not_pem(key, path, "certificate", &error)),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, BuildError> {
    let pem = read("key_file", path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| not_pem("key_file", path, "private key", &error))
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, BuildError> {
    std::fs::read(path)
        .map_err(|error| BuildError::at(key, format!("cannot read {}: {error}", path.display())))
}

fn not_pem(key: &str, path: &Path, wanted: &str, error: &PemError) -> BuildError {
    let reason = match error {
        PemError::NoItemsFound => "there is none in it".to_owned(),
        // The library prints these as lists of bytes.
        PemError::MissingSectionEnd { .. } | PemError::IllegalSectionStart { .. } => {
            "it is damaged".to_owned()
        }
        other => other.to_string(),
    };
    BuildError::at(key, format!("cannot read a PEM {wanted} from {}: {reason}", path.display()))
}

/// Trusts every certificate, but still wants the far side to have the key of the one that it shows.
#[derive(Debug)]
struct TrustAll(CryptoProvider);

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use super::*;

    /// A directory with a good pair, another pair, and files that are not what they should be.
    fn files() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            let CertifiedKey { cert, signing_key } = generate_simple_self_signed([name.to_owned()]).unwrap();
            std::fs::write(dir.path().join(format!("{name}.pem")), cert.pem()).unwrap();
            std::fs::write(dir.path().join(format!("{name}.key")), signing_key.serialize_pem()).unwrap();
        }
        std::fs::write(dir.path().join("text"), "hello\n").unwrap();
        std::fs::write(dir.path().join("cut"), "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
        std::fs::write(
            dir.path().join("not-a-cert"),
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        dir
    }

    /// The mistakes of settings with these files, as `path: message` without the directory.
    fn mistakes(ca: &str, cert: &str, key: &str, server_name: Option<&str>) -> Vec<String> {
        let dir = files();
        let file = |name: &str| (!name.is_empty()).then(|| dir.path().join(name));
        let settings = TlsSettings {
            ca_file: file(ca),
            cert_file: file(cert),
            key_file: file(key),
            server_name: server_name.map(str::to_owned),
            insecure_skip_verify: false,
        };
        let directory = format!("{}/", dir.path().display());
        match settings.client_config() {
            Ok(_) => Vec::new(),
            Err(error) => error.to_string().lines().map(|line| line.replace(&directory, "")).collect(),
        }
    }

    #[test]
    fn good_files_are_taken() {
        assert!(mistakes("", "", "", None).is_empty());
        assert!(mistakes("one.pem", "two.pem", "two.key", Some("db1.example.net")).is_empty());
        assert!(mistakes("one.pem", "", "", Some("10.0.0.1")).is_empty());
    }

    #[test]
    fn every_mistake_is_named_with_its_key() {
        assert_eq!(
            mistakes("gone", "text", "cut", Some("not a name")),
            [
                "ca_file: cannot read gone: No such file or directory (os error 2)",
                "cert_file: cannot read a PEM certificate from text: there is none in it",
                "key_file: cannot read a PEM private key from cut: it is damaged",
                "server_name: \"not a name\" is not a DNS name or an IP address",
            ]
        );
        assert_eq!(mistakes("", "one.pem", "", None), ["cert_file: needs key_file beside it"]);
        assert_eq!(mistakes("", "", "one.key", None), ["key_file: needs cert_file beside it"]);
        assert_eq!(
            mistakes("one.key", "", "", None),
            ["ca_file: cannot read a PEM certificate from one.key: there is none in it"]
        );
        let [mistake] = &mistakes("not-a-cert", "", "", None)[..] else { panic!("one mistake") };
        assert!(mistake.starts_with("ca_file: not-a-cert holds a bad certificate: "), "{mistake}");
        let [mistake] = &mistakes("", "one.pem", "two.key", None)[..] else { panic!("one mistake") };
        assert!(mistake.starts_with("key_file: does not fit cert_file: "), "{mistake}");
    }
}
