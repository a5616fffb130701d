use crate::decode::{Decode, Decoder, Unknown, fields};
use crate::kinds;
use crate::object::Owner;
use crate::value::{Data, Value};
use std::collections::BTreeMap;
use std::time::SystemTime;
use tidegate_model::ObjectRef;

fields! {
    pub(crate) struct Metadata {
        "name" => name: String,
        "namespace" => namespace: Option<String>,
        "labels" => labels: BTreeMap<String, String>,
        "annotations" => annotations: BTreeMap<String, String>,
        "creationTimestamp" => created: Option<SystemTime>,
        "resourceVersion" => resource_version: Option<String>,
        "generation" => generation: Option<u64>,
        "ownerReferences" => owners: Vec<Owner>,
        "generateName" => generate_name: Option<Value>,
        "uid" => uid: Option<Value>,
        "selfLink" => self_link: Option<Value>,
        "finalizers" => finalizers: Option<Value>,
        "managedFields" => managed_fields: Option<Value>,
        "deletionTimestamp" => deletion_timestamp: Option<Value>,
        "deletionGracePeriodSeconds" => deletion_grace_period_seconds: Option<Value>,
        "clusterName" => cluster_name: Option<Value>,
    }

    struct OwnerFields {
        "kind" => kind: String,
        "name" => name: String,
        "apiVersion" => api_version: Option<Value>,
        "uid" => uid: Option<Value>,
        "controller" => controller: Option<Value>,
        "blockOwnerDeletion" => block_owner_deletion: Option<Value>,
    }
}

impl Decode for Owner {
    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self> {
        OwnerFields::decode(value, at).map(|fields| Owner { kind: fields.kind, name: fields.name })
    }
}

impl Decode for SystemTime {
    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self> {
        let Data::String(text) = &value.data else { return at.wrong_type("a string", value) };
        let time = humantime::parse_rfc3339(text).ok();
        if time.is_none() {
            let text = format!("{} is not a time", at.quoted(text));
            at.error("invalid-time", text, "write it as 2006-01-02T15:04:05Z, or remove it".to_owned());
        }
        time
    }
}

/// Kind, namespace and name of an object, when it says them.
pub(crate) fn reference(kind: &str, object: &Value) -> Option<ObjectRef> {
    let metadata = object.get("metadata")?;
    let name = metadata.get("name")?.as_str().filter(|name| !name.is_empty())?;
    let written = metadata.get("namespace").and_then(Value::as_str).filter(|namespace| !namespace.is_empty());
    let namespace = if kinds::is_cluster_scoped(kind) { "" } else { written.unwrap_or("default") };
    Some(ObjectRef::new(kind, namespace, name))
}

/// The metadata, after reporting what is wrong with it.
pub(crate) fn decode<'a>(object: &'a Value, at: &mut Decoder<'a>) -> Option<Metadata> {
    let metadata: Metadata =
        at.with_unknown(Unknown::Warn, |at| at.field(object.entries(), &["metadata"]))?;
    let name = check_name(&metadata.name, MAX_NAME, true);
    let namespace = metadata.namespace.as_deref().filter(|n| !n.is_empty());
    let namespace = namespace.map_or(Ok(()), |n| check_name(n, MAX_NAMESPACE, false));
    for (field, checked) in [("name", name), ("namespace", namespace)] {
        if let Err(advice) = checked {
            at.error_at(
                object,
                &["metadata", field],
                "invalid-name",
                "is no name that Kubernetes takes",
                &advice,
            );
        }
    }
    Some(metadata)
}

const MAX_NAME: usize = 253;
const MAX_NAMESPACE: usize = 63;

/// RFC 1123: lower case letters, digits, `-` and, in a subdomain, `.`.
fn check_name(name: &str, longest: usize, dots: bool) -> Result<(), String> {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let well_formed = if dots { name.split('.').all(is_label) } else { is_label(name) };
    let also = if dots { ", '-' and '.'" } else { " and '-'" };
    match well_formed {
        true if name.len() <= longest => Ok(()),
        true => Err(format!("use at most {longest} characters")),
        false => Err(format!("use lower case letters, digits{also}, with a letter or digit at both ends")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let long = "a".repeat(254);
        let cases = [
            ("a", true, true),
            ("a-1.b", true, true),
            ("a.b", false, false),
            ("", true, false),
            ("A", true, false),
            ("a_b", true, false),
            ("-a", true, false),
            ("a-", true, false),
            ("a..b", true, false),
            (&*long, true, false),
        ];
        for (name, dots, expected) in cases {
            assert_eq!(check_name(name, MAX_NAME, dots).is_ok(), expected, "{name}");
        }
    }
}
