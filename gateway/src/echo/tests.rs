use super::*;
use tidegate_api::read;

const BOOKINFO: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec:
  ports: [{name: http, port: 9080, targetPort: web}]
  selector: {app: reviews}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews-v1}
spec:
  template:
    metadata: {labels: {app: reviews, version: v1}}
    spec: {containers: [{name: c, ports: [{name: web, containerPort: 9081}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews-v2}
spec:
  template:
    metadata: {labels: {app: reviews, version: v2}}
    spec: {containers: [{name: c, ports: [{name: web, containerPort: 9082}]}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reviews-off}
spec:
  replicas: 0
  template:
    metadata: {labels: {app: reviews, version: v0}}
    spec: {containers: [{name: c}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets: [{name: old, labels: {version: v1}}, {name: new, labels: {version: v2}}]
";

const OTHERS: &str = "
apiVersion: v1
kind: Service
metadata: {name: alone, namespace: other}
spec: {ports: [{port: 80, targetPort: 8000}, {name: dns, port: 53, protocol: UDP}], selector: {app: nobody}}
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: other}
spec: {type: ExternalName, externalName: example.com, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: other}
spec: {type: ExternalName, externalName: alone.other.svc.cluster.local, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: sliced, namespace: other}
spec: {ports: [{name: http, port: 80}], selector: {app: sliced}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: sliced-1, namespace: other, labels: {kubernetes.io/service-name: sliced}}
addressType: IPv4
ports: [{name: http, port: 8001}]
endpoints:
- {addresses: [10.0.0.1], targetRef: {kind: Pod, name: sliced-7d9f-abc}}
- {addresses: [10.0.0.2], conditions: {ready: false}}
---
apiVersion: v1
kind: Pod
metadata:
  name: sliced-7d9f-abc
  namespace: other
  labels: {app: sliced, pod-template-hash: 7d9f}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: sliced-7d9f, uid: u}]
spec: {containers: []}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: entry, namespace: other}
spec:
  hosts: [a.example.com, b.example.com]
  resolution: DNS
  ports: [{name: http, number: 80, protocol: HTTP, targetPort: 8080}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: fixed, namespace: other}
spec:
  hosts: [fixed.example.com]
  resolution: STATIC
  ports: [{name: http, number: 80, protocol: HTTP}]
  endpoints: [{address: 10.1.1.1, weight: 3, labels: {version: v9}}, {address: 10.1.1.2, ports: {http: 8123}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: asked, namespace: other}
spec:
  hosts: ['*.asked.example.com']
  resolution: DYNAMIC_DNS
  ports: [{name: http, number: 80, protocol: HTTP}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: none, namespace: other}
spec: {hosts: [none.example.com], ports: [{name: http, number: 80, protocol: HTTP}]}
";

fn objects(text: &str) -> Objects {
    let reading = read("test.yaml", text);
    assert_eq!(reading.diagnostics, []);
    reading.objects.into_iter().collect()
}

/// `SERVICE WORKLOAD[SUBSET] PORTS` of each station.
fn found(objects: &Objects) -> Vec<String> {
    let stations = workloads::stations(objects, "cluster.local");
    let mut found: Vec<_> = stations
        .iter()
        .map(|station| {
            let ports: Vec<_> = station.ports.iter().map(|port| port.number.to_string()).collect();
            let subset = workloads::subset(objects, station, "cluster.local");
            format!("{} {}[{subset}] {}", station.service.reference.name, station.workload, ports.join(","))
        })
        .collect();
    found.sort();
    found
}

#[test]
fn deployments_play_where_there_are_no_pods() {
    assert_eq!(found(&objects(BOOKINFO)), ["reviews reviews-v1[old] 9081", "reviews reviews-v2[new] 9082"]);
}

#[test]
fn endpoints_and_entries_and_services_play() {
    assert_eq!(
        found(&objects(OTHERS)),
        [
            "alone alone[] 8000",
            "asked *.asked.example.com[] 80",
            "entry a.example.com[] 8080",
            "fixed 10.1.1.1[] 80",
            "fixed 10.1.1.2[] 8123",
            "outside outside[] 80",
            "sliced sliced[] 8001",
            "sliced sliced[] 8001",
        ]
    );
}

#[test]
fn a_service_whose_deployments_are_scaled_to_zero_has_nobody() {
    let text = BOOKINFO.replace("spec:\n  template:", "spec:\n  replicas: 0\n  template:");
    assert_eq!(found(&objects(&text)), Vec::<String>::new());
}

#[test]
fn listeners_take_the_place_of_endpoints() {
    let mut echo = Echo::start().unwrap();
    let all = objects(OTHERS);
    let replaced = echo.replace(&all, &BTreeSet::new(), "cluster.local");
    for (object, slice) in replaced.endpoint_slices() {
        let of = object.labels[workloads::SERVICE_NAME].as_str();
        for endpoint in &slice.endpoints {
            assert!(endpoint.addresses[0].starts_with("127.127."), "{of}: {:?}", endpoint.addresses);
            let pod = endpoint.target_ref.as_ref().unwrap().name.clone().unwrap();
            assert!(replaced.get(&tidegate_model::ObjectRef::new("Pod", "other", &pod)).is_some());
        }
    }
    let not_ready = replaced.endpoint_slices().into_iter().flat_map(|(_, s)| &s.endpoints);
    assert_eq!(
        not_ready.filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(false))).count(),
        1
    );
    let fixed: Vec<_> = replaced
        .service_entries()
        .into_iter()
        .filter(|(o, _)| &*o.reference.name == "fixed")
        .flat_map(|(_, e)| e.endpoints.clone())
        .collect();
    assert_eq!(fixed.iter().map(|e| e.weight).collect::<Vec<_>>(), [Some(3), None]);
    assert_eq!(fixed[0].labels["version"], "v9");
    assert!(fixed.iter().all(|e| e.address.as_deref().unwrap().starts_with("127.127.")));
    let dns = replaced.service_entries().into_iter().find(|(o, _)| &*o.reference.name == "entry").unwrap().1;
    assert_eq!(dns.resolution, Some(tidegate_api::istio::Resolution::Static));
    assert_eq!(dns.endpoints.len(), 1);
}

#[test]
fn listeners_stay_across_reloads_and_leave_ports_that_are_needed() {
    let mut echo = Echo::start().unwrap();
    echo.replace(&objects(BOOKINFO), &BTreeSet::new(), "cluster.local");
    let addresses = |echo: &Echo| echo.listeners.values().map(|l| l.address).collect::<Vec<_>>();
    let first = addresses(&echo);
    assert_eq!(first.len(), 2);

    echo.replace(&objects(&format!("{BOOKINFO}---{OTHERS}")), &BTreeSet::new(), "cluster.local");
    assert!(first.iter().all(|address| addresses(&echo).contains(address)));

    let needed = first[0].port();
    echo.replace(&objects(BOOKINFO), &BTreeSet::from([needed]), "cluster.local");
    let moved = addresses(&echo);
    assert_eq!((moved.len(), moved[0].ip()), (2, first[0].ip()));
    assert_ne!(moved[0].port(), needed);
    assert_eq!(moved[1], first[1]);
    assert_eq!(echo.retired.len(), 8);
    echo.retire();
    assert!(std::net::TcpStream::connect(moved[1]).is_ok());
    assert!(echo.retired.is_empty());
}

#[test]
fn a_workload_says_what_it_got() {
    use std::io::{Read, Write};
    let mut echo = Echo::start().unwrap();
    echo.replace(&objects(BOOKINFO), &BTreeSet::new(), "cluster.local");
    let mut stream = std::net::TcpStream::connect(echo.listeners.values().next().unwrap().address).unwrap();
    let request = "POST /a%20b?x=1&x=2 HTTP/1.1\r\nHost: Shop.example:81\r\nX-One: 1\r\nX-One: 2\r\n\
                   Content-Length: 5\r\nConnection: close\r\n\r\nhello";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    let said: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        said,
        serde_json::json!({
            "service": "reviews", "namespace": "default", "workload": "reviews-v1", "subset": "old",
            "labels": {"app": "reviews", "version": "v1"}, "port": 9081,
            "method": "POST", "path": "/a%20b?x=1&x=2", "authority": "Shop.example:81", "version": "HTTP/1.1",
            "headers": [["host", "Shop.example:81"], ["x-one", "1"], ["x-one", "2"], ["content-length", "5"],
                        ["connection", "close"]],
            "body_bytes": 5,
        })
    );
}

#[test]
fn of_several_hosts_the_one_that_was_asked_for_is_played() {
    let all = objects(OTHERS);
    let stations = workloads::stations(&all, "cluster.local");
    let entry = stations.iter().find(|s| &*s.service.reference.name == "entry").unwrap();
    let workload = Workload::of(entry, "", 80);
    for (authority, service) in [
        ("b.example.com", "b.example.com"),
        ("b.example.com:80", "b.example.com"),
        ("b.example.community", "a.example.com"),
        ("", "a.example.com"),
    ] {
        assert_eq!(workload.service_of(authority), service, "{authority}");
    }
}
