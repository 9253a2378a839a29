//! TLS as a client: the `tls:` block of every stage that connects to something, which is Prometheus'
//! `tls_config`, and the rustls configuration that it means. What is PEM stands in files, or in the
//! configuration itself.
//!
//! ```yaml
//! tls:
//!   ca_file: /etc/prometheus-streams/ca.pem
//!   cert_file: /etc/prometheus-streams/cert.pem
//!   key_file: /etc/prometheus-streams/key.pem
//! ```

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use prometheus_streams_core::error::BuildError;
use prometheus_streams_core::values::Secret;
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    SupportedProtocolVersion, WantsVerifier,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::not_yet::NotYet;

/// How to know the far side, and how to be known by it. At least TLS 1.2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSettings {
    /// The certificates of the authorities to trust, PEM. Default: those of the system.
    pub ca: Option<String>,
    /// A file with them.
    pub ca_file: Option<PathBuf>,
    /// The certificate to show to the far side, PEM, with those between it and the authority. Needs a key.
    pub cert: Option<String>,
    /// A file with it. Needs a key.
    pub cert_file: Option<PathBuf>,
    /// The private key of the certificate, PEM; better in `key_file`.
    pub key: Option<Secret>,
    /// A file with it.
    pub key_file: Option<PathBuf>,
    /// The name that the certificate of the far side must have. Default: the host that is connected to.
    pub server_name: Option<String>,
    /// Trusts whatever certificate the far side shows. For experiments. Default: false.
    pub insecure_skip_verify: bool,
    /// The oldest version of TLS to speak. Default: TLS12.
    pub min_version: Option<TlsVersion>,
    /// The newest version of TLS to speak. Default: TLS13.
    pub max_version: Option<TlsVersion>,
    #[allow(missing_docs)]
    #[schemars(skip)]
    pub ca_ref: NotYet,
    #[allow(missing_docs)]
    #[schemars(skip)]
    pub cert_ref: NotYet,
    #[allow(missing_docs)]
    #[schemars(skip)]
    pub key_ref: NotYet,
}

/// A version of TLS, as Prometheus names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum TlsVersion {
    /// TLS 1.0, which is refused: it is broken.
    #[schemars(skip)]
    Tls10,
    /// TLS 1.1, which is refused: it is broken.
    #[schemars(skip)]
    Tls11,
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// The certificate that a client shows, and its key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl TlsSettings {
    /// The rustls configuration that these settings mean, with what is in the files now. It does not
    /// depend on the process-wide crypto provider.
    ///
    /// # Errors
    /// Every setting that is wrong: a file that cannot be read or is not what it should be, a
    /// certificate without its key, a server name that cannot be one, versions that there are not.
    pub fn client_config(&self) -> Result<ClientConfig, BuildError> {
        let mut problems = BuildError::default();
        self.ca_ref.refuse("ca_ref", &mut problems);
        self.cert_ref.refuse("cert_ref", &mut problems);
        self.key_ref.refuse("key_ref", &mut problems);
        let roots = problems.take("", self.roots());
        let identity = problems.take("", self.identity());
        problems.take("", self.server_name());
        let versions = problems.take("", chosen_versions(self.min_version, self.max_version));
        let (Some(roots), Some(identity), Some(versions)) = (roots, identity, versions) else {
            return Err(problems);
        };
        let config = self.verifier(roots, &versions).map_err(|error| BuildError::at("", error))?;
        let config = match identity {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).map_err(|error| {
                let (key, cert) = (file_or("key", &self.key_file), file_or("cert", &self.cert_file));
                BuildError::at(key, format!("does not fit {cert}: {error}"))
            })?,
            None => config.with_no_client_auth(),
        };
        problems.or(config)
    }

    /// The name to ask for and to verify instead of the host, if one is set.
    ///
    /// # Errors
    /// It is neither a DNS name nor an IP address.
    pub fn server_name(&self) -> Result<Option<ServerName<'static>>, BuildError> {
        let Some(name) = self.server_name.as_ref().filter(|name| !name.is_empty()) else { return Ok(None) };
        ServerName::try_from(name.clone()).map(Some).map_err(|_| {
            BuildError::at("server_name", format!("{name:?} is not a DNS name or an IP address"))
        })
    }

    /// The files that these settings name.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        [&self.ca_file, &self.cert_file, &self.key_file].into_iter().flatten().map(PathBuf::as_path)
    }

    /// The authorities to trust.
    fn roots(&self) -> Result<Arc<RootCertStore>, BuildError> {
        let Some(pem) = Pem::from_keys("ca", self.ca.as_deref(), self.ca_file.as_deref())? else {
            return Ok(system_roots());
        };
        pem.roots()
    }

    fn identity(&self) -> Result<Option<Identity>, BuildError> {
        let mut problems = BuildError::default();
        let cert = Pem::from_keys("cert", self.cert.as_deref(), self.cert_file.as_deref());
        let key = Pem::from_keys("key", self.key.as_ref().map(Secret::expose), self.key_file.as_deref());
        match (problems.take("", cert), problems.take("", key)) {
            (Some(Some(cert)), Some(Some(key))) => {
                let chain = problems.take("", cert.certificates());
                let key = problems.take("", key.private_key());
                chain.zip(key).map(Some).ok_or(problems)
            }
            (Some(Some(cert)), Some(None)) => Err(BuildError::at(cert.key, "needs key_file beside it")),
            (Some(None), Some(Some(key))) => Err(BuildError::at(key.key, "needs cert_file beside it")),
            _ => problems.or(None),
        }
    }

    /// A configuration that trusts whom these settings trust.
    fn verifier(
        &self,
        roots: Arc<RootCertStore>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
        let builder: ConfigBuilder<_, WantsVerifier> =
            ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(versions)?;
        if self.insecure_skip_verify {
            let trust_all = Arc::new(TrustAll(ring::default_provider()));
            return Ok(builder.dangerous().with_custom_certificate_verifier(trust_all));
        }
        Ok(builder.with_root_certificates(roots))
    }
}

/// The versions from `min_version` to `max_version`, which are the oldest and the newest there are unless set.
///
/// # Errors
/// There are none, or one of them is broken.
pub(in crate::support) fn chosen_versions(
    min_version: Option<TlsVersion>,
    max_version: Option<TlsVersion>,
) -> Result<Vec<&'static SupportedProtocolVersion>, BuildError> {
    let mut problems = BuildError::default();
    for (key, version) in [("min_version", min_version), ("max_version", max_version)] {
        if matches!(version, Some(TlsVersion::Tls10 | TlsVersion::Tls11)) {
            problems.add(key, "TLS 1.0 and 1.1 are broken, and rustls does not have them: TLS12 or TLS13");
        }
    }
    let oldest = min_version.unwrap_or(TlsVersion::Tls12);
    let newest = max_version.unwrap_or(TlsVersion::Tls13);
    if min_version.is_some() && newest < oldest {
        problems.add("max_version", "must not be older than min_version");
    }
    let known = [(TlsVersion::Tls12, &TLS12), (TlsVersion::Tls13, &TLS13)];
    let wanted = known.into_iter().filter(|(version, _)| (oldest..=newest).contains(version));
    problems.or(wanted.map(|(_, version)| version).collect())
}

/// The authorities that the system trusts, read once: they are large, and every client shares them.
pub(in crate::support) fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let load = || {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            // Most stages never meet TLS; a machine without authorities must not keep them from running.
            let errors = found.errors;
            tracing::debug!(
                ?errors,
                "the system has no certificate authorities; TLS without ca_file will fail"
            );
        }
        Arc::new(roots)
    };
    Arc::clone(ROOTS.get_or_init(load))
}

/// `ca_file` where that is set, `ca` otherwise.
fn file_or(name: &str, file: &Option<PathBuf>) -> String {
    if file.is_some() { format!("{name}_file") } else { name.to_owned() }
}

/// PEM that the settings give, in a file or by itself.
pub(in crate::support) struct Pem<'a> {
    /// The key that gives it, for errors.
    key: String,
    file: Option<&'a Path>,
    text: Cow<'a, [u8]>,
}

impl<'a> Pem<'a> {
    /// What `<name>` or `<name>_file` gives, of which one may be set.
    pub(in crate::support) fn from_keys(
        name: &str,
        inline: Option<&'a str>,
        file: Option<&'a Path>,
    ) -> Result<Option<Self>, BuildError> {
        let inline = inline.filter(|text| !text.is_empty());
        match (inline, file.filter(|path| !path.as_os_str().is_empty())) {
            (Some(_), Some(_)) => Err(BuildError::at(name, format!("set {name} or {name}_file, not both"))),
            (Some(text), None) => {
                Ok(Some(Self { key: name.to_owned(), file: None, text: Cow::Borrowed(text.as_bytes()) }))
            }
            (None, Some(path)) => {
                let key = format!("{name}_file");
                let text = std::fs::read(path).map_err(|error| {
                    BuildError::at(&key, format!("cannot read {}: {error}", path.display()))
                })?;
                Ok(Some(Self { key, file: Some(path), text: Cow::Owned(text) }))
            }
            (None, None) => Ok(None),
        }
    }

    pub(in crate::support) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, BuildError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.text).collect();
        match found {
            Ok(found) if !found.is_empty() => Ok(found),
            Ok(_) => Err(self.not_pem("certificate", &PemError::NoItemsFound)),
            Err(error) => Err(self.not_pem("certificate", &error)),
        }
    }

    /// The certificates, as authorities to trust.
    pub(in crate::support) fn roots(&self) -> Result<Arc<RootCertStore>, BuildError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|error| self.wrong(&format!("a bad certificate: {error}")))?;
        }
        Ok(Arc::new(roots))
    }

    pub(in crate::support) fn private_key(&self) -> Result<PrivateKeyDer<'static>, BuildError> {
        PrivateKeyDer::from_pem_slice(&self.text).map_err(|error| self.not_pem("private key", &error))
    }

    fn not_pem(&self, wanted: &str, error: &PemError) -> BuildError {
        let reason = match error {
            PemError::NoItemsFound => "there is none in it".to_owned(),
            // The library prints these as lists of bytes.
            PemError::MissingSectionEnd { .. } | PemError::IllegalSectionStart { .. } => {
                "it is damaged".to_owned()
            }
            other => other.to_string(),
        };
        let place = self.file.map(|path| format!(" from {}", path.display())).unwrap_or_default();
        BuildError::at(&self.key, format!("cannot read a PEM {wanted}{place}: {reason}"))
    }

    fn wrong(&self, what: &str) -> BuildError {
        let place = self.file.map(|path| path.display().to_string()).unwrap_or_else(|| self.key.clone());
        BuildError::at(&self.key, format!("{place} holds {what}"))
    }
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
            ..TlsSettings::default()
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
