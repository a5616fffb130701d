use super::clusters::routed;
use super::tls::{Pki, pki, secret};
use super::*;
use tidegate_model::{ProxyProtocol, SecretKey, ServerAuthorities, UpstreamTls};

const SERVICE: &str = "Service default/a: {ports: [{name: http, port: 80}, {name: more, port: 81}]}";

fn key(namespace: &str, name: &str) -> SecretKey {
    SecretKey { namespace: namespace.into(), name: name.into() }
}

fn rule(policy: &str) -> String {
    format!("{SERVICE}\nDestinationRule default/a: {{host: a, {policy}}}")
}

/// TLS of the cluster of port 80 with these settings, and what is said of them.
fn tls(settings: &str, lines: &str) -> (Option<UpstreamTls>, Vec<String>) {
    let rule = rule(&format!("trafficPolicy: {{tls: {{{settings}}}}}"));
    let (_, cluster, _, said) = routed("host: a, port: {number: 80}", &format!("{rule}\n{lines}"));
    (cluster.and_then(|c| c.tls), said)
}

fn simple() -> UpstreamTls {
    UpstreamTls {
        certificate: None,
        authorities: ServerAuthorities::System,
        server_name: None,
        names: Vec::new(),
    }
}

fn policies() -> Vec<(&'static str, Option<UpstreamTls>)> {
    let named = |name: &str| ServerAuthorities::Named(key("istio-system", name));
    let file = ServerAuthorities::Named(key("", "file-root:/ca:"));
    let with_list = ServerAuthorities::Named(key("", "file-root:/ca:/crl"));
    let certificate = Some(key("istio-system", "pair"));
    vec![
        ("mode: DISABLE", None),
        ("sni: a.example", None),
        ("mode: SIMPLE", Some(simple())),
        ("mode: SIMPLE, sni: ''", Some(simple())),
        (
            "mode: SIMPLE, sni: a.example",
            Some(UpstreamTls { server_name: Some("a.example".into()), ..simple() }),
        ),
        (
            "mode: SIMPLE, subjectAltNames: [x, z]",
            Some(UpstreamTls { names: vec!["x".into(), "z".into()], ..simple() }),
        ),
        ("mode: SIMPLE, caCertificates: system", Some(simple())),
        ("mode: SIMPLE, caCertificates: /ca", Some(UpstreamTls { authorities: file.clone(), ..simple() })),
        (
            "mode: SIMPLE, caCertificates: /ca, caCrl: /crl",
            Some(UpstreamTls { authorities: with_list, ..simple() }),
        ),
        (
            "mode: SIMPLE, caCertificates: /ca, insecureSkipVerify: true",
            Some(UpstreamTls { authorities: ServerAuthorities::Any, ..simple() }),
        ),
        (
            "mode: SIMPLE, credentialName: ca",
            Some(UpstreamTls { authorities: named("ca-cacert"), ..simple() }),
        ),
        ("mode: SIMPLE, credentialName: both", Some(UpstreamTls { authorities: named("both"), ..simple() })),
        ("mode: SIMPLE, credentialName: none", Some(UpstreamTls { authorities: named("none"), ..simple() })),
        (
            "mode: MUTUAL, credentialName: pair",
            Some(UpstreamTls {
                certificate: certificate.clone(),
                authorities: named("pair-cacert"),
                ..simple()
            }),
        ),
        (
            "mode: MUTUAL, credentialName: pair, insecureSkipVerify: true",
            Some(UpstreamTls { certificate, authorities: ServerAuthorities::Any, ..simple() }),
        ),
        (
            "mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /ca",
            Some(UpstreamTls {
                certificate: Some(key("", "file-cert:/c:/k")),
                authorities: file,
                ..simple()
            }),
        ),
    ]
}

#[test]
fn what_a_policy_asks_for() {
    let Pki { cert, key, authority, .. } = pki();
    let secrets = [
        secret("ca-cacert", &[("ca.crt", &authority)]),
        secret("pair", &[("tls.crt", &cert), ("tls.key", &key)]),
        secret("pair-cacert", &[("cacert", &authority)]),
        secret("both", &[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &authority)]),
    ];
    for (settings, expected) in policies() {
        assert_eq!(tls(settings, &secrets.join("\n")).0, expected, "{settings}");
    }
}

#[test]
fn levels_override_each_other() {
    let [on, off] = ["tls: {mode: SIMPLE}", "tls: {mode: DISABLE}"];
    let at_80 = |tls: &str| format!("portLevelSettings: [{{port: {{number: 80}}, {tls}}}]");
    let v1 = |policy: &str| format!("subsets: [{{name: v1, trafficPolicy: {{{policy}}}}}]");
    let host = |policy: &str| format!("trafficPolicy: {{{policy}}}");
    for (policy, whole, subset) in [
        (host(on), true, None),
        (format!("{}, {}", host(on), v1("")), true, Some(true)),
        (format!("{}, {}", host(on), v1(off)), true, Some(false)),
        (format!("{}, {}", host(off), v1(on)), false, Some(true)),
        (host(&format!("{on}, {}", at_80(off))), false, None),
        (host(&format!("{off}, {}", at_80(on))), true, None),
        // that of the port has nothing of what is not said for it
        (host(&format!("{on}, {}", at_80("loadBalancer: {simple: RANDOM}"))), false, None),
        (format!("{}, {}", host(on), v1(&at_80(off))), true, Some(false)),
    ] {
        let speaks = |destination: &str| {
            let (_, cluster, ..) = routed(destination, &rule(&policy));
            cluster.unwrap().tls.is_some()
        };
        assert_eq!(speaks("host: a, port: {number: 80}"), whole, "{policy}");
        if let Some(subset) = subset {
            assert_eq!(speaks("host: a, subset: v1, port: {number: 80}"), subset, "{policy}");
        }
    }
}

#[test]
fn what_is_said_of_a_policy() {
    let at = |level: &str, field: &str, code: &str| format!("{level} spec.trafficPolicy.tls{field} {code}");
    for (settings, expected) in [
        ("mode: SIMPLE", None),
        ("mode: SIMPLE, sni: x, subjectAltNames: [z]", None),
        ("mode: SIMPLE, sni: x", Some(at("warning", ".sni", "stricter-than-istio"))),
        (
            "mode: SIMPLE, insecureSkipVerify: true",
            Some(at("warning", ".insecureSkipVerify", "unverified-upstream")),
        ),
        (
            "mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [z]",
            Some(at("note", ".subjectAltNames", "no-effect")),
        ),
        ("mode: SIMPLE, clientCertificate: /c", Some(at("note", ".clientCertificate", "no-effect"))),
        ("mode: SIMPLE, caCrl: /crl", Some(at("warning", ".caCrl", "no-effect"))),
        ("mode: SIMPLE, caCertificates: /ca", Some(at("warning", ".caCertificates", "unknown-credential"))),
        ("mode: SIMPLE, credentialName: x", Some(at("warning", ".credentialName", "unknown-credential"))),
        ("mode: SIMPLE, credentialName: b/x", Some(at("warning", ".credentialName", "unknown-credential"))),
        ("mode: MUTUAL, credentialName: x", Some(at("warning", ".credentialName", "unknown-credential"))),
        ("mode: ISTIO_MUTUAL", Some(at("warning", ".mode", "upstream-tls"))),
    ] {
        let (_, said) = tls(settings, "");
        let of_tls: Vec<_> = said.iter().filter(|s| s.contains(".tls")).collect();
        match &expected {
            Some(expected) => assert!(of_tls.contains(&expected), "{settings}: {said:?}"),
            None => assert!(of_tls.is_empty(), "{settings}: {said:?}"),
        }
    }
}

#[test]
fn bytes_are_sent_to_nobody_of_another_name() {
    for (protocol, expected) in [("tcp", true), ("http", false), ("https", false)] {
        let lines = format!(
            "Service default/a: {{ports: [{{name: {protocol}, port: 80}}]}}\n\
             DestinationRule default/a: {{host: a, trafficPolicy: {{tls: {{mode: SIMPLE}}}}}}"
        );
        let (.., said) = routed("host: a, port: {number: 80}", &lines);
        let stricter = "warning spec.trafficPolicy.tls.mode stricter-than-istio".to_owned();
        assert_eq!(said.contains(&stricter), expected, "{protocol}: {said:?}");
    }
}

#[test]
fn mesh_tls_fails_closed() {
    let lines = rule("trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}");
    let (name, cluster, ..) = routed("host: a, port: {number: 80}", &lines);
    assert_eq!(cluster, None, "{name} would be spoken to in plain text");
}

#[test]
fn the_names_of_a_service_entry_count_where_the_rule_has_none() {
    let entry = "ServiceEntry default/e: {hosts: [e.example], resolution: STATIC, ports: [{number: 80, name: http, \
                 protocol: HTTP}], endpoints: [{address: 10.0.0.1}], subjectAltNames: ['spiffe://x', e.example]}";
    for (more, expected) in [("", vec!["spiffe://x", "e.example"]), (", subjectAltNames: [z]", vec!["z"])] {
        let rule = format!(
            "DestinationRule default/e: {{host: e.example, trafficPolicy: {{tls: {{mode: SIMPLE{more}}}}}}}"
        );
        let (_, cluster, ..) = routed("host: e.example", &format!("{entry}\n{rule}"));
        let names = cluster.unwrap().tls.unwrap().names;
        assert_eq!(names.iter().map(|n| &**n).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn files_are_named_at_every_level() {
    let settings = |prefix: &str| {
        format!(
            "tls: {{mode: MUTUAL, clientCertificate: {prefix}c, privateKey: {prefix}k, caCertificates: {prefix}ca, \
             caCrl: {prefix}crl}}"
        )
    };
    let lines = rule(&format!(
        "trafficPolicy: {{{}, portLevelSettings: [{{port: {{number: 80}}, {}}}]}}, subsets: [{{name: v1, \
         trafficPolicy: {{tls: {{mode: SIMPLE, caCertificates: system}}}}}}]",
        settings("/host/"),
        settings("/port/")
    ));
    let all = objects(&lines);
    let named: Vec<_> = crate::files(&all).into_iter().collect();
    let expected = ["/host/", "/port/"].map(|at| ["c", "ca", "crl", "k"].map(|file| format!("{at}{file}")));
    assert_eq!(named, expected.concat());
}

#[test]
fn what_is_there_is_in_the_model_and_broken_files_are_not_left_out() {
    let Pki { cert, key, authority, revoked, .. } = pki();
    let lines = format!(
        "Gateway default/gateway: {{selector: {{istio: ingressgateway}}, servers: [{{port: {{number: 80, name: http, \
         protocol: HTTP}}, hosts: ['*']}}]}}\n\
         VirtualService default/v: {{hosts: [x.com], gateways: [gateway], http: [{{route: [{{destination: {{host: a, \
         port: {{number: 80}}}}}}]}}]}}\n{}",
        rule(
            "trafficPolicy: {tls: {mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /ca, caCrl: /crl}}"
        )
    );
    let mut environment = env();
    let contents = [("/c", &cert), ("/k", &key), ("/ca", &authority), ("/crl", &revoked)];
    environment.files = contents.map(|(p, c)| (p.to_owned(), Ok(c.as_bytes().into()))).into();
    let counts = |environment: &Env| {
        let model = translate(&objects(&lines), environment).model;
        (model.secrets.len(), model.authorities.len())
    };
    assert_eq!(counts(&environment), (1, 1));
    // without its list the authority is not used: that would let the revoked in
    environment.files.insert("/crl".into(), Err("no such file".into()));
    assert_eq!(counts(&environment), (1, 0));
    environment.files.remove("/k");
    assert_eq!(counts(&environment), (0, 0));
}

#[test]
fn the_proxy_protocol_of_a_policy() {
    for (policy, expected) in [
        ("", None),
        ("trafficPolicy: {proxyProtocol: {version: V1}}", Some(ProxyProtocol::V1)),
        ("trafficPolicy: {proxyProtocol: {version: V2}}", Some(ProxyProtocol::V2)),
        ("trafficPolicy: {proxyProtocol: {version: V2}, portLevelSettings: [{port: {number: 80}}]}", None),
    ] {
        let (_, cluster, ..) = routed("host: a, port: {number: 80}", &rule(policy));
        assert_eq!(cluster.unwrap().proxy_protocol, expected, "{policy}");
    }
}

#[test]
fn tls_of_a_rule_that_is_merged_into_another() {
    let first = "DestinationRule default/a: {host: a, subsets: [{name: v1, labels: {}}, {name: v2, labels: {}, trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}}]}";
    let second =
        "DestinationRule default/b: {host: a, trafficPolicy: {tls: {mode: SIMPLE, credentialName: ca}}}";
    let secret = secret("ca-cacert", &[("ca.crt", &pki().authority)]);
    for subset in ["", "v1", "v2"] {
        let destination = format!("host: a, port: {{number: 80}}, subset: '{subset}'");
        let (_, cluster, _, said) = routed(&destination, &format!("{SERVICE}\n{first}\n{second}\n{secret}"));
        let authorities = ServerAuthorities::Named(key("istio-system", "ca-cacert"));
        assert_eq!(cluster.unwrap().tls, Some(UpstreamTls { authorities, ..simple() }), "{subset} {said:?}");
    }
}
