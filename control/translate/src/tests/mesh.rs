use super::*;
use crate::translate_mesh;

fn client() -> Env {
    Env { namespace: "default".into(), labels: [].into(), ..env() }
}

#[test]
fn one_virtual_service_counts_for_a_host_and_exact_ones_first() {
    let vs = |name: &str, hosts: &str, to: &str| {
        format!(
            "VirtualService default/{name}: {{hosts: [{hosts}], http: [{{route: [{{destination: {{host: {to}}}}}]}}]}}"
        )
    };
    let lines = [
        A.to_owned(),
        B.to_owned(),
        vs("a-wild", "'*.default.svc.cluster.local'", "b"),
        vs("b-exact", "a", "a"),
        vs("c-late", "a", "b"),
        vs("d-unknown", "unknown.example.com", "b"),
    ];
    let t = translate_mesh(&objects(&lines.join("\n")), &client());
    let cluster = |s: &str| [format!("* -> outbound|80||{s}.default.svc.cluster.local")];
    for (domain, to) in [
        ("a", "a"),
        ("a.default", "a"),
        ("a.default.svc.cluster.local", "a"),
        ("b", "b"),
        ("unknown.example.com", "b"),
    ] {
        assert_eq!(shown(host(&t, "80", domain).unwrap()), cluster(to), "{domain}");
    }
    assert!(t.model.listeners.is_empty());
    assert_eq!(t.bindings["mesh"].tables, [(80, Arc::from("80"))]);
}

#[test]
fn services_route_to_themselves_on_each_port() {
    let lines = "Service shop/web: {ports: [{name: http, port: 9080}, {name: admin, port: 9090}]}";
    let t = translate_mesh(&objects(lines), &client());
    for port in ["9080", "9090"] {
        let host = host(&t, port, "web.shop").unwrap();
        assert_eq!(shown(host), [format!("* -> outbound|{port}||web.shop.svc.cluster.local")]);
    }
    assert!(host(&t, "9080", "web").is_none());
}

#[test]
fn without_a_route_on_a_port_the_service_itself_is_routed_to() {
    let lines = "Service shop/web: {ports: [{name: http, port: 80}, {name: admin, port: 9090}]}\n\
        VirtualService shop/v: {hosts: [web], http: [{match: [{port: 80}], route: [{destination: {host: web, port: {number: 9090}}}]}]}";
    let t = translate_mesh(&objects(lines), &client());
    for port in ["80", "9090"] {
        let host = host(&t, port, "web.shop").unwrap();
        assert_eq!(shown(host), ["* -> outbound|9090||web.shop.svc.cluster.local"], "{port}");
    }
}
