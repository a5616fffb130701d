//! Certificates of clients, and what else a server asks of a handshake.

use crate::support::*;
use crate::tls::{BOTH, client, connect, unauthenticated};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams, SerialNumber,
};
use rustls::ClientConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::net::SocketAddr;
use std::sync::Arc;
use tidegate_model::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// A client with a certificate of this number for this name.
    pub(crate) fn client(&self, serial: u64, name: &str) -> Arc<ClientConfig> {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config =
            unauthenticated(BOTH).with_client_auth_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.into()
    }

    /// A list that revokes this number and is good until the first of that year.
    fn revokes(&self, serial: u64, until: i32) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: rcgen::date_time_ymd(2001, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2001, 1, 1),
            next_update: rcgen::date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    pub(crate) fn add(&self, model: &mut Model, name: &str, revoked: Option<String>) {
        let authorities = Authorities {
            key: secret_key(name),
            certificates: self.pem.as_bytes().into(),
            revoked: revoked.map(|r| r.as_bytes().into()),
        };
        model.authorities.insert(secret_key(name), Arc::new(authorities));
    }
}

pub(crate) fn verification(authority: &str) -> ClientVerification {
    ClientVerification {
        required: true,
        authorities: vec![secret_key(authority)],
        any_authority: false,
        names: Vec::new(),
        pins: Vec::new(),
    }
}

pub(crate) fn terminated(clients: ClientVerification) -> TlsAction {
    TlsAction::Http(TlsTermination {
        certificates: vec![secret_key("s")],
        clients: Some(clients),
        ..TlsTermination::default()
    })
}

/// Whether a request over a connection for `name` is answered.
async fn answered(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> bool {
    let Ok(mut stream) = connect(address, name, config.clone()).await else { return false };
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    // With TLS 1.3 the client hears of its certificate only afterwards.
    if stream.write_all(request.as_bytes()).await.is_err() {
        return false;
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer.starts_with(b"HTTP/1.1 ")
}

#[tokio::test]
async fn certificates_of_clients_are_checked_by_the_server_that_sni_chose() {
    let proxy = start();
    let mut model = Model::default();
    secret(&mut model, "s", &["*.x"], &PKCS_ECDSA_P256_SHA256);
    let (authority, other) = (Authority::new(), Authority::new());
    authority.add(&mut model, "ca", None);
    authority.add(&mut model, "list", Some(authority.revokes(2, 2500)));
    authority.add(&mut model, "old-list", Some(authority.revokes(2, 2002)));
    let optional = ClientVerification { required: false, ..verification("ca") };
    let named = ClientVerification { names: vec!["one.client".into()], ..verification("ca") };
    let pinned = ClientVerification { pins: vec![Pin::Key([0; 32])], ..verification("ca") };
    let any = ClientVerification { any_authority: true, authorities: Vec::new(), ..verification("ca") };
    let simple =
        TlsAction::Http(TlsTermination { certificates: vec![secret_key("s")], ..TlsTermination::default() });
    let servers: Vec<(&str, &[&str], TlsAction)> = vec![
        ("simple", &["simple.x"], simple),
        ("mutual", &["mutual.x"], terminated(verification("ca"))),
        ("optional", &["optional.x"], terminated(optional)),
        ("list", &["list.x"], terminated(verification("list"))),
        ("old", &["old.x"], terminated(verification("old-list"))),
        ("named", &["named.x"], terminated(named)),
        ("pinned", &["pinned.x"], terminated(pinned)),
        ("any", &["any.x"], terminated(any)),
        ("missing", &["missing.x"], terminated(verification("nowhere"))),
    ];
    tls_actions(&mut model, key(1), servers);
    let applied = proxy.apply(model);
    assert!(
        applied.diagnostics.is_empty(),
        "what is missing is its maker's to say: {:?}",
        applied.diagnostics
    );
    let at = address(&proxy, key(1));
    let none = Arc::new(client(&["http/1.1"], BOTH));
    let clients = [
        none,
        authority.client(1, "one.client"),
        authority.client(2, "two.client"),
        other.client(1, "one.client"),
    ];
    // Without a certificate, the first, the second (which is revoked), one of another authority.
    for (name, expected) in [
        ("simple.x", [true, true, true, true]),
        ("mutual.x", [false, true, true, false]),
        ("optional.x", [true, true, true, false]),
        ("list.x", [false, true, false, false]),
        ("old.x", [false, false, false, false]),
        ("named.x", [false, true, false, false]),
        ("pinned.x", [false, false, false, false]),
        ("any.x", [false, true, true, true]),
        ("missing.x", [false, false, false, false]),
    ] {
        let mut got = [false; 4];
        for (got, config) in got.iter_mut().zip(&clients) {
            *got = answered(at, name, config).await;
        }
        assert_eq!(got, expected, "{name}");
    }
}

#[tokio::test]
async fn what_is_broken_keeps_its_last_good_version_and_what_is_gone_does_not() {
    let proxy = start();
    let mut model = Model::default();
    secret(&mut model, "s", &["a.x"], &PKCS_ECDSA_P256_SHA256);
    let authority = Authority::new();
    authority.add(&mut model, "ca", Some(authority.revokes(2, 2500)));
    tls_actions(&mut model, key(1), vec![("a", &["a.x"], terminated(verification("ca")))]);
    proxy.apply(model.clone());
    let at = address(&proxy, key(1));
    let (good, revoked) = (authority.client(1, "a"), authority.client(2, "b"));
    let both = async || (answered(at, "a.x", &good).await, answered(at, "a.x", &revoked).await);
    assert_eq!(both().await, (true, false));
    let whole = model.clone();
    let change = |model: &mut Model, f: &dyn Fn(&mut Authorities)| {
        f(Arc::make_mut(model.authorities.get_mut(&secret_key("ca")).unwrap()));
    };
    let broken: [&dyn Fn(&mut Model); 3] = [
        &|m| change(m, &|a| a.certificates = b"no PEM".as_slice().into()),
        &|m| change(m, &|a| a.revoked = Some(b"no PEM".as_slice().into())),
        &|m| {
            let secret = Arc::make_mut(m.secrets.get_mut(&secret_key("s")).unwrap());
            secret.certificate_chain = b"no PEM".as_slice().into();
        },
    ];
    for (i, breaks) in broken.into_iter().enumerate() {
        let mut model = whole.clone();
        breaks(&mut model);
        let said = proxy.apply(model).diagnostics;
        assert!(
            said.len() == 1 && said[0].text.ends_with("the last good version keeps serving"),
            "{i}: {said:?}"
        );
        assert_eq!(both().await, (true, false), "{i}");
    }
    model.authorities.clear();
    proxy.apply(model);
    assert_eq!(both().await, (false, false), "nobody can be checked");
    assert!(proxy.apply(whole).diagnostics.is_empty());
    assert_eq!(both().await, (true, false));
}

#[tokio::test]
async fn a_session_does_not_outlive_the_policy_under_which_it_began() {
    let proxy = start();
    let mut model = Model::default();
    secret(&mut model, "s", &["a.x"], &PKCS_ECDSA_P256_SHA256);
    tls(&mut model, key(1), &[("a", &["a.x"], &["s"])]);
    let authority = Authority::new();
    authority.add(&mut model, "ca", None);
    proxy.apply(model.clone());
    let at = address(&proxy, key(1));
    let config = Arc::new(client(&["http/1.1"], BOTH));
    assert!(answered(at, "a.x", &config).await);
    tls_actions(&mut model, key(1), vec![("a", &["a.x"], terminated(verification("ca")))]);
    proxy.apply(model);
    assert!(!answered(at, "a.x", &config).await, "a ticket from before is no certificate");
    assert!(answered(at, "a.x", &authority.client(1, "c")).await);
}

#[tokio::test]
async fn suites_and_groups_are_those_that_a_server_asks_for() {
    let proxy = start();
    let mut model = Model::default();
    secret(&mut model, "s", &["*.x"], &PKCS_ECDSA_P256_SHA256);
    let with = |suites: Option<Vec<CipherSuite>>, groups: Option<Vec<KeyExchange>>, max| {
        TlsAction::Http(TlsTermination {
            certificates: vec![secret_key("s")],
            cipher_suites: suites,
            groups,
            max_version: max,
            ..TlsTermination::default()
        })
    };
    let v12 = Some(TlsVersion::V1_2);
    let order = vec![CipherSuite::EcdheEcdsaChacha20Poly1305, CipherSuite::EcdheEcdsaAes256GcmSha384];
    let servers: Vec<(&str, &[&str], TlsAction)> = vec![
        ("default", &["default.x"], with(None, None, None)),
        ("aes256", &["aes256.x"], with(Some(vec![CipherSuite::EcdheEcdsaAes256GcmSha384]), None, v12)),
        ("order", &["order.x"], with(Some(order), None, v12)),
        ("p256", &["p256.x"], with(None, Some(vec![KeyExchange::P256]), None)),
        ("only13", &["only13.x"], with(Some(Vec::new()), None, None)),
        ("nothing", &["nothing.x"], with(Some(Vec::new()), None, v12)),
    ];
    tls_actions(&mut model, key(1), servers);
    let applied = proxy.apply(model);
    let [broken] = applied.diagnostics.as_slice() else { panic!("{:?}", applied.diagnostics) };
    assert!(broken.text.contains("server nothing"), "{broken}");
    let at = address(&proxy, key(1));
    let config = Arc::new(client(&[], BOTH));
    for (name, suite, group) in [
        ("default.x", "TLS13_AES_128_GCM_SHA256", "X25519MLKEM768"),
        ("aes256.x", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "X25519"),
        ("order.x", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "X25519"),
        ("p256.x", "TLS13_AES_128_GCM_SHA256", "secp256r1"),
        ("only13.x", "TLS13_AES_128_GCM_SHA256", "X25519MLKEM768"),
    ] {
        let stream = connect(at, name, config.clone()).await.unwrap();
        let session = stream.get_ref().1;
        let got = session.negotiated_cipher_suite().map(|s| format!("{:?}", s.suite()));
        assert_eq!(got.as_deref(), Some(suite), "{name}");
        let got = session.negotiated_key_exchange_group().map(|g| format!("{:?}", g.name()));
        assert_eq!(got.as_deref(), Some(group), "{name}");
    }
    assert!(connect(at, "nothing.x", config).await.is_err());
}
