use super::*;

#[test]
fn objects_of_kinds_that_are_not_served_are_reported() {
    for (line, expected) in [
        ("PeerAuthentication istio-system/p: {}", "note  no-effect"),
        ("EnvoyFilter istio-system/p: {}", "warning  not-enforced"),
        ("Sidecar istio-system/p: {}", "note  not-enforced"),
    ] {
        assert_eq!(said(&translate(&objects(line), &env())), [expected], "{line}");
    }
}

#[test]
fn fields_that_are_not_enforced_are_reported_at_their_shortest_path() {
    for (line, expected) in [
        (
            "VirtualService default/v: {hosts: [x.com], gateways: [gateway], http: [{route: [{destination: {host: a}}], retries: {attempts: 3, retryOn: '5xx, retriable-headers', retryRemoteLocalities: true}, match: [{statPrefix: s, uri: {prefix: /a}}]}]}",
            vec![
                "note spec.http[0].match[0].statPrefix no-effect",
                "note spec.http[0].retries.retryOn no-effect",
                "note spec.http[0].retries.retryRemoteLocalities not-enforced",
            ],
        ),
        (
            "DestinationRule default/d: {host: a, trafficPolicy: {outlierDetection: {interval: 1s, consecutiveErrors: 3}, connectionPool: {tcp: {maxConnections: 1, connectTimeout: 1s}, http: {maxRetries: 1, http2MaxRequests: 1, maxConcurrentStreams: 1, http2KeepAlive: {interval: 1s, timeout: 1s}}}, tunnel: {targetHost: t, targetPort: 80}}}",
            vec![
                "note spec.trafficPolicy.outlierDetection.consecutiveErrors no-effect",
                "note spec.trafficPolicy.tunnel not-enforced",
            ],
        ),
        (
            "DestinationRule default/d: {host: a, trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}}",
            vec!["note spec.trafficPolicy.loadBalancer.simple no-effect"],
        ),
        (
            "ServiceEntry default/s: {hosts: [e.com], location: MESH_INTERNAL, addresses: [10.0.0.1], resolution: DNS, ports: [{number: 80, name: http}]}",
            vec!["note spec.addresses no-effect", "note spec.location no-effect"],
        ),
        (
            "Gateway default/g: {selector: {}, servers: [{name: x, port: {number: 81, name: h, protocol: HTTP}, hosts: ['*']}]}",
            vec!["note spec.servers[0].name no-effect"],
        ),
    ] {
        let mut said = said(&usual(line));
        said.sort();
        assert_eq!(said, expected, "{line}");
    }
}

#[test]
fn rules_that_nothing_reaches() {
    let to = "route: [{destination: {host: a}}]";
    for (http, expected) in [
        (
            format!("{{{to}}}, {{match: [{{uri: {{prefix: /a}}}}], {to}}}"),
            vec!["warning spec.http[1] unreachable-rule"],
        ),
        (
            format!("{{match: [{{uri: {{prefix: /}}}}, {{uri: {{prefix: /a}}}}], {to}}}"),
            vec!["warning spec.http[0].match[1] unreachable-rule"],
        ),
        (
            format!(
                "{{match: [{{uri: {{prefix: /api/v1/product}}}}, {{uri: {{prefix: /api/v1/products}}, method: {{exact: GET}}}}], {to}}}"
            ),
            vec!["warning spec.http[0].match[1] shadowed-match"],
        ),
        (
            format!("{{match: [{{uri: {{exact: /a}}}}], {to}}}, {{match: [{{uri: {{exact: /a}}}}], {to}}}"),
            vec!["warning spec.http[1].match[0] shadowed-match"],
        ),
        (
            format!(
                "{{match: [{{uri: {{prefix: /a}}, method: {{exact: GET}}}}], {to}}}, {{match: [{{uri: {{prefix: /ab}}}}], {to}}}"
            ),
            vec![],
        ),
        (format!("{{match: [{{port: 443}}], {to}}}, {{match: [{{uri: {{prefix: /ab}}}}], {to}}}"), vec![]),
    ] {
        let line =
            format!("VirtualService default/v: {{hosts: [x.com], gateways: [gateway], http: [{http}]}}");
        assert_eq!(said(&usual(&line)), expected, "{http}");
    }
}

#[test]
fn hosts_that_no_server_has() {
    let gateway = GATEWAY.replace("'*'", "a.com");
    let vs = "VirtualService default/v: {hosts: [b.com], gateways: [gateway], http: [{route: [{destination: {host: a}}]}]}";
    let t = translate(&objects(&format!("{gateway}\n{A}\n{vs}")), &env());
    assert_eq!(said(&t), ["warning spec.hosts[0] host-not-in-gateway"]);
}

#[test]
fn mesh_config_says_defaults_and_what_it_cannot() {
    let mesh = "ConfigMap istio-system/istio: {mesh: \"accessLogFile: /dev/stdout\\nconnectTimeout: 2s\\nenableTracing: true\\ndefaultConfig: {gatewayTopology: {numTrustedProxies: 2}}\\n\"}";
    let t = usual(&format!(
        "{mesh}\nVirtualService default/v: {{hosts: [x.com], gateways: [gateway], http: [{{route: [{{destination: {{host: a}}}}]}}]}}"
    ));
    assert_eq!(t.model.mesh.trusted_proxies, 2);
    assert_eq!(&*t.model.mesh.access_log.as_ref().unwrap().file, "/dev/stdout");
    assert_eq!(t.model.clusters.values().next().unwrap().connect_timeout, std::time::Duration::from_secs(2));
    assert_eq!(said(&t), ["note data.mesh.enableTracing no-effect"]);
}

#[test]
fn what_becomes_of_certificates_of_clients() {
    use tidegate_model::ForwardClientCert as Mode;
    for (written, expected) in [
        ("", Mode::SanitizeSet),
        ("forwardClientCertDetails: UNDEFINED", Mode::SanitizeSet),
        ("forwardClientCertDetails: SANITIZE", Mode::Sanitize),
        ("forwardClientCertDetails: FORWARD_ONLY", Mode::ForwardOnly),
        ("forwardClientCertDetails: APPEND_FORWARD", Mode::AppendForward),
        ("forwardClientCertDetails: SANITIZE_SET", Mode::SanitizeSet),
        ("forwardClientCertDetails: ALWAYS_FORWARD_ONLY", Mode::AlwaysForwardOnly),
    ] {
        let mesh = format!(
            "ConfigMap istio-system/istio: {{mesh: \"defaultConfig: {{gatewayTopology: {{{written}}}}}\\n\"}}"
        );
        let t = usual(&mesh);
        assert_eq!((t.model.mesh.client_certificates, said(&t)), (expected, vec![]), "{written}");
    }
    let mesh = "ConfigMap istio-system/istio: {mesh: \"defaultConfig: {proxyHeaders: {forwardedClientCert: SANITIZE}}\\n\"}";
    let t = usual(mesh);
    assert_eq!(said(&t), ["note data.mesh.defaultConfig.proxyHeaders.forwardedClientCert no-effect"]);
    assert_eq!(t.model.mesh.client_certificates, Mode::SanitizeSet);
}

#[test]
fn settings_of_the_gateways_own_pods() {
    let annotation = "annotations: {proxy.istio.io/config: 'gatewayTopology: {numTrustedProxies: 1}'}";
    let deployment = |place, label| {
        format!(
            "Deployment {place}/g: {{template: {{metadata: {{labels: {{istio: {label}}}, {annotation}}}, spec: {{}}}}}}"
        )
    };
    let field = "warning spec.template.metadata.annotations[\"proxy.istio.io/config\"] not-enforced";
    for (line, expected) in [
        (deployment("istio-system", "ingressgateway"), vec![field]),
        (deployment("istio-system", "egressgateway"), vec![]),
        (deployment("default", "ingressgateway"), vec![]),
        (deployment("istio-system", "ingressgateway").replace("proxy.istio.io", "other"), vec![]),
    ] {
        assert_eq!(said(&usual(&line)), expected, "{line}");
    }
}

#[test]
fn mesh_configs_that_do_not_count() {
    let other = "ConfigMap default/istio: {mesh: \"connectTimeout: 2s\\n\"}";
    assert_eq!(said(&usual(other)), ["warning data.mesh no-effect"]);
}

#[test]
fn subsets_that_select_nothing() {
    let entry = |labels| {
        format!(
            "ServiceEntry default/s: {{hosts: [e.com], resolution: STATIC, ports: [{{number: 80, name: http}}], endpoints: [{labels}]}}"
        )
    };
    let rule = "DestinationRule default/d: {host: e.com, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}";
    let some = entry("{address: 10.0.0.1, labels: {version: v1}}");
    assert_eq!(said(&usual(&format!("{some}\n{rule}"))), ["warning spec.subsets[1].labels empty-subset"]);
    // of a service without endpoints nothing is known
    assert_eq!(said(&usual(&format!("{}\n{rule}", entry("")))), [""; 0]);
}
