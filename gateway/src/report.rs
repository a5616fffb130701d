//! How diagnostics and objects are shown: lines, or JSON.

use crate::args::Output;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use tidegate_api::{Object, Objects, Spec};
use tidegate_model::{Diagnostic, HIDDEN, Origin, Severity, is_secret};
use tidegate_proxy::ShowObjects;
use tidegate_translate::{Env, Translation};

/// Prints one diagnostic as one line, without control characters.
pub(crate) fn print(diagnostic: &Diagnostic, output: Output, to: &mut impl Write) -> io::Result<()> {
    let line = match output {
        Output::Text => diagnostic.to_string(),
        Output::Json => serde_json::to_string(diagnostic)?,
    };
    writeln!(to, "{}", line.replace(|c: char| c.is_control(), " "))
}

/// By file and line, the worst first; each once.
pub(crate) fn sort(diagnostics: &mut Vec<Diagnostic>) {
    let mut seen = HashSet::new();
    diagnostics.retain(|d| seen.insert(d.clone()));
    diagnostics.sort_by(|a, b| {
        a.origin.cmp(&b.origin).then(b.severity.cmp(&a.severity)).then(a.field.cmp(&b.field))
    });
}

/// `2 errors, 1 warning, 0 notes`.
pub(crate) fn counts(diagnostics: &[Diagnostic]) -> String {
    let count = |severity, noun| {
        let n = diagnostics.iter().filter(|d| d.severity == severity).count();
        format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
    };
    format!(
        "{}, {}, {}",
        count(Severity::Error, "error"),
        count(Severity::Warning, "warning"),
        count(Severity::Note, "note")
    )
}

/// `1 object`, `2 objects`.
pub(crate) fn objects_in(objects: &Objects) -> String {
    format!("{} object{}", objects.len(), if objects.len() == 1 { "" } else { "s" })
}

/// What to say of a config, read from `paths`, in which nothing is for this gateway, where no error that was `said` may be
/// the reason.
pub(crate) fn nothing_served(
    translation: &Translation,
    said: &[Diagnostic],
    env: &Env,
    paths: &[PathBuf],
) -> Option<Diagnostic> {
    let may_be_one = |d: &Diagnostic| d.object.as_ref().is_none_or(|object| *object.kind == *"Gateway");
    if said.iter().any(|d| d.severity == Severity::Error && may_be_one(d)) {
        return None;
    }
    let labels: Vec<_> = env.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    translation.bindings.is_empty().then(|| Diagnostic {
        severity: Severity::Warning,
        origin: Origin {
            file: paths.first().map_or("".into(), |p| p.to_string_lossy().into()),
            line: 0,
            column: 0,
        },
        object: None,
        field: String::new(),
        text: format!("no Gateway selects this gateway ({}): nothing is served", labels.join(", ")),
        advice: "compare spec.selector with --label, and look whether the files are where they should be"
            .to_owned(),
        code: "nothing-served",
    })
}

/// The objects for the admin page, once it asks.
pub(crate) fn objects(objects: Objects) -> ShowObjects {
    Arc::new(move || objects.iter().map(|object| show(object)).collect())
}

fn show(object: &Object) -> Value {
    let origin = object.origin();
    let mut shown = json!({
        "kind": &*object.reference.kind,
        "apiVersion": &*object.api_version,
        "namespace": &*object.reference.namespace,
        "name": &*object.reference.name,
        "labels": object.labels,
        "generation": object.generation,
        "file": &*origin.file,
        "line": origin.line,
    });
    if let (true, Some(spec)) = (is_shown(object), object.field("spec")) {
        // a value that was read is one that can be written
        shown["spec"] = redact(serde_json::to_value(&spec).unwrap_or_default());
    }
    shown
}

/// Whether the content is shown: not where users put what is nobody's business, such as a pod's environment.
fn is_shown(object: &Object) -> bool {
    match object.spec {
        Spec::Gateway(_)
        | Spec::VirtualService(_)
        | Spec::DestinationRule(_)
        | Spec::ServiceEntry(_)
        | Spec::WorkloadEntry(_)
        | Spec::RequestAuthentication(_)
        | Spec::PeerAuthentication(_)
        | Spec::AuthorizationPolicy(_)
        | Spec::Service(_) => true,
        Spec::Other => object.group().ends_with(".istio.io"),
        _ => false,
    }
}

/// Hides the text under keys that may hold a credential, such as a header that a rule sets.
fn redact(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            // token keys may be symmetric, or private by mistake
            let redacted = fields.into_iter().map(|(key, value)| match is_secret(&key) || key == "jwks" {
                true => (key, hide(value)),
                false => (key, redact(value)),
            });
            Value::Object(redacted.collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(redact).collect()),
        other => other,
    }
}

fn hide(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(fields.into_iter().map(|(k, v)| (k, hide(v))).collect()),
        Value::Array(items) => Value::Array(items.into_iter().map(hide).collect()),
        Value::String(_) => Value::String(HIDDEN.to_owned()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_model::ObjectRef;

    fn diagnostic(severity: Severity, line: u32, text: &str) -> Diagnostic {
        Diagnostic {
            severity,
            origin: Origin { file: "a.yaml".into(), line, column: 3 },
            object: Some(ObjectRef::new("Gateway", "default", "edge")),
            field: "spec.servers".to_owned(),
            text: text.to_owned(),
            advice: "add one".to_owned(),
            code: "no-servers",
        }
    }

    fn printed(diagnostic: &Diagnostic, output: Output) -> String {
        let mut out = Vec::new();
        print(diagnostic, output, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_diagnostic_is_one_line() {
        let d = diagnostic(Severity::Error, 7, "has none\nat\x1b[31m all");
        assert_eq!(
            printed(&d, Output::Text),
            "error a.yaml:7:3 Gateway/default/edge spec.servers: has none at [31m all; add one\n"
        );
        let json: Value = serde_json::from_str(&printed(&d, Output::Json)).unwrap();
        assert_eq!(
            json,
            json!({
                "severity": "error", "file": "a.yaml", "line": 7, "column": 3, "kind": "Gateway",
                "namespace": "default", "name": "edge", "field": "spec.servers",
                "text": "has none\nat\u{1b}[31m all", "advice": "add one", "code": "no-servers",
            })
        );
    }

    #[test]
    fn a_file_that_does_not_parse_has_no_object() {
        let d =
            Diagnostic { object: None, field: String::new(), ..diagnostic(Severity::Error, 1, "no YAML") };
        assert_eq!(printed(&d, Output::Text), "error a.yaml:1:3 - -: no YAML; add one\n");
        let json: Value = serde_json::from_str(&printed(&d, Output::Json)).unwrap();
        assert_eq!(json["kind"], Value::Null);
    }

    #[test]
    fn sorted_by_place_and_each_once() {
        let (first, second) = (diagnostic(Severity::Note, 2, "a"), diagnostic(Severity::Error, 2, "b"));
        let mut all = vec![diagnostic(Severity::Error, 9, "c"), first.clone(), second.clone(), first.clone()];
        sort(&mut all);
        assert_eq!(all, [second, first, diagnostic(Severity::Error, 9, "c")]);
        assert_eq!(counts(&all), "2 errors, 0 warnings, 1 note");
    }

    #[test]
    fn credentials_are_hidden() {
        let spec = json!({
            "headers": {"request": {"set": {"Authorization": "Bearer abc", "x-api-key": "k", "x-a": "b"}}},
            "match": [{"headers": {"cookie": {"regex": ".*user=jason.*"}}}],
            "loadBalancer": {"consistentHash": {"httpCookie": {"name": "user"}}},
            "tokens": [{"value": "abc", "ttl": 5}],
            "jwtRules": [{"jwks": "{}", "issuer": "i", "forwardOriginalToken": true}],
            "host": "a",
        });
        let expected = json!({
            "headers": {"request": {"set": {"Authorization": "(hidden)", "x-api-key": "(hidden)", "x-a": "b"}}},
            "match": [{"headers": {"cookie": {"regex": "(hidden)"}}}],
            "loadBalancer": {"consistentHash": {"httpCookie": {"name": "user"}}},
            "tokens": [{"value": "(hidden)", "ttl": 5}],
            "jwtRules": [{"jwks": "(hidden)", "issuer": "i", "forwardOriginalToken": true}],
            "host": "a",
        });
        assert_eq!(redact(spec), expected);
    }
}
