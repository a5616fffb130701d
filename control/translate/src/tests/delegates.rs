use super::*;

fn root(http: &str) -> String {
    format!(
        "VirtualService istio-system/root: {{hosts: [x.com], gateways: [default/gateway], http: [{http}]}}"
    )
}

fn leaf(rest: &str) -> String {
    format!("VirtualService default/leaf: {{{rest}}}")
}

const DELEGATE: &str = "delegate: {name: leaf, namespace: default}";

#[test]
fn merges_and_drops() {
    let cluster = |s: &str| format!("outbound|80||{s}.default.svc.cluster.local");
    let to = |s: &str| format!("route: [{{destination: {{host: {s}}}}}]");
    for (name, root_http, leaf_http, expected) in [
        (
            "conflicting rule dropped",
            format!("{{match: [{{uri: {{prefix: /p}}}}], {DELEGATE}}}"),
            format!(
                "{{match: [{{uri: {{prefix: /other}}}}], {}}}, {{match: [{{uri: {{prefix: /p/2}}}}], {}}}",
                to("a"),
                to("b")
            ),
            vec![format!("/p/2 -> {}", cluster("b"))],
        ),
        (
            "rule without match takes the root's",
            format!(
                "{{match: [{{uri: {{prefix: /p}}}}], {DELEGATE}}}, {{{}}}",
                to("b.default.svc.cluster.local")
            ),
            format!("{{{}}}", to("a")),
            vec![format!("/p -> {}", cluster("a")), format!("* -> {}", cluster("b"))],
        ),
        (
            "missing delegate",
            format!(
                "{{delegate: {{name: nosuch, namespace: default}}}}, {{{}}}",
                to("b.default.svc.cluster.local")
            ),
            format!("{{{}}}", to("a")),
            vec![format!("* -> {}", cluster("b"))],
        ),
    ] {
        let t = usual(&format!("{}\n{}", root(&root_http), leaf(&format!("http: [{leaf_http}]"))));
        assert_eq!(shown(host(&t, "http.80", "x.com").unwrap()), expected, "{name}");
    }
}

#[test]
fn the_answer_of_a_root_is_that_of_rules_without_one() {
    let lines = format!(
        "{}\n{}",
        root(&format!("{{{DELEGATE}, directResponse: {{status: 418}}}}")),
        leaf(
            "http: [{match: [{uri: {prefix: /a}}], directResponse: {status: 200}}, {route: [{destination: {host: a}}]}]"
        )
    );
    let t = usual(&lines);
    let statuses: Vec<_> = host(&t, "http.80", "x.com")
        .unwrap()
        .routes
        .iter()
        .map(|route| match &*route.action {
            Action::DirectResponse(answer) => answer.status,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(statuses, [200, 418]);
}

#[test]
fn rules_of_a_delegate_name_both() {
    let lines = format!(
        "{}\n{}",
        root(&format!(
            "{{name: r, match: [{{headers: {{h: {{exact: x}}}}}}], timeout: 3s, headers: {{request: {{set: {{a: '1'}}}}}}, {DELEGATE}}}"
        )),
        leaf(
            "http: [{match: [{name: m, uri: {prefix: /a}}], name: l, timeout: 1s, route: [{destination: {host: a}}]}]"
        )
    );
    let t = usual(&lines);
    let route = &host(&t, "http.80", "x.com").unwrap().routes[0];
    assert_eq!(&*route.name, "r-l.m");
    assert_eq!(route.rule.object.to_string(), "VirtualService/default/leaf");
    let (root, index) = *route.rule.root.clone().unwrap();
    assert_eq!((root.to_string().as_str(), index), ("VirtualService/istio-system/root", 0));
    assert_eq!((path(&route.matches).as_str(), route.matches.headers.len()), ("/a", 1));
    let Action::Forward(f) = &*route.action else { panic!() };
    assert_eq!(f.timeout, Some(std::time::Duration::from_secs(1)));
    assert_eq!(f.destinations[0].request_headers.len(), 1);
}

#[test]
fn not_exported_and_alone_are_said() {
    let t = usual(&format!(
        "{}\n{}",
        root(&format!("{{{DELEGATE}}}")),
        leaf("exportTo: [.], http: [{route: [{destination: {host: a}}]}]")
    ));
    assert!(host(&t, "http.80", "x.com").is_none());
    assert!(said(&t).iter().any(|s| s == "warning spec.http[0].delegate unknown-delegate"));
    let t = usual(&leaf("http: [{route: [{destination: {host: a}}]}]"));
    assert!(t.model.virtual_hosts.is_empty());
    assert!(said(&t).iter().any(|s| s == "warning  unused-delegate"));
}

#[test]
fn gateways_are_named_from_the_namespace_of_their_own_object() {
    let lines = |own: &str, of_root: &str| {
        let gateway = GATEWAY.replace("default/gateway", "istio-system/gateway");
        let root = format!(
            "VirtualService istio-system/root: {{hosts: [x.com], gateways: [gateway], http: [{{match: [{{gateways: [{of_root}]}}], {DELEGATE}}}]}}"
        );
        let own =
            format!("http: [{{match: [{{gateways: [{own}]}}], route: [{{destination: {{host: a}}}}]}}]");
        format!("{gateway}\n{A}\n{root}\n{}", leaf(&own))
    };
    for (own, of_root, served) in [
        ("istio-system/gateway", "gateway", true),
        ("istio-system/gateway", "istio-system/gateway", true),
        ("gateway", "gateway", false),
    ] {
        let t = translate(&objects(&lines(own, of_root)), &env());
        assert_eq!(host(&t, "http.80", "x.com").is_some(), served, "{own} {of_root}: {:?}", said(&t));
    }
}
