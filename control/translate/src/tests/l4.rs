use super::*;
use tidegate_model::{ListenerProtocol, SniRoute, TcpRoute, TlsAction};

const TCP: &str = "Service default/tcp: {selector: {app: tcp}, ports: [{name: tcp, port: 9000}]}";

fn gateway(name: &str, servers: &str) -> String {
    format!("Gateway {name}: {{selector: {{istio: ingressgateway}}, servers: [{servers}]}}")
}

fn server(port: u16, protocol: &str, hosts: &str, tls: &str) -> String {
    let tls = if tls.is_empty() { String::new() } else { format!(", tls: {{{tls}}}") };
    format!(
        "{{port: {{number: {port}, name: p{port}-{protocol}, protocol: {protocol}}}, hosts: [{hosts}]{tls}}}"
    )
}

fn listener(t: &Translation) -> Option<&ListenerProtocol> {
    t.model.listeners.values().next().map(|l| &l.protocol)
}

fn targets(route: &TcpRoute) -> String {
    let shown = route.destinations.iter().map(|d| format!("{}={}", d.cluster, d.weight));
    shown.collect::<Vec<_>>().join(" ")
}

/// `hosts -> clusters` of each route by SNI.
fn by_sni(t: &Translation) -> Vec<String> {
    let Some(ListenerProtocol::Tls(servers)) = listener(t) else { return Vec::new() };
    let routes = servers.iter().flat_map(|s| match &s.action {
        TlsAction::Passthrough { routes, .. } => routes.as_slice(),
        _ => &[],
    });
    routes.map(|SniRoute { hosts, route }| format!("{} -> {}", hosts.join(","), targets(route))).collect()
}

#[test]
fn the_first_rule_that_counts_at_the_port_and_gateway_has_all_connections() {
    let to = |host: &str| format!("route: [{{destination: {{host: {host}}}}}]");
    for (rules, expected) in [
        (format!("{{{}}}", to("tcp")), Some("outbound|9000||tcp.default.svc.cluster.local=1")),
        (format!("{{match: [{{port: 1}}], {}}}, {{{}}}", to("a"), to("tcp")), Some("outbound|9000||tcp")),
        (
            format!("{{match: [{{port: 1}}, {{port: 31400}}], {}}}, {{{}}}", to("tcp"), to("a")),
            Some("|9000||"),
        ),
        (format!("{{match: [{{gateways: [other]}}], {}}}, {{{}}}", to("a"), to("tcp")), Some("|9000||")),
        (format!("{{match: [{{gateways: [default/g]}}], {}}}", to("tcp")), Some("|9000||")),
        // What belongs to sidecars does not count here, as in Istio.
        (
            format!(
                "{{match: [{{sourceLabels: {{app: x}}, destinationSubnets: [10.0.0.0/8]}}], {}}}",
                to("tcp")
            ),
            Some("|9000||"),
        ),
        (format!("{{match: [{{port: 1}}], {}}}", to("tcp")), None),
    ] {
        let lines = [
            gateway("default/g", &server(31400, "TCP", "'*'", "")),
            format!("VirtualService default/v: {{hosts: ['*'], gateways: [g], tcp: [{rules}]}}"),
        ];
        let t = translate(&objects(&format!("{A}\n{TCP}\n{}", lines.join("\n"))), &env());
        let got = match listener(&t) {
            Some(ListenerProtocol::Tcp(route)) => Some(targets(route)),
            None => None,
            other => panic!("{rules}: {other:?}"),
        };
        assert_eq!(got.is_some(), expected.is_some(), "{rules}: {got:?}");
        assert!(got.unwrap_or_default().contains(expected.unwrap_or_default()), "{rules}");
        let warned = said(&t).iter().any(|s| s == "warning spec.servers[0] no-routes");
        assert_eq!(warned, expected.is_none(), "{rules}");
    }
}

#[test]
fn weights_idle_time_and_what_is_missing() {
    let rule = "DestinationRule default/r: {host: tcp, trafficPolicy: {connectionPool: {tcp: {idleTimeout: 5s}}}, \
                subsets: [{name: v1, labels: {v: '1'}, trafficPolicy: {connectionPool: {tcp: {idleTimeout: 0s}}}}]}";
    let lines = [
        gateway("default/g", &server(31400, "MONGO", "'*'", "")),
        "VirtualService default/v: {hosts: ['*'], gateways: [g], tcp: [{route: [\
         {destination: {host: tcp}, weight: 80}, {destination: {host: tcp, subset: v1}, weight: 15}, \
         {destination: {host: a}, weight: 0}, {destination: {host: ghost}, weight: 5}]}]}"
            .into(),
    ];
    let t = translate(&objects(&format!("{A}\n{TCP}\n{rule}\n{}", lines.join("\n"))), &env());
    let Some(ListenerProtocol::Tcp(route)) = listener(&t) else { panic!("{:?}", t.model.listeners) };
    let idle: Vec<_> =
        route.destinations.iter().map(|d| (d.weight, d.idle_timeout.map(|t| t.as_secs()))).collect();
    assert_eq!(idle, [(80, Some(5)), (15, None), (5, None)]);
    assert!(said(&t).iter().any(|s| s == "warning spec.tcp[0].route[3].destination.host unknown-host"));
    let text = t.diagnostics.iter().find(|d| d.code == "unknown-host").map(|d| d.text.as_str());
    assert!(text.is_some_and(|t| t.ends_with("connections are closed (NC)")), "{text:?}");
}

#[test]
fn tls_rules_are_routes_by_sni_within_the_servers_hosts() {
    let rule = |hosts: &str, to: &str| {
        format!("{{match: [{{sniHosts: [{hosts}]}}], route: [{{destination: {{host: {to}}}}}]}}")
    };
    let rules = [
        rule("A.example.com", "a"),
        rule("a.example.com, b.example.com", "b"),
        rule("'*.example.com'", "tcp"),
        "{match: [{port: 444, sniHosts: [c.example.com]}], route: [{destination: {host: a}}]}".into(),
    ];
    let lines = [
        gateway("default/g", &server(443, "TLS", "'*.example.com', x.net", "mode: PASSTHROUGH")),
        format!(
            "VirtualService default/v: {{hosts: ['*.example.com', '*.net'], gateways: [g], tls: [{}]}}",
            rules.join(", ")
        ),
        format!(
            "VirtualService default/w: {{hosts: ['*.net'], gateways: [g], tls: [{}]}}",
            rule("'*.net'", "a")
        ),
        format!("VirtualService default/x: {{hosts: [x.org], gateways: [g], tls: [{}]}}", rule("x.org", "a")),
    ];
    let t = translate(&objects(&format!("{A}\n{B}\n{TCP}\n{}", lines.join("\n"))), &env());
    assert_eq!(
        by_sni(&t),
        [
            "a.example.com -> outbound|80||a.default.svc.cluster.local=1",
            "b.example.com -> outbound|80||b.default.svc.cluster.local=1",
            "*.example.com -> outbound|9000||tcp.default.svc.cluster.local=1",
            "x.net -> outbound|80||a.default.svc.cluster.local=1",
        ]
    );
    let said = said(&t);
    for expected in [
        "warning spec.tls[1].match[0].sniHosts[0] shadowed",
        "note spec.tls[0].match[0].sniHosts[0] host-not-in-gateway",
    ] {
        assert!(said.iter().any(|s| s == expected), "{expected}: {said:?}");
    }
}

#[test]
fn what_is_spoken_by_protocol_and_mode() {
    let tcp = "tcp: [{route: [{destination: {host: tcp}}]}]";
    let tls = "tls: [{match: [{sniHosts: [x.com]}], route: [{destination: {host: tcp}}]}]";
    let http = "http: [{route: [{destination: {host: a}}]}]";
    for (protocol, mode, expected) in [
        ("HTTPS", "mode: SIMPLE, credentialName: c", "http"),
        ("https", "mode: MUTUAL, credentialName: c", "http"),
        ("TLS", "mode: SIMPLE, credentialName: c", "tcp"),
        ("TLS", "mode: OPTIONAL_MUTUAL, credentialName: c", "tcp"),
        ("TLS", "mode: PASSTHROUGH", "passthrough"),
        ("HTTPS", "mode: PASSTHROUGH", "passthrough"),
        ("HTTPS", "{}", "passthrough"),
        ("TLS", "mode: AUTO_PASSTHROUGH", "auto"),
        ("HTTPS", "mode: ISTIO_MUTUAL", "none"),
        ("TCP", "", "opaque"),
        ("Mongo", "", "opaque"),
        ("HBONE", "", "none"),
        ("UDP", "", "none"),
    ] {
        let lines = [
            gateway("default/g", &server(443, protocol, "x.com", mode.trim_matches(['{', '}']))),
            format!("VirtualService default/v: {{hosts: [x.com], gateways: [g], {tcp}, {tls}, {http}}}"),
        ];
        let text = lines.join("\n").replace("tls: {}", "tls: {maxProtocolVersion: TLS_AUTO}");
        let text = match mode {
            "{}" => text.replace("hosts: [x.com]}]", "hosts: [x.com], tls: {maxProtocolVersion: TLS_AUTO}}]"),
            _ => text,
        };
        let t = translate(&objects(&format!("{A}\n{TCP}\n{text}")), &env());
        let got = match listener(&t) {
            None => "none",
            Some(ListenerProtocol::Http(_)) => "plain",
            Some(ListenerProtocol::Tcp(_)) => "opaque",
            Some(ListenerProtocol::Tls(servers)) => match &servers[0].action {
                TlsAction::Http(_) => "http",
                TlsAction::Tcp(..) => "tcp",
                TlsAction::Passthrough { protocols, .. } if protocols.is_empty() => "passthrough",
                TlsAction::Passthrough { .. } => "auto",
                TlsAction::Refuse(_) => "refuse",
            },
        };
        assert_eq!(got, expected, "{protocol} {mode}");
    }
}

#[test]
fn auto_passthrough_knows_the_services_of_the_mesh_by_sni() {
    let lines = [
        gateway("default/g", &server(15443, "TLS", "'*.local'", "mode: AUTO_PASSTHROUGH")),
        "ServiceEntry default/in: {hosts: [in.local], location: MESH_INTERNAL, ports: [{number: 9000, name: tcp, \
         protocol: TCP}], resolution: STATIC, endpoints: [{address: 10.0.0.1, labels: {v: '1', \
         security.istio.io/tlsMode: istio}}, {address: 10.0.0.2, labels: {v: '1'}}]}"
            .into(),
        "DestinationRule default/r: {host: in.local, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}, \
         subsets: [{name: v1, labels: {v: '1'}}]}"
            .into(),
        "ServiceEntry default/out: {hosts: [out.local], ports: [{number: 80, name: http, protocol: HTTP}], \
         resolution: STATIC, endpoints: [{address: 10.9.9.9}]}"
            .into(),
    ];
    let t = translate(&objects(&lines.join("\n")), &env());
    let name = |subset: &str| format!("outbound_.9000_.{subset}_.in.local");
    assert_eq!(by_sni(&t), ["", "v1"].map(|s| format!("{0} -> {0}=1", name(s))));
    for subset in ["", "v1"] {
        let set = t.model.endpoints.values().find(|e| e.cluster.as_str() == name(subset)).unwrap();
        let addresses: Vec<_> = set.endpoints.iter().map(|e| e.address.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.1:9000"], "only those that speak mesh TLS");
    }
}

#[test]
fn a_tcp_port_has_one_server_and_a_tls_server_without_rules_none() {
    let tcp = |gateway: &str| {
        format!(
            "VirtualService default/{gateway}: {{hosts: ['*'], gateways: [{gateway}], tcp: [{{route: [{{destination: \
             {{host: tcp}}}}]}}]}}"
        )
    };
    let lines = [
        gateway("default/first", &server(80, "TCP", "foo.bar", "")),
        gateway("default/second", &server(80, "TCP", "foo.bar", "")),
        tcp("second"),
    ];
    let t = translate(&objects(&format!("{TCP}\n{}", lines.join("\n"))), &env());
    assert!(t.model.listeners.is_empty(), "the first has the port, and no rules");
    assert!(said(&t).iter().any(|s| s == "warning spec.servers[0].port port-conflict"), "{:?}", said(&t));
    let servers = [
        server(443, "TLS", "x.com", "mode: PASSTHROUGH"),
        server(443, "HTTPS", "'*'", "mode: SIMPLE, credentialName: c"),
    ];
    let t = translate(&objects(&gateway("default/g", &servers.join(", "))), &env());
    let Some(ListenerProtocol::Tls(served)) = listener(&t) else { panic!("not TLS") };
    assert_eq!(served.iter().map(|s| s.hosts.join(",")).collect::<Vec<_>>(), ["*"]);
}

#[test]
fn rules_that_no_connection_reaches_are_said() {
    let to = "route: [{destination: {host: tcp}}]";
    for (gateways, rules, expected) in [
        ("g", format!("{{{to}}}, {{match: [{{port: 1}}], {to}}}"), true),
        ("g", format!("{{match: [{{port: 1}}, {{sourceLabels: {{a: b}}}}], {to}}}, {{{to}}}"), true),
        ("g", format!("{{match: [{{port: 1}}], {to}}}, {{{to}}}"), false),
        ("g, mesh", format!("{{match: [{{sourceLabels: {{a: b}}}}], {to}}}, {{{to}}}"), false),
    ] {
        let lines = [
            gateway("default/g", &server(31400, "TCP", "a.com", "")),
            format!("VirtualService default/v: {{hosts: [a.com], gateways: [{gateways}], tcp: [{rules}]}}"),
        ];
        let t = translate(&objects(&format!("{TCP}\n{}", lines.join("\n"))), &env());
        let found = said(&t).iter().any(|s| s == "warning spec.tcp[1] unreachable-rule");
        assert_eq!(found, expected, "{rules}: {:?}", said(&t));
    }
}
