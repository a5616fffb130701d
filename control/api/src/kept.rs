//! Objects as they are kept for the next start: whole, contents of Secrets included.

use crate::mesh;
use crate::object::{Object, Spec};
use crate::read::read;
use crate::value::{Data, Entry, Position, Value};
use crate::written::Written;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

impl Object {
    /// The object as it was written, to be serialized and given to [`restore`]. Of a Secret it has the contents.
    pub fn whole(&self) -> Value {
        let mut value = self.written.value();
        match &self.spec {
            Spec::Secret(secret) => {
                let text = |bytes: &Vec<u8>| BASE64_STANDARD.encode(bytes);
                let data = secret.data.iter().map(|(key, bytes)| (key.clone(), text(bytes)));
                put(&mut value, "data", data);
                remove(&mut value, "stringData");
            }
            // the mesh config was text
            Spec::ConfigMap(map) if mesh::is_mesh_config(&self.reference.name) => {
                put(&mut value, "data", map.data.clone().into_iter());
            }
            _ => {}
        }
        value
    }
}

/// The object that `json` is, as [`Object::whole`] gave it; `None` when it is none, or none that this version takes.
/// All of it stands where the object began.
pub fn restore(file: &str, at: Position, json: &str) -> Option<Object> {
    let mut reading = read(file, json);
    let mut object = reading.objects.pop().filter(|_| reading.objects.is_empty() && !reading.unreadable)?;
    object.written = Written::new(&object.written.value().moved(&|_| at));
    Some(object)
}

fn put(value: &mut Value, key: &str, texts: impl Iterator<Item = (String, String)>) {
    let at = value.at;
    let entry = |(key, text)| Entry { key, at, value: Value { at, data: Data::String(text) } };
    let data = Data::Map(texts.map(entry).collect());
    remove(value, key);
    if let Data::Map(entries) = &mut value.data {
        entries.push(Entry { key: key.to_owned(), at, value: Value { at, data } });
    }
}

fn remove(value: &mut Value, key: &str) {
    if let Data::Map(entries) = &mut value.data {
        entries.retain(|entry| entry.key != key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECTS: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: a
  creationTimestamp: 2024-01-02T03:04:05Z
  annotations: {note: 'yes', empty: ''}
spec:
  hosts: [\"*\"]
  http:
  - name: \"\\u0001 \\\" \\\\ : # é 🦀\"
    match: [{uri: {regex: \"/a\\\\d+\"}, port: 8080}]
    timeout: 1.5s
    directResponse: {status: 200, body: {string: \"on\"}}
---
apiVersion: v1
kind: Secret
metadata:
  name: s
  annotations: {kubectl.kubernetes.io/last-applied-configuration: secret}
type: Opaque
data: {a: AAECAw==}
stringData: {b: 'text: {', a: instead}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  other: \"7\"
  mesh: |
    accessLogFile: /dev/stdout
    defaultConfig: {gatewayTopology: {numTrustedProxies: 2}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: plain}
data: {mesh: \"no: [mesh\"}
---
apiVersion: example.com/v1
kind: Unknown
metadata: {name: u}
spec: {list: [1, 2.5, -3, null, true, 'true', {}]}
---
apiVersion: v1
kind: ServiceList
items: [{metadata: {name: x}, spec: {ports: [{port: 80, targetPort: http}]}}]
";

    #[test]
    fn what_is_kept_comes_back_whole() {
        let reading = read("a.yaml", OBJECTS);
        assert_eq!(reading.objects.len(), 6, "{:?}", reading.diagnostics);
        for object in reading.objects {
            let at = object.written.at();
            let json = serde_json::to_string(&object.whole()).unwrap();
            let restored = restore("a.yaml", at, &json).unwrap_or_else(|| panic!("{json}"));
            let flat = |object: &Object| {
                let mut written = object.written.value().moved(&|_| at);
                // kept of a Secret are keys alone, whichever field they were in, and no copy of it
                if let Spec::Secret(_) = object.spec {
                    for key in ["data", "stringData", "metadata"] {
                        remove(&mut written, key);
                    }
                }
                // put at the end
                if let Data::Map(entries) = &mut written.data {
                    entries.sort_by(|a, b| a.key.cmp(&b.key));
                    entries.iter_mut().for_each(|entry| {
                        if let ("data", Data::Map(data)) = (&*entry.key, &mut entry.value.data) {
                            data.sort_by(|a, b| a.key.cmp(&b.key));
                        }
                    });
                }
                Object { written: Written::new(&written), ..object.clone() }
            };
            assert_eq!(flat(&restored), flat(&object), "{json}");
            assert_eq!(restored.locate("spec.http[0].name"), object.origin());
            if let Spec::Secret(secret) = &restored.spec {
                assert_eq!(secret.data["a"], b"instead");
                assert!(!format!("{:?}", restored.written).contains("text"));
            }
        }
    }

    #[test]
    fn what_is_no_object_does_not_come_back() {
        let at = Position { line: 1, column: 1 };
        for json in [
            "",
            "{}",
            "[]",
            "{\"apiVersion\": \"v1\"",
            "{\"apiVersion\":\"v1\",\"kind\":\"Namespace\"}",
            "{\"apiVersion\":\"networking.istio.io/v1\",\"kind\":\"Gateway\",\"metadata\":{\"name\":\"a\"},\"spec\":{\"x\":1}}",
        ] {
            assert!(restore("a.yaml", at, json).is_none(), "{json}");
        }
    }
}
