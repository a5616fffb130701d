//! Whether a client's certificate is one that a server accepts: who signed it, what was revoked,
//! what it is called, what it is pinned to.

use super::trusted::{Peer, Trusted};
use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme,
};
use std::net::IpAddr;
use std::sync::Arc;
use tidegate_model::{Authorities, ClientVerification, Pin};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{X509Certificate, X509Error};

/// A certificate that a client showed and that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    /// The chain as it was sent, the client's own first, in DER.
    pub(crate) chain: Arc<[CertificateDer<'static>]>,
    /// What `x-forwarded-client-cert` says of it.
    pub(crate) forwarded: Arc<str>,
    /// What policies know it by: its URIs, its DNS names, and its subject.
    pub(crate) identities: Arc<[Box<str>]>,
}

/// Why certificates of clients cannot be checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidAuthorities {
    #[error("there is no authority in it")]
    Missing,
    #[error("the authorities are no PEM certificates: {0}")]
    Certificates(String),
    #[error("the revocation lists are no PEM: {0}")]
    Revoked(String),
    #[error("{0}")]
    Verifier(String),
}

/// Authorities as rustls takes them.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(super) roots: Vec<CertificateDer<'static>>,
    pub(super) revoked: Option<Vec<CertificateRevocationListDer<'static>>>,
}

/// Reads what signs and what was revoked.
///
/// # Errors
/// When it does not parse, or there is no certificate.
pub(crate) fn load(authorities: &Authorities) -> Result<Loaded, InvalidAuthorities> {
    let roots: Vec<_> = CertificateDer::pem_slice_iter(&authorities.certificates)
        .collect::<Result<_, pem::Error>>()
        .map_err(|e| InvalidAuthorities::Certificates(e.to_string()))?;
    if roots.is_empty() {
        return Err(InvalidAuthorities::Missing);
    }
    let lists = |pem: &Arc<[u8]>| {
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
        match lists {
            Ok(lists) if lists.is_empty() => Err(InvalidAuthorities::Revoked("there is none in it".into())),
            Ok(lists) => Ok(lists),
            Err(e) => Err(InvalidAuthorities::Revoked(e.to_string())),
        }
    };
    let revoked = authorities.revoked.as_ref().map(lists).transpose()?;
    Ok(Loaded { roots, revoked })
}

/// What checks the certificates of clients by a policy.
///
/// A revocation list is taken as Envoy does: every certificate below the root needs a list of its
/// issuer, and one whose time is over is none. A certificate that is one of the authorities itself is accepted too.
///
/// # Errors
/// When rustls takes no root or refuses a list.
pub(crate) fn verifier(
    policy: &ClientVerification,
    loaded: &[Loaded],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, InvalidAuthorities> {
    let inner = if policy.any_authority { None } else { Some(signed(policy, loaded, provider)?) };
    let trusted = Trusted::new(loaded, Peer::Client, provider.signature_verification_algorithms);
    Ok(Arc::new(Verifier { inner, trusted, policy: policy.clone(), provider: provider.clone() }))
}

fn signed(
    policy: &ClientVerification,
    loaded: &[Loaded],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, InvalidAuthorities> {
    let refused = |e: String| InvalidAuthorities::Verifier(e);
    let mut roots = RootCertStore::empty();
    for root in loaded.iter().flat_map(|l| &l.roots) {
        roots.add(root.clone()).map_err(|e| refused(e.to_string()))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let lists: Vec<_> = loaded.iter().flat_map(|l| l.revoked.iter().flatten()).cloned().collect();
    if !lists.is_empty() {
        builder = builder.with_crls(lists).enforce_revocation_expiration();
    }
    if !policy.required {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|e| refused(e.to_string()))
}

/// Checks who signed a certificate, and then what it says.
#[derive(Debug)]
struct Verifier {
    /// `None` where anyone may have signed.
    inner: Option<Arc<dyn ClientCertVerifier>>,
    trusted: Trusted,
    policy: ClientVerification,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.policy.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.as_ref().map_or(&[], |inner| inner.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if let Some(inner) = &self.inner {
            let checked = inner.verify_client_cert(certificate, intermediates, now);
            checked.map(|_| ()).or_else(|refused| self.trusted.check(certificate, refused, now))?;
        }
        match accepts(&self.policy, certificate) {
            Ok(()) => Ok(ClientCertVerified::assertion()),
            Err(why) => Err(CertificateError::Other(OtherError(Arc::new(why))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Why a certificate that was signed as it should is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum NotAccepted {
    #[error("the client's certificate is no X.509")]
    Malformed,
    #[error("the client's certificate has none of subjectAltNames")]
    Name,
    #[error(
        "neither key nor certificate of the client is one of verifyCertificateSpki and verifyCertificateHash"
    )]
    Pin,
}

fn accepts(policy: &ClientVerification, certificate: &[u8]) -> Result<(), NotAccepted> {
    if policy.names.is_empty() && policy.pins.is_empty() {
        return Ok(());
    }
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| NotAccepted::Malformed)?;
    if !policy.names.is_empty() && !has_name(&parsed, &policy.names).map_err(|_| NotAccepted::Malformed)? {
        return Err(NotAccepted::Name);
    }
    let fits = |pin: &Pin| match pin {
        Pin::Key(hash) => sha256(parsed.public_key().raw) == *hash,
        Pin::Certificate(hash) => sha256(certificate) == *hash,
    };
    if policy.pins.is_empty() || policy.pins.iter().any(fits) { Ok(()) } else { Err(NotAccepted::Pin) }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// Whether a certificate has one of these alternative names.
pub(super) fn has_name(certificate: &X509Certificate<'_>, names: &[Arc<str>]) -> Result<bool, X509Error> {
    let found = certificate.subject_alternative_name()?;
    let found = found.map_or(&[][..], |extension| &extension.value.general_names);
    Ok(found.iter().any(|name| match name {
        GeneralName::DNSName(dns) => names.iter().any(|wanted| is_dns(dns, wanted)),
        GeneralName::URI(text) | GeneralName::RFC822Name(text) => {
            names.iter().any(|wanted| **wanted == **text)
        }
        GeneralName::IPAddress(bytes) => {
            let ip = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let ip = ip.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            ip.is_ok_and(|ip| names.iter().any(|wanted| wanted.parse() == Ok(ip)))
        }
        _ => false,
    }))
}

/// Whether a DNS name of a certificate, perhaps with a wildcard as its first label, is the wanted one.
fn is_dns(of_certificate: &str, wanted: &str) -> bool {
    if of_certificate.eq_ignore_ascii_case(wanted) {
        return true;
    }
    let rest = wanted.split_once('.').filter(|(first, _)| !first.is_empty()).map(|(_, rest)| rest);
    let suffix = of_certificate.strip_prefix("*.");
    rest.zip(suffix).is_some_and(|(rest, suffix)| rest.eq_ignore_ascii_case(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn policy(names: &[&str], pins: &[Pin]) -> ClientVerification {
        ClientVerification {
            required: true,
            authorities: Vec::new(),
            any_authority: false,
            names: names.iter().map(|n| (*n).into()).collect(),
            pins: pins.to_vec(),
        }
    }

    #[test]
    fn names_and_pins() {
        let mut params =
            CertificateParams::new(["a.example.com".to_owned(), "*.wild.com".to_owned()]).unwrap();
        params.subject_alt_names.extend([
            SanType::URI("spiffe://td/ns/x/sa/y".try_into().unwrap()),
            SanType::IpAddress("10.0.0.1".parse().unwrap()),
            SanType::Rfc822Name("me@example.com".try_into().unwrap()),
        ]);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (spki, whole) =
            (sha256(&rcgen::PublicKeyData::subject_public_key_info(&key)), sha256(certificate.der()));
        let (name, pin) = (Err(NotAccepted::Name), Err(NotAccepted::Pin));
        for (names, pins, expected) in [
            (&[][..], &[][..], Ok(())),
            (&["a.example.com"], &[], Ok(())),
            (&["A.EXAMPLE.com"], &[], Ok(())),
            (&["x.wild.com"], &[], Ok(())),
            (&["x.y.wild.com"], &[], name),
            (&["wild.com"], &[], name),
            (&["spiffe://td/ns/x/sa/y"], &[], Ok(())),
            (&["spiffe://td/ns/x/sa/Y"], &[], name),
            (&["10.0.0.1"], &[], Ok(())),
            (&["me@example.com"], &[], Ok(())),
            (&["other", "10.0.0.1"], &[], Ok(())),
            (&["other"], &[], name),
            (&[], &[Pin::Key(spki)], Ok(())),
            (&[], &[Pin::Key(whole)], pin),
            (&[], &[Pin::Key(whole), Pin::Certificate(whole)], Ok(())),
            (&["other"], &[Pin::Key(spki)], name),
            (&["10.0.0.1"], &[Pin::Certificate(spki)], pin),
        ] {
            assert_eq!(accepts(&policy(names, pins), certificate.der()), expected, "{names:?} {pins:?}");
        }
        assert_eq!(accepts(&policy(&["a"], &[]), b"no certificate"), Err(NotAccepted::Malformed));
        assert_eq!(sha256(b"abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
    }

    #[test]
    fn authorities_that_do_not_parse_are_said_so() {
        let authority = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem();
        for (certificates, revoked, expected) in [
            (authority.as_str(), None, Ok(())),
            ("", None, Err("no authority")),
            ("-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----", None, Err("no PEM")),
            (&authority, Some("nothing"), Err("none in it")),
        ] {
            let authorities = Authorities {
                key: tidegate_model::SecretKey { namespace: "n".into(), name: "s".into() },
                certificates: certificates.as_bytes().into(),
                revoked: revoked.map(|r| r.as_bytes().into()),
            };
            match (load(&authorities), expected) {
                (Ok(_), Ok(())) => {}
                (Err(e), Err(said)) => assert!(e.to_string().contains(said), "{e}"),
                (got, _) => panic!("{certificates:?}: {:?}", got.map(|_| ())),
            }
        }
    }
}
