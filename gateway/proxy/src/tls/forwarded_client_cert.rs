//! What `x-forwarded-client-cert` says of a client: one element in Envoy's form, made once for a connection.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::fmt::Write;
use x509_parser::asn1_rs::{Any, Oid, Tag, ToDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{X509Certificate, X509Name};

/// Columns of a line in PEM.
const PEM_LINE: usize = 64;

/// The element of a client by its certificate (DER) and the identities of the server that it talked to: `By` for each
/// of them, `Hash`, `Cert`, `Subject`, `URI`, `DNS`, which is what Istio's gateways say.
///
/// Names are quoted where they have one of `,;="` in them, as Envoy documents the header (Envoy itself does not do so,
/// and then a name could pass for further elements). One that no header can carry is left out.
pub(super) fn element(by: &[Box<str>], certificate: &[u8]) -> String {
    let mut element = String::with_capacity(certificate.len() * 2 + 256);
    by.iter().for_each(|uri| pair(&mut element, "By", uri));
    pair(&mut element, "Hash", &hex(digest(&SHA256, certificate).as_ref()));
    element.push_str(";Cert=\"");
    write_pem(&mut element, certificate);
    let parsed = x509_parser::parse_x509_certificate(certificate).ok().map(|(_, parsed)| parsed);
    element.push_str("\";Subject=\"");
    if let Some(parsed) = &parsed {
        write_name(&mut element, parsed.subject());
    }
    element.push('"');
    let (mut uris, mut dns) = (Vec::new(), Vec::new());
    for name in parsed.as_ref().map(names).unwrap_or_default() {
        match name {
            GeneralName::URI(uri) if is_sendable(uri) => uris.push(*uri),
            GeneralName::DNSName(name) if is_sendable(name) => dns.push(*name),
            _ => {}
        }
    }
    if uris.is_empty() {
        uris.push("");
    }
    uris.iter().for_each(|uri| pair(&mut element, "URI", uri));
    dns.iter().for_each(|name| pair(&mut element, "DNS", name));
    element
}

/// The URIs of a server's own certificate.
pub(super) fn identities(certificate: &[u8]) -> Vec<Box<str>> {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return Vec::new() };
    let uri = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) if is_sendable(uri) => Some((*uri).into()),
        _ => None,
    };
    names(&parsed).iter().filter_map(uri).collect()
}

/// Its alternative names.
pub(super) fn names<'c, 'd>(certificate: &'c X509Certificate<'d>) -> &'c [GeneralName<'d>] {
    match certificate.subject_alternative_name() {
        Ok(Some(extension)) => &extension.value.general_names,
        _ => &[],
    }
}

fn is_sendable(name: &str) -> bool {
    name.bytes().all(|c| (0x20..0x7f).contains(&c))
}

fn pair(element: &mut String, key: &str, value: &str) {
    if !element.is_empty() {
        element.push(';');
    }
    element.push_str(key);
    element.push('=');
    if !value.contains([',', ';', '=', '"']) {
        return element.push_str(value);
    }
    element.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            element.push('\\');
        }
        element.push(c);
    }
    element.push('"');
}

/// In hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The certificate as PEM, percent-encoded.
fn write_pem(out: &mut String, certificate: &[u8]) {
    out.push_str("-----BEGIN%20CERTIFICATE-----%0A");
    for (i, c) in BASE64.encode(certificate).chars().enumerate() {
        if i > 0 && i % PEM_LINE == 0 {
            out.push_str("%0A");
        }
        match c {
            '+' => out.push_str("%2B"),
            '/' => out.push_str("%2F"),
            '=' => out.push_str("%3D"),
            c => out.push(c),
        }
    }
    out.push_str("%0A-----END%20CERTIFICATE-----%0A");
}

/// A name as RFC 2253 writes it: the last part first, with the short names of OpenSSL.
pub(super) fn write_name(out: &mut String, name: &X509Name<'_>) {
    let parts: Vec<_> = name.iter_rdn().collect();
    for (i, part) in parts.iter().rev().enumerate() {
        if i > 0 {
            out.push(',');
        }
        for (i, attribute) in part.iter().enumerate() {
            if i > 0 {
                out.push('+');
            }
            match short_name(attribute.attr_type()) {
                Some(name) => {
                    out.push_str(name);
                    out.push('=');
                    write_value(out, attribute.attr_value());
                }
                None => {
                    let _ = write!(out, "{}=", attribute.attr_type());
                    write_der(out, attribute.attr_value());
                }
            }
        }
    }
}

fn short_name(of: &Oid<'_>) -> Option<&'static str> {
    const NAMES: [(&str, &str); 22] = [
        ("2.5.4.3", "CN"),
        ("2.5.4.4", "SN"),
        ("2.5.4.5", "serialNumber"),
        ("2.5.4.6", "C"),
        ("2.5.4.7", "L"),
        ("2.5.4.8", "ST"),
        ("2.5.4.9", "street"),
        ("2.5.4.10", "O"),
        ("2.5.4.11", "OU"),
        ("2.5.4.12", "title"),
        ("2.5.4.13", "description"),
        ("2.5.4.17", "postalCode"),
        ("2.5.4.41", "name"),
        ("2.5.4.42", "GN"),
        ("2.5.4.43", "initials"),
        ("2.5.4.44", "generationQualifier"),
        ("2.5.4.45", "x500UniqueIdentifier"),
        ("2.5.4.46", "dnQualifier"),
        ("0.9.2342.19200300.100.1.1", "UID"),
        ("0.9.2342.19200300.100.1.25", "DC"),
        ("1.2.840.113549.1.9.1", "emailAddress"),
        ("1.2.840.113549.1.9.2", "unstructuredName"),
    ];
    let of = of.to_id_string();
    NAMES.iter().find(|(id, _)| *id == of).map(|(_, name)| *name)
}

fn write_value(out: &mut String, value: &Any<'_>) {
    let Some(text) = text(value) else { return write_der(out, value) };
    let last = text.chars().count().saturating_sub(1);
    for (i, c) in text.chars().enumerate() {
        let mut utf8 = [0; 4];
        match c {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => out.extend(['\\', c]),
            '#' | ' ' if i == 0 => out.extend(['\\', c]),
            ' ' if i == last => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c => c.encode_utf8(&mut utf8).bytes().for_each(|byte| _ = write!(out, "\\{byte:02X}")),
        }
    }
}

/// `None` for what is no text.
fn text(value: &Any<'_>) -> Option<String> {
    let bytes = value.data;
    match value.tag() {
        Tag::Utf8String => String::from_utf8(bytes.to_vec()).ok(),
        Tag::NumericString | Tag::PrintableString | Tag::T61String | Tag::Ia5String => {
            Some(bytes.iter().copied().map(char::from).collect())
        }
        Tag::BmpString => {
            let (units, []) = bytes.as_chunks::<2>() else { return None };
            String::from_utf16(&units.iter().map(|u| u16::from_be_bytes(*u)).collect::<Vec<_>>()).ok()
        }
        Tag::UniversalString => {
            let (units, []) = bytes.as_chunks::<4>() else { return None };
            units.iter().map(|u| char::from_u32(u32::from_be_bytes(*u))).collect()
        }
        _ => None,
    }
}

fn write_der(out: &mut String, value: &Any<'_>) {
    out.push('#');
    for byte in value.to_der_vec().unwrap_or_default() {
        let _ = write!(out, "{byte:02X}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SanType};

    fn certificate(names: &[(DnType, &str)], sans: &[SanType]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), DnValue::Utf8String((*value).to_owned()));
        }
        params.subject_alt_names = sans.to_vec();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    /// What an element says besides `Hash` and `Cert`.
    fn rest(element: &str) -> (&str, &str) {
        let (before, after) = element.split_once("Cert=\"").unwrap();
        (before.split_once("Hash=").unwrap().0, after.split_once("\";").unwrap().1)
    }

    #[test]
    fn names_are_said_as_envoy_does() {
        let uri = |u: &str| SanType::URI(u.try_into().unwrap());
        let dns = |d: &str| SanType::DnsName(d.try_into().unwrap());
        let ours = ["spiffe://td/ns/a/sa/b".into(), "https://us".into()];
        let custom = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 99]);
        for (by, names, sans, before, after) in [
            (&[][..], vec![], vec![], "", r#"Subject="";URI="#),
            (
                &ours[..1],
                vec![(DnType::CommonName, "me")],
                vec![],
                "By=spiffe://td/ns/a/sa/b;",
                r#"Subject="CN=me";URI="#,
            ),
            (
                &ours[..],
                vec![
                    (DnType::CountryName, "CH"),
                    (DnType::OrganizationName, "Müller, \"Sons\" + Co"),
                    (DnType::CommonName, " #x "),
                ],
                vec![],
                "By=spiffe://td/ns/a/sa/b;By=https://us;",
                r#"Subject="CN=\ #x\ ,O=M\C3\BCller\, \"Sons\" \+ Co,C=CH";URI="#,
            ),
            (
                &[],
                vec![(DnType::CommonName, "#a\r\nb"), (custom, "z")],
                vec![uri("spiffe://a/b"), dns("a.com"), uri("spiffe://c"), dns("*.b.com")],
                "",
                r#"Subject="1.3.6.1.4.1.99=#0C017A,CN=\#a\0D\0Ab";URI=spiffe://a/b;URI=spiffe://c;DNS=a.com;DNS=*.b.com"#,
            ),
            (
                &[],
                vec![],
                vec![uri("spiffe://x,By=y;URI=\"z\\")],
                "",
                r#"Subject="";URI="spiffe://x,By=y;URI=\"z\\""#,
            ),
            (&[], vec![], vec![uri("x\r\nevil: 1"), dns("a\nb")], "", r#"Subject="";URI="#),
            (&[], vec![], vec![SanType::IpAddress([10, 0, 0, 1].into())], "", r#"Subject="";URI="#),
        ] {
            let der = certificate(&names, &sans);
            assert_eq!(rest(&element(by, &der)), (before, after));
        }
    }

    #[test]
    fn the_certificate_is_there_whole() {
        let der = certificate(&[(DnType::CommonName, "me")], &[]);
        let element = element(&[], &der);
        let hash = hex(digest(&SHA256, &der).as_ref());
        assert!(
            element.starts_with(&format!("Hash={hash};Cert=\"-----BEGIN%20CERTIFICATE-----%0A")),
            "{element}"
        );
        let encoded = element.split('"').nth(1).unwrap();
        assert!(!encoded.contains(['+', '/', '=', ' ', '\n']), "{encoded}");
        let pem = [("%2B", "+"), ("%2F", "/"), ("%3D", "="), ("%20", " "), ("%0A", "\n")]
            .into_iter()
            .fold(encoded.to_owned(), |pem, (from, to)| pem.replace(from, to));
        assert!(pem.lines().all(|line| line.len() <= PEM_LINE) && pem.ends_with("-----\n"), "{pem}");
        use rustls::pki_types::{CertificateDer, pem::PemObject};
        assert_eq!(*CertificateDer::from_pem_slice(pem.as_bytes()).unwrap(), *der);
    }

    #[test]
    fn what_does_not_parse_is_said_by_its_hash() {
        assert_eq!(rest(&element(&[], b"nothing")), ("", r#"Subject="";URI="#));
        assert!(identities(b"nothing").is_empty());
        let der = certificate(&[], &[SanType::URI("spiffe://a".try_into().unwrap())]);
        assert_eq!(identities(&der), ["spiffe://a".into()]);
    }
}
