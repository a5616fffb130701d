use super::*;

/// What is said of DestinationRules, with their names.
fn rules(lines: &[&str], env: &crate::Env) -> Vec<String> {
    let t = translate(&objects(&format!("{GATEWAY}\n{A}\n{B}\n{}", lines.join("\n"))), env);
    let mut said: Vec<_> = t
        .diagnostics
        .iter()
        .map(|d| format!("{} {} {} {}", d.object.as_ref().unwrap().name, d.severity, d.field, d.code))
        .collect();
    said.sort();
    said
}

#[test]
fn what_merging_drops() {
    let first = "DestinationRule default/one: {host: a, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v1, labels: {}}]}";
    for (second, expected) in [
        (
            "DestinationRule default/two: {host: a, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: v2, labels: {}}, {name: v1, labels: {x: a}}]}",
            vec![
                "two warning spec.subsets[1] duplicate",
                "two warning spec.trafficPolicy conflicting-policy",
            ],
        ),
        ("DestinationRule default/two: {host: a, subsets: [{name: v2, labels: {}}]}", vec![]),
        ("DestinationRule default/two: {host: b, trafficPolicy: {loadBalancer: {simple: RANDOM}}}", vec![]),
    ] {
        assert_eq!(rules(&[first, second], &env()), expected, "{second}");
    }
}

#[test]
fn rules_that_are_for_others() {
    let policy = "trafficPolicy: {loadBalancer: {simple: RANDOM}}";
    let tls = "trafficPolicy: {tls: {mode: SIMPLE, caCertificates: system, subjectAltNames: [a]}}";
    let rule = |place: &str, more: &str| {
        format!("DestinationRule {place}: {{host: a.default.svc.cluster.local, {more}}}")
    };
    for (line, other, expected) in [
        (rule("default/r", policy), "", vec![]),
        (rule("istio-system/r", policy), "", vec![]),
        (rule("other/r", policy), "", vec!["r note  unreachable-rule"]),
        (rule("other/r", tls), "", vec!["r warning  unreachable-rule"]),
        (
            rule("default/r", &format!("exportTo: [other], {policy}")),
            "",
            vec!["r note spec.exportTo not-exported"],
        ),
        (
            rule("default/r", &format!("exportTo: [.], {tls}")),
            "",
            vec!["r warning spec.exportTo not-exported"],
        ),
        (rule("default/r", &format!("exportTo: [other, istio-system], {policy}")), "", vec![]),
        (
            rule("default/r", &format!("workloadSelector: {{matchLabels: {{}}}}, {policy}")),
            "",
            vec!["r note spec.workloadSelector not-selected"],
        ),
        (
            rule("istio-system/r", &format!("workloadSelector: {{matchLabels: {{x: z}}}}, {policy}")),
            "",
            vec!["r note spec.workloadSelector not-selected"],
        ),
        (
            rule(
                "istio-system/r",
                &format!("workloadSelector: {{matchLabels: {{istio: ingressgateway}}}}, {policy}"),
            ),
            "",
            vec![],
        ),
        (
            rule("istio-system/r", policy),
            "DestinationRule default/other: {host: a, subsets: [{name: v1, labels: {}}]}",
            vec!["r note spec.host unreachable-rule"],
        ),
        // a newer one that is not merged with it
        (
            rule("default/r", policy),
            "DestinationRule default/s: {host: a, exportTo: ['*'], trafficPolicy: {loadBalancer: {simple: RANDOM}}}",
            vec!["r note spec.host unreachable-rule"],
        ),
    ] {
        assert_eq!(rules(&[&line, other], &env()), expected, "{line}");
    }
}

#[test]
fn settings_of_ports_that_are_not_there() {
    let settings = "portLevelSettings: [{port: {number: 8080}, loadBalancer: {simple: RANDOM}}, {port: {number: 80}, loadBalancer: {simple: RANDOM}}]";
    let external = "Service default/x: {type: ExternalName, externalName: a.example}";
    for (host, expected) in [("a", true), ("x", false), ("'*.default.svc.cluster.local'", true)] {
        let external = if expected { "" } else { external };
        let line = format!(
            "DestinationRule default/r: {{host: {host}, trafficPolicy: {{{settings}}}, subsets: [{{name: v, labels: {{}}, trafficPolicy: {{{settings}}}}}]}}"
        );
        let fields = ["spec.subsets[0].trafficPolicy", "spec.trafficPolicy"];
        let said = fields.map(|f| format!("r warning {f}.portLevelSettings[0].port.number unknown-port"));
        assert_eq!(
            rules(&[&line, external], &env()),
            if expected { said.to_vec() } else { vec![] },
            "{host}"
        );
    }
}
