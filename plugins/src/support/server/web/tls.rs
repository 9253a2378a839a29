//! TLS as a server: `tls_server_config`, and the rustls configuration that it means.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::Secret;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    SupportedCipherSuite,
};
use serde::Deserialize;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use super::HTTP2;
use crate::support::tls::{Pem, TlsVersion, chosen_versions, system_roots};

/// The keys of `tls_server_config`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TlsServerConfig {
    cert: Option<String>,
    cert_file: Option<PathBuf>,
    key: Option<Secret>,
    key_file: Option<PathBuf>,
    client_auth_type: ClientAuth,
    client_ca: Option<String>,
    client_ca_file: Option<PathBuf>,
    client_allowed_sans: Vec<String>,
    min_version: Option<TlsVersion>,
    max_version: Option<TlsVersion>,
    cipher_suites: Vec<String>,
    curve_preferences: Vec<String>,
    /// Has had no effect in Go since 1.17, and has none here: the server's order always counts.
    #[serde(rename = "prefer_server_cipher_suites")]
    _prefer_server_cipher_suites: bool,
}

/// What is asked of the certificates of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum ClientAuth {
    #[default]
    #[serde(alias = "")]
    NoClientCert,
    RequestClientCert,
    #[serde(alias = "RequireClientCert")]
    RequireAnyClientCert,
    VerifyClientCertIfGiven,
    RequireAndVerifyClientCert,
}

impl TlsServerConfig {
    /// Takes relative paths from `directory` on.
    pub(super) fn resolve(&mut self, directory: &Path) {
        for file in [&mut self.cert_file, &mut self.key_file, &mut self.client_ca_file].into_iter().flatten()
        {
            if !file.as_os_str().is_empty() {
                *file = directory.join(&*file);
            }
        }
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.cert_file, &self.key_file, &self.client_ca_file].into_iter().flatten().map(PathBuf::as_path)
    }

    /// The rustls configuration; `None` if none of the keys is set, which means no TLS.
    pub(super) fn server_config(&self, http2: bool) -> Result<Option<ServerConfig>, BuildError> {
        let mut problems = BuildError::default();
        let cert = Pem::from_keys("cert", self.cert.as_deref(), self.cert_file.as_deref());
        let key = Pem::from_keys("key", self.key.as_ref().map(Secret::expose), self.key_file.as_deref());
        let cert = problems.take("", cert.and_then(|pem| pem.map(|pem| pem.certificates()).transpose()));
        let key = problems.take("", key.and_then(|pem| pem.map(|pem| pem.private_key()).transpose()));
        let provider = problems.take("", self.provider()).map(Arc::new);
        let versions = problems.take("", chosen_versions(self.min_version, self.max_version));
        let clients = provider
            .as_ref()
            .and_then(|provider| problems.take("", self.client_verifier(Arc::clone(provider))));
        let (Some(cert), Some(key), Some(provider), Some(versions), Some(clients)) =
            (cert, key, provider, versions, clients)
        else {
            return Err(problems);
        };
        let (cert, key) = match (cert, key) {
            (Some(cert), Some(key)) => (cert, key),
            (None, None) if self.asks_nothing() => return Ok(None),
            (None, _) => return Err(BuildError::at("cert_file", "is missing; or set cert")),
            (_, None) => return Err(BuildError::at("key_file", "is missing; or set key")),
        };
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&versions);
        let builder = builder.map_err(|error| BuildError::at("cipher_suites", error))?;
        let builder = match clients {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(cert, key)
            .map_err(|error| BuildError::at("key_file", format!("does not fit the certificate: {error}")))?;
        config.alpn_protocols = if http2 { vec![HTTP2.to_vec()] } else { Vec::new() };
        config.alpn_protocols.push(b"http/1.1".to_vec());
        Ok(Some(config))
    }

    fn asks_nothing(&self) -> bool {
        self.client_auth_type == ClientAuth::NoClientCert && self.client_allowed_sans.is_empty()
    }

    /// The ciphers and curves that may be used. As in Go, those of TLS 1.3 are not for choosing.
    fn provider(&self) -> Result<CryptoProvider, BuildError> {
        let mut problems = BuildError::default();
        let mut provider = ring::default_provider();
        if !self.cipher_suites.is_empty() {
            let is_tls13 = |suite: &SupportedCipherSuite| matches!(suite, SupportedCipherSuite::Tls13(_));
            let name =
                |suite: &SupportedCipherSuite| format!("{:?}", suite.suite()).replace("TLS13_", "TLS_");
            for wanted in &self.cipher_suites {
                if !provider.cipher_suites.iter().any(|suite| name(suite) == *wanted) {
                    let known: Vec<_> = provider.cipher_suites.iter().map(name).collect();
                    let known = known.join(", ");
                    problems.add(
                        "cipher_suites",
                        format!("{wanted:?} is not one of those that are safe: {known}"),
                    );
                }
            }
            let is_wanted =
                |suite: &SupportedCipherSuite| is_tls13(suite) || self.cipher_suites.contains(&name(suite));
            provider.cipher_suites.retain(is_wanted);
        }
        if !self.curve_preferences.is_empty() {
            let known = [
                ("X25519", ring::kx_group::X25519),
                ("CurveP256", ring::kx_group::SECP256R1),
                ("CurveP384", ring::kx_group::SECP384R1),
            ];
            provider.kx_groups.clear();
            for wanted in &self.curve_preferences {
                match known.iter().find(|(name, _)| name == wanted) {
                    Some((_, group)) => provider.kx_groups.push(*group),
                    None => problems.add(
                        "curve_preferences",
                        format!("{wanted:?} is not one of X25519, CurveP256 and CurveP384"),
                    ),
                }
            }
        }
        problems.or(provider)
    }

    fn client_verifier(
        &self,
        provider: Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, BuildError> {
        let ca = Pem::from_keys("client_ca", self.client_ca.as_deref(), self.client_ca_file.as_deref())?;
        if self.client_auth_type == ClientAuth::NoClientCert {
            return if ca.is_some() || !self.client_allowed_sans.is_empty() {
                let message = "must be set where there are client_ca_file or client_allowed_sans, as \
                               RequireAndVerifyClientCert";
                Err(BuildError::at("client_auth_type", message))
            } else {
                Ok(None)
            };
        }
        let roots = ca.map_or_else(|| Ok(system_roots()), |ca| ca.roots())?;
        let is_mandatory = matches!(
            self.client_auth_type,
            ClientAuth::RequireAnyClientCert | ClientAuth::RequireAndVerifyClientCert
        );
        let verifies = matches!(
            self.client_auth_type,
            ClientAuth::VerifyClientCertIfGiven | ClientAuth::RequireAndVerifyClientCert
        );
        let authority = verifies
            .then(|| WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build())
            .transpose()
            .map_err(|error| BuildError::at("client_ca_file", error))?;
        let sans = self.client_allowed_sans.clone();
        Ok(Some(Arc::new(Clients { authority, is_mandatory, sans, provider })))
    }
}

/// Judges the certificates of clients.
#[derive(Debug)]
struct Clients {
    /// Who must have signed them; nobody where they are only asked for.
    authority: Option<Arc<dyn ClientCertVerifier>>,
    is_mandatory: bool,
    /// The alternative names of which a certificate must have one; empty for any.
    sans: Vec<String>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.authority.as_ref().map_or(&[], |authority| authority.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(authority) = &self.authority {
            authority.verify_client_cert(certificate, others, now)?;
        }
        if !self.sans.is_empty() && !names(certificate)?.iter().any(|name| self.sans.contains(name)) {
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The alternative names of a certificate: hosts, addresses of mail and of machines, URIs.
fn names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, Error> {
    let bad = || Error::InvalidCertificate(CertificateError::BadEncoding);
    let (_, parsed) = parse_x509_certificate(certificate).map_err(|_| bad())?;
    let Some(names) = parsed.subject_alternative_name().map_err(|_| bad())? else { return Ok(Vec::new()) };
    let names = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
            Some((*name).to_owned())
        }
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    });
    Ok(names.collect())
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| std::net::Ipv4Addr::from(bytes).to_string());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| std::net::Ipv6Addr::from(bytes).to_string())).ok()
}
