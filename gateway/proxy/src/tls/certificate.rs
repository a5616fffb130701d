use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, crypto::aws_lc_rs};
use std::sync::Arc;
use tidegate_model::Secret;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a certificate cannot be served. Never carries key material.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidCertificate {
    #[error("the certificate chain is no PEM: {0}")]
    Chain(String),
    #[error("the certificate chain is empty")]
    EmptyChain,
    #[error("the private key is no PEM of PKCS#8, PKCS#1 or SEC1")]
    Key,
    #[error("certificate and private key do not go together: {0}")]
    Mismatch(String),
}

/// Reads a secret's chain and key and checks that they belong together.
///
/// # Errors
/// When they do not parse or do not match.
pub(crate) fn load(secret: &Secret) -> Result<Arc<CertifiedKey>, InvalidCertificate> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&secret.certificate_chain)
        .collect::<Result<_, pem::Error>>()
        .map_err(|e| InvalidCertificate::Chain(e.to_string()))?;
    if chain.is_empty() {
        return Err(InvalidCertificate::EmptyChain);
    }
    let key = PrivateKeyDer::from_pem_slice(&secret.private_key).map_err(|_| InvalidCertificate::Key)?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map(Arc::new)
        .map_err(|e| InvalidCertificate::Mismatch(e.to_string()))
}

/// When the first certificate of a chain ends, in seconds since 1970.
pub(crate) fn not_after(key: &CertifiedKey) -> Option<i64> {
    let end = |der: &CertificateDer<'_>| {
        Some(X509Certificate::from_der(der).ok()?.1.validity().not_after.timestamp())
    };
    key.cert.iter().filter_map(end).min()
}

/// The certificates of one server, of which a client gets the first that it can verify.
#[derive(Debug)]
pub(crate) struct Certificates(Vec<Arc<CertifiedKey>>);

impl Certificates {
    /// Elliptic curves go first: they sign in a tenth of RSA's time.
    pub(crate) fn new(mut keys: Vec<Arc<CertifiedKey>>) -> Self {
        keys.sort_by_key(|k| k.key.algorithm() == SignatureAlgorithm::RSA);
        Certificates(keys)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits = |k: &&Arc<CertifiedKey>| k.key.choose_scheme(hello.signature_schemes()).is_some();
        self.0.iter().find(fits).or(self.0.first()).cloned()
    }
}
