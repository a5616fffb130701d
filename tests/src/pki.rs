//! Certificates for one run; nothing outside it ever trusts them.

use anyhow::Result;
use rcgen::KeyUsagePurpose;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate, PEM.
    pub certificate: String,
    /// The private key, PKCS#8 PEM.
    pub key: String,
    /// The certificate, DER.
    pub der: Vec<u8>,
    key_der: Vec<u8>,
}

impl Identity {
    /// The certificate chain for rustls.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from(self.der.clone())]
    }

    /// The private key for rustls.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key_der.clone()).into()
    }
}

/// A certificate authority of one run.
pub struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority with a key of its own.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Authority { certificate, issuer: Issuer::new(params, key) })
    }

    /// An authority's certificate out of its PEM.
    pub fn parse(certificate: &str) -> Result<CertificateDer<'static>> {
        Ok(CertificateDer::from_pem_slice(certificate.as_bytes())?)
    }

    /// The authority's own certificate, PEM.
    pub fn certificate(&self) -> String {
        self.certificate.pem()
    }

    /// A certificate for these DNS names and URIs, good for servers and clients.
    pub fn issue(&self, name: &str, names: &[String]) -> Result<Identity> {
        let (uris, dns_names): (Vec<String>, Vec<String>) =
            names.iter().cloned().partition(|name| name.contains("://"));
        let mut params = CertificateParams::new(dns_names)?;
        for uri in uris {
            params.subject_alt_names.push(SanType::URI(uri.try_into()?));
        }
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
            key_der: key.serialize_der(),
        })
    }
}
