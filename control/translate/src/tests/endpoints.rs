use super::clusters::addresses;
use super::*;
use tidegate_model::{ClusterName, Endpoint};

/// The endpoints of service `a` (its subset, if any) with these objects, and what is said.
fn endpoints_of(subset: &str, lines: &str, yaml: &str) -> (Vec<Endpoint>, Vec<String>) {
    let route = format!(
        "VirtualService default/v: {{hosts: [x.com], gateways: [gateway], http: [{{route: [{{destination: {{host: a, subset: '{subset}'}}}}]}}]}}"
    );
    let head = read(&format!("{GATEWAY}\n{A}\n{route}\n{lines}"));
    let reading = tidegate_api::read("more.yaml", yaml);
    assert_eq!(reading.diagnostics, []);
    let all: Objects = head.into_iter().chain(reading.objects).collect();
    let t = translate(&all, &env());
    let name = ClusterName::outbound(80, subset, "a.default.svc.cluster.local");
    let found = t.model.endpoints.get(&name).map(|e| e.endpoints.clone()).unwrap_or_default();
    (found, said(&t))
}

#[test]
fn labels_of_workload_entries_are_those_of_both() {
    let rule = "DestinationRule default/a: {host: a, subsets: [{name: v1, labels: {version: v1}}]}";
    for (metadata, spec, subset, found) in [
        ("{version: v1}", "{app: a}", "v1", true),
        ("{app: a, version: v1}", "{class: vm}", "v1", true),
        ("{version: v2}", "{app: a, version: v1}", "v1", false),
        ("{version: v1}", "{app: a, version: v2}", "v1", true),
        ("{app: b}", "{app: a}", "", false),
        ("{}", "{app: a}", "", true),
    ] {
        let entry = format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: w, namespace: default, labels: {metadata}}}\nspec: {{address: 10.0.0.1, labels: {spec}}}"
        );
        let (endpoints, _) = endpoints_of(subset, rule, &entry);
        assert_eq!(!endpoints.is_empty(), found, "{entry}");
    }
}

#[test]
fn workload_entries_that_are_not_healthy_get_no_requests() {
    let checks = "{proxy.istio.io/health-checks-enabled: 'true'}";
    for (annotations, status, healthy) in [
        (checks, "{conditions: [{type: Healthy, status: 'True'}]}", true),
        (checks, "{conditions: [{type: Other, status: 'True'}, {type: Healthy, status: 'False'}]}", false),
        (checks, "{conditions: [{type: Healthy, status: Unknown}]}", false),
        (checks, "{}", false),
        (
            "{proxy.istio.io/health-checks-enabled: 'false'}",
            "{conditions: [{type: Healthy, status: 'False'}]}",
            true,
        ),
        ("{}", "{conditions: [{type: Healthy, status: 'False'}]}", true),
    ] {
        let entry = format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: w, namespace: default, annotations: {annotations}}}\nspec: {{address: 10.0.0.1, labels: {{app: a}}}}\nstatus: {status}"
        );
        let (endpoints, said) = endpoints_of("", "", &entry);
        assert_eq!(!endpoints.is_empty(), healthy, "{entry}");
        let expected = if healthy { vec![] } else { vec!["note status.conditions unhealthy"] };
        assert_eq!(said, expected, "{entry}");
    }
}

#[test]
fn subsets_by_where_endpoints_run() {
    let entry = "WorkloadEntry default/w1: {address: 10.0.0.1, labels: {app: a}, locality: us-east/a/x}\n\
        WorkloadEntry default/w2: {address: 10.0.0.2, labels: {app: a, topology.kubernetes.io/region: us-east}, locality: us-west/a}";
    let cluster = "topology.istio.io/cluster: c1";
    for (labels, expected) in [
        ("topology.kubernetes.io/region: us-east", vec!["10.0.0.1:80"]),
        ("topology.kubernetes.io/region: us-west, topology.kubernetes.io/zone: a", vec!["10.0.0.2:80"]),
        ("topology.kubernetes.io/zone: a", vec!["10.0.0.1:80", "10.0.0.2:80"]),
        ("topology.istio.io/subzone: x", vec!["10.0.0.1:80"]),
        ("topology.istio.io/subzone: z", vec![]),
        (cluster, vec![]),
    ] {
        let rule =
            format!("DestinationRule default/a: {{host: a, subsets: [{{name: s, labels: {{{labels}}}}}]}}");
        let (endpoints, said) = endpoints_of("s", &format!("{rule}\n{entry}"), "");
        assert_eq!(addresses(&endpoints), expected, "{labels}");
        assert_eq!(said.iter().any(|s| s.ends_with("empty-subset")), expected.is_empty(), "{said:?}");
    }
}

#[test]
fn slices_of_names_are_not_used() {
    let slice = |kind: &str, address: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a-{address}, namespace: default, labels: {{kubernetes.io/service-name: a}}}}\naddressType: {kind}\nendpoints: [{{addresses: [{address}]}}]\nports: [{{name: http, port: 8080}}]\n"
        )
    };
    let (endpoints, said) =
        endpoints_of("", "", &format!("{}{}", slice("FQDN", "a.example"), slice("IPv4", "10.0.0.1")));
    assert_eq!(addresses(&endpoints), ["10.0.0.1:8080"]);
    assert_eq!(said, ["warning addressType not-enforced"]);
}

const NODES: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/region: r1, topology.kubernetes.io/zone: z1, topology.istio.io/subzone: s1}}
spec: {podCIDR: 10.0.0.0/24}
---
apiVersion: v1
kind: Node
metadata: {name: n2, labels: {failure-domain.beta.kubernetes.io/region: r1, failure-domain.beta.kubernetes.io/zone: z2, topology.kubernetes.io/zone: ''}}
---
apiVersion: v1
kind: Node
metadata: {name: n3}
";

/// A pod of `a` with these labels, and what says where it is.
fn pod(name: &str, labels: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, labels: {{app: a{labels}}}}}\nspec: {{containers: []{spec}}}\nstatus: {{podIP: 10.0.0.1}}\n"
    )
}

fn slice(endpoint: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a-x, namespace: default, labels: {{kubernetes.io/service-name: a}}}}\naddressType: IPv4\nendpoints: [{{addresses: [10.0.0.1]{endpoint}}}]\nports: [{{name: http, port: 8080}}]\n"
    )
}

#[test]
fn endpoints_are_where_their_nodes_are() {
    let (node, of_pod) =
        (", nodeName: n1", ", topology.kubernetes.io/region: r9, topology.kubernetes.io/zone: z9");
    for (yaml, expected) in [
        (pod("p", "", node), "r1/z1/s1"),
        (pod("p", ", istio-locality: r7.z7.s7", node), "r7/z7/s7"),
        // labels that the cluster gave it count less than its node
        (pod("p", of_pod, node), "r1/z1/s1"),
        (pod("p", of_pod, ", nodeName: unknown"), "r9/z9/"),
        (pod("p", "", ", nodeName: n2"), "r1/z2/"),
        (pod("p", "", ", nodeName: n3"), "//"),
        (slice(", nodeName: n1, zone: z8"), "r1/z1/s1"),
        (slice(", nodeName: unknown, zone: z8"), "/z8/"),
        (format!("{}{}", slice(", targetRef: {kind: Pod, name: p}, zone: z8"), pod("p", "", node)), "r1/z1/s1"),
        (
            "---\napiVersion: v1\nkind: Endpoints\nmetadata: {name: a, namespace: default}\nsubsets: [{addresses: [{ip: 10.0.0.1, nodeName: n2}], ports: [{name: http, port: 80}]}]\n".to_owned(),
            "r1/z2/",
        ),
    ] {
        let (endpoints, said) = endpoints_of("", "", &format!("{NODES}{yaml}"));
        let at = &endpoints[0].locality;
        assert_eq!(format!("{}/{}/{}", at.region, at.zone, at.subzone), expected, "{yaml}");
        assert_eq!(said, [""; 0], "{yaml}");
    }
}

#[test]
fn zones_whose_region_is_not_known_are_reported_where_localities_count() {
    let setting = |setting: &str| {
        format!(
            "DestinationRule default/a: {{host: a, trafficPolicy: {{outlierDetection: {{}}, loadBalancer: {{localityLbSetting: {{{setting}}}}}}}}}"
        )
    };
    let distribute = setting("distribute: [{from: r1/*, to: {r1/z1: 100}}]");
    let mesh = "ConfigMap istio-system/istio: {mesh: 'localityLbSetting: {failover: [{from: r1, to: r2}]}'}"
        .to_owned();
    let prefers = A.replace("ports", "trafficDistribution: PreferClose, ports");
    let field = "warning spec.trafficPolicy.loadBalancer.localityLbSetting unknown-region";
    for (rule, yaml, expected) in [
        (&distribute, slice(", nodeName: n9, zone: z8"), vec![field]),
        (&distribute, slice(", nodeName: n1, zone: z8"), vec![]),
        (&distribute, slice(""), vec![]),
        (&setting("failover: [{from: a, to: b}]"), slice(", zone: z8"), vec![field]),
        (&setting("enabled: false"), slice(", zone: z8"), vec![]),
        (&String::new(), slice(", zone: z8"), vec![]),
        (&mesh, slice(", zone: z8"), vec!["warning data.mesh.localityLbSetting unknown-region"]),
        (&prefers, slice(", zone: z8"), vec!["warning spec.trafficDistribution unknown-region"]),
    ] {
        let (_, said) = endpoints_of("", rule, &format!("{NODES}{yaml}"));
        let said: Vec<_> = said.into_iter().filter(|s| !s.ends_with("unknown-locality")).collect();
        assert_eq!(said, expected, "{rule} {yaml}");
    }
}
