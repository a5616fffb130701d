use super::*;
use std::time::Duration;
use tidegate_model::{ClusterName, OtlpTransport, Share, Tracing};

const COLLECTOR: &str = "ServiceEntry observability/otel: {hosts: [otel.example], resolution: STATIC, \
     ports: [{number: 4317, name: grpc, protocol: GRPC}], endpoints: [{address: 10.0.0.1}]}";

/// What a mesh config of these lines says about tracing, and what is said of it.
fn traced(mesh: &str) -> (Option<Tracing>, Vec<String>) {
    let mesh = mesh.replace('\n', "\\n").replace('"', "\\\"");
    let t = translate(
        &objects(&format!("{COLLECTOR}\nConfigMap istio-system/istio: {{mesh: \"{mesh}\"}}")),
        &env(),
    );
    (t.model.mesh.tracing.clone(), said(&t))
}

fn provider(settings: &str) -> String {
    format!(
        "defaultProviders: {{tracing: [otel]}}\nextensionProviders: [{{name: otel, opentelemetry: {{{settings}}}}}]\n"
    )
}

#[test]
fn the_default_provider_takes_the_spans() {
    let usual = Tracing {
        collector: ClusterName::outbound(4317, "", "otel.example"),
        transport: OtlpTransport::Grpc,
        timeout: Duration::from_secs(10),
        sampling: Share::percent(1.0),
        max_path: 256,
    };
    let at = "service: observability/otel.example, port: 4317";
    let http = |path: &str| OtlpTransport::Http(path.into());
    for (mesh, expected) in [
        (provider(at), usual.clone()),
        (
            provider(&format!("{at}, maxTagLength: 9, http: {{path: /v2, timeout: 1s}}")),
            Tracing { transport: http("/v2"), timeout: Duration::from_secs(1), max_path: 9, ..usual.clone() },
        ),
        (
            provider(&format!("{at}, http: {{}}"))
                + "defaultConfig: {tracing: {sampling: 12.5, maxPathTagLength: 7}}\n",
            Tracing { transport: http("/v1/traces"), sampling: Share::percent(12.5), max_path: 7, ..usual },
        ),
    ] {
        assert_eq!(traced(&mesh), (Some(expected), vec![]), "{mesh}");
    }
}

#[test]
fn what_is_not_traced_is_said() {
    let p = "data.mesh.extensionProviders[0]";
    for (mesh, expected) in [
        ("enableTracing: true\n".to_owned(), vec!["note data.mesh.enableTracing no-effect".to_owned()]),
        (
            "extensionProviders: [{name: otel, opentelemetry: {service: otel.example, port: 4317}}]\n".to_owned(),
            vec![format!("note {p}.opentelemetry no-effect")],
        ),
        (
            "defaultProviders: {tracing: [otel]}\n".to_owned(),
            vec!["error data.mesh.defaultProviders.tracing[0] no-provider".to_owned()],
        ),
        (
            "defaultProviders: {tracing: [z]}\nextensionProviders: [{name: z, zipkin: {service: a, port: 9411}}]\n".to_owned(),
            vec![format!("warning {p} not-enforced"), format!("note {p}.zipkin not-enforced")],
        ),
        (
            provider("service: otel.example, port: 1"),
            vec![format!("error {p}.opentelemetry.service unknown-host")],
        ),
    ] {
        assert_eq!(traced(&mesh), (None, expected), "{mesh}");
    }
}
