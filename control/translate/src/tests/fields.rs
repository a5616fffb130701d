//! Every field of `tests/fields`, which lists those of Istio's CRDs, counts or is reported.

use super::env;
use crate::{Translation, translate, validate};
use serde_yaml::Value;
use std::sync::Arc;
use tidegate_api::Objects;

fn file(name: &str) -> String {
    let path = format!("{}/../../tests/fields/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap()
}

/// What the objects refer to.
fn surroundings() -> String {
    let mut text = file("surroundings");
    for (name, keys) in [
        ("pair", &["tls.crt", "tls.key"][..]),
        ("pair-cacert", &["ca.crt"]),
        ("other", &["tls.crt", "tls.key"]),
        ("authority", &["ca.crt"]),
    ] {
        let pair = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
        text += &format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: istio-system}}\nstringData:\n"
        );
        for key in keys {
            let pem = if *key == "tls.key" { pair.signing_key.serialize_pem() } else { pair.cert.pem() };
            text += &format!("  {key}: {}\n", serde_json::to_string(&pem).unwrap());
        }
    }
    text
}

fn merge(into: &mut Value, set: &Value) {
    match (into, set) {
        (Value::Mapping(into), Value::Mapping(set)) => {
            for (key, value) in set {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (Value::Sequence(into), Value::Sequence(set)) if set.iter().any(Value::is_mapping) => {
            into.resize(into.len().max(set.len()), Value::Null);
            into.iter_mut().zip(set).for_each(|(into, set)| merge(into, set));
        }
        (into @ Value::Null, Value::Mapping(_)) => {
            *into = Value::Mapping(Default::default());
            merge(into, set);
        }
        (into, set) => *into = set.clone(),
    }
}

fn translated(around: &str, object: &Value) -> Translation {
    // on one line, so that what follows a field stays where it is
    let text = format!("{around}---\n{}\n", serde_json::to_string(object).unwrap());
    let reading = tidegate_api::read("test.yaml", &text);
    assert_eq!(reading.diagnostics, [], "{text}");
    let refused: Vec<_> = reading.objects.iter().flat_map(validate).collect();
    let mut objects = Objects::new();
    reading.objects.into_iter().for_each(|o| drop(objects.insert(Arc::new(o))));
    let mut translation = translate(&objects, &env());
    translation.diagnostics.extend(refused);
    translation
}

/// Whether a diagnostic names the field, what is in it, or the part of the spec it stands in.
fn names(translation: &Translation, object: &str, field: &str) -> bool {
    let field = field.replace("[]", "[0]").replace("{}", "");
    translation.diagnostics.iter().any(|d| {
        let of_object = d.object.as_ref().is_some_and(|o| o.to_string().starts_with(object));
        of_object
            && d.field.len() > "spec".len()
            && (field.starts_with(&d.field) || d.field.starts_with(&field))
    })
}

/// A field of a list: what sets it, and beside what.
struct Entry {
    field: String,
    with: Value,
    set: Value,
    reported: bool,
}

impl Entry {
    fn of(entry: &Value) -> Entry {
        let or_none = |key| entry.get(key).cloned().unwrap_or(Value::Null);
        let field = entry["field"].as_str().unwrap().to_owned();
        Entry { field, with: or_none("with"), set: or_none("set"), reported: entry.get("reported").is_some() }
    }

    /// The field of a policy at a level of the object.
    fn at(entry: &Value, level: &Value) -> Entry {
        let Entry { field, with, set, reported } = Entry::of(entry);
        let mut beside = level.get("with").cloned().unwrap_or(Value::Null);
        if !with.is_null() {
            merge(&mut beside, &with);
        }
        let path = level["path"].as_sequence().unwrap();
        let field = format!("{}.{field}", level["at"].as_str().unwrap());
        Entry { field, with: within(path, beside), set: within(path, set), reported }
    }
}

/// The value at the end of a path of keys and indices; an empty object where there is none.
fn within(path: &[Value], value: Value) -> Value {
    let value = if value.is_null() { Value::Mapping(Default::default()) } else { value };
    path.iter().rev().fold(value, |value, step| match step {
        // the first of a list, which is all that there is
        Value::Number(_) => Value::Sequence(vec![value]),
        key => Value::Mapping([(key.clone(), value)].into_iter().collect()),
    })
}

fn entries(list: &Value) -> Vec<Entry> {
    let of = |key: &str| list.get(key).and_then(Value::as_sequence).map_or(&[][..], Vec::as_slice);
    let mut entries: Vec<Entry> = of("fields").iter().map(Entry::of).collect();
    for level in of("levels") {
        let has = |entry: &&Value| entry.get("whole").is_none() || level.get("whole").is_some();
        entries.extend(of("policy").iter().filter(has).map(|entry| Entry::at(entry, level)));
    }
    entries
}

/// The fields of a list for which it does not hold that what is served changes, or that a diagnostic
/// names them where the list says so.
fn ignored(list: &str) -> Vec<String> {
    let mut list: Value = serde_yaml::from_str(&file(list)).unwrap();
    list.apply_merge().unwrap();
    let (around, object) = (surroundings(), &list["object"]);
    let name = format!("{}/", object["kind"].as_str().unwrap());
    let mut ignored = Vec::new();
    for Entry { field, with, set, reported } in entries(&list) {
        let mut before = object.clone();
        if !with.is_null() {
            merge(&mut before["spec"], &with);
        }
        let mut after = before.clone();
        merge(&mut after["spec"], &set);
        let after = translated(&around, &after);
        let held = if reported {
            names(&after, &name, &field)
        } else {
            after.model != translated(&around, &before).model
        };
        if !held {
            ignored.push(field);
        }
    }
    ignored
}

#[test]
fn no_field_is_silently_ignored() {
    for list in [
        "gateway",
        "virtual-service",
        "destination-rule",
        "service-entry",
        "workload-entry",
        "request-authentication",
        "authorization-policy",
        "telemetry",
    ] {
        assert_eq!(ignored(list), [""; 0], "{list}");
    }
}
