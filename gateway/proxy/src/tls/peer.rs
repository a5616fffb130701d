//! What a client's certificate says, as logs write it.

use super::ClientCertificate;
use super::forwarded_client_cert::{hex, names, write_name};
use aws_lc_rs::digest::{SHA256, digest};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

/// An alternative name's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NameKind {
    Uri,
    Dns,
    Ip,
    Email,
}

impl ClientCertificate {
    /// The subject (RFC 2253).
    pub(crate) fn subject(&self) -> String {
        self.parsed().map_or_else(String::new, |c| name(c.subject()))
    }

    /// The issuer (RFC 2253).
    pub(crate) fn issuer(&self) -> String {
        self.parsed().map_or_else(String::new, |c| name(c.issuer()))
    }

    /// The serial number in hexadecimal digits.
    pub(crate) fn serial(&self) -> String {
        self.parsed().map_or_else(String::new, |c| hex(c.raw_serial()))
    }

    /// The SHA-256 of the certificate in hexadecimal digits.
    pub(crate) fn fingerprint(&self) -> String {
        let first = self.chain.first();
        first.map_or_else(String::new, |c| hex(digest(&SHA256, c).as_ref()))
    }

    /// The alternative names of a kind, joined by commas.
    pub(crate) fn names(&self, kind: NameKind) -> String {
        let Some(certificate) = self.parsed() else { return String::new() };
        names(&certificate).iter().filter_map(|name| of_kind(name, kind)).collect::<Vec<_>>().join(",")
    }

    /// From when and until when it is valid.
    pub(crate) fn validity(&self) -> Option<(SystemTime, SystemTime)> {
        let moment = |t: ASN1Time| Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(t.timestamp()).ok()?));
        let validity = self.parsed()?.validity().clone();
        Some((moment(validity.not_before)?, moment(validity.not_after)?))
    }

    fn parsed(&self) -> Option<X509Certificate<'_>> {
        X509Certificate::from_der(self.chain.first()?).ok().map(|(_, certificate)| certificate)
    }
}

/// What policies know a client by, as in Envoy: its URIs, its DNS names, and its subject.
pub(super) fn identities(certificate: &[u8]) -> Vec<Box<str>> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let kinds = [NameKind::Uri, NameKind::Dns];
    let of = |kind| names(&parsed).iter().filter_map(move |name| of_kind(name, kind));
    let all = kinds.into_iter().flat_map(of).chain([name(parsed.subject())]);
    all.map(String::into_boxed_str).collect()
}

fn name(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    write_name(&mut text, name);
    text
}

fn of_kind(name: &GeneralName<'_>, kind: NameKind) -> Option<String> {
    match (name, kind) {
        (GeneralName::URI(text), NameKind::Uri)
        | (GeneralName::DNSName(text), NameKind::Dns)
        | (GeneralName::RFC822Name(text), NameKind::Email) => Some((*text).to_owned()),
        (GeneralName::IPAddress(bytes), NameKind::Ip) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(|ip| ip.to_string())
        }
        _ => None,
    }
}

#[cfg(test)]
impl ClientCertificate {
    /// One with a name of each kind.
    pub(crate) fn testing() -> Self {
        use rcgen::{CertificateParams, DnType, KeyPair, SanType, date_time_ymd};
        let mut params = CertificateParams::new(["client.example".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Miller, Sons");
        params.distinguished_name.push(DnType::CommonName, "client");
        let uri = "spiffe://cluster.local/ns/a/sa/b".try_into().unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
        params.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()));
        params.subject_alt_names.push(SanType::Rfc822Name("a@b.example".try_into().unwrap()));
        params.serial_number = Some(vec![0x0a, 0xff].into());
        params.not_before = date_time_ymd(2024, 2, 29);
        params.not_after = date_time_ymd(2034, 1, 1);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let identities = identities(certificate.der()).into();
        ClientCertificate { chain: [certificate.der().clone()].into(), forwarded: "".into(), identities }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_certificate_says() {
        let certificate = ClientCertificate::testing();
        assert_eq!(certificate.subject(), "CN=client,O=Miller\\, Sons");
        assert_eq!(certificate.issuer(), certificate.subject(), "it signs itself");
        assert_eq!(certificate.serial(), "0aff");
        assert_eq!(certificate.fingerprint().len(), 64);
        for (kind, expected) in [
            (NameKind::Uri, "spiffe://cluster.local/ns/a/sa/b"),
            (NameKind::Dns, "client.example"),
            (NameKind::Ip, "10.0.0.1"),
            (NameKind::Email, "a@b.example"),
        ] {
            assert_eq!(certificate.names(kind), expected);
        }
        let (from, until) = certificate.validity().unwrap();
        assert_eq!(until.duration_since(from).unwrap().as_secs(), 3594 * 24 * 3600);
        let known_by: Vec<_> = certificate.identities.iter().map(|name| &**name).collect();
        assert_eq!(
            known_by,
            ["spiffe://cluster.local/ns/a/sa/b", "client.example", "CN=client,O=Miller\\, Sons"]
        );
        let chain = [vec![1, 2, 3].into()].into();
        let broken =
            ClientCertificate { chain, forwarded: "".into(), identities: identities(&[1, 2, 3]).into() };
        assert_eq!((broken.subject(), broken.validity()), (String::new(), None));
    }
}
