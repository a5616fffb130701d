//! Objects as they are read: lists, namespaces, order, positions; and that reading never panics.

use proptest::prelude::*;
use tidegate_api::istio::{ServerTlsMode, StringMatch};
use tidegate_api::kubernetes::NumberOrName;
use tidegate_api::{Data, Objects, Refused, Spec, Value, field, read};
use tidegate_model::ObjectRef;

const SAMPLE: &str = r#"# A comment before
apiVersion: networking.istio.io/v1beta1
kind: Gateway
metadata:
  name: edge
  namespace: istio-system
  labels: {app: "edge"}
spec:
  selector:
    istio: ingressgateway
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts:
    - "*/*.example.com"
    tls:
      mode: SIMPLE
      credentialName: cert
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: shop
  annotations:
    example.com/note: |
      two
      lines
spec:
  hosts: [shop.example.com]
  http:
  - match:
    - uri: {prefix: /a}
      headers:
        x.y:
          exact: "1"
        end-user: {}
    - uri:
        regex: /b.*
    route:
    - destination: {host: shop, port: {number: 80}}
      weight: 90
  - directResponse: {status: 404, body: {string: "no"}}
---
{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"topology.kubernetes.io/region": "r"}}, "spec": {"podCIDR": "10.0.0.0/24"}},
  {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
   "spec": {"ports": [{"port": 80, "targetPort": "web"}, {"port": 81, "targetPort": 8081}]}},
  {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "creationTimestamp": null},
   "data": {"tls.crt": "aGk="}, "stringData": {"tls.key": "k"}}
]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    accessLogFile: /dev/stdout
    pathNormalization:
      normalization: NONE
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict}
spec: {mtls: {mode: STRICT}}
"#;

fn sample() -> Objects {
    let reading = read("sample.yaml", SAMPLE);
    assert_eq!(reading.diagnostics, []);
    reading.objects.into_iter().collect()
}

#[test]
fn typed_content() {
    let objects = sample();
    let (gateway, spec) = objects.gateways()[0];
    assert_eq!(gateway.reference.to_string(), "Gateway/istio-system/edge");
    assert_eq!(gateway.labels["app"], "edge");
    assert_eq!(spec.servers[0].port.number, 443);
    assert_eq!(spec.servers[0].tls.as_ref().unwrap().mode, Some(ServerTlsMode::Simple));
    let (object, spec) = objects.virtual_services()[0];
    assert_eq!(&*object.reference.namespace, "default");
    let first = &spec.http[0].matches[0];
    assert_eq!(first.uri, Some(StringMatch::Prefix("/a".into())));
    assert_eq!(first.headers.get("end-user"), Some(&StringMatch::Present));
    assert_eq!(spec.http[0].route[0].weight, Some(90));
    let ports = &objects.services()[0].1.ports;
    assert_eq!(ports[0].target_port, Some(NumberOrName::Name("web".into())));
    assert_eq!(ports[1].target_port, Some(NumberOrName::Number(8081)));
    assert_eq!(objects.secrets()[0].1.data["tls.crt"], b"hi");
    assert_eq!(objects.secrets()[0].1.data["tls.key"], b"k");
    let mesh = objects.config_maps()[0].1.mesh.as_ref().unwrap();
    assert_eq!(mesh.access_log_file.as_deref(), Some("/dev/stdout"));
    assert_eq!(objects.others().map(|o| &*o.reference.kind).collect::<Vec<_>>(), ["PeerAuthentication"]);
}

/// Each field with the text that stands where it is located.
#[test]
fn fields_are_located() {
    let objects = sample();
    let cases = [
        ("Gateway/istio-system/edge", "", "apiVersion"),
        ("Gateway/istio-system/edge", "spec.servers[0]", "port: {number"),
        ("Gateway/istio-system/edge", "spec.servers[0].port.name", "name: https"),
        ("Gateway/istio-system/edge", "spec.servers[0].hosts[0]", "\"*/*.example.com\""),
        ("Gateway/istio-system/edge", "spec.servers[0].tls.mode", "mode: SIMPLE"),
        ("Gateway/istio-system/edge", "spec.servers[0].tls.cipherSuites[3]", "tls:"),
        ("Gateway/istio-system/edge", "spec.servers[7].port", "servers:"),
        ("VirtualService/default/shop", "spec.http[0].match[0].headers[\"x.y\"].exact", "exact: \"1\""),
        ("VirtualService/default/shop", "spec.http[0].match[1].uri.regex", "regex: /b"),
        ("VirtualService/default/shop", "spec.http[0].route[0].weight", "weight: 90"),
        ("VirtualService/default/shop", "spec.http[1].directResponse.body.string", "string: \"no\""),
        ("VirtualService/default/shop", "metadata.annotations[\"example.com/note\"]", "example.com/note"),
        ("Service/default/a", "spec.ports[1].targetPort", "\"targetPort\": 8081"),
        ("ConfigMap/istio-system/istio", "data.mesh.pathNormalization.normalization", "normalization: NONE"),
    ];
    for (object, path, expected) in cases {
        let object = objects.iter().find(|o| o.reference.to_string() == object).unwrap();
        let origin = object.locate(path);
        let line = SAMPLE.lines().nth(origin.line as usize - 1).unwrap();
        let found: String = line.chars().skip(origin.column as usize - 1).collect();
        assert!(found.starts_with(expected), "{path} is at {origin}: {found}");
    }
}

fn each_path(value: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, value);
    match &value.data {
        Data::Map(entries) => {
            for entry in entries {
                let key = field::key(&entry.key);
                let next = if path.is_empty() {
                    key.trim_start_matches('.').to_owned()
                } else {
                    format!("{path}{key}")
                };
                each_path(&entry.value, &next, visit);
            }
        }
        Data::List(items) => {
            for (index, item) in items.iter().enumerate() {
                each_path(item, &format!("{path}[{index}]"), visit);
            }
        }
        _ => {}
    }
}

#[test]
fn every_path_finds_its_value() {
    let mut paths = 0;
    for object in sample().iter() {
        each_path(&object.written.value(), "", &mut |path, value| {
            assert_eq!(object.written.find(path).as_ref(), Some(value), "{path}");
            let key = path.rsplit(['.', '[']).next().unwrap_or("").trim_matches([']', '"']);
            let line = SAMPLE.lines().nth(object.locate(path).line as usize - 1).unwrap();
            let index = key.parse::<usize>().is_ok();
            assert!(index || key.contains('y') || line.contains(key), "{path} on {line}");
            paths += 1;
        });
    }
    assert!(paths > 80, "only {paths} paths");
}

fn namespaced(name: &str, created: Option<&str>) -> String {
    let created = created.map(|c| format!(", creationTimestamp: {c}")).unwrap_or_default();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}{created}}}\nspec: {{}}\n---\n"
    )
}

#[test]
fn order_is_that_of_creation_then_of_names() {
    let text = [
        namespaced("z", None),
        namespaced("a", None),
        namespaced("later", Some("2024-01-02T00:00:00Z")),
        namespaced("same-b", Some("2024-01-01T00:00:00Z")),
        namespaced("same-a", Some("2024-01-01T00:00:00Z")),
        namespaced("z", None),
    ]
    .concat();
    let reading = read("a.yaml", &text);
    assert_eq!(reading.diagnostics, []);
    let objects: Objects = reading.objects.into_iter().collect();
    let names: Vec<_> = objects.gateways().iter().map(|(o, _)| o.reference.name.to_string()).collect();
    assert_eq!(names, ["same-a", "same-b", "later", "a", "z"]);
}

#[test]
fn groups_do_not_collide() {
    let other = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {}\n";
    let objects: Objects =
        read("a.yaml", &format!("{}{other}", namespaced("g", None))).objects.into_iter().collect();
    assert_eq!(objects.len(), 2);
    assert_eq!(objects.gateways().len(), 1);
    let found = objects.get(&ObjectRef::new("Gateway", "default", "g")).unwrap();
    assert!(matches!(found.spec, Spec::Other), "the first by group");
}

fn refused(reference: ObjectRef) -> Refused {
    Refused { reference, group: "networking.istio.io".into(), tls_host: None }
}

#[test]
fn lists_of_one_kind_give_their_kind_to_items() {
    let text = "apiVersion: networking.istio.io/v1\nkind: GatewayList\nitems:\n- metadata: {name: a}\n  spec: {}\n- metadata: {name: b}\n  spec: {servrs: []}\n";
    let reading = read("a.yaml", text);
    assert_eq!(reading.objects.len(), 1);
    assert_eq!(reading.refused, [refused(ObjectRef::new("Gateway", "default", "b"))]);
    assert_eq!(
        reading.diagnostics[0].to_string(),
        "error a.yaml:7:10 Gateway/default/b spec.servrs: there is no such field; did you mean servers?"
    );
}

#[test]
fn items_that_are_no_list_are_said_to_be_none() {
    let reading = read("a.yaml", "apiVersion: v1\nkind: List\nitems: {a: b}\n");
    let said: Vec<_> = reading.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "error a.yaml:3:8 - items: must be a list, not a mapping; write each item on a line of its own with a \
          leading '- '"
        ]
    );
    assert!(reading.unreadable);
}

#[test]
fn one_broken_object_leaves_the_others() {
    let text = SAMPLE.replace("mode: SIMPLE", "mode: SIMPEL").replace("prefix: /a}", "prefix: /a");
    let reading = read("a.yaml", &text);
    assert!(reading.unreadable);
    assert_eq!(reading.refused, [refused(ObjectRef::new("Gateway", "istio-system", "edge"))]);
    let kinds: Vec<_> = reading.objects.iter().map(|o| &*o.reference.kind).collect();
    assert_eq!(kinds, ["Node", "Service", "Secret", "ConfigMap", "PeerAuthentication"]);
}

proptest! {
    #[test]
    fn any_text_is_read(text in any::<String>()) {
        read("a", &text);
    }

    /// Real YAML with a part of it replaced: never a panic, and never an error without place, text and advice.
    #[test]
    fn any_damage_is_reported(from in 0..SAMPLE.len(), len in 0usize..40, with in r#"[-a-z:\[\]{},&*!|>'"%#? \n\t0-9~]{0,12}"#) {
        let mut text = SAMPLE.to_owned();
        text.replace_range(from..(from + len).min(SAMPLE.len()), &with);
        let reading = read("a", &text);
        for d in &reading.diagnostics {
            prop_assert!(d.origin.line > 0 && d.origin.column > 0 && !d.text.is_empty() && !d.advice.is_empty(), "{}", d);
        }
        for object in &reading.objects {
            each_path(&object.written.value(), "", &mut |path, _| { object.locate(path); });
        }
    }
}
