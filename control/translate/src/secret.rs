//! Server certificates out of Secrets.

use crate::report::Report;
use crate::world::World;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tidegate_api::istio::ServerTlsSettings;
use tidegate_api::kubernetes::Secret as Written;
use tidegate_api::{Object, Spec};
use tidegate_model::{Model, ObjectRef, Secret, SecretKey};

/// The certificates of a server. Those that can be used are put into `model`; the handshake fails for this server
/// as long as one is missing.
pub(crate) fn certificates(
    world: &World<'_>,
    gateway: &Object,
    field: &str,
    tls: &ServerTlsSettings,
    model: &mut Model,
    report: &mut Report,
) -> Vec<SecretKey> {
    let one = tls.credential_name.as_ref().filter(|n| !n.is_empty());
    let named = one.map(|n| (format!("{field}.credentialName"), n));
    let several =
        tls.credential_names.iter().enumerate().map(|(i, n)| (format!("{field}.credentialNames[{i}]"), n));
    let mut keys = Vec::new();
    for (field, name) in named.into_iter().chain(several) {
        let Some(key) = secret_key(world, gateway, &field, name, report) else { continue };
        keys.push(key.clone());
        if let Entry::Vacant(place) = model.secrets.entry(key)
            && let Some(secret) = load(world, gateway, &field, place.key(), report)
        {
            place.insert(Arc::new(secret));
        }
    }
    if keys.is_empty() && tls.server_certificate.is_some() {
        let text = "certificates from files are not read yet; the handshake of this server fails";
        let advice = "put the certificate into a TLS Secret and name it with credentialName";
        report.warning(gateway, &format!("{field}.serverCertificate"), "not-enforced", text, advice);
    }
    keys
}

/// Secrets are read from the gateway's own namespace, whatever the Gateway's is.
fn secret_key(
    world: &World<'_>,
    gateway: &Object,
    field: &str,
    name: &str,
    report: &mut Report,
) -> Option<SecretKey> {
    let own = world.env.namespace.clone();
    let plain = name.strip_prefix("kubernetes://").unwrap_or(name);
    if plain.contains("://") {
        let text =
            format!("credentials of the form {name:?} are not read yet; the handshake of this server fails");
        report.warning(gateway, field, "not-enforced", text, "name a TLS Secret");
        return None;
    }
    match plain.split_once('/') {
        None => Some(SecretKey { namespace: own, name: plain.into() }),
        Some((namespace, name)) if *namespace == *own => {
            Some(SecretKey { namespace: own, name: name.into() })
        }
        Some(_) => {
            let text = format!("{name:?} is not in {own}, the namespace of this gateway");
            report.warning(gateway, field, "unknown-credential", text, format!("create the Secret in {own}"));
            None
        }
    }
}

fn load(
    world: &World<'_>,
    gateway: &Object,
    field: &str,
    key: &SecretKey,
    report: &mut Report,
) -> Option<Secret> {
    let reference = ObjectRef::new("Secret", &key.namespace, &key.name);
    let Some(object) = world.objects.get(&reference) else {
        let text = format!("there is no Secret {key}; the handshake of this server fails until there is");
        let advice =
            format!("create it with tls.crt and tls.key in {}, the gateway's namespace", key.namespace);
        report.warning(gateway, field, "unknown-credential", text, advice);
        return None;
    };
    let Spec::Secret(written) = &object.spec else { return None };
    match check(written) {
        Ok(pair) => {
            if let Some(text) = pair.not_valid(world.env.now) {
                let field = InvalidSecret::Certificate.field(written);
                report.warning(object, field, "not-valid-now", text, "renew it; clients refuse it");
            }
            Some(Secret {
                key: key.clone(),
                certificate_chain: pair.chain.into(),
                private_key: pair.key.into(),
            })
        }
        Err(why) => {
            let text = format!("{why}; servers that use this Secret refuse the handshake");
            let advice = "use a PEM certificate chain, leaf first, with its unencrypted PEM key";
            report.error(object, why.field(written), "invalid-credential", text, advice);
            None
        }
    }
}

/// Why a Secret is no server certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum InvalidSecret {
    #[error("has neither cert and key nor tls.crt and tls.key")]
    Missing,
    #[error("the certificate is not PEM or not X.509")]
    Certificate,
    #[error("the private key is not PEM, or of a kind that is not supported")]
    Key,
    #[error("the private key does not belong to the certificate")]
    Mismatch,
}

impl InvalidSecret {
    fn field(self, written: &Written) -> &'static str {
        let generic = written.data.contains_key("cert");
        match (self, generic) {
            (InvalidSecret::Missing, _) => "data",
            (InvalidSecret::Certificate, true) => "data.cert",
            (InvalidSecret::Certificate, false) => "data[\"tls.crt\"]",
            (InvalidSecret::Key | InvalidSecret::Mismatch, true) => "data.key",
            (InvalidSecret::Key | InvalidSecret::Mismatch, false) => "data[\"tls.key\"]",
        }
    }
}

/// A certificate chain and the key that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair<'a> {
    chain: &'a [u8],
    key: &'a [u8],
    /// Seconds since the epoch between which the leaf is valid.
    valid: (i64, i64),
}

impl Pair<'_> {
    fn not_valid(&self, now: SystemTime) -> Option<&'static str> {
        let now = now.duration_since(UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_secs()).ok())?;
        match self.valid {
            (_, end) if end < now => Some("the certificate has expired"),
            (start, _) if start > now => Some("the certificate is not valid yet"),
            _ => None,
        }
    }
}

/// Certificate chain and key of a Secret, once they are known to belong together.
fn check(written: &Written) -> Result<Pair<'_>, InvalidSecret> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let value = |name: &str| written.data.get(name).map(Vec::as_slice).filter(|v| !v.is_empty());
    let pair = |cert: &str, key: &str| value(cert).zip(value(key));
    let (chain, key) =
        pair("cert", "key").or_else(|| pair("tls.crt", "tls.key")).ok_or(InvalidSecret::Missing)?;
    let certificates = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| InvalidSecret::Certificate)?;
    let leaf = certificates.first().ok_or(InvalidSecret::Certificate)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|_| InvalidSecret::Certificate)?;
    let validity = parsed.validity();
    let valid = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let der = PrivateKeyDer::from_pem_slice(key).map_err(|_| InvalidSecret::Key)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let signing = provider.key_provider.load_private_key(der).map_err(|_| InvalidSecret::Key)?;
    match rustls::sign::CertifiedKey::new(certificates, signing).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(Pair { chain, key, valid })
        }
        Err(rustls::Error::InconsistentKeys(_)) => Err(InvalidSecret::Mismatch),
        Err(_) => Err(InvalidSecret::Certificate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Vec<u8>, Vec<u8>) {
        let made = rcgen::generate_simple_self_signed(["a.example.com".to_owned()]).unwrap();
        (made.cert.pem().into_bytes(), made.signing_key.serialize_pem().into_bytes())
    }

    fn secret(data: &[(&str, &[u8])]) -> Written {
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), v.to_vec())).collect();
        Written { secret_type: None, data }
    }

    #[test]
    fn only_pairs_that_belong_together_are_used() {
        let (cert, key) = pair();
        let (other, _) = pair();
        let garbage: &[u8] = b"no PEM";
        for (name, data, expected) in [
            ("tls", secret(&[("tls.crt", &cert), ("tls.key", &key)]), Ok(())),
            ("generic", secret(&[("cert", &cert), ("key", &key)]), Ok(())),
            ("generic first", secret(&[("cert", &cert), ("key", &key), ("tls.crt", garbage)]), Ok(())),
            ("no key", secret(&[("tls.crt", &cert)]), Err(InvalidSecret::Missing)),
            ("empty", secret(&[]), Err(InvalidSecret::Missing)),
            ("bad cert", secret(&[("tls.crt", garbage), ("tls.key", &key)]), Err(InvalidSecret::Certificate)),
            ("bad key", secret(&[("tls.crt", &cert), ("tls.key", garbage)]), Err(InvalidSecret::Key)),
            ("swapped", secret(&[("tls.crt", &other), ("tls.key", &key)]), Err(InvalidSecret::Mismatch)),
        ] {
            assert_eq!(check(&data).map(|_| ()), expected, "{name}");
        }
    }

    #[test]
    fn a_certificate_out_of_its_time_is_told_apart() {
        let (cert, key) = pair();
        let data = secret(&[("tls.crt", &cert), ("tls.key", &key)]);
        let pair = Pair { valid: (1000, 2000), ..check(&data).unwrap() };
        for (now, expected) in [
            (999, Some("the certificate is not valid yet")),
            (1000, None),
            (2000, None),
            (2001, Some("the certificate has expired")),
        ] {
            let now = UNIX_EPOCH + std::time::Duration::from_secs(now);
            assert_eq!(pair.not_valid(now), expected);
        }
    }
}
