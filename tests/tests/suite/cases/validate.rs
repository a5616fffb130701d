//! Validation cases: one object beside what it refers to, through `--check`.

use super::world::{full_name, name_of, namespace_of, write_all};
use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_tests::Authority;

/// `mesh-validation-cases/v1`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "basis")]
    _basis: String,
    #[serde(rename = "source")]
    _source: Vec<String>,
    #[serde(rename = "note")]
    _note: Option<String>,
    object: Value,
    expect: Expect,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    accepted: bool,
    warning: Option<bool>,
    /// Quotes Istio's own wording, which is not ours: a refusal must name the object.
    #[serde(rename = "message_mentions")]
    _message_mentions: Option<Value>,
}

/// Plays a case; says what did not hold.
pub(super) fn play(case: &Value) -> Result<(), Vec<String>> {
    let case: Case =
        serde_json::from_value(case.clone()).map_err(|e| vec![format!("not understood: {e}")])?;
    run(&case).map_err(|e| vec![format!("{e:#}")])
}

fn run(case: &Case) -> Result<()> {
    let mut objects = companions(&case.object)?;
    if !objects.is_empty() {
        let (accepted, said) = check(&objects)?;
        ensure!(accepted, "what the object refers to is refused by itself: {said}");
    }
    objects.push(case.object.clone());
    let (accepted, said) = check(&objects)?;
    let (name, wanted) = (name_of(&case.object), &case.expect);
    let shown = if accepted { "accepted" } else { "refused" };
    ensure!(accepted == wanted.accepted, "{shown}, want the other: {said}");
    ensure!(accepted || said.contains(name), "refused without naming the object: {said}");
    let warned = said.lines().any(|l| l.to_lowercase().contains("warn") && l.contains(name));
    if let (Some(warning), true) = (wanted.warning, accepted) {
        ensure!(warned == warning, "a warning about the object: {warned}, want {warning}");
    }
    Ok(())
}

fn check(objects: &[Value]) -> Result<(bool, String)> {
    let folder = tempfile::tempdir()?;
    write_all(&folder.path().join("all.yaml"), objects)?;
    let out = tidegate_tests::check(["--check".as_ref(), "--config".as_ref(), folder.path().as_os_str()])?;
    let said = [out.stdout, out.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    ensure!(matches!(out.status.code(), Some(0 | 1)), "--check ended with {}: {said}", out.status);
    Ok((out.status.success(), said))
}

/// What the object refers to, so that no dangling reference decides.
fn companions(object: &Value) -> Result<Vec<Value>> {
    let namespace = namespace_of(object);
    let mut subsets: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let mut found = Vec::new();
    destinations(&object["spec"], &mut found);
    for (host, subset) in found {
        if !host.is_empty() && !host.contains(['*', '/', ' ']) {
            subsets.entry(full_name(host, namespace)).or_default().extend(subset);
        }
    }
    let mut out = Vec::new();
    for (i, (host, names)) in subsets.iter().enumerate() {
        let metadata = json!({"name": format!("companion-{i}"), "namespace": namespace});
        out.push(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry", "metadata": metadata,
            "spec": {
                "hosts": [host], "location": "MESH_EXTERNAL", "resolution": "STATIC",
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                "endpoints": [{"address": "192.0.2.1"}],
            },
        }));
        if !names.is_empty() {
            let subset = |n: &&str| json!({"name": n, "labels": {"version": n}});
            out.push(json!({
                "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": metadata,
                "spec": {"host": host, "subsets": names.iter().map(subset).collect::<Vec<_>>()},
            }));
        }
    }
    out.extend(secrets(object)?);
    Ok(out)
}

fn destinations<'a>(value: &'a Value, found: &mut Vec<(&'a str, Option<&'a str>)>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                if key == "destination" || key == "mirror" {
                    let place = inner.get("destination").unwrap_or(inner);
                    found.extend(place["host"].as_str().map(|host| (host, place["subset"].as_str())));
                }
                destinations(inner, found);
            }
        }
        Value::Array(list) => list.iter().for_each(|v| destinations(v, found)),
        _ => {}
    }
}

fn secrets(object: &Value) -> Result<Vec<Value>> {
    let servers = object["spec"]["servers"].as_array().into_iter().flatten();
    let names: BTreeSet<&str> = servers.filter_map(|s| s["tls"]["credentialName"].as_str()).collect();
    let mut out = Vec::new();
    for name in names.into_iter().filter(|n| !n.is_empty()) {
        let authority = Authority::new("companion")?;
        let identity = authority.issue("companion", &["companion.example".to_owned()])?;
        out.push(json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": name, "namespace": "istio-system"},
            "data": {
                "tls.crt": BASE64.encode(&identity.certificate), "tls.key": BASE64.encode(&identity.key),
                "ca.crt": BASE64.encode(authority.certificate()),
            },
        }));
    }
    Ok(out)
}
