use super::*;
use proptest::prelude::*;

fn vs(name: &str, created: &str, prefix: &str, to: &str) -> String {
    let created =
        if created.is_empty() { String::new() } else { format!(" creationTimestamp='{created}T00:00:00Z'") };
    format!(
        "VirtualService default/{name}{created}: {{hosts: [x.com], gateways: [gateway], http: [{{match: [{{uri: {{prefix: {prefix}}}}}], route: [{{destination: {{host: {to}}}}}]}}]}}"
    )
}

#[test]
fn older_first_and_catch_alls_last() {
    let lines = [
        vs("z-older", "2019-01-01", "/", "a"),
        vs("m-newer", "2020-01-01", "/p", "b"),
        vs("a-newest", "2021-01-01", "/p/more", "a"),
        vs("b-newest", "2021-01-01", "/", "b"),
        vs("undated", "", "/q", "b"),
    ];
    let t = usual(&lines.join("\n"));
    let cluster = |s: &str| format!("outbound|80||{s}.default.svc.cluster.local");
    assert_eq!(
        shown(host(&t, "http.80", "x.com").unwrap()),
        [("/p", "b"), ("/p/more", "a"), ("/q", "b"), ("/", "a"), ("/", "b")]
            .map(|(p, c)| format!("{p} -> {}", cluster(c)))
    );
}

#[test]
fn what_an_older_service_takes_from_a_newer_one() {
    let lines = [
        vs("z-older", "2019-01-01", "/", "a"),
        vs("m-newer", "2020-01-01", "/p", "b"),
        vs("a-newest", "2021-01-01", "/p/more", "a"),
        vs("b-newest", "2021-01-01", "/", "b"),
        vs("c-newest", "2021-01-01", "/q", "b"),
    ];
    let conflicts = |t: &Translation| -> Vec<String> {
        let found = t.diagnostics.iter().filter(|d| d.code == "conflicting-host");
        found.map(|d| format!("{} {}: {}", d.object.as_ref().unwrap().name, d.field, d.text)).collect()
    };
    let never = |by, what| {
        format!(
            "is never reached for x.com: VirtualService/default/{by} has that host too, comes first, and takes {what}"
        )
    };
    let t = usual(&lines.join("\n"));
    assert_eq!(
        conflicts(&t),
        [
            format!("a-newest spec.http[0].match[0]: {}", never("m-newer", "paths that start like \"/p\"")),
            format!("b-newest spec.http[0].match[0]: {}", never("z-older", "every request")),
        ]
    );
    // another host, another gateway
    for (from, to) in [("x.com", "y.com"), ("gateways: [gateway]", "gateways: [mesh]")] {
        let lines = [lines[0].clone(), lines[3].replace(from, to)];
        assert_eq!(conflicts(&usual(&lines.join("\n"))), [""; 0], "{to}");
    }
}

#[test]
fn private_before_named_before_public() {
    let gateway = GATEWAY.replace("default/", "istio-system/");
    let line = |name: &str, export: &str| {
        format!(
            "VirtualService istio-system/{name}: {{hosts: [x.com], gateways: [gateway], exportTo: [{export}], http: [{{match: [{{uri: {{prefix: /{name}}}}}], route: [{{destination: {{host: a.default.svc.cluster.local}}}}]}}]}}"
        )
    };
    let lines = [line("a-public", "'*'"), line("b-named", "istio-system, other"), line("c-private", ".")];
    let t = translate(&objects(&format!("{gateway}\n{A}\n{}", lines.join("\n"))), &env());
    let seen: Vec<_> =
        host(&t, "http.80", "x.com").unwrap().routes.iter().map(|r| path(&r.matches)).collect();
    assert_eq!(seen, ["/c-private", "/b-named", "/a-public"]);
}

fn many() -> Vec<String> {
    let mut lines = vec![
        GATEWAY.to_owned(),
        A.to_owned(),
        B.to_owned(),
        "Gateway ns/other: {selector: {}, servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: [x.com]}, {port: {number: 81, name: t, protocol: TCP}, hosts: ['*']}]}".into(),
        "Gateway aa/third: {selector: {}, servers: [{port: {number: 81, name: h, protocol: HTTP}, hosts: [x.com]}]}".into(),
        "DestinationRule default/one: {host: a, subsets: [{name: v1, labels: {v: '1'}}]}".into(),
        "DestinationRule default/two: {host: a, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v2, labels: {v: '2'}}]}".into(),
        "DestinationRule default/three: {host: a, exportTo: [istio-system, b], subsets: [{name: v3, labels: {v: '3'}}]}".into(),
        "DestinationRule default/four: {host: a, exportTo: [istio-system], trafficPolicy: {loadBalancer: {simple: RANDOM}}}".into(),
        "ServiceEntry zz/e3: {hosts: [e.com], ports: [{number: 81, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 10.0.0.3}]}".into(),
        "ServiceEntry zz/e4: {hosts: [a.default.svc.cluster.local], ports: [{number: 80, name: http}], resolution: STATIC, endpoints: [{address: 10.0.0.4}]}".into(),
        "ServiceEntry default/e1: {hosts: [e.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 10.0.0.1}]}".into(),
        "ServiceEntry default/e2: {hosts: [e.com], ports: [{number: 80, name: http, protocol: HTTP2}], resolution: STATIC, endpoints: [{address: 10.0.0.2}]}".into(),
    ];
    for (i, to) in ["a", "b", "e.com", "a", "b"].iter().enumerate() {
        lines.push(vs(&format!("v{i}"), if i % 2 == 0 { "" } else { "2020-01-01" }, &format!("/{i}"), to));
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_order_of_files_makes_no_difference(order in Just((0..many().len()).collect::<Vec<_>>()).prop_shuffle()) {
        let lines = many();
        let straight = translate(&objects(&lines.join("\n")), &env());
        let shuffled: Vec<_> = order.iter().map(|i| lines[*i].clone()).collect();
        let shuffled = translate(&objects(&shuffled.join("\n")), &env());
        // Positions in the file are all that may differ.
        let plain = |t: &Translation| {
            let mut hosts = Vec::new();
            for h in t.model.virtual_hosts.values() {
                let routes: Vec<_> = h.routes.iter().map(|r| (r.rule.clone(), r.matches.clone(), r.action.clone())).collect();
                hosts.push((h.key.clone(), routes));
            }
            let mut said = said(t);
            said.sort();
            let mut listeners = t.model.listeners.clone();
            listeners.values_mut().for_each(|l| Arc::make_mut(l).origin = Default::default());
            (listeners, t.model.clusters.clone(), t.model.endpoints.clone(), hosts, said)
        };
        prop_assert_eq!(plain(&straight), plain(&shuffled));
    }
}
