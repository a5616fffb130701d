use super::clusters::{addresses, routed};
use super::*;
use crate::Admission;
use tidegate_model::{Address, ClusterName};

/// An entry of `e.com` with these ports, at `10.0.0.N`.
fn entry(place: &str, ports: &[u16], n: u8) -> String {
    of("e.com", place, ports, n)
}

fn of(host: &str, place: &str, ports: &[u16], n: u8) -> String {
    let ports: Vec<_> =
        ports.iter().map(|p| format!("{{number: {p}, name: http-{p}, protocol: HTTP}}")).collect();
    format!(
        "ServiceEntry {place}: {{hosts: [{host}], resolution: STATIC, ports: [{}], endpoints: [{{address: 10.0.0.{n}}}]}}",
        ports.join(", ")
    )
}

fn conflicts(said: &[String]) -> usize {
    said.iter().filter(|s| s.ends_with("conflicting-host")).count()
}

#[test]
fn a_host_belongs_to_one_namespace() {
    let dated = |line: String, year: u16| {
        line.replacen(": {", &format!(" creationTimestamp='{year}-01-01T00:00:00Z': {{"), 1)
    };
    let to = |line: String, namespaces: &str| {
        line.replace("{hosts", &format!("{{exportTo: [{namespaces}], hosts"))
    };
    let (one, two) = (entry("aa/z", &[80], 1), entry("bb/a", &[80], 2));
    for (lines, expected, denied) in [
        // without a date, by namespace
        (vec![one.clone(), two.clone()], vec!["10.0.0.1:80"], 1),
        // the older one
        (vec![dated(one.clone(), 2021), dated(two.clone(), 2020)], vec!["10.0.0.2:80"], 1),
        (vec![one.clone(), dated(two.clone(), 2020)], vec!["10.0.0.2:80"], 1),
        // who names the gateway's namespace comes before who names all
        (vec![one.clone(), to(two.clone(), "istio-system")], vec!["10.0.0.2:80"], 1),
        (vec![dated(one.clone(), 2020), to(two.clone(), "x, istio-system")], vec!["10.0.0.2:80"], 1),
        // who is not seen has nothing
        (vec![to(one.clone(), "."), two.clone()], vec!["10.0.0.2:80"], 0),
        // of one namespace they are one service
        (vec![one.clone(), entry("aa/x", &[80], 3), two], vec!["10.0.0.3:80", "10.0.0.1:80"], 1),
    ] {
        let (_, _, endpoints, said) = routed("host: e.com, port: {number: 80}", &lines.join("\n"));
        assert_eq!(addresses(&endpoints), expected, "{lines:?}");
        assert_eq!(conflicts(&said), denied, "{said:?}");
    }
}

#[test]
fn services_of_kubernetes_come_first() {
    let host = "b.default.svc.cluster.local";
    let own =
        "Endpoints default/b: {subsets: [{addresses: [{ip: 10.0.0.9}], ports: [{name: http, port: 8080}]}]}";
    for (line, port, expected, said_at) in [
        (of(host, "evil/se", &[80], 2), 80, vec!["10.0.0.9:8080"], "spec.hosts[0]"),
        (
            of(host, "evil/se creationTimestamp='1999-01-01T00:00:00Z'", &[80], 2),
            80,
            vec!["10.0.0.9:8080"],
            "spec.hosts[0]",
        ),
        (of(host, "evil/se", &[81], 2), 81, vec![], "spec.hosts[0]"),
        // endpoints of its own namespace are added, ports are not
        (of(host, "default/se", &[80], 2), 80, vec!["10.0.0.9:8080", "10.0.0.2:80"], ""),
        (of(host, "default/se", &[81], 2), 81, vec![], "spec.ports[0]"),
    ] {
        let destination = format!("host: b, port: {{number: {port}}}");
        let (_, _, endpoints, said) = routed(&destination, &format!("{own}\n{line}"));
        assert_eq!(addresses(&endpoints), expected, "{line}");
        let expected =
            if said_at.is_empty() { vec![] } else { vec![format!("warning {said_at} conflicting-host")] };
        let denied: Vec<_> = said.into_iter().filter(|s| s.ends_with("conflicting-host")).collect();
        assert_eq!(denied, expected, "{line}");
    }
    let t = usual(&of(host, "evil/se", &[80], 2));
    let denied = t.diagnostics.iter().find(|d| d.code == "conflicting-host").unwrap();
    assert!(denied.text.contains("Service/default/b"), "{denied:?}");
}

/// The addresses of a cluster of `e.com` after admission, and how much is held.
fn admitted(admission: &mut Admission, lines: &[String], port: u16) -> (Vec<String>, usize) {
    let lines = format!("{GATEWAY}\n{}", lines.join("\n"));
    let admitted = admission.admit(objects(&lines), &env());
    let model = translate(&admitted.objects, &env()).model;
    let endpoints = model.endpoints.get(&ClusterName::outbound(port, "", "e.com"));
    let found =
        endpoints.map_or(vec![], |e| e.endpoints.iter().map(|e| Address::to_string(&e.address)).collect());
    (found, admitted.diagnostics.iter().filter(|d| d.code == "held").count())
}

#[test]
fn a_host_that_changes_its_owner_keeps_the_ports_that_routes_need() {
    let route = |port: u16| {
        format!(
            "VirtualService default/v{port}: {{hosts: [x{port}.com], gateways: [gateway], http: [{{route: [{{destination: {{host: e.com, port: {{number: {port}}}}}}}]}}]}}"
        )
    };
    let old = entry("default/e", &[80, 81, 82], 1);
    let mut admission = Admission::new();
    let before = [old.clone(), route(80), route(81)];
    assert_eq!(admitted(&mut admission, &before, 80), (vec!["10.0.0.1:80".into()], 0));
    // the new owner has a port of it, another one, and not all that routes need
    let new = entry("aa/e", &[80, 83], 2);
    let both = [old, new.clone(), route(80), route(81)];
    for _ in 0..2 {
        assert_eq!(admitted(&mut admission, &both, 80), (vec!["10.0.0.2:80".into()], 1));
        assert_eq!(admitted(&mut admission, &both, 81), (vec!["10.0.0.1:81".into()], 1));
        assert_eq!(admitted(&mut admission, &both, 82), (vec![], 1), "no route needs it");
    }
    // the old one drops the host
    let dropped = of("f.com", "default/e", &[80], 1);
    let moved = [dropped.clone(), new.clone(), route(80), route(81)];
    assert_eq!(admitted(&mut admission, &moved, 81), (vec!["10.0.0.1:81".into()], 1));
    assert_eq!(admitted(&mut admission, &[dropped, new.clone(), route(80)], 81), (vec![], 0));
    // one that is no longer for this gateway is gone
    let mut admission = Admission::new();
    assert_eq!(admitted(&mut admission, &before, 81).0, ["10.0.0.1:81"]);
    let hidden = before.map(|line| line.replace("{hosts: [e.com]", "{exportTo: [.], hosts: [e.com]"));
    assert_eq!(admitted(&mut admission, &hidden, 81), (vec![], 0));
    // who never had the host gets no port of it by being named
    let squatter = entry("zz/e", &[81], 3);
    let all = [new, squatter, route(81)];
    assert_eq!(admitted(&mut admission, &all, 81), (vec![], 0));
    assert_eq!(admitted(&mut admission, &all, 81), (vec![], 0));
}

#[test]
fn a_host_that_changes_its_owner_keeps_the_subsets_that_routes_need() {
    let route = "VirtualService default/v: {hosts: [x.com], gateways: [gateway], http: [{route: [{destination: {host: e.com, subset: v1}}]}]}".to_owned();
    let rule = |place: &str| {
        format!(
            "DestinationRule {place}: {{host: e.com, subsets: [{{name: v1, labels: {{}}}}], trafficPolicy: {{tls: {{mode: SIMPLE}}}}}}"
        )
    };
    let (old, new) = (entry("default/e", &[80], 1), entry("aa/e", &[80], 2));
    let served = |admission: &mut Admission, lines: &[String]| {
        let admitted = admission.admit(objects(&format!("{GATEWAY}\n{}", lines.join("\n"))), &env());
        let model = translate(&admitted.objects, &env()).model;
        let name = ClusterName::outbound(80, "v1", "e.com");
        let tls = model.clusters.get(&name).is_some_and(|c| c.tls.is_some());
        let held = admitted.diagnostics.iter().filter(|d| d.code == "held").count();
        (model.endpoints.get(&name).map(|e| addresses(&e.endpoints)), tls, held)
    };
    let at = |n: u8| Some(vec![format!("10.0.0.{n}:80")]);
    for dropped in [old.clone(), of("f.com", "default/e", &[80], 1)] {
        let mut admission = Admission::new();
        let before = [old.clone(), rule("default/e"), route.clone()];
        assert_eq!(served(&mut admission, &before), (at(1), true, 0));
        // the new owner has no such subset: what was there serves on, with its own policy
        let moving = [dropped.clone(), rule("default/e"), new.clone(), route.clone()];
        for _ in 0..2 {
            assert_eq!(served(&mut admission, &moving), (at(1), true, 1), "{dropped}");
        }
        let moved = [dropped, rule("default/e"), new.clone(), rule("aa/e"), route.clone()];
        assert_eq!(served(&mut admission, &moved), (at(2), true, 0));
    }
}
