//! How a Gateway's server terminates TLS.

use crate::report::Report;
use crate::secret::{self, Place, SERVER_FAILS};
use crate::servers::Server;
use crate::world::World;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidegate_api::Object;
use tidegate_api::istio::{MeshTlsProtocol, ServerTlsMode, ServerTlsSettings, TlsProtocol};
use tidegate_model::{
    CipherSuite, ClientVerification, KeyExchange, Model, Pin, SecretKey, TlsAction, TlsServer,
    TlsTermination, TlsVersion,
};

/// How `server` terminates TLS; the secrets that it needs and that can be used are put into `model`.
///
/// # Errors
/// Why every connection has to be refused.
pub(crate) fn termination(
    world: &World<'_>,
    server: &Server<'_>,
    model: &mut Model,
    report: &mut Report,
) -> Result<TlsTermination, &'static str> {
    let default = ServerTlsSettings::default();
    let tls = server.written.tls.as_ref().unwrap_or(&default);
    let field = format!("spec.servers[{}].tls", server.index);
    old_versions(server, &field, tls, report);
    let place = Place { world, object: server.object, field: &field, fails: SERVER_FAILS };
    Ok(TlsTermination {
        certificates: secret::certificates(&place, tls, model, report),
        clients: clients(&place, tls, model, report)?,
        ..parameters(world, server, &field, tls, report)
    })
}

/// Versions, suites and curves: what the server says, else the mesh config's `tlsDefaults` (Istio's
/// `applyDownstreamTLSDefaults`).
fn parameters(
    world: &World<'_>,
    server: &Server<'_>,
    field: &str,
    tls: &ServerTlsSettings,
    report: &mut Report,
) -> TlsTermination {
    let mut own = TlsTermination {
        certificates: Vec::new(),
        min_version: version(tls.min_protocol_version),
        max_version: version(tls.max_protocol_version),
        cipher_suites: cipher_suites(server.object, field, &tls.cipher_suites, report),
        groups: groups(server.object, field, &tls.ecdh_curves, report),
        clients: None,
    };
    let Some((object, defaults)) = world.mesh.tls_defaults() else { return own };
    let at = "data.mesh.tlsDefaults";
    if matches!(tls.min_protocol_version, None | Some(TlsProtocol::Auto)) {
        own.min_version = match defaults.min_protocol_version {
            Some(MeshTlsProtocol::Tls12) => Some(TlsVersion::V1_2),
            Some(MeshTlsProtocol::Tls13) => Some(TlsVersion::V1_3),
            Some(MeshTlsProtocol::Auto) | None => None,
        };
        if own.max_version.is_some_and(|max| Some(max) < own.min_version) {
            let text =
                "is below minProtocolVersion of the mesh config's tlsDefaults, so every handshake fails";
            let advice = "raise it, or give the server a minProtocolVersion of its own";
            report.error(server.object, &format!("{field}.maxProtocolVersion"), "invalid-tls", text, advice);
        }
    }
    own.cipher_suites =
        own.cipher_suites.or_else(|| cipher_suites(object, at, &defaults.cipher_suites, report));
    own.groups = own.groups.or_else(|| groups(object, at, &defaults.ecdh_curves, report));
    own
}

fn version(written: Option<TlsProtocol>) -> Option<TlsVersion> {
    match written {
        Some(TlsProtocol::Tls12) => Some(TlsVersion::V1_2),
        Some(TlsProtocol::Tls13) => Some(TlsVersion::V1_3),
        _ => None,
    }
}

/// Warns about servers of a port that share their certificates and not their routes: HTTP/2 clients take the connection
/// of one for requests to the other. Once for all that share them.
pub(crate) fn report_shared_certificates(servers: &[Server<'_>], tls: &[TlsServer], report: &mut Report) {
    let mut sharing: BTreeMap<&[SecretKey], Vec<(&TlsServer, &TlsTermination)>> = BTreeMap::new();
    for server in tls {
        if let TlsAction::Http(termination) = &server.action
            && !termination.certificates.is_empty()
        {
            sharing.entry(&termination.certificates).or_default().push((server, termination));
        }
    }
    for (certificates, sharing) in sharing {
        let [(first, as_first), others @ .., (last, _)] = sharing.as_slice() else { continue };
        let Some(server) = servers.iter().find(|s| s.table == last.table) else { continue };
        let alike = sharing.iter().all(|(_, termination)| termination == as_first);
        let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
        let certificates: Vec<_> = certificates.iter().map(ToString::to_string).collect();
        let outcome = if alike {
            "such requests are served by the routes of the server that has their host; in Istio they are answered 404"
        } else {
            "such requests are answered 421 where the TLS settings of the two differ; in Istio 404"
        };
        let text = format!(
            "shares certificate {} with {}{more}, and not its routes, so that browsers send requests for one on an \
             HTTP/2 connection to the other: {outcome}",
            certificates.join(", "),
            first.table,
        );
        let advice = "put their hosts into one server, or give each its own certificate";
        let field = format!("spec.servers[{}].tls", server.index);
        report.warning(server.object, &field, "shared-certificate", text, advice);
    }
}

fn old_versions(server: &Server<'_>, field: &str, tls: &ServerTlsSettings, report: &mut Report) {
    let is_old = |v| matches!(v, Some(TlsProtocol::Tls10 | TlsProtocol::Tls11));
    let advice = "use TLSV1_2 or TLSV1_3";
    if is_old(tls.min_protocol_version) {
        let text = "TLS below 1.2 is not spoken: handshakes begin at 1.2";
        report.note(server.object, &format!("{field}.minProtocolVersion"), "not-enforced", text, advice);
    }
    if is_old(tls.max_protocol_version) {
        let text = "TLS below 1.2 is not spoken: TLS 1.2 and 1.3 are served instead";
        report.warning(server.object, &format!("{field}.maxProtocolVersion"), "not-enforced", text, advice);
    }
}

/// The cipher suites that are written, those that are not spoken left out, as Istio does. A suite may stand in
/// brackets with others of the same preference.
fn cipher_suites(
    object: &Object,
    field: &str,
    written: &[String],
    report: &mut Report,
) -> Option<Vec<CipherSuite>> {
    if written.is_empty() {
        return None;
    }
    let mut suites = Vec::new();
    for (i, text) in written.iter().enumerate() {
        for name in text.trim_matches(['[', ']']).split('|') {
            let left_out = match cipher_suite(name) {
                Some(suite) if !suites.contains(&suite) => {
                    suites.push(suite);
                    continue;
                }
                Some(_) => format!("{name} is there twice"),
                None if name.starts_with("TLS_AES_") || name.starts_with("TLS_CHACHA20_") => {
                    format!(
                        "{name} is one of TLS 1.3, whose suites cannot be chosen: all of them are offered"
                    )
                }
                None => format!("{name:?} is not spoken, or no cipher suite; it is left out"),
            };
            let advice = "use ECDHE suites with AES-GCM or CHACHA20-POLY1305";
            report.warning(object, &format!("{field}.cipherSuites[{i}]"), "not-enforced", left_out, advice);
        }
    }
    if suites.is_empty() {
        let text = "none of these is spoken: only clients with TLS 1.3 are served";
        let advice = "add ECDHE-ECDSA-AES128-GCM-SHA256 and ECDHE-RSA-AES128-GCM-SHA256 for TLS 1.2";
        report.warning(object, &format!("{field}.cipherSuites"), "not-enforced", text, advice);
    }
    Some(suites)
}

/// By its name in OpenSSL, which Istio uses, or in TLS.
fn cipher_suite(name: &str) -> Option<CipherSuite> {
    use CipherSuite as C;
    Some(match name {
        "ECDHE-ECDSA-AES128-GCM-SHA256" | "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256" => {
            C::EcdheEcdsaAes128GcmSha256
        }
        "ECDHE-ECDSA-AES256-GCM-SHA384" | "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384" => {
            C::EcdheEcdsaAes256GcmSha384
        }
        "ECDHE-ECDSA-CHACHA20-POLY1305" | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" => {
            C::EcdheEcdsaChacha20Poly1305
        }
        "ECDHE-RSA-AES128-GCM-SHA256" | "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256" => C::EcdheRsaAes128GcmSha256,
        "ECDHE-RSA-AES256-GCM-SHA384" | "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384" => C::EcdheRsaAes256GcmSha384,
        "ECDHE-RSA-CHACHA20-POLY1305" | "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256" => {
            C::EcdheRsaChacha20Poly1305
        }
        _ => return None,
    })
}

fn groups(object: &Object, field: &str, written: &[String], report: &mut Report) -> Option<Vec<KeyExchange>> {
    if written.is_empty() {
        return None;
    }
    let mut groups = Vec::new();
    for (i, name) in written.iter().enumerate() {
        let group = match name.as_str() {
            "X25519MLKEM768" => KeyExchange::X25519MlKem768,
            "X25519" => KeyExchange::X25519,
            "P-256" => KeyExchange::P256,
            "P-384" => KeyExchange::P384,
            _ => {
                let text = format!("{name:?} is not spoken, or no curve; it is left out");
                let advice = "use X25519MLKEM768, X25519, P-256 or P-384";
                report.warning(object, &format!("{field}.ecdhCurves[{i}]"), "not-enforced", text, advice);
                continue;
            }
        };
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    Some(groups)
}

fn clients(
    place: &Place<'_>,
    tls: &ServerTlsSettings,
    model: &mut Model,
    report: &mut Report,
) -> Result<Option<ClientVerification>, &'static str> {
    let required = match tls.mode {
        Some(ServerTlsMode::Mutual) => true,
        Some(ServerTlsMode::OptionalMutual) => false,
        _ => {
            without_clients(place, tls, report);
            return Ok(None);
        }
    };
    let any_authority = tls.insecure_skip_verify == Some(true);
    if any_authority {
        let text = "any certificate of a client is accepted, whoever signed it";
        report.warning(
            place.object,
            &format!("{}.insecureSkipVerify", place.field),
            "insecure",
            text,
            "remove it",
        );
    }
    let authorities = if any_authority { Vec::new() } else { secret::authorities(place, tls, model, report) };
    let keys = tls.verify_certificate_spki.iter().map(|text| key_pin(text));
    let certificates = tls.verify_certificate_hash.iter().map(|text| certificate_pin(text));
    let Some(pins) = keys.chain(certificates).collect::<Option<Vec<Pin>>>() else {
        let text = "has a value that is no SHA-256; connections to these hosts are refused";
        let advice =
            "write verifyCertificateSpki in base64 and verifyCertificateHash in hex, of 32 bytes each";
        report.error(place.object, place.field, "invalid-pin", text, advice);
        return Err("a pin of verifyCertificateSpki or verifyCertificateHash is no SHA-256");
    };
    let names = tls.subject_alt_names.iter().map(|name| Arc::from(name.as_str())).collect();
    Ok(Some(ClientVerification { required, authorities, any_authority, names, pins }))
}

/// Settings for certificates of clients say nothing where none is asked for.
fn without_clients(place: &Place<'_>, tls: &ServerTlsSettings, report: &mut Report) {
    for (name, there) in [
        ("subjectAltNames", !tls.subject_alt_names.is_empty()),
        ("verifyCertificateSpki", !tls.verify_certificate_spki.is_empty()),
        ("verifyCertificateHash", !tls.verify_certificate_hash.is_empty()),
        ("caCertificates", tls.ca_certificates.is_some()),
        ("caCrl", tls.ca_crl.is_some()),
        ("caCertCredentialName", tls.ca_cert_credential_name.is_some()),
        ("insecureSkipVerify", tls.insecure_skip_verify == Some(true)),
    ] {
        if there {
            let text = "has no effect: clients are not asked for a certificate";
            let advice = "use mode MUTUAL or OPTIONAL_MUTUAL, or remove it";
            report.warning(place.object, &format!("{}.{name}", place.field), "no-effect", text, advice);
        }
    }
}

fn key_pin(text: &str) -> Option<Pin> {
    STANDARD.decode(text).ok()?.try_into().ok().map(Pin::Key)
}

/// In hex, perhaps with a colon between bytes.
fn certificate_pin(text: &str) -> Option<Pin> {
    let digits: Vec<char> = text.chars().filter(|c| *c != ':').collect();
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some((high.to_digit(16)? * 16 + low.to_digit(16)?) as u8),
            _ => None,
        })
        .collect();
    bytes?.try_into().ok().map(Pin::Certificate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_32_bytes() {
        let hex = "ab".repeat(32);
        let colons = ["ab"; 32].join(":");
        assert_eq!(certificate_pin(&hex), Some(Pin::Certificate([0xab; 32])));
        assert_eq!(certificate_pin(&colons), Some(Pin::Certificate([0xab; 32])));
        assert_eq!(key_pin(&STANDARD.encode([7; 32])), Some(Pin::Key([7; 32])));
        for wrong in ["", "ab", &hex[1..], &"xy".repeat(32)] {
            assert_eq!((certificate_pin(wrong), key_pin(wrong)), (None, None), "{wrong}");
        }
    }
}
