//! Peers whose certificate is itself one of the authorities that somebody configured, mostly because it signs itself.
//! Envoy accepts those; to webpki an authority signs others and is nobody's own certificate.

use super::client_certificate::Loaded;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::{CertificateError, Error, OtherError};
use webpki::EndEntityCert;
use x509_parser::asn1_rs::oid;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

/// On which side of a connection a certificate is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Server,
    Client,
}

/// Certificates that are right without a signature of anybody else: the authorities of a policy. Never those of the
/// system, which nobody chose one by one.
#[derive(Debug)]
pub(super) struct Trusted {
    authorities: Vec<CertificateDer<'static>>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    peer: Peer,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Trusted {
    pub(super) fn new(configured: &[Loaded], peer: Peer, algorithms: WebPkiSupportedAlgorithms) -> Trusted {
        let authorities = configured.iter().flat_map(|loaded| &loaded.roots).cloned().collect();
        let revoked = configured.iter().flat_map(|loaded| loaded.revoked.iter().flatten()).cloned().collect();
        Trusted { authorities, revoked, peer, algorithms }
    }

    /// Whether a certificate is right that webpki refused: it must be one of the authorities byte for byte, and
    /// fulfil all else that is asked of a peer. Its names are left to the caller.
    ///
    /// # Errors
    /// With `refused`, or with what else is wrong with it.
    pub(super) fn check(
        &self,
        certificate: &CertificateDer<'_>,
        refused: Error,
        now: UnixTime,
    ) -> Result<(), Error> {
        if !lacks_an_issuer(&refused) || !self.authorities.contains(certificate) {
            return Err(refused);
        }
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let now = moment(now)?;
        if now < parsed.validity().not_before {
            return Err(CertificateError::NotValidYet.into());
        }
        if !parsed.validity().is_valid_at(now) {
            return Err(CertificateError::Expired.into());
        }
        self.check_purpose(&parsed)?;
        if !self.revoked.is_empty() {
            self.check_revocation(certificate, &parsed, now)?;
        }
        Ok(())
    }

    /// What its key may be used for (RFC 5280 sections 4.2.1.3 and 4.2.1.12): to sign handshakes, on its side.
    fn check_purpose(&self, parsed: &X509Certificate<'_>) -> Result<(), CertificateError> {
        let usage = parsed.key_usage().map_err(|_| CertificateError::BadEncoding)?;
        let purposes = parsed.extended_key_usage().map_err(|_| CertificateError::BadEncoding)?;
        let signs = usage.is_none_or(|usage| usage.value.digital_signature());
        let fits = purposes.is_none_or(|purposes| match self.peer {
            Peer::Server => purposes.value.server_auth,
            Peer::Client => purposes.value.client_auth,
        });
        if signs && fits { Ok(()) } else { Err(CertificateError::InvalidPurpose) }
    }

    /// As for other certificates, there must be a list of its issuer that does not have it. That is itself: of
    /// another issuer, which is not configured, no list can be trusted.
    fn check_revocation(
        &self,
        certificate: &CertificateDer<'_>,
        parsed: &X509Certificate<'_>,
        now: ASN1Time,
    ) -> Result<(), CertificateError> {
        let unknown = CertificateError::UnknownRevocationStatus;
        let key = EndEntityCert::try_from(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let usage = parsed.key_usage().map_err(|_| CertificateError::BadEncoding)?;
        if !usage.is_none_or(|usage| usage.value.crl_sign()) {
            return Err(unknown);
        }
        let mut found = false;
        for list in &self.revoked {
            let (_, list) = CertificateRevocationList::from_der(list).map_err(|_| unknown.clone())?;
            if list.issuer().as_raw() != parsed.issuer().as_raw() {
                continue;
            }
            if !self.holds(&list, &key, now) {
                return Err(unknown);
            }
            if list.iter_revoked_certificates().any(|revoked| *revoked.serial() == parsed.serial) {
                return Err(CertificateError::Revoked);
            }
            found = true;
        }
        if found { Ok(()) } else { Err(unknown) }
    }

    /// Whether a list is signed with a certificate's key, of now, and about everything that its issuer signs.
    fn holds(&self, list: &CertificateRevocationList<'_>, key: &EndEntityCert<'_>, now: ASN1Time) -> bool {
        let part = oid!(2.5.29.28); // issuingDistributionPoint (RFC 5280 section 5.2.5)
        let (signed, signature) = (list.tbs_cert_list.as_ref(), &list.signature_value.data);
        let mut algorithms = self.algorithms.all.iter();
        list.tbs_cert_list.find_extension(&part).is_none()
            && list.last_update() <= now
            && list.next_update().is_some_and(|next| now < next)
            && algorithms.any(|algorithm| key.verify_signature(*algorithm, signed, signature).is_ok())
    }
}

/// Whether webpki refused a certificate for what it is to it: an authority, or one of an issuer that nobody knows.
fn lacks_an_issuer(refused: &Error) -> bool {
    match refused {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => true,
        Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => {
            matches!(why.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
        }
        _ => false,
    }
}

fn moment(now: UnixTime) -> Result<ASN1Time, Error> {
    let seconds = i64::try_from(now.as_secs()).ok();
    let moment = seconds.and_then(|seconds| ASN1Time::from_timestamp(seconds).ok());
    moment.ok_or(Error::FailedToGetCurrentTime)
}

#[cfg(test)]
mod tests;
