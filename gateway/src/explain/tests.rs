use super::*;
use serde_json::{Value, json};
use tidegate_api::read;
use tidegate_proxy::EndpointStanding;
use tidegate_translate::Admission;

const CONFIG: &str = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example.com, '*.wild.example.com']}
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [shop.example.com]
    tls: {mode: SIMPLE, credentialName: shop}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: inner, namespace: other}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: opaque}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 31400, name: tcp, protocol: TCP}, hosts: ['*']}
  - {port: {number: 15443, name: tls, protocol: TLS}, hosts: ['*.example.com'], tls: {mode: PASSTHROUGH}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: opaque}
spec:
  hosts: ['*']
  gateways: [opaque]
  tcp:
  - match: [{port: 31400}]
    route: [{destination: {host: cart}, weight: 75}, {destination: {host: ghost}, weight: 25}]
  tls:
  - match: [{sniHosts: ['*.example.com']}]
    route: [{destination: {host: ghost}}]
  - match: [{sniHosts: [a.example.com]}]
    route: [{destination: {host: cart}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop.example.com]
  gateways: [edge]
  http:
  - match: [{uri: {exact: /none}}, {uri: {prefix: /cart}, headers: {x-user: {exact: jason}}}]
    rewrite: {uri: /basket, authority: cart.internal}
    route: [{destination: {host: cart, port: {number: 80}}}]
  - match: [{uri: {prefix: /mine}, headers: {'@request.auth.claims.group': {exact: admin}}}]
    directResponse: {status: 200, body: {string: 'yes'}}
  - match: [{uri: {prefix: /old}}]
    redirect: {uri: /new, redirectCode: 308}
  - match: [{uri: {prefix: /hello}}]
    directResponse: {status: 418, body: {string: hi}}
  - match: [{uri: {prefix: /split}}]
    route:
    - {destination: {host: cart, port: {number: 80}}, weight: 75}
    - {destination: {host: cart, subset: v2, port: {number: 80}}, weight: 25}
  - match: [{uri: {prefix: /ghost}}]
    route: [{destination: {host: ghost}}]
  - match: [{uri: {prefix: /subset}}]
    route: [{destination: {host: cart, subset: v9}}]
  - match: [{uri: {prefix: /port}}]
    route: [{destination: {host: cart, port: {number: 81}}}]
  - match: [{uri: {prefix: /token}, headers: {authorization: {exact: Bearer c3Bh}, x-user: {exact: jason}}}]
    route: [{destination: {host: cart}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart}
spec:
  hosts: [cart]
  http:
  - match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: cart, subset: v2}}]
  - route: [{destination: {host: cart}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart}
spec: {host: cart, subsets: [{name: v2, labels: {version: v2}}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-1, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: 8000}]
endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}]
";

fn env(namespace: &str, labels: &[(&str, &str)]) -> Env {
    Env {
        namespace: namespace.into(),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ports: [(80, 8000)].into(),
        domain: "cluster.local".into(),
        root_namespace: "istio-system".into(),
        allow_unenforced: false,
        broken_policies: Default::default(),
        broken_rules: Default::default(),
        strict_paths: false,
        default_retries: true,
        default_retry_budget: true,
        now: std::time::SystemTime::now(),
        files: tidegate_translate::Files::new(),
    }
}

fn gateway_env() -> Env {
    env("istio-system", &[("istio", "ingressgateway")])
}

fn admitted() -> Objects {
    let loaded = read("c.yaml", CONFIG).objects.into_iter().collect();
    Admission::new().admit(loaded, &gateway_env()).objects
}

fn world() -> World {
    let objects = admitted();
    let translation = translate(&objects, &gateway_env());
    World::new(7, translation, objects, env("default", &[]))
}

fn ask(url: &str, headers: &[(&str, &str)], gateway: Option<&str>) -> Result<Answer, String> {
    let (method, url) = url.split_once(' ').unwrap_or(("GET", url));
    let query = ExplainQuery {
        method: method.to_owned(),
        url: url.to_owned(),
        headers: headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        claims: None,
        client: None,
        gateway: gateway.map(str::to_owned),
    };
    world().explain(&query, &|_| None)
}

fn json_of(url: &str, headers: &[(&str, &str)], gateway: Option<&str>) -> Value {
    serde_json::to_value(ask(url, headers, gateway).unwrap()).unwrap()
}

#[test]
fn a_forward_says_rule_cluster_endpoint_and_what_is_sent() {
    let answer = json_of("http://shop.example.com/cart/1?q=2", &[("X-User", "jason")], None);
    assert_eq!(answer["generation"], 7);
    assert_eq!((&answer["outcome"], &answer["status"]), (&json!("forward"), &Value::Null));
    assert_eq!(
        answer["rule"],
        json!({"kind": "VirtualService", "namespace": "default", "name": "shop", "index": 0, "match": 1,
               "file": "c.yaml", "line": answer["rule"]["line"]})
    );
    assert_eq!(answer["cluster"], "outbound|80||cart.default.svc.cluster.local");
    assert_eq!(answer["endpoint"], "10.0.0.1:8000");
    assert_eq!(answer["endpoints"], json!(["10.0.0.1:8000", "10.0.0.2:8000"]));
    let standing = |address: &str| json!({"address": address, "weight": 1, "priority": 0, "healthy": true, "percent": 50.0});
    assert_eq!(answer["endpoint_standings"], json!([standing("10.0.0.1:8000"), standing("10.0.0.2:8000")]));
    assert_eq!(answer["load_balancer"], "LEAST_REQUEST");
    assert_eq!(answer["rewritten"], json!({"authority": "cart.internal", "path": "/basket/1?q=2"}));
    let considered = answer["considered"].as_array().unwrap();
    assert_eq!(considered.len(), 2);
    assert_eq!(considered[0]["rule"]["match"], 0);
    assert!(considered[0]["lost_by"].as_str().unwrap().contains("/none"), "{considered:?}");
    assert_eq!(considered[1]["lost_by"], Value::Null);
}

#[test]
fn every_outcome_has_its_name_and_status() {
    for (url, outcome, status, location) in [
        (
            "http://shop.example.com/old/x?a=b",
            "redirect",
            json!(308),
            json!("http://shop.example.com/new?a=b"),
        ),
        ("http://shop.example.com/hello", "direct_response", json!(418), Value::Null),
        ("http://shop.example.com/nowhere", "no_route", json!(404), Value::Null),
        ("http://other.example.com/", "no_route", json!(404), Value::Null),
        ("https://shop.example.com/hello", "direct_response", json!(418), Value::Null),
        ("https://other.example.com/hello", "no_route", Value::Null, Value::Null),
        ("http://shop.example.com/x/../%68ello", "direct_response", json!(418), Value::Null),
        ("http://shop.example.com/hello%00", "deny", json!(400), Value::Null),
        ("CONNECT http://shop.example.com/hello", "deny", json!(405), Value::Null),
    ] {
        let answer = json_of(url, &[], None);
        assert_eq!((&answer["outcome"], &answer["status"]), (&json!(outcome), &status), "{url}: {answer}");
        assert_eq!(answer["location"], location, "{url}");
        if outcome == "no_route" {
            assert!(answer["reason"].is_string(), "{url}");
            assert_eq!(answer["rule"], Value::Null, "{url}");
        }
    }
}

#[test]
fn weights_are_shown_with_their_share() {
    let answer = json_of("http://shop.example.com/split", &[], Some("default/edge"));
    let v2 = "outbound|80|v2|cart.default.svc.cluster.local";
    assert_eq!(answer["destinations"][1], json!({"cluster": v2, "weight": 25, "percent": 25.0}));
    assert_eq!(answer["destinations"][0]["percent"], 75.0);
    let text = ask("http://shop.example.com/split", &[], None).unwrap().to_string();
    assert!(text.starts_with("forward to outbound|80|"), "{text}");
    assert!(text.contains(&format!("destination  25% {v2}\n")), "{text}");
    assert!(text.contains("VirtualService/default/shop http[3].match[0] (c.yaml:"), "{text}");
}

#[test]
fn a_listener_is_found_by_server_port_then_local_port() {
    for (url, gateway, table) in [
        ("http://shop.example.com/hello", None, "http.8000"),
        ("http://shop.example.com:8000/hello", None, "http.8000"),
        ("http://shop.example.com:8080/hello", None, "http.8080"),
        ("http://shop.example.com/hello", Some("other/inner"), "http.8080"),
    ] {
        let answer = ask(url, &[], gateway).unwrap();
        assert_eq!(answer.route_table.as_deref(), Some(table), "{url}");
        let assumed = answer.to_string().contains("assuming     port 8080, which the URL does not name");
        assert_eq!(assumed, gateway == Some("other/inner"), "{url}: {answer}");
    }
}

#[test]
fn a_question_that_has_no_answer_says_what_there_is() {
    for (url, gateway, said) in [
        ("http://shop.example.com:9999/", None, "https on 443"),
        ("http://shop.example.com:9999/", Some("default/edge"), "nothing serves http on port 9999"),
        ("http://shop.example.com:443/", None, "nothing serves http on port 443; there is"),
        ("https://shop.example.com:8080/", None, "nothing serves https on port 8080; there is"),
        ("CONNECT http://shop.example.com:9999/", None, "nothing serves http on port 9999"),
        ("http://shop.example.com/", Some("default/nobody"), "default/edge, default/opaque, other/inner"),
        ("https://shop.example.com/", Some("other/inner"), "http on 8080"),
        ("http://cart:81/", Some("mesh"), "80"),
        ("nonsense", None, "write it like"),
    ] {
        let error = ask(url, &[], gateway).unwrap_err();
        assert!(error.contains(said), "{url}: {error}");
    }
}

#[test]
fn the_mesh_is_what_a_sidecar_does() {
    let everyone = json_of("http://cart/", &[], Some("mesh"));
    assert_eq!(everyone["cluster"], "outbound|80||cart.default.svc.cluster.local");
    let jason = json_of("http://cart.default.svc.cluster.local/", &[("end-user", "jason")], Some("mesh"));
    assert_eq!(jason["cluster"], "outbound|80|v2|cart.default.svc.cluster.local");
    // no endpoint has the label
    assert!(jason["reason"].as_str().unwrap().contains("503: cluster outbound|80|v2|cart"), "{jason}");
}

#[test]
fn an_absent_cluster_is_said_as_the_check_says_it() {
    for (path, code, said) in [
        ("/ghost", "unknown-host", "there is no service ghost.default.svc.cluster.local"),
        (
            "/subset",
            "unknown-subset",
            "no DestinationRule for cart.default.svc.cluster.local has the subset \"v9\"",
        ),
        ("/port", "unknown-port", "cart.default.svc.cluster.local has no port 81"),
    ] {
        let answer = json_of(&format!("http://shop.example.com{path}"), &[], None);
        let expected = format!("503: there is no cluster {}: {said}", answer["cluster"].as_str().unwrap());
        assert_eq!(answer["reason"], expected, "{path}");
        let checked = translate(&admitted(), &gateway_env()).diagnostics;
        let warning = checked.iter().find(|d| d.code == code).unwrap();
        assert!(warning.text.starts_with(&format!("{said};")), "{path}: {}", warning.text);
    }
}

#[test]
fn credentials_that_rules_ask_for_are_not_shown() {
    let answer = json_of("http://shop.example.com/token", &[("authorization", "Bearer mine")], None);
    let text = answer.to_string();
    assert!(!text.contains("c3Bh"), "{text}");
    assert!(text.contains("headers[authorization]: exact (hidden) does not match"), "{text}");
}

#[test]
fn connections_are_explained_by_the_rules_for_them() {
    let tcp = json_of("tcp://anything:31400", &[], None);
    assert_eq!((&tcp["outcome"], &tcp["endpoint"]), (&json!("forward"), &json!("10.0.0.1:8000")));
    assert_eq!((&tcp["rule"]["name"], &tcp["rule"]["section"]), (&json!("opaque"), &json!("tcp")));
    assert_eq!(tcp["destinations"][1]["percent"], 25.0);
    let passed = json_of("https://A.example.com:15443", &[], Some("default/opaque"));
    assert_eq!(passed["cluster"], "outbound|80||cart.default.svc.cluster.local");
    assert_eq!((&passed["rule"]["section"], &passed["rule"]["index"]), (&json!("tls"), &json!(1)));
    let lost: Vec<_> =
        passed["considered"].as_array().unwrap().iter().map(|c| c["lost_by"].clone()).collect();
    assert!(lost[0].as_str().is_some_and(|l| l.contains("more specific")), "{lost:?}");
    assert_eq!(lost[1], Value::Null);
    let text = ask("tls://b.example.com:15443", &[], None).unwrap().to_string();
    assert!(text.contains("VirtualService/default/opaque tls[0].match[0] (c.yaml:"), "{text}");
    assert!(text.contains("the connection is closed: there is no cluster outbound|15443||ghost"), "{text}");
    let refused = json_of("tls://other.org:15443", &[], None);
    assert_eq!((&refused["outcome"], &refused["status"]), (&json!("no_route"), &Value::Null));
    let error = ask("tcp://anything:1", &[], Some("default/edge")).unwrap_err();
    assert!(error.contains("nothing serves tcp on port 1; there is http on 80, https on 443"), "{error}");
}

#[test]
fn claims_are_taken_as_verified() {
    let query = |claims: Value| ExplainQuery {
        method: "GET".to_owned(),
        url: "http://shop.example.com/mine".to_owned(),
        claims: claims.as_object().cloned(),
        client: None,
        ..ExplainQuery::default()
    };
    let answer = |claims| serde_json::to_value(world().explain(&query(claims), &|_| None).unwrap()).unwrap();
    assert_eq!(answer(json!({"group": ["staff", "admin"]}))["outcome"], "direct_response");
    let refused = answer(Value::Null);
    assert_eq!(refused["outcome"], "no_route");
    let considered = refused["considered"].to_string();
    assert!(considered.contains("no verified token"), "{considered}");
}

#[test]
fn what_runs_says_who_is_healthy() {
    let standing = |address: &str, percent, reason: Option<&str>| EndpointStanding {
        address: address.to_owned(),
        name: None,
        locality: String::new(),
        weight: 1,
        priority: 0,
        healthy: reason.is_none(),
        active: Some(0),
        last_failure: None,
        percent,
        reason: reason.map(str::to_owned),
    };
    let query = ExplainQuery {
        method: "GET".to_owned(),
        url: "http://shop.example.com/cart/1".to_owned(),
        headers: vec![("X-User".to_owned(), "jason".to_owned())],
        ..ExplainQuery::default()
    };
    let out = Some("it is left out");
    let one = vec![standing("10.0.0.1:8000", 0.0, out), standing("10.0.0.2:8000", 100.0, None)];
    let answer = world().explain(&query, &|_| Some(one.clone())).unwrap();
    assert_eq!((answer.endpoint.as_deref(), &answer.reason), (Some("10.0.0.2:8000"), &None));
    assert!(answer.to_string().contains("10.0.0.1:8000: it is left out"), "{answer}");
    let none = vec![standing("10.0.0.1:8000", 0.0, out), standing("10.0.0.2:8000", 0.0, out)];
    let answer = world().explain(&query, &|_| Some(none.clone())).unwrap();
    assert_eq!(answer.endpoint, None);
    assert!(answer.reason.unwrap().starts_with("503: no endpoint of cluster outbound|"));
}

#[test]
fn no_policy_is_about_the_tls_of_the_mesh() {
    let config = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: east, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}
  - {port: {number: 15443, name: tls, protocol: TLS}, hosts: ['*.local'], tls: {mode: AUTO_PASSTHROUGH}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: tcp, namespace: istio-system}
spec: {hosts: ['*'], gateways: [east], tcp: [{route: [{destination: {host: in.local}}]}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: in, namespace: istio-system}
spec:
  hosts: [in.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 9000, name: tcp, protocol: TCP}]
  endpoints: [{address: 10.0.0.1}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nothing, namespace: istio-system}
spec: {}
";
    let loaded = read("c.yaml", config).objects.into_iter().collect();
    let objects = Admission::new().admit(loaded, &gateway_env()).objects;
    let world = World::new(1, translate(&objects, &gateway_env()), objects, env("default", &[]));
    for (url, outcome) in [("tcp://any:9000", "deny"), ("tls://outbound_.9000_._.in.local:15443", "forward")]
    {
        let query = ExplainQuery { method: "GET".to_owned(), url: url.to_owned(), ..ExplainQuery::default() };
        let answer = world.explain(&query, &|_| None).unwrap();
        assert_eq!(answer.outcome, outcome, "{url}: {answer}");
    }
}
