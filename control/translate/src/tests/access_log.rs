use super::*;
use tidegate_model::{AccessLog, AccessLogFormat, FormatString};

/// How requests are logged with this mesh config, in flow style, and these objects; and what is said of it.
fn logged(mesh: &str, objects: &str) -> (Option<String>, Vec<String>) {
    let mesh = mesh.replace('\\', "\\\\").replace('"', "\\\"");
    let t = translate(
        &super::objects(&format!("ConfigMap istio-system/istio: {{mesh: \"{mesh}\"}}\n{objects}")),
        &env(),
    );
    (t.model.mesh.access_log.as_ref().map(shown), said(&t))
}

/// The file, the format and the filter.
fn shown(log: &AccessLog) -> String {
    let format = match &log.format {
        AccessLogFormat::DefaultText => "TEXT".to_owned(),
        AccessLogFormat::DefaultJson => "JSON".to_owned(),
        AccessLogFormat::Text(format) => format.as_str().to_owned(),
        AccessLogFormat::Json(keys) => {
            let one = |(key, format): &(Arc<str>, FormatString)| format!("{key}={}", format.as_str());
            keys.iter().map(one).collect::<Vec<_>>().join(",")
        }
    };
    let filter = log.filter.as_ref().map_or(String::new(), |f| format!(" if {}", f.source));
    if log.file.is_empty() { "off".to_owned() } else { format!("{} {format}{filter}", log.file) }
}

const PROVIDERS: &str = "extensionProviders: [{name: text, envoyFileAccessLog: {path: /var/log/a, logFormat: {text: '%PROTOCOL%'}}}, \
     {name: json, envoyFileAccessLog: {logFormat: {labels: {a: '%PROTOCOL%', b: c}}}}, \
     {name: keys, envoyFileAccessLog: {logFormat: {labels: {}}}}, {name: als, envoyHttpAls: {service: a, port: 1}}]";

#[test]
fn the_mesh_configs_own_settings() {
    for (mesh, expected, said) in [
        ("{}", None, vec![]),
        ("{accessLogFile: ''}", Some("off"), vec![]),
        ("{accessLogFile: /var/log/a}", Some("/var/log/a TEXT"), vec![]),
        ("{accessLogFile: /a, accessLogEncoding: JSON}", Some("/a JSON"), vec![]),
        ("{accessLogFile: /a, accessLogFormat: '%PROTOCOL%'}", Some("/a %PROTOCOL%"), vec![]),
        (
            "{accessLogFile: /a, accessLogEncoding: JSON, accessLogFormat: '{\"p\": \"%PROTOCOL%\"}'}",
            Some("/a p=%PROTOCOL%"),
            vec![],
        ),
        (
            "{accessLogFile: /a, accessLogFormat: '%NO_SUCH_THING%'}",
            Some("/a TEXT"),
            vec!["error data.mesh.accessLogFormat invalid-format"],
        ),
        (
            "{accessLogFile: /a, accessLogFormat: '%UPSTREAM_TLS_CIPHER%'}",
            Some("/a %UPSTREAM_TLS_CIPHER%"),
            vec!["note data.mesh.accessLogFormat not-enforced"],
        ),
    ] {
        let said = said.into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(logged(mesh, ""), (expected.map(str::to_owned), said), "{mesh}");
    }
}

#[test]
fn default_providers() {
    for (names, expected, said) in [
        ("text", "/var/log/a %PROTOCOL%", vec![]),
        ("JSON", "/dev/stdout a=%PROTOCOL%,b=c", vec![]),
        ("keys", "/dev/stdout JSON", vec![]),
        ("envoy", "/dev/stdout %START_TIME%", vec![]),
        (
            "als",
            "off",
            vec!["extensionProviders[3] not-enforced", "extensionProviders[3].envoyHttpAls not-enforced"],
        ),
        ("nobody", "off", vec!["defaultProviders.accessLogging no-provider"]),
        ("json, text", "/dev/stdout a=%PROTOCOL%,b=c", vec!["defaultProviders.accessLogging not-enforced"]),
    ] {
        let mesh = format!(
            "{{{PROVIDERS}, accessLogFormat: '%START_TIME%', defaultProviders: {{accessLogging: [{names}]}}}}"
        );
        let (log, found) = logged(&mesh, "");
        assert_eq!(log.as_deref(), Some(expected), "{names}");
        // those that are not used are said to be without effect elsewhere
        for text in said {
            assert!(found.iter().any(|f| f.contains(text)), "{names}: {found:?}");
        }
    }
}

#[test]
fn telemetries_say_more_the_closer_they_are() {
    let mesh = format!("{{{PROVIDERS}, accessLogFile: /unused}}");
    let root = |settings: &str| format!("Telemetry istio-system/root: {{accessLogging: [{settings}]}}");
    let near = |settings: &str| {
        format!(
            "Telemetry istio-system/near: {{selector: {{matchLabels: {{istio: ingressgateway}}}}, accessLogging: [{settings}]}}"
        )
    };
    let text = root("{providers: [{name: text}]}");
    let unused = "note data.mesh.accessLogFile no-effect";
    for (objects, expected, said) in [
        (text.clone(), "/var/log/a %PROTOCOL%", vec![]),
        (format!("{text}\n{}", near("{disabled: true}")), "off", vec![]),
        (format!("{text}\n{}", near("{providers: [{name: json}]}")), "/dev/stdout a=%PROTOCOL%,b=c", vec![]),
        (
            format!(
                "{text}\n{}",
                near("{filter: {expression: 'response.code >= 500'}, providers: [{name: text}]}")
            ),
            "/var/log/a %PROTOCOL% if response.code >= 500",
            vec![],
        ),
        (
            root("{providers: [{name: text}], filter: {expression: 'request.time > 1'}}"),
            "/var/log/a %PROTOCOL%",
            vec!["warning spec.accessLogging[0].filter.expression not-enforced"],
        ),
        (
            root("{providers: [{name: text}]}, {match: {mode: SERVER}, disabled: true}"),
            "/var/log/a %PROTOCOL%",
            vec!["note spec.accessLogging[1].match.mode no-effect"],
        ),
        (root("{disabled: false}"), "off", vec!["warning spec.accessLogging[0] no-provider"]),
        (
            root("{providers: [{name: nobody}]}"),
            "off",
            vec!["error spec.accessLogging[0].providers[0].name no-provider"],
        ),
        (
            "Telemetry default/elsewhere: {accessLogging: [{disabled: true}]}".to_owned(),
            "/unused TEXT",
            vec!["note  not-selected"],
        ),
    ] {
        let (log, mut found) = logged(&mesh, &objects);
        assert_eq!(log.as_deref(), Some(expected), "{objects}");
        let is_unused = found.iter().any(|f| f == unused);
        assert_eq!(is_unused, expected != "/unused TEXT", "{found:?}");
        found.retain(|f| f != unused && !f.contains("extensionProviders"));
        assert_eq!(found, said, "{objects}");
    }
}
