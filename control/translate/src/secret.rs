//! Certificates with their keys, and authorities that check those of others, out of Secrets, ConfigMaps and files.

use crate::report::Report;
use crate::world::World;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tidegate_api::istio::ServerTlsSettings;
use tidegate_api::kubernetes::Secret as Written;
use tidegate_api::{Object, Spec};
use tidegate_model::{Authorities, Model, ObjectRef, Secret, SecretKey};

/// What the name of a Secret has at its end that holds the authorities of another one.
const CA_SUFFIX: &str = "-cacert";

/// Whose TLS settings these are.
pub(crate) struct Place<'p> {
    pub(crate) world: &'p World<'p>,
    pub(crate) object: &'p Object,
    /// The field of the settings.
    pub(crate) field: &'p str,
    /// What follows when something is missing.
    pub(crate) fails: &'static str,
}

/// What follows for a server that lacks something.
pub(crate) const SERVER_FAILS: &str = "the handshake of this server fails";

/// The certificates of a server. Those that are there are put into `model`, also broken ones: the data plane keeps
/// the last good version of one, and else the handshake fails for this server.
pub(crate) fn certificates(
    place: &Place<'_>,
    tls: &ServerTlsSettings,
    model: &mut Model,
    report: &mut Report,
) -> Vec<SecretKey> {
    let mut keys = Vec::new();
    for (field, name) in credentials(place, tls) {
        keys.extend(certificate_named(place, &field, name, model, report));
    }
    for (field, certificate, private_key) in certificate_files(place, tls) {
        let fields = [format!("{field}.serverCertificate"), format!("{field}.privateKey")];
        keys.push(certificate_of_files(place, &fields, [certificate, private_key], model, report));
    }
    keys
}

/// The certificate that a Secret of that name holds; `None` when the name is none of a Secret that may be used.
pub(crate) fn certificate_named(
    place: &Place<'_>,
    field: &str,
    name: &str,
    model: &mut Model,
    report: &mut Report,
) -> Option<SecretKey> {
    let key = secret_key(place, field, name, report)?;
    if let Entry::Vacant(entry) = model.secrets.entry(key.clone())
        && let Some(secret) = load(place, field, entry.key(), report)
    {
        entry.insert(Arc::new(secret));
    }
    Some(key)
}

/// The certificate of two files, itself and its key, each named by its own field.
pub(crate) fn certificate_of_files(
    place: &Place<'_>,
    fields: &[String; 2],
    [certificate, private_key]: [&str; 2],
    model: &mut Model,
    report: &mut Report,
) -> SecretKey {
    let key = file_key(&["cert", certificate, private_key]);
    let chain = file(place, &fields[0], certificate, report);
    let private = file(place, &fields[1], private_key, report);
    if let Some((chain, private)) = chain.zip(private) {
        let written = [("tls.crt", &chain), ("tls.key", &private)];
        let data = written.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect();
        let written = Written { secret_type: None, data };
        let secret = checked(place.world, place.object, &key, &written, Some(&fields[0]), report);
        model.secrets.insert(key.clone(), Arc::new(secret));
    }
    key
}

/// The names of a server's Secrets, each with its field.
fn credentials<'t>(place: &Place<'_>, tls: &'t ServerTlsSettings) -> Vec<(String, &'t str)> {
    let field = place.field;
    let one = tls.credential_name.as_deref().filter(|n| !n.is_empty());
    let named = one.map(|n| (format!("{field}.credentialName"), n));
    let several = tls.credential_names.iter().enumerate();
    let several = several.map(|(i, n)| (format!("{field}.credentialNames[{i}]"), n.as_str()));
    named.into_iter().chain(several).collect()
}

/// The files of a server's certificates: the field in which they stand, certificate and key.
fn certificate_files<'t>(place: &Place<'_>, tls: &'t ServerTlsSettings) -> Vec<(String, &'t str, &'t str)> {
    let field = place.field;
    let pair = |certificate: &'t Option<String>, key: &'t Option<String>| {
        let there = |text: &'t Option<String>| text.as_deref().filter(|t| !t.is_empty());
        there(certificate).zip(there(key))
    };
    let one = pair(&tls.server_certificate, &tls.private_key).map(|(c, k)| (field.to_owned(), c, k));
    let several = tls.tls_certificates.iter().enumerate().filter_map(|(i, t)| {
        let (certificate, key) = pair(&t.server_certificate, &t.private_key)?;
        Some((format!("{field}.tlsCertificates[{i}]"), certificate, key))
    });
    one.into_iter().chain(several).collect()
}

/// Who signs the certificates of a server's clients. What is there is put into `model`; as long as something is
/// missing, the handshake fails for this server.
pub(crate) fn authorities(
    place: &Place<'_>,
    tls: &ServerTlsSettings,
    model: &mut Model,
    report: &mut Report,
) -> Vec<SecretKey> {
    let credentials = credentials(place, tls);
    if let Some(name) = tls.ca_cert_credential_name.as_deref().filter(|n| !n.is_empty()) {
        let field = format!("{}.caCertCredentialName", place.field);
        let Some(key) = secret_key(place, &field, name, report) else { return vec![unknown(name)] };
        return vec![authorities_of(place, &field, &[key], model, report)];
    }
    if let Some((field, _)) = credentials.first() {
        if tls.ca_crl.is_some() {
            let text = "has no effect with credentialName, in Istio neither";
            let advice = "put the list into the Secret of the authorities, as ca.crl (or crl beside cacert)";
            report.warning(place.object, &format!("{}.caCrl", place.field), "no-effect", text, advice);
        }
        let names = credentials.iter().flat_map(|(field, name)| authority_names(place, field, name));
        return vec![authorities_of(place, field, &names.collect::<Vec<_>>(), model, report)];
    }
    let several = tls.tls_certificates.iter().enumerate();
    let several =
        several.map(|(i, t)| (format!("{}.tlsCertificates[{i}]", place.field), t.ca_certificates.as_deref()));
    let one = (place.field.to_owned(), tls.ca_certificates.as_deref());
    let files =
        std::iter::once(one).chain(several).filter_map(|(f, c)| Some((f, c.filter(|c| !c.is_empty())?)));
    let revoked = tls.ca_crl.as_deref().filter(|c| !c.is_empty());
    let files: Vec<_> =
        files.map(|(field, path)| authority_files(place, &field, path, revoked, model, report)).collect();
    if files.is_empty() {
        let text = format!("says of nobody that it may sign certificates of clients; {}", place.fails);
        let advice = "name a Secret with ca.crt in it, or set caCertificates";
        report.warning(place.object, place.field, "unknown-credential", text, advice);
        return vec![unknown("")];
    }
    files
}

/// A key that nothing has: the handshake fails.
pub(crate) fn unknown(name: &str) -> SecretKey {
    SecretKey { namespace: "".into(), name: name.into() }
}

/// The Secrets that may hold the authorities that belong to the one of that name, the first to look at first.
pub(crate) fn authority_names(place: &Place<'_>, field: &str, name: &str) -> Vec<SecretKey> {
    let Some(key) = secret_key(place, field, name, &mut Report::default()) else { return Vec::new() };
    vec![SecretKey { name: format!("{}{CA_SUFFIX}", key.name).into(), ..key.clone() }, key]
}

/// The first of the named Secrets, or ConfigMaps, that holds authorities.
pub(crate) fn authorities_of(
    place: &Place<'_>,
    field: &str,
    names: &[SecretKey],
    model: &mut Model,
    report: &mut Report,
) -> SecretKey {
    for key in names {
        if model.authorities.contains_key(key) {
            return key.clone();
        }
        let Some((object, data)) = contents(place.world, key) else { continue };
        let value = |name: &str| data.get(name).copied().filter(|v| !v.is_empty());
        let pair = |ca: &'static str, crl: &str| Some((ca, value(ca)?, value(crl)));
        let Some((name, certificates, revoked)) = pair("cacert", "crl").or_else(|| pair("ca.crt", "ca.crl"))
        else {
            continue;
        };
        let at = format!("data{}", tidegate_api::field::key(name));
        check_authorities(place.world, object, &at, certificates, revoked, report);
        let found = Authorities {
            key: key.clone(),
            certificates: certificates.into(),
            revoked: revoked.map(Into::into),
        };
        model.authorities.insert(key.clone(), Arc::new(found));
        return key.clone();
    }
    let all: Vec<_> = names.iter().map(ToString::to_string).collect();
    let text = format!(
        "none of {} holds authorities (cacert or ca.crt) for certificates of the other side; {} until one does",
        all.join(", "),
        place.fails
    );
    report.warning(place.object, field, "unknown-credential", text, "add ca.crt to the Secret");
    names.last().cloned().unwrap_or_else(|| unknown(""))
}

/// What a Secret, or else a ConfigMap, holds.
fn contents<'a>(world: &World<'a>, key: &SecretKey) -> Option<(&'a Object, BTreeMap<&'a str, &'a [u8]>)> {
    let find = |kind| world.objects.get(&ObjectRef::new(kind, &key.namespace, &key.name));
    let object = find("Secret").or_else(|| find("ConfigMap"))?;
    let data = match &object.spec {
        Spec::Secret(secret) => secret.data.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect(),
        Spec::ConfigMap(map) => {
            let texts = map.data.iter().map(|(k, v)| (k.as_str(), v.as_bytes()));
            texts.chain(map.binary_data.iter().map(|(k, v)| (k.as_str(), v.0.as_slice()))).collect()
        }
        _ => return None,
    };
    Some((object, data))
}

pub(crate) fn authority_files(
    place: &Place<'_>,
    field: &str,
    path: &str,
    revoked: Option<&str>,
    model: &mut Model,
    report: &mut Report,
) -> SecretKey {
    let key = file_key(&["root", path, revoked.unwrap_or_default()]);
    let at = format!("{field}.caCertificates");
    let certificates = file(place, &at, path, report);
    let list = revoked.map(|path| file(place, &format!("{}.caCrl", place.field), path, report));
    // A list that is asked for and cannot be read is not left out: that would let the revoked in.
    if let (Some(certificates), Some(revoked)) = (certificates, list.map_or(Some(None), |l| l.map(Some))) {
        check_authorities(place.world, place.object, &at, &certificates, revoked.as_deref(), report);
        let found = Authorities { key: key.clone(), certificates, revoked };
        model.authorities.insert(key.clone(), Arc::new(found));
    }
    key
}

/// What stands for files among Secrets, which all have a namespace.
fn file_key(parts: &[&str]) -> SecretKey {
    SecretKey { namespace: "".into(), name: format!("file-{}", parts.join(":")).into() }
}

fn file(place: &Place<'_>, field: &str, path: &str, report: &mut Report) -> Option<Arc<[u8]>> {
    match place.world.env.files.get(path) {
        Some(Ok(content)) => Some(content.clone()),
        other => {
            let why = other.and_then(|r| r.as_ref().err()).map_or("it was not looked for", String::as_str);
            let text = format!("{path} cannot be read: {why}; {} until it can", place.fails);
            let advice =
                "mount it into the gateway, or put it into a Secret and name that with credentialName";
            report.warning(place.object, field, "unknown-credential", text, advice);
            None
        }
    }
}

/// Says what is wrong with authorities; the data plane keeps the last good version.
fn check_authorities(
    world: &World<'_>,
    object: &Object,
    field: &str,
    certificates: &[u8],
    revoked: Option<&[u8]>,
    report: &mut Report,
) {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
    let whole = roots.is_ok_and(|roots| {
        !roots.is_empty() && roots.iter().all(|root| x509_parser::parse_x509_certificate(root).is_ok())
    });
    if !whole {
        let text = "the authorities are not PEM, or not X.509; their last good version stays in use, and without one \
                    handshakes fail";
        report.error(object, field, "invalid-credential", text, "use PEM certificates");
    }
    let Some(revoked) = revoked else { return };
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(revoked).collect();
    let now = world.env.now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs().cast_signed());
    let parsed = lists.as_ref().is_ok_and(|lists| {
        !lists.is_empty() && lists.iter().all(|list| x509_parser::parse_x509_crl(list).is_ok())
    });
    if !parsed {
        let text = "the revocation list is not PEM, or not one; its last good version stays in use, and without one \
                    handshakes fail";
        report.error(object, field, "invalid-credential", text, "use PEM revocation lists (X509 CRL)");
        return;
    }
    let over = |list: &CertificateRevocationListDer<'_>| {
        let next = x509_parser::parse_x509_crl(list).ok()?.1.next_update()?.timestamp();
        (next < now).then_some(())
    };
    if lists.unwrap_or_default().iter().any(|list| over(list).is_some()) {
        let text = "the time of a revocation list is over: who it is about is refused until it is renewed";
        report.warning(object, field, "not-valid-now", text, "renew it");
    }
}

/// Secrets are read from the gateway's own namespace, whatever the object's is.
fn secret_key(place: &Place<'_>, field: &str, name: &str, report: &mut Report) -> Option<SecretKey> {
    let own = place.world.env.namespace.clone();
    let prefixes = ["kubernetes://", "kubernetes-gateway://", "configmap://"];
    let plain = prefixes.iter().find_map(|p| name.strip_prefix(p)).unwrap_or(name);
    if plain.contains("://") {
        let text = format!("credentials of the form {name:?} are not read yet; {}", place.fails);
        report.warning(place.object, field, "not-enforced", text, "name a TLS Secret");
        return None;
    }
    match plain.split_once('/') {
        None => Some(SecretKey { namespace: own, name: plain.into() }),
        Some((namespace, name)) if *namespace == *own => {
            Some(SecretKey { namespace: own, name: name.into() })
        }
        Some(_) => {
            let text = format!("{name:?} is not in {own}, the namespace of this gateway");
            let advice = format!("create the Secret in {own}");
            report.warning(place.object, field, "unknown-credential", text, advice);
            None
        }
    }
}

fn load(place: &Place<'_>, field: &str, key: &SecretKey, report: &mut Report) -> Option<Secret> {
    let reference = ObjectRef::new("Secret", &key.namespace, &key.name);
    let Some(object) = place.world.objects.get(&reference) else {
        let text = format!("there is no Secret {key}; {} until there is", place.fails);
        let advice =
            format!("create it with tls.crt and tls.key in {}, the gateway's namespace", key.namespace);
        report.warning(place.object, field, "unknown-credential", text, advice);
        return None;
    };
    let Spec::Secret(written) = &object.spec else { return None };
    Some(checked(place.world, object, key, written, None, report))
}

/// A certificate with its key as they were written, and what is wrong with them; of files, `files` is the field that
/// names the certificate's.
fn checked(
    world: &World<'_>,
    object: &Object,
    key: &SecretKey,
    written: &Written,
    files: Option<&str>,
    report: &mut Report,
) -> Secret {
    let at = |why: InvalidSecret| match files {
        Some(field) => field.to_owned(),
        None => why.field(written).to_owned(),
    };
    match check(written) {
        Ok(pair) => {
            if let Some(text) = pair.not_valid(world.env.now) {
                let field = at(InvalidSecret::Certificate);
                report.warning(object, &field, "not-valid-now", text, "renew it; the other side refuses it");
            }
        }
        Err(why) => {
            let text = format!("{why}; its last good version stays in use, and without one handshakes fail");
            let advice = "use a PEM certificate chain, leaf first, with its unencrypted PEM key";
            report.error(object, &at(why), "invalid-credential", text, advice);
        }
    }
    let (chain, private) = written_pair(written).unwrap_or_default();
    Secret { key: key.clone(), certificate_chain: chain.into(), private_key: private.into() }
}

/// The files that a server names: certificates, keys, authorities and revocation lists.
pub(crate) fn files(tls: &ServerTlsSettings) -> impl Iterator<Item = &str> {
    let one = [&tls.server_certificate, &tls.private_key, &tls.ca_certificates, &tls.ca_crl];
    let several = tls.tls_certificates.iter();
    let several = several.flat_map(|t| [&t.server_certificate, &t.private_key, &t.ca_certificates]);
    one.into_iter().chain(several).filter_map(|path| path.as_deref()).filter(|path| !path.is_empty())
}

/// Why a Secret is no certificate with its key.
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

/// A certificate chain whose key belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    /// Seconds since the epoch between which the leaf is valid.
    valid: (i64, i64),
}

impl Pair {
    fn not_valid(&self, now: SystemTime) -> Option<&'static str> {
        let now = now.duration_since(UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_secs()).ok())?;
        match self.valid {
            (_, end) if end < now => Some("the certificate has expired"),
            (start, _) if start > now => Some("the certificate is not valid yet"),
            _ => None,
        }
    }
}

/// Certificate chain and key of a Secret: `cert` and `key`, else `tls.crt` and `tls.key`.
fn written_pair(written: &Written) -> Option<(&[u8], &[u8])> {
    let value = |name: &str| written.data.get(name).map(Vec::as_slice).filter(|v| !v.is_empty());
    let pair = |cert: &str, key: &str| value(cert).zip(value(key));
    pair("cert", "key").or_else(|| pair("tls.crt", "tls.key"))
}

/// Certificate chain and key of a Secret, once they are known to belong together.
fn check(written: &Written) -> Result<Pair, InvalidSecret> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let (chain, key) = written_pair(written).ok_or(InvalidSecret::Missing)?;
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
            Ok(Pair { valid })
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
        assert!(check(&data).is_ok());
        let pair = Pair { valid: (1000, 2000) };
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
