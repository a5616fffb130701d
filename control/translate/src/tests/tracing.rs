use super::*;
use std::time::Duration;
use tidegate_model::{ClusterName, FormatString, HeaderName, OtlpTransport, Share, SpanTag, Tracing};

const COLLECTOR: &str = "ServiceEntry observability/otel: {hosts: [otel.example], resolution: STATIC, \
     ports: [{number: 4317, name: grpc, protocol: GRPC}], endpoints: [{address: 10.0.0.1}]}";

/// What a mesh config of these lines says about tracing, and what is said of it.
fn traced(mesh: &str) -> (Option<Tracing>, Vec<String>) {
    with("", mesh)
}

/// What both say.
fn with(telemetries: &str, mesh: &str) -> (Option<Tracing>, Vec<String>) {
    let mesh = mesh.replace('\n', "\\n").replace('"', "\\\"");
    let config = format!("ConfigMap istio-system/istio: {{mesh: \"{mesh}\"}}");
    let t = translate(&objects(&format!("{COLLECTOR}\n{config}\n{telemetries}")), &env());
    (t.model.mesh.tracing.clone(), said(&t))
}

fn usual() -> Tracing {
    Tracing {
        collector: ClusterName::outbound(4317, "", "otel.example"),
        transport: OtlpTransport::Grpc,
        headers: vec![],
        timeout: Duration::from_secs(10),
        sampling: Share::percent(1.0),
        propagates: true,
        max_path: 256,
        istio_tags: true,
        tags: vec![],
    }
}

fn format(text: &str) -> FormatString {
    FormatString::parse(text).unwrap()
}

fn tag(name: &str, value: &str, default: &str) -> SpanTag {
    SpanTag { name: name.into(), value: format(value), default: default.into() }
}

const AT: &str = "service: observability/otel.example, port: 4317";

fn provider(settings: &str) -> String {
    format!(
        "defaultProviders: {{tracing: [otel]}}\nextensionProviders: [{{name: otel, opentelemetry: {{{settings}}}}}]\n"
    )
}

#[test]
fn the_default_provider_takes_the_spans() {
    let (usual, at) = (usual(), AT);
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

#[test]
fn telemetries_say_more_the_closer_they_are() {
    let mesh =
        provider(AT) + "defaultConfig: {tracing: {sampling: 5, customTags: {m: {literal: {value: '1%'}}}}}\n";
    let sampled =
        |percent| Tracing { sampling: Share::percent(percent), tags: vec![tag("m", "1%%", "")], ..usual() };
    let root = "Telemetry istio-system/root: {tracing: [{randomSamplingPercentage: 10}]}";
    let tags = "Telemetry istio-system/w: {selector: {matchLabels: {istio: ingressgateway}}, tracing: [{enableIstioTags: false, \
         disableContextPropagation: true, customTags: {h: {header: {name: X-User, defaultValue: nobody}}, \
         e: {environment: {name: POD}}, f: {formatter: {value: '%RESPONSE_CODE%'}}}}]}";
    let tagged = Tracing {
        istio_tags: false,
        propagates: false,
        tags: vec![
            tag("e", "%ENVIRONMENT(POD)%", ""),
            tag("f", "%RESPONSE_CODE%", ""),
            tag("h", "%REQ(X-User)%", "nobody"),
        ],
        ..sampled(10.0)
    };
    for (telemetries, expected, said) in [
        ("", Some(sampled(5.0)), vec![]),
        (root, Some(sampled(10.0)), vec![]),
        (&format!("{root}\n{tags}"), Some(tagged), vec![]),
        ("Telemetry istio-system/silent: {tracing: [{disableSpanReporting: true}]}", None, vec![]),
        (
            "Telemetry istio-system/s: {tracing: [{match: {mode: SERVER}, disableSpanReporting: true}]}",
            Some(sampled(5.0)),
            vec!["note spec.tracing[0].match.mode no-effect"],
        ),
        (
            "Telemetry istio-system/other: {selector: {matchLabels: {a: b}}, tracing: [{disableSpanReporting: true}]}",
            Some(sampled(5.0)),
            vec!["note  not-selected"],
        ),
        (
            "Telemetry istio-system/z: {tracing: [{providers: [{name: zip}, {name: otel}], useRequestIdForTraceSampling: false}]}",
            None,
            vec![
                "note data.mesh.extensionProviders[0].opentelemetry no-effect",
                "note spec.tracing[0].providers[1] no-effect",
                "error spec.tracing[0].providers[0].name no-provider",
                "note spec.tracing[0].useRequestIdForTraceSampling no-effect",
            ],
        ),
        (
            "Telemetry istio-system/a: {tracing: [{randomSamplingPercentage: 0}]}\n\
             Telemetry istio-system/b: {tracing: [{randomSamplingPercentage: 1}], metrics: [{overrides: [{disabled: true}]}]}",
            Some(sampled(0.0)),
            vec!["warning  no-effect", "note spec.metrics not-enforced"],
        ),
    ] {
        let (tracing, mut found) = with(telemetries, &mesh);
        let mut said: Vec<String> = said.into_iter().map(str::to_owned).collect();
        said.sort();
        found.sort();
        assert_eq!((tracing, found), (expected, said), "{telemetries}");
    }
}

#[test]
fn a_telemetry_may_name_the_provider() {
    let mesh = format!("extensionProviders: [{{name: OTel, opentelemetry: {{{AT}}}}}]\n");
    let named = "Telemetry istio-system/t: {tracing: [{providers: [{name: otel}]}]}";
    assert_eq!(with(named, &mesh), (Some(usual()), vec![]));
    let nameless = "Telemetry istio-system/t: {tracing: [{randomSamplingPercentage: 1}]}";
    let said = [
        "note data.mesh.extensionProviders[0].opentelemetry no-effect",
        "warning spec.tracing[0] no-provider",
    ];
    assert_eq!(with(nameless, &mesh), (None, said.map(str::to_owned).into()));
}

#[test]
fn collectors_may_want_headers() {
    let http = "http: {headers: [{name: X-Team, value: 'a%b'}, {name: authorization, envName: TOKEN}]}";
    let headers = vec![
        (HeaderName::new("x-team"), format("a%%b")),
        (HeaderName::new("authorization"), format("%ENVIRONMENT(TOKEN)%")),
    ];
    let (tracing, said) = traced(&provider(&format!("{AT}, {http}")));
    assert_eq!((tracing.unwrap().headers, said), (headers, vec![]));
    let grpc = "grpc: {initialMetadata: [{name: a b, value: c}, {name: d, envName: 'e)'}, {name: te, value: f}, {name: x}, {name: ok, value: z}]}";
    let (tracing, said) = traced(&provider(&format!("{AT}, {grpc}")));
    assert_eq!(tracing.unwrap().headers, [(HeaderName::new("ok"), format("z"))]);
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said[0].contains("grpc.initialMetadata[0] invalid-header"), "{said:?}");
}

#[test]
fn tags_that_say_nothing_are_left_out() {
    let mesh = "defaultConfig: {tracing: {customTags: {a: {}, b: {header: {name: 'b b'}}, c: {environment: {name: 'c)'}}, \
                d: {formatter: {value: '%NOPE%'}}, e: {formatter: {value: '%FILTER_STATE(x)%'}}}}}\n";
    let (tracing, said) = traced(&(provider(AT) + mesh));
    assert_eq!(tracing.unwrap().tags.len(), 1);
    let tags = "data.mesh.defaultConfig.tracing.customTags";
    let mut expected: Vec<_> =
        ["a", "b", "c", "d"].map(|tag| format!("error {tags}.{tag} invalid-tag")).into();
    expected.push(format!("note {tags}.e not-enforced"));
    assert_eq!(said, expected);
}
