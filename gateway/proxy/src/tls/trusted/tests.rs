use super::super::client_certificate;
use super::super::credentials::Credentials;
use super::super::originate::{Inside, Originator};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::sync::Arc;
use tidegate_model::{
    Authorities, ClientVerification, Model, Secret, SecretKey, ServerAuthorities, UpstreamTls,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

/// A certificate with its key.
struct Pair {
    certificate: rcgen::Certificate,
    params: CertificateParams,
    key: KeyPair,
}

/// What `openssl req -x509` makes: an authority for these names that signs itself.
fn itself() -> CertificateParams {
    let mut params = CertificateParams::new(["a.example".to_owned(), "b.example".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "itself");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.serial_number = Some(SerialNumber::from(7));
    params
}

fn with(change: impl FnOnce(&mut CertificateParams)) -> Pair {
    let (mut params, key) = (itself(), KeyPair::generate().unwrap());
    change(&mut params);
    Pair { certificate: params.self_signed(&key).unwrap(), params, key }
}

fn used_for(purpose: ExtendedKeyUsagePurpose) -> Pair {
    with(|params| params.extended_key_usages.push(purpose))
}

impl Pair {
    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// A certificate that this one signs.
    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = itself();
        params.is_ca = IsCa::NoCa;
        params.distinguished_name.push(DnType::CommonName, "leaf");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Pair { certificate: params.signed_by(&key, &self.issuer()).unwrap(), params, key }
    }

    /// A list of what it revoked, good until the end of a year.
    fn revokes(&self, serial: u64, until: i32) -> String {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until, 12, 31),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2020, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer()).unwrap().pem().unwrap()
    }

    fn secret(&self, name: SecretKey) -> Secret {
        let (chain, key) = (self.certificate.pem(), self.key.serialize_pem());
        Secret { key: name, certificate_chain: chain.as_bytes().into(), private_key: key.as_bytes().into() }
    }
}

fn secret_key(name: &str) -> SecretKey {
    SecretKey { namespace: "ns".into(), name: name.into() }
}

/// Whom the one side trusts.
struct Configured<'a> {
    authorities: &'a [&'a Pair],
    revoked: &'a [String],
    /// The names that are asked for.
    names: &'a [&'a str],
}

impl Configured<'_> {
    fn authorities(&self) -> Authorities {
        let pem: String = self.authorities.iter().map(|pair| pair.certificate.pem()).collect();
        let revoked = self.revoked.concat();
        let revoked = (!revoked.is_empty()).then(|| revoked.as_bytes().into());
        Authorities { key: secret_key("ca"), certificates: pem.as_bytes().into(), revoked }
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.names.iter().map(|name| (*name).into()).collect()
    }

    /// How a server with this certificate is taken.
    fn takes_server(&self, shown: &Pair) -> Result<(), String> {
        let mut model = Model::default();
        model.authorities.insert(secret_key("ca"), self.authorities().into());
        let policy = UpstreamTls {
            certificate: None,
            authorities: ServerAuthorities::Named(secret_key("ca")),
            server_name: Some("a.example".into()),
            names: self.names(),
        };
        let credentials = Credentials::load(&model, &Credentials::default());
        let originator = Originator::build(&policy, &"a.example".into(), &credentials, None);
        handshake(&originator, server(shown, WebPkiClientVerifier::no_client_auth())).0
    }

    /// How a client with this certificate is taken.
    fn takes_client(&self, required: bool, shown: &Pair) -> Result<(), String> {
        let policy = ClientVerification {
            required,
            authorities: vec![secret_key("ca")],
            any_authority: false,
            names: self.names(),
            pins: Vec::new(),
        };
        let loaded = client_certificate::load(&self.authorities()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = client_certificate::verifier(&policy, &[loaded], &provider).unwrap();
        let mut model = Model::default();
        model.secrets.insert(secret_key("me"), shown.secret(secret_key("me")).into());
        let policy = UpstreamTls {
            certificate: Some(secret_key("me")),
            authorities: ServerAuthorities::Any,
            server_name: Some("a.example".into()),
            names: Vec::new(),
        };
        let credentials = Credentials::load(&model, &Credentials::default());
        let originator = Originator::build(&policy, &"a.example".into(), &credentials, None);
        handshake(&originator, server(&with(|_| {}), verifier)).1
    }
}

fn server(shown: &Pair, clients: Arc<dyn rustls::server::danger::ClientCertVerifier>) -> ServerConfig {
    let key = PrivateKeyDer::from_pem_slice(shown.key.serialize_pem().as_bytes()).unwrap();
    ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![shown.certificate.der().clone()], key)
        .unwrap()
}

/// What the client and the server say of a handshake.
fn handshake(originator: &Originator, server: ServerConfig) -> (Result<(), String>, Result<(), String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let server = async {
            let accepted = TlsAcceptor::from(Arc::new(server)).accept(theirs).await;
            let mut stream = accepted.map_err(|e| e.to_string())?;
            stream.write_all(b"x").await.and(stream.flush().await).map_err(|e| e.to_string())
        };
        let client = async {
            let begun = originator.begin(ours, None, Inside::Bytes).await;
            let mut stream = begun.map_err(|e| e.to_string())?;
            stream.read_exact(&mut [0]).await.map_err(|e| e.to_string())?;
            Ok(())
        };
        tokio::join!(client, server)
    })
}

/// `Err` has what is said at least.
fn assert_said(got: Result<(), String>, expected: Result<(), &str>, what: &str) {
    match (&got, expected) {
        (Ok(()), Ok(())) => {}
        (Err(e), Err(said)) if e.contains(said) => {}
        _ => panic!("{what}: {got:?} and not {expected:?}"),
    }
}

const ANOTHER: Result<(), &str> = Err("CaUsedAsEndEntity");
const UNKNOWN: Result<(), &str> = Err("UnknownRevocationStatus");
const PURPOSE: Result<(), &str> = Err("InvalidPurpose");

#[test]
fn one_that_is_configured_itself_is_taken_on_both_sides() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let (own, root) =
        (with(|_| {}), with(|params| params.distinguished_name.push(DnType::CommonName, "root")));
    let leaf = root.issue(|_| {});
    let expired = with(|params| params.not_after = date_time_ymd(2021, 1, 1));
    let early = with(|params| params.not_before = date_time_ymd(2999, 1, 1));
    let expired_leaf = root.issue(|params| params.not_after = date_time_ymd(2021, 1, 1));
    let (of_server, of_client) = (used_for(ServerAuth), used_for(ClientAuth));
    let (leaf_of_server, leaf_of_client) = (
        root.issue(|params| params.extended_key_usages.push(ServerAuth)),
        root.issue(|params| params.extended_key_usages.push(ClientAuth)),
    );
    let any = used_for(ExtendedKeyUsagePurpose::Any);
    let signer = with(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign));
    let both = with(|params| {
        params.key_usages.extend([KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature]);
    });
    // the same name and key, and yet another one
    let mut serial = itself();
    serial.serial_number = Some(SerialNumber::from(8));
    let other = serial.self_signed(&own.key).unwrap();
    let none = Ok(());
    let (late, usage) = (Err("expired"), Err("extended key usage"));
    for (what, configured, shown, as_server, as_client) in [
        ("it signs itself", &own, &own, none, none),
        ("another signed it", &leaf, &leaf, none, none),
        ("what it signed", &root, &leaf, none, none),
        ("not configured", &root, &own, ANOTHER, ANOTHER),
        ("not configured, signed", &own, &leaf, Err("UnknownIssuer"), Err("UnknownIssuer")),
        ("expired", &expired, &expired, late, late),
        ("expired, signed", &expired_leaf, &expired_leaf, late, late),
        ("too early", &early, &early, Err("not valid yet"), Err("not valid yet")),
        ("for servers", &of_server, &of_server, none, PURPOSE),
        ("for clients", &of_client, &of_client, PURPOSE, none),
        ("for servers, signed", &leaf_of_server, &leaf_of_server, none, usage),
        ("for clients, signed", &leaf_of_client, &leaf_of_client, usage, none),
        ("for any", &any, &any, PURPOSE, PURPOSE),
        ("signs others alone", &signer, &signer, PURPOSE, PURPOSE),
        ("signs others too", &both, &both, none, none),
    ] {
        let policy = Configured { authorities: &[configured], revoked: &[], names: &[] };
        assert_said(policy.takes_server(shown), as_server, what);
        for required in [true, false] {
            assert_said(policy.takes_client(required, shown), as_client, what);
        }
    }
    let copy = Pair {
        certificate: other,
        params: serial,
        key: KeyPair::from_pem(&own.key.serialize_pem()).unwrap(),
    };
    let policy = Configured { authorities: &[&root, &own], revoked: &[], names: &[] };
    assert_said(policy.takes_server(&copy), ANOTHER, "another certificate of its key");
    assert_said(policy.takes_client(true, &copy), ANOTHER, "another certificate of its key");
    assert_said(policy.takes_server(&own), Ok(()), "one of several");
    assert_said(policy.takes_client(true, &own), Ok(()), "one of several");
}

#[test]
fn its_names_are_asked_for_as_ever() {
    let (own, other) = (with(|_| {}), with(|params| params.subject_alt_names.clear()));
    let for_c = with(|params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("c.example".try_into().unwrap())];
    });
    let no_name = Err("not valid for name");
    let listed = Err("it is for none of the names");
    let unlisted = Err("OtherError(Name)");
    for (shown, names, as_server, as_client) in [
        (&own, &[][..], Ok(()), Ok(())),
        (&own, &["b.example"], Ok(()), Ok(())),
        (&own, &["c.example"], listed, unlisted),
        (&for_c, &[], no_name, Ok(())),
        (&for_c, &["c.example"], Ok(()), Ok(())),
        (&other, &[], no_name, Ok(())),
        (&other, &["a.example"], listed, unlisted),
    ] {
        let policy = Configured { authorities: &[shown], revoked: &[], names };
        assert_said(policy.takes_server(shown), as_server, &format!("{names:?}"));
        assert_said(policy.takes_client(true, shown), as_client, &format!("{names:?}"));
    }
}

#[test]
fn with_a_revocation_list_it_needs_one_of_its_own() {
    let own = with(|_| {});
    let namesake = with(|_| {});
    let root = with(|params| params.distinguished_name.push(DnType::CommonName, "root"));
    let leaf = root.issue(|params| params.serial_number = Some(SerialNumber::from(9)));
    let usages = |usages: &[KeyUsagePurpose]| with(|params| params.key_usages.extend_from_slice(usages));
    let (sign, lists) = (KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign);
    let signs_lists = usages(&[sign, lists]);
    let mut signs_none = usages(&[sign]);
    // rcgen would not sign it either
    signs_none.params.key_usages.clear();
    for (what, shown, revoked, expected) in [
        ("another is revoked", &own, &[own.revokes(8, 2999)][..], Ok(())),
        ("with those of others", &own, &[root.revokes(7, 2999), own.revokes(8, 2999)], Ok(())),
        ("revoked", &own, &[own.revokes(7, 2999)], Err("Revoked")),
        ("revoked in a second list", &own, &[own.revokes(8, 2999), own.revokes(7, 2999)], Err("Revoked")),
        ("the list is over", &own, &[own.revokes(8, 2021)], UNKNOWN),
        ("a list of somebody else", &own, &[root.revokes(8, 2999)], UNKNOWN),
        ("a list of somebody else with its name", &own, &[namesake.revokes(8, 2999)], UNKNOWN),
        ("its issuer is not configured", &leaf, &[root.revokes(8, 2999)], UNKNOWN),
        ("its key signs lists", &signs_lists, &[signs_lists.revokes(8, 2999)], Ok(())),
        ("its key signs no lists", &signs_none, &[signs_none.revokes(8, 2999)], UNKNOWN),
    ] {
        let policy = Configured { authorities: &[shown], revoked, names: &[] };
        assert_said(policy.takes_server(shown), expected, what);
        assert_said(policy.takes_client(true, shown), expected, what);
    }
}

#[test]
fn the_system_vouches_for_no_certificate_itself() {
    let own = with(|_| {});
    let mut roots = RootCertStore::empty();
    roots.add(own.certificate.der().clone()).unwrap();
    let policy = UpstreamTls {
        certificate: None,
        authorities: ServerAuthorities::System,
        server_name: Some("a.example".into()),
        names: Vec::new(),
    };
    let credentials = Credentials::default().with_system(roots);
    let originator = Originator::build(&policy, &"a.example".into(), &credentials, None);
    let said = handshake(&originator, server(&own, WebPkiClientVerifier::no_client_auth())).0;
    assert_said(said, ANOTHER, "of the system");
}
