use super::*;
use tidegate_model::{Bind, ListenerKey, ListenerProtocol, TlsAction, TlsServer};

fn gateway(name: &str, servers: &str) -> String {
    format!("Gateway {name}: {{selector: {{istio: ingressgateway}}, servers: [{servers}]}}")
}

fn http(port: u16, name: &str, hosts: &str) -> String {
    format!("{{port: {{number: {port}, name: {name}, protocol: HTTP}}, hosts: [{hosts}]}}")
}

fn vs(name: &str, rest: &str) -> String {
    format!(
        "VirtualService {name}: {{{rest}, http: [{{route: [{{destination: {{host: a.default.svc.cluster.local}}}}]}}]}}"
    )
}

fn ports(t: &Translation) -> Vec<(Bind, u16)> {
    t.model.listeners.keys().map(|k| (k.bind, k.port)).collect()
}

#[test]
fn selectors_select_in_any_namespace() {
    let lines = [
        gateway("x/one", &http(81, "http", "'*'")),
        gateway("x/two", &http(82, "http", "'*'")).replace("{istio: ingressgateway}", "{istio: other}"),
        gateway("x/three", &http(83, "http", "'*'")).replace("{istio: ingressgateway}", "{}"),
    ];
    let t = translate(&objects(&lines.join("\n")), &env());
    assert_eq!(ports(&t), [(Bind::Default, 81), (Bind::Default, 83)]);
    assert_eq!(t.bindings.keys().map(|k| &**k).collect::<Vec<_>>(), ["x/one", "x/three"]);
    assert_eq!(t.bindings["x/one"].tables, [(81, Arc::from("http.81"))]);
}

#[test]
fn hosts_are_the_more_specific_of_each_pair_and_namespaces_limit_them() {
    let servers = http(80, "http", "example.org, ns-1/*.example.com, ./own.net, '*/any.net'");
    let lines = [
        gateway("default/g", &servers),
        vs("default/star", "hosts: ['*'], gateways: [g]"),
        vs("ns-1/in", "hosts: [A.example.com, own.net], gateways: [default/g]"),
        vs("ns-2/out", "hosts: [b.example.com, own.net, any.net], gateways: [default/g]"),
        vs("ns-2/short", "hosts: [short], gateways: [g.default.svc.cluster.local]"),
    ];
    let t = translate(&objects(&format!("{A}\n{}", lines.join("\n"))), &env());
    assert_eq!(domains(&t, "http.80"), ["a.example.com", "any.net", "example.org", "own.net"]);
    assert_eq!(shown(host(&t, "http.80", "own.net").unwrap()).len(), 1);
}

#[test]
fn only_what_names_the_gateway_and_is_exported_is_served() {
    let lines = [
        vs("default/mesh-only", "hosts: [m1.example.com]"),
        vs("default/mesh-named", "hosts: [m2.example.com], gateways: [mesh]"),
        vs("default/both", "hosts: [both.example.com], gateways: [mesh, gateway]"),
        vs("foo/wrong", "hosts: [wrong.example.com], gateways: [gateway]"),
        vs("default/private", "hosts: [private.example.com], gateways: [gateway], exportTo: [.]"),
        vs("default/named", "hosts: [named.example.com], gateways: [gateway], exportTo: [istio-system]"),
    ];
    let t = usual(&lines.join("\n"));
    assert_eq!(domains(&t, "http.80"), ["both.example.com", "named.example.com"]);
    let said = said(&t);
    for expected in [
        "note  mesh-only",
        "note spec.gateways mesh-only",
        "warning spec.gateways[0] unknown-gateway",
        "warning spec.exportTo not-exported",
    ] {
        assert!(said.iter().any(|s| s == expected), "{expected}: {said:?}");
    }
}

#[test]
fn local_ports() {
    let lines = [
        gateway("default/g", &format!("{}, {}, {}", http(80, "a", "a.com"), http(81, "b", "b.com"), http(82, "c", "c.com"))),
        vs("default/v", "hosts: ['*.com'], gateways: [g]"),
        "Service istio-system/gw: {selector: {istio: ingressgateway}, ports: [{name: http, port: 80, targetPort: 8080}, {name: x, port: 81, targetPort: 8080}]}".into(),
    ];
    let all = objects(&format!("{A}\n{}", lines.join("\n")));
    let t = translate(&all, &env());
    assert_eq!(ports(&t), [(Bind::Default, 82), (Bind::Default, 8080)]);
    assert_eq!(domains(&t, "http.8080"), ["a.com", "b.com"]);
    let t = translate(&all, &Env { ports: [(80, 18080), (82, 18082)].into(), ..env() });
    assert_eq!(ports(&t), [(Bind::Default, 8080), (Bind::Default, 18080), (Bind::Default, 18082)]);
    assert_eq!(t.model.route_tables["http.18080"].server_port, 80);
}

#[test]
fn the_first_on_a_port_says_what_is_spoken() {
    let tcp = "{port: {number: 80, name: tcp, protocol: TCP}, hosts: [foo.bar]}";
    for (first, second, listening) in
        [(tcp, &*http(80, "http", "foo.bar"), 0), (&http(80, "http", "foo.bar"), tcp, 1)]
    {
        // Written in the other order: names decide, not files.
        let lines = [gateway("default/beta", second), gateway("default/alpha", first)];
        let t = translate(&objects(&lines.join("\n")), &env());
        assert_eq!(t.model.listeners.len(), listening, "{first}");
        assert!(said(&t).iter().any(|s| s.ends_with("port-conflict")), "{:?}", said(&t));
    }
}

#[test]
fn binds_stand_apart() {
    let bound = http(80, "http", "'*'").replace("hosts", "bind: 127.0.0.5, hosts");
    let t = translate(
        &objects(&[gateway("d/a", &bound), gateway("d/b", &http(80, "h", "'*'"))].join("\n")),
        &env(),
    );
    let tables: Vec<_> = t.model.route_tables.keys().map(|k| &**k).collect();
    assert_eq!(tables, ["http.80", "http.80.127.0.0.5"]);
    let key = ListenerKey { bind: Bind::Ip([127, 0, 0, 5].into()), port: 80 };
    assert!(t.model.listeners.contains_key(&key));
}

#[test]
fn https_redirect_is_of_the_merged_host_and_needs_no_routes() {
    let redirect =
        http(80, "http", "example.com, '*.net'").replace("hosts", "tls: {httpsRedirect: true}, hosts");
    let lines = [
        gateway("default/one", &redirect),
        gateway("default/two", &http(80, "http", "example.com, other.com")),
        vs("default/v", "hosts: [example.com, other.com], gateways: [two]"),
    ];
    let t = translate(&objects(&format!("{A}\n{}", lines.join("\n"))), &env());
    for (domain, redirects, routes) in [("example.com", true, 1), ("other.com", false, 1), ("*.net", true, 0)]
    {
        let host = host(&t, "http.80", domain).unwrap();
        assert_eq!((host.https_redirect, host.routes.len()), (redirects, routes), "{domain}");
    }
}

#[test]
fn https_redirect_does_not_reach_hosts_of_other_gateways() {
    let redirect = http(80, "http", "'*'").replace("hosts", "tls: {httpsRedirect: true}, hosts");
    let lines = [
        gateway("default/all", &redirect),
        gateway("default/acme", &http(80, "http", "acme.example.com")),
        vs("default/acme", "hosts: [acme.example.com], gateways: [acme]"),
        vs("default/wide", "hosts: [shop.example.com], gateways: [all]"),
    ];
    let t = translate(&objects(&format!("{A}\n{}", lines.join("\n"))), &env());
    for (domain, redirects) in [("acme.example.com", false), ("shop.example.com", true), ("*", true)] {
        assert_eq!(host(&t, "http.80", domain).unwrap().https_redirect, redirects, "{domain}");
    }
}

#[test]
fn each_gateway_of_a_host_adds_its_routes() {
    let rule = |gateway: &str, to: &str| {
        format!(
            "{{match: [{{gateways: [{gateway}], uri: {{prefix: /{to}}}}}], route: [{{destination: {{host: {to}}}}}]}}"
        )
    };
    let lines = [
        gateway("default/gw1", &http(80, "http", "x.com")),
        gateway("default/gw2", &http(80, "http", "x.com")),
        format!(
            "VirtualService default/v: {{hosts: [x.com], gateways: [gw1, gw2], http: [{}, {}]}}",
            rule("gw2", "a"),
            rule("gw1", "b")
        ),
        vs("default/plain", "hosts: [x.com], gateways: [gw1, gw2]"),
    ];
    let t = translate(&objects(&format!("{A}\n{B}\n{}", lines.join("\n"))), &env());
    let routes = shown(host(&t, "http.80", "x.com").unwrap());
    let mut paths: Vec<_> = routes.iter().filter_map(|r| r.split(' ').next()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["*", "/a", "/b"]);
}

#[test]
fn without_a_route_here_a_host_does_not_shadow_a_wider_one() {
    let with = |block: &str| {
        let lines = [
            vs("default/any", "hosts: ['*'], gateways: [gateway]"),
            format!(
                "VirtualService default/narrow: {{hosts: [x.com], gateways: [gateway], http: [{{match: [{{{block}}}], route: [{{destination: {{host: b}}}}]}}]}}"
            ),
        ];
        domains(&usual(&lines.join("\n")), "http.80")
    };
    assert_eq!(with("port: 8443"), ["*"]);
    // Requests without such a token must not go where nobody asks for one.
    assert_eq!(with("headers: {'@request.auth.claims.sub': {exact: me}}"), ["x.com", "*"]);
}

#[test]
fn cost_grows_with_hosts_and_not_with_their_square() {
    let of = |count: usize| {
        let hosts: Vec<_> = (0..count).map(|i| format!("h{i}.example.com")).collect();
        let mut lines = vec![A.to_owned(), gateway("default/g", &http(80, "http", &hosts.join(", ")))];
        lines.extend(
            hosts.iter().map(|h| vs(&format!("default/{h}"), &format!("hosts: [{h}], gateways: [g]"))),
        );
        let all = objects(&lines.join("\n"));
        let start = processor_time();
        let t = translate(&all, &env());
        assert_eq!(t.model.virtual_hosts.len(), count);
        processor_time() - start
    };
    let (few, many) = ((0..10).map(|_| of(300)).sum::<u64>(), of(3000));
    // Ten times as much if every host were held against every other.
    assert!(many < few * 4, "{few} ns for 10 times 300, {many} ns for 3000");
}

/// Nanoseconds that this thread has run, which other processes do not lengthen.
fn processor_time() -> u64 {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    statistics.split(' ').next().unwrap().parse().unwrap()
}

fn https(name: &str, hosts: &str, tls: &str) -> String {
    format!("{{port: {{number: 443, name: {name}, protocol: HTTPS}}, hosts: [{hosts}], tls: {{{tls}}}}}")
}

fn tls_servers(t: &Translation) -> Vec<TlsServer> {
    match t.model.listeners.values().next().map(|l| &l.protocol) {
        Some(ListenerProtocol::Tls(servers)) => servers.clone(),
        _ => Vec::new(),
    }
}

#[test]
fn https_servers_have_tables_and_certificates_of_their_own() {
    let lines = [
        gateway(
            "default/g1",
            &https(
                "https",
                "A.example.com",
                "mode: SIMPLE, credentialName: missing, minProtocolVersion: TLSV1_3",
            ),
        ),
        gateway("default/g2", &https("https", "b.example.com", "mode: SIMPLE, credentialNames: [one, two]")),
        gateway(
            "default/g3",
            &https("https", "a.example.com, c.example.com", "mode: SIMPLE, credentialName: missing"),
        ),
        vs("default/a", "hosts: [a.example.com], gateways: [g1]"),
        vs("default/b", "hosts: [b.example.com], gateways: [g2]"),
    ];
    let t = translate(&objects(&format!("{A}\n{}", lines.join("\n"))), &env());
    let seen: Vec<_> = tls_servers(&t)
        .iter()
        .map(|s| (s.table.to_string(), s.hosts.join(","), certificates(s).join(",")))
        .collect();
    let expect = |t: &str, h: &str, c: &str| (t.to_owned(), h.to_owned(), c.to_owned());
    assert_eq!(
        seen,
        [
            expect("https.443.https.g1.default", "a.example.com", "istio-system/missing"),
            expect("https.443.https.g2.default", "b.example.com", "istio-system/one,istio-system/two"),
        ]
    );
    assert_eq!(domains(&t, "https.443.https.g1.default"), ["a.example.com"]);
    assert!(t.model.route_tables["https.443.https.g1.default"].tls);
    let said = said(&t);
    for expected in [
        "warning spec.servers[0].tls.credentialName unknown-credential",
        "warning spec.servers[0].tls.credentialNames[1] unknown-credential",
        "warning spec.servers[0].hosts duplicate-host",
    ] {
        assert!(said.iter().any(|s| s == expected), "{expected}: {said:?}");
    }
}

fn certificates(server: &TlsServer) -> Vec<String> {
    match &server.action {
        TlsAction::Http(t) | TlsAction::Tcp(t, _) => t.certificates.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn tls_that_is_not_enforced_fails_closed() {
    let mutual = https("mutual", "a.example.com", "mode: ISTIO_MUTUAL");
    let t = translate(&objects(&gateway("default/g", &mutual)), &env());
    assert!(t.model.listeners.is_empty());
    // Beside a server that is served, its hosts must not fall to a wider one.
    let wide = https("wide", "'*.example.com'", "mode: SIMPLE, credentialName: x");
    let t = translate(&objects(&gateway("default/g", &format!("{mutual}, {wide}"))), &env());
    let seen: Vec<_> = tls_servers(&t).iter().map(|s| (s.hosts.join(","), certificates(s).len())).collect();
    assert_eq!(seen, [("a.example.com".to_owned(), 0), ("*.example.com".to_owned(), 1)]);
    assert!(matches!(tls_servers(&t)[0].action, TlsAction::Refuse(_)));
    assert!(!t.model.route_tables.contains_key("https.443.mutual.g.default"));
    assert!(said(&t).iter().any(|s| s == "warning spec.servers[0].tls.mode not-enforced"));
}

#[test]
fn grpc_web_is_served_as_http_and_said_not_to_be_translated() {
    let not_translated = "warning spec.servers[0].port.protocol not-enforced";
    for (protocol, expected) in [("GRPC-WEB", true), ("grpc-web", true), ("GRPC", false), ("HTTP", false)] {
        let server = http(80, "web", "'*'").replace("protocol: HTTP", &format!("protocol: {protocol}"));
        let t = translate(&objects(&gateway("default/g", &server)), &env());
        assert_eq!(ports(&t), [(Bind::Default, 80)], "{protocol}");
        assert_eq!(said(&t).iter().any(|s| s == not_translated), expected, "{protocol}: {:?}", said(&t));
    }
}
