use super::*;
use tidegate_model::ClusterName;

/// The places of four endpoints.
const ENTRIES: &str = "
    WorkloadEntry default/w1: {address: 10.0.0.1, labels: {app: a, kubernetes.io/hostname: n1}, locality: r1/z1}
    WorkloadEntry default/w2: {address: 10.0.0.2, labels: {app: a, kubernetes.io/hostname: n2}, locality: r1/z1}
    WorkloadEntry default/w3: {address: 10.0.0.3, labels: {app: a}, locality: r1/z2}
    WorkloadEntry default/w4: {address: 10.0.0.4, labels: {app: a}, locality: r2/z1}";
const SERVICE: &str =
    "Service default/a: {selector: {app: a}, trafficDistribution: X, ports: [{name: http, port: 80}]}";
const ENTRY: &str = "ServiceEntry default/a: {hosts: [a.default.svc.cluster.local], resolution: STATIC, ports: [{number: 80, name: http}], workloadSelector: {labels: {app: a}}}";

fn annotated(line: &str, value: &str) -> String {
    let annotation = format!(" annotations={{networking.istio.io/traffic-distribution='{value}'}}: {{");
    line.replace("trafficDistribution: X, ", "").replacen(": {", &annotation, 1)
}

fn namespace(value: &str) -> tidegate_api::Object {
    let text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: default, annotations: {{networking.istio.io/traffic-distribution: {value}}}}}"
    );
    tidegate_api::read("n.yaml", &text).objects.remove(0)
}

/// The priorities of the endpoints, and what is said, for a gateway in r1/z1 on n1 (or one that knows not where it is).
fn priorities(lines: &str, of_namespace: &str, known: bool) -> (Vec<u32>, Vec<String>) {
    let route = "VirtualService default/v: {hosts: [x.com], gateways: [gateway], http: [{route: [{destination: {host: a}}]}]}";
    let mut all = objects(&format!("{GATEWAY}\n{route}\n{ENTRIES}\n{lines}"));
    if !of_namespace.is_empty() {
        all.insert(Arc::new(namespace(of_namespace)));
    }
    let mut env = env();
    if known {
        env.labels.insert("istio-locality".into(), "r1.z1".into());
        env.labels.insert("kubernetes.io/hostname".into(), "n1".into());
    }
    let t = translate(&all, &env);
    let name = ClusterName::outbound(80, "", "a.default.svc.cluster.local");
    let endpoints = &t.model.endpoints[&name].endpoints;
    (endpoints.iter().map(|e| e.priority).collect(), said(&t))
}

#[test]
fn what_services_prefer() {
    let field = |value: &str| SERVICE.replace('X', value);
    let none = SERVICE.replace("trafficDistribution: X, ", "");
    let (any, zone, node) = (vec![0; 4], vec![0, 0, 1, 2], vec![0, 1, 2, 3]);
    for (line, of_namespace, expected) in [
        (none.clone(), "", &any),
        (field("PreferClose"), "", &zone),
        (field("PreferSameZone"), "", &zone),
        (field("PreferSameNode"), "", &node),
        (annotated(SERVICE, "preferclose"), "", &zone),
        (annotated(SERVICE, "PreferSameNode"), "PreferClose", &node),
        (none.clone(), "PreferClose", &zone),
        (annotated(&field("PreferClose"), "PreferSameNode"), "", &zone),
        (annotated(ENTRY, "PreferClose"), "", &zone),
        (ENTRY.to_owned(), "PreferSameNode", &node),
    ] {
        let (found, said) = priorities(&line, of_namespace, true);
        assert_eq!((&found, said), (expected, vec![]), "{line} {of_namespace}");
    }
}

#[test]
fn rules_come_before_and_the_mesh_behind() {
    let service = SERVICE.replace('X', "PreferClose");
    let mesh = "ConfigMap istio-system/istio: {mesh: 'localityLbSetting: {failover: [{from: r1, to: r2}]}'}";
    let rule = |policy: &str| format!("DestinationRule default/a: {{host: a, trafficPolicy: {{{policy}}}}}");
    let outliers = "outlierDetection: {interval: 1s}";
    for (lines, expected) in [
        (mesh.to_owned(), [0, 0, 1, 2]),
        (rule("loadBalancer: {localityLbSetting: {enabled: false}}"), [0; 4]),
        (
            rule(&format!("{outliers}, loadBalancer: {{localityLbSetting: {{failoverPriority: [x]}}}}")),
            [0; 4],
        ),
        (rule(outliers), [0, 0, 1, 2]),
    ] {
        assert_eq!(priorities(&format!("{service}\n{lines}"), "", true).0, expected, "{lines}");
    }
}

#[test]
fn preferences_that_have_no_effect_are_reported() {
    let field = |value: &str| SERVICE.replace('X', value);
    let of_annotation = "metadata.annotations[\"networking.istio.io/traffic-distribution\"]";
    for (line, of_namespace, known, expected) in [
        (field("PreferFar"), "", true, vec!["warning spec.trafficDistribution no-effect".to_owned()]),
        (annotated(SERVICE, "far"), "PreferClose", true, vec![format!("warning {of_annotation} no-effect")]),
        (field("PreferClose"), "far", true, vec![format!("warning {of_annotation} no-effect")]),
        (field("PreferClose"), "", false, vec!["note spec.trafficDistribution unknown-locality".to_owned()]),
        (annotated(ENTRY, "PreferClose"), "", false, vec![format!("note {of_annotation} unknown-locality")]),
    ] {
        let (_, said) = priorities(&line, of_namespace, known);
        assert_eq!(said, expected, "{line} {of_namespace}");
    }
}
