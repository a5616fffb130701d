use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyPair};
use rcgen::{KeyIdMethod, KeyUsagePurpose, SerialNumber};
use tidegate_model::{
    CipherSuite, KeyExchange, ListenerProtocol, Pin, TlsAction, TlsTermination, TlsVersion,
};

fn gateway(tls: &str) -> String {
    format!(
        "Gateway default/g: {{selector: {{istio: ingressgateway}}, servers: [{{port: {{number: 443, name: https, \
         protocol: HTTPS}}, hosts: ['*'], tls: {{{tls}}}}}]}}"
    )
}

pub(super) fn secret(name: &str, data: &[(&str, &str)]) -> String {
    let data: Vec<_> = data.iter().map(|(k, v)| format!("{k}: {}", STANDARD.encode(v))).collect();
    format!("Secret istio-system/{name}: {{{}}}", data.join(", "))
}

fn termination(t: &Translation) -> TlsTermination {
    match t.model.listeners.values().next().map(|l| &l.protocol) {
        Some(ListenerProtocol::Tls(servers)) => match &servers[0].action {
            TlsAction::Http(termination) => termination.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}: {:?}", t.diagnostics),
    }
}

pub(super) struct Pki {
    pub(super) cert: String,
    pub(super) key: String,
    pub(super) authority: String,
    pub(super) revoked: String,
    expired_list: String,
}

pub(super) fn pki() -> Pki {
    let made = rcgen::generate_simple_self_signed(["a.example.com".to_owned()]).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let list = |next: i32| {
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2001, 1, 1),
            next_update: rcgen::date_time_ymd(next, 1, 1),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&issuer).unwrap().pem().unwrap()
    };
    Pki {
        cert: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
        authority,
        revoked: list(2500),
        expired_list: list(2002),
    }
}

#[test]
fn settings_of_tls() {
    let suites = "[ECDHE-ECDSA-AES128-GCM-SHA256, '[ECDHE-RSA-AES256-GCM-SHA384|ECDHE-RSA-CHACHA20-POLY1305]', \
                  AES128-SHA, ECDHE-ECDSA-AES128-GCM-SHA256, TLS_AES_128_GCM_SHA256]";
    let tls = format!(
        "mode: SIMPLE, credentialName: c, minProtocolVersion: TLSV1_0, maxProtocolVersion: TLSV1_2, \
         cipherSuites: {suites}, ecdhCurves: [P-256, X25519MLKEM768, P-521], subjectAltNames: [x]"
    );
    let t = translate(&objects(&gateway(&tls)), &env());
    let got = termination(&t);
    assert_eq!((got.min_version, got.max_version), (None, Some(TlsVersion::V1_2)));
    use CipherSuite as C;
    let expected = [C::EcdheEcdsaAes128GcmSha256, C::EcdheRsaAes256GcmSha384, C::EcdheRsaChacha20Poly1305];
    assert_eq!(got.cipher_suites.as_deref(), Some(&expected[..]));
    assert_eq!(got.groups.as_deref(), Some(&[KeyExchange::P256, KeyExchange::X25519MlKem768][..]));
    assert_eq!(got.clients, None);
    let said = said(&t);
    for expected in [
        "note spec.servers[0].tls.minProtocolVersion not-enforced",
        "warning spec.servers[0].tls.cipherSuites[2] not-enforced",
        "warning spec.servers[0].tls.cipherSuites[3] not-enforced",
        "warning spec.servers[0].tls.cipherSuites[4] not-enforced",
        "warning spec.servers[0].tls.ecdhCurves[2] not-enforced",
        "warning spec.servers[0].tls.subjectAltNames no-effect",
    ] {
        assert!(said.iter().any(|s| s == expected), "{expected}: {said:?}");
    }
}

#[test]
fn settings_of_tls_that_the_mesh_has_for_servers_without_their_own() {
    use CipherSuite as C;
    use KeyExchange as K;
    let mesh = "ConfigMap istio-system/istio: {mesh: 'tlsDefaults: {minProtocolVersion: TLSV1_3, cipherSuites: \
                [ECDHE-RSA-AES256-GCM-SHA384, AES128-SHA], ecdhCurves: [P-384, P-521]}'}";
    let ours = (Some(TlsVersion::V1_3), C::EcdheRsaAes256GcmSha384, K::P384);
    let bad_suite = "warning data.mesh.tlsDefaults.cipherSuites[1] not-enforced";
    let bad_curve = "warning data.mesh.tlsDefaults.ecdhCurves[1] not-enforced";
    let (upstreams, below) = (
        "note data.mesh.tlsDefaults.cipherSuites not-enforced",
        "error spec.servers[0].tls.maxProtocolVersion invalid-tls",
    );
    for (tls, (version, suite, curve), expected, unexpected) in [
        ("mode: SIMPLE", ours, vec![bad_suite, bad_curve, upstreams], below),
        ("mode: OPTIONAL_MUTUAL", ours, vec![bad_suite], below),
        ("mode: SIMPLE, minProtocolVersion: TLS_AUTO, cipherSuites: [], ecdhCurves: []", ours, vec![], below),
        (
            "mode: SIMPLE, minProtocolVersion: TLSV1_2",
            (Some(TlsVersion::V1_2), ours.1, ours.2),
            vec![],
            below,
        ),
        ("mode: SIMPLE, minProtocolVersion: TLSV1_0", (None, ours.1, ours.2), vec![], below),
        ("mode: SIMPLE, maxProtocolVersion: TLSV1_2", ours, vec![below], "-"),
        (
            "mode: SIMPLE, cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256]",
            (ours.0, C::EcdheRsaAes128GcmSha256, ours.2),
            vec![bad_curve, upstreams],
            bad_suite,
        ),
        ("mode: SIMPLE, ecdhCurves: [P-256]", (ours.0, ours.1, K::P256), vec![bad_suite], bad_curve),
    ] {
        let lines = format!("{}\n{mesh}", gateway(&format!("{tls}, credentialName: c")));
        let t = translate(&objects(&lines), &env());
        let got = termination(&t);
        assert_eq!(got.min_version, version, "{tls}");
        assert_eq!((got.cipher_suites, got.groups), (Some(vec![suite]), Some(vec![curve])), "{tls}");
        let said = said(&t);
        let has = |line: &str| said.iter().any(|s| s == line);
        assert!(expected.iter().all(|line| has(line)) && !has(unexpected), "{tls}: {said:?}");
    }
}

/// TLS settings, Secrets, the name of the Secret whose authorities count and whether it has a list, and what is said.
type Case = (&'static str, Vec<String>, Option<(&'static str, bool)>, &'static str);

fn authority_cases(Pki { cert, key, authority, revoked, expired_list }: &Pki) -> Vec<Case> {
    let tls = [("tls.crt", cert.as_str()), ("tls.key", key.as_str())];
    let generic = [("cert", cert.as_str()), ("key", key.as_str())];
    let ca = |name, crl| [(name, authority.as_str()), (crl, revoked.as_str())];
    let with = |pair: &[(&str, &str)], more: &[(&str, &str)]| secret("c", &[pair, more].concat());
    let mutual = "mode: MUTUAL, credentialName: c";
    let missing = "warning spec.servers[0].tls.credentialName unknown-credential";
    let broken = "error data[\"ca.crt\"] invalid-credential";
    let over = "warning data[\"ca.crt\"] not-valid-now";
    vec![
        (mutual, vec![with(&tls, &ca("ca.crt", "ca.crl"))], Some(("c", true)), ""),
        (mutual, vec![with(&generic, &ca("cacert", "crl"))], Some(("c", true)), ""),
        (mutual, vec![with(&tls, &ca("ca.crt", "crl"))], Some(("c", false)), ""),
        (
            "mode: OPTIONAL_MUTUAL, credentialName: c",
            vec![with(&tls, &ca("ca.crt", "ca.crl")), secret("c-cacert", &ca("cacert", "x"))],
            Some(("c-cacert", false)),
            "",
        ),
        (
            "mode: MUTUAL, credentialNames: [d, c]",
            vec![secret("c", &tls), secret("d", &tls), secret("d-cacert", &ca("ca.crt", "ca.crl"))],
            Some(("d-cacert", true)),
            "",
        ),
        (
            "mode: MUTUAL, credentialName: c, caCertCredentialName: roots",
            vec![with(&tls, &ca("ca.crt", "ca.crl")), secret("roots", &ca("ca.crt", "x"))],
            Some(("roots", false)),
            "",
        ),
        (mutual, vec![secret("c", &tls)], None, missing),
        (mutual, vec![with(&tls, &[("ca.crt", "no PEM")])], Some(("c", false)), broken),
        (
            mutual,
            vec![with(&tls, &[("ca.crt", authority), ("ca.crl", expired_list)])],
            Some(("c", true)),
            over,
        ),
    ]
}

#[test]
fn authorities_come_from_where_istio_looks_for_them() {
    for (settings, secrets, expected, complaint) in authority_cases(&pki()) {
        let t = translate(&objects(&format!("{}\n{}", gateway(settings), secrets.join("\n"))), &env());
        let clients = termination(&t).clients.unwrap();
        assert_eq!(clients.required, !settings.contains("OPTIONAL"), "{settings}");
        let found = t.model.authorities.values().next().map(|a| (&*a.key.name, a.revoked.is_some()));
        assert_eq!(found, expected, "{settings} {:?}", said(&t));
        assert_eq!(clients.authorities.len(), 1, "{settings}");
        if expected.is_some() {
            assert!(t.model.authorities.contains_key(&clients.authorities[0]), "{settings}");
        }
        let said = said(&t);
        assert!(said.iter().any(|s| s == complaint) || complaint.is_empty(), "{complaint}: {said:?}");
        let bad = said.iter().find(|s| !s.starts_with("note") && complaint.is_empty());
        assert_eq!(bad, None, "{settings}");
    }
}

#[test]
fn a_secret_that_is_broken_reaches_the_data_plane_which_keeps_its_last_good_version() {
    let Pki { cert, .. } = pki();
    for data in [&[("tls.crt", "garbage"), ("tls.key", "garbage")][..], &[("tls.crt", &cert)]] {
        let t = translate(
            &objects(&format!("{}\n{}", gateway("mode: SIMPLE, credentialName: c"), secret("c", data))),
            &env(),
        );
        assert_eq!(t.model.secrets.len(), 1);
        assert!(said(&t).iter().any(|s| s.ends_with("invalid-credential")), "{:?}", said(&t));
    }
}

#[test]
fn pins_and_names_of_clients() {
    let (pin, hash) = (STANDARD.encode([1; 32]), "02".repeat(32));
    let settings = |spki: &str| {
        format!(
            "mode: MUTUAL, credentialName: c, insecureSkipVerify: true, subjectAltNames: [a, 'spiffe://b'], \
             verifyCertificateSpki: ['{spki}'], verifyCertificateHash: ['{hash}']"
        )
    };
    let t = translate(&objects(&gateway(&settings(&pin))), &env());
    let clients = termination(&t).clients.unwrap();
    assert_eq!(clients.pins, [Pin::Key([1; 32]), Pin::Certificate([2; 32])]);
    assert_eq!(clients.names.iter().map(|n| &**n).collect::<Vec<_>>(), ["a", "spiffe://b"]);
    assert!(clients.any_authority && clients.authorities.is_empty());
    assert!(said(&t).iter().any(|s| s == "warning spec.servers[0].tls.insecureSkipVerify insecure"));
    // A pin that cannot be read must not be none at all.
    let t = translate(&objects(&gateway(&settings("short"))), &env());
    assert!(t.model.listeners.is_empty(), "refused");
    assert!(said(&t).iter().any(|s| s == "error spec.servers[0].tls invalid-pin"), "{:?}", said(&t));
}

#[test]
fn files_are_named_and_used_like_secrets() {
    let Pki { cert, key, authority, revoked, .. } = pki();
    let settings = "mode: MUTUAL, serverCertificate: /c.pem, privateKey: /k.pem, caCertificates: /ca.pem, caCrl: /crl.pem";
    let all = objects(&gateway(settings));
    let named: Vec<_> = crate::files(&all).into_iter().collect();
    assert_eq!(named, ["/c.pem", "/ca.pem", "/crl.pem", "/k.pem"]);
    let mut environment = env();
    let contents = [("/c.pem", &cert), ("/k.pem", &key), ("/ca.pem", &authority), ("/crl.pem", &revoked)];
    environment.files = contents.map(|(p, c)| (p.to_owned(), Ok(c.as_bytes().into()))).into();
    let t = translate(&all, &environment);
    let got = termination(&t);
    assert_eq!(t.model.secrets.keys().cloned().collect::<Vec<_>>(), got.certificates);
    let clients = got.clients.unwrap();
    assert!(t.model.authorities[&clients.authorities[0]].revoked.is_some());
    // Without its list the authority is not used: that would let the revoked in.
    environment.files.insert("/crl.pem".into(), Err("no such file".into()));
    let t = translate(&all, &environment);
    assert!(t.model.authorities.is_empty());
    let text = t.diagnostics.iter().map(ToString::to_string).find(|d| d.contains("caCrl")).unwrap();
    assert!(text.contains("/crl.pem cannot be read: no such file"), "{text}");
}

#[test]
fn servers_that_share_a_certificate_and_not_their_routes() {
    let pki = pki();
    let secrets = [
        secret("one", &[("tls.crt", &pki.cert), ("tls.key", &pki.key), ("ca.crt", &pki.authority)]),
        secret("two", &[("tls.crt", &pki.cert), ("tls.key", &pki.key)]),
    ];
    let served = "served by the routes of the server";
    for (servers, expected) in [
        (&[("a.com", "SIMPLE, credentialName: one")][..], None),
        (&[("a.com", "SIMPLE, credentialName: one"), ("b.com", "SIMPLE, credentialName: two")], None),
        (&[("a.com", "SIMPLE, credentialName: gone"), ("b.com", "PASSTHROUGH")], None),
        (
            &[("a.com", "SIMPLE, credentialName: one"), ("b.com", "SIMPLE, credentialName: one")],
            Some(("spec.servers[1].tls", "with https.443.p0.g.default, ", served)),
        ),
        (
            &[
                ("a.com", "SIMPLE, credentialName: one"),
                ("c.com", "SIMPLE, credentialName: two"),
                ("b.com", "SIMPLE, credentialName: one"),
                ("*", "MUTUAL, credentialName: one"),
            ],
            Some(("spec.servers[3].tls", "with https.443.p0.g.default and 1 more, ", "answered 421")),
        ),
    ] {
        let one = |(i, (host, tls)): (usize, &(&str, &str))| {
            format!(
                "{{port: {{number: 443, name: p{i}, protocol: HTTPS}}, hosts: ['{host}'], tls: {{mode: {tls}}}}}"
            )
        };
        let servers: Vec<_> = servers.iter().enumerate().map(one).collect();
        let gateway = format!(
            "Gateway default/g: {{selector: {{istio: ingressgateway}}, servers: [{}]}}",
            servers.join(", ")
        );
        let t = translate(&objects(&format!("{gateway}\n{}", secrets.join("\n"))), &env());
        let mut found = t.diagnostics.iter().filter(|d| d.code == "shared-certificate");
        match (found.next(), expected) {
            (None, None) => {}
            (Some(d), Some((field, with, outcome))) => {
                assert_eq!(d.field, field);
                assert!(d.text.contains(with) && d.text.contains(outcome), "{}", d.text);
            }
            (found, expected) => panic!("{gateway}: {found:?}, not {expected:?}"),
        }
        assert!(found.next().is_none(), "once for all of them");
    }
}
