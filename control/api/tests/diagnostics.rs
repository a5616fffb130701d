//! What users are told about broken files: the whole line, with its place.

use tidegate_api::read;

/// Every line of a `---`-separated object is counted from 1; `expected` are the diagnostics in order.
fn check(text: &str, expected: &[&str]) {
    let reading = read("a.yaml", text);
    let found: Vec<String> = reading.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(found, expected, "in\n{text}");
    assert!(reading.diagnostics.iter().all(|d| !d.advice.is_empty()), "advice for each of {found:?}");
}

fn virtual_service(http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: vs\nspec:\n  hosts: [a]\n  http:\n{http}"
    )
}

fn kubernetes(kind: &str, rest: &str) -> String {
    format!("apiVersion: v1\nkind: {kind}\nmetadata:\n  name: x\n  namespace: ns\n{rest}")
}

const VIRTUAL_SERVICES: [(&str, &[&str]); 16] = [
    (
        "  - route:\n    - destination: {host: a}\n      wieght: 10\n",
        &[
            "error a.yaml:10:7 VirtualService/default/vs spec.http[0].route[0].wieght: there is no such field; did you mean weight?",
        ],
    ),
    (
        "  - timeout: 10\n",
        &[
            "error a.yaml:8:5 VirtualService/default/vs spec.http[0].timeout: must be a duration, not a whole number; write it with its unit, such as 1.5s or 100ms",
        ],
    ),
    (
        "  - timeout: 10x\n",
        &[
            "error a.yaml:8:5 VirtualService/default/vs spec.http[0].timeout: \"10x\" is not a duration; write numbers with units, such as 1.5s, 100ms or 1h30m (units: ns, us, ms, s, m, h)",
        ],
    ),
    (
        "  - route:\n    - weight: 1\n",
        &[
            "error a.yaml:9:7 VirtualService/default/vs spec.http[0].route[0].destination: is missing; add destination, which is required here",
        ],
    ),
    (
        "  - redirect: {port: 80, derivePort: FROM_REQUEST_PORT}\n",
        &[
            "error a.yaml:8:5 VirtualService/default/vs spec.http[0].redirect: only one of port and derivePort may be set; keep the one that is meant",
        ],
    ),
    (
        "  - redirect: {derivePort: FROM_REQUEST}\n",
        &[
            "error a.yaml:8:16 VirtualService/default/vs spec.http[0].redirect.derivePort: \"FROM_REQUEST\" is not a value that this field has; use one of FROM_PROTOCOL_DEFAULT and FROM_REQUEST_PORT",
        ],
    ),
    (
        "  - match:\n    - port: \"80\"\n    - port: 5000000000\n    - port: http\n",
        &[
            "error a.yaml:9:7 VirtualService/default/vs spec.http[0].match[0].port: must be a whole number, not a string; remove the quotes",
            "error a.yaml:10:7 VirtualService/default/vs spec.http[0].match[1].port: 5000000000 is out of range; use a whole number from 0 to 4294967295",
            "error a.yaml:11:7 VirtualService/default/vs spec.http[0].match[2].port: must be a whole number, not a string; write a whole number",
        ],
    ),
    (
        "  - match:\n    - uri: {exact: /a, prefix: /b}\n",
        &[
            "error a.yaml:9:7 VirtualService/default/vs spec.http[0].match[0].uri: only one of exact and prefix may be set; keep the one that is meant",
        ],
    ),
    (
        "  - match:\n    - uri: /a\n",
        &[
            "error a.yaml:9:7 VirtualService/default/vs spec.http[0].match[0].uri: must be a mapping, not a string; write a mapping",
        ],
    ),
    (
        "  - match:\n      uri: {exact: /a}\n",
        &[
            "error a.yaml:8:5 VirtualService/default/vs spec.http[0].match: must be a list, not a mapping; write each item on a line of its own with a leading '- '",
        ],
    ),
    (
        "  - headers: {request: {set: {x.y: yes}}}\n",
        &[
            "error a.yaml:8:31 VirtualService/default/vs spec.http[0].headers.request.set[\"x.y\"]: must be a string, not a boolean; put it in quotes",
        ],
    ),
    (
        "  - match:\n    - headers:\n        end-user:\n",
        &[
            "warning a.yaml:10:9 VirtualService/default/vs spec.http[0].match[0].headers.end-user: has no value (null), which is the same as leaving it out; give it a value or remove it",
        ],
    ),
    (
        "  - name: a\n    timeout: 1s\n    name: b\n",
        &[
            "error a.yaml:10:5 VirtualService/default/vs spec.http[0].name: is written twice, first on line 8; keep one of them",
        ],
    ),
    (
        "  - corsPolicy: {allowCredentials: \"true\"}\n",
        &[
            "error a.yaml:8:18 VirtualService/default/vs spec.http[0].corsPolicy.allowCredentials: must be true or false, not a string; remove the quotes",
        ],
    ),
    (
        "  - directResponse: {status: 200, body: {bytes: \"*\"}}\n",
        &[
            "error a.yaml:8:42 VirtualService/default/vs spec.http[0].directResponse.body.bytes: is not base64; encode it with `base64 -w0`; in a Secret, plain text goes under stringData",
        ],
    ),
    (
        "  - mirrorPercent: 5\n    mirror_percent: 5\n    mirror: {host: b}\n    fault: {abort: {httpStatus: 500, percentage: {value: 0.5}}}\nstatus: {anything: 1}\n",
        &[],
    ),
];

#[test]
fn fields_of_a_virtual_service() {
    for (http, expected) in VIRTUAL_SERVICES {
        check(&virtual_service(http), expected);
    }
}

const DOCUMENTS: [(&str, &[&str]); 12] = [
    ("", &[]),
    ("---\n# nothing\n---\n", &[]),
    (
        "just text\n",
        &[
            "error a.yaml:1:1 - -: a document must be an object, not a string; start it with apiVersion, kind and metadata, or move the file elsewhere",
        ],
    ),
    (
        "kind: Service\n",
        &[
            "error a.yaml:1:1 - apiVersion: is missing; write one, such as networking.istio.io/v1; move other files elsewhere",
        ],
    ),
    (
        "apiVersion: v1\nkind: [Service]\n",
        &[
            "error a.yaml:2:1 - kind: must be a string, not a list; write one, such as VirtualService; move other files elsewhere",
        ],
    ),
    (
        "apiVersion: v1\nkind: Namespace\n",
        &["error a.yaml:1:1 - metadata: is missing; add metadata, which is required here"],
    ),
    (
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  generateName: x-\n",
        &["error a.yaml:3:1 - metadata.name: is missing; add name, which is required here"],
    ),
    (
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: My_Space\n  lables: {}\n",
        &[
            "error a.yaml:4:3 Namespace//My_Space metadata.name: is no name that Kubernetes takes; use lower case letters, digits, '-' and '.', with a letter or digit at both ends",
            "warning a.yaml:5:3 Namespace//My_Space metadata.lables: there is no such field; did you mean labels?",
        ],
    ),
    (
        "apiVersion: networking.istio.io/v1alpha1\nkind: Gateway\nmetadata: {name: g}\nspec: {}\n",
        &[
            "error a.yaml:1:1 Gateway/default/g apiVersion: there is no version \"v1alpha1\" of Gateway; write networking.istio.io/v1",
        ],
    ),
    (
        "apiVersion: networking.istio.io/v1\nkind: Gatway\nmetadata: {name: g}\n",
        &[
            "error a.yaml:2:1 Gatway/default/g kind: there is no kind \"Gatway\" in networking.istio.io; did you mean Gateway?",
        ],
    ),
    (
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\na: [1\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: b}\n",
        &[
            "error a.yaml:6:1 - -: is not valid YAML: while parsing a flow sequence, expected ',' or ']'; check indentation, colons and quotes on this line and the one before",
        ],
    ),
    (
        "apiVersion: v1\nkind: Namespace\nmetadata:\n\tname: a\n",
        &[
            "error a.yaml:4:2 - -: is not valid YAML: tabs disallowed within this context (block indentation); indent with spaces; YAML has no tabs there",
        ],
    ),
];

#[test]
fn documents() {
    for (text, expected) in DOCUMENTS {
        check(text, expected);
    }
}

#[test]
fn kubernetes_objects() {
    let cases: [(String, &[&str]); 5] = [
        (kubernetes("Service", "spec:\n  ports:\n  - {port: 80, targetPort: http, newField: 1}\n"), &[]),
        (
            kubernetes("Service", "spec:\n  type: Loadbalancer\n  ports:\n  - name: http\n"),
            &[
                "error a.yaml:7:3 Service/ns/x spec.type: \"Loadbalancer\" is not a value that this field has; did you mean LoadBalancer?",
                "error a.yaml:9:5 Service/ns/x spec.ports[0].port: is missing; add port, which is required here",
            ],
        ),
        (kubernetes("ConfigMap", "data: {a: \"1\"}\nbinaryData: {b: aGk=}\n"), &[]),
        (
            kubernetes("ConfigMap", "data: {a: 1}\n"),
            &[
                "error a.yaml:6:8 ConfigMap/ns/x data.a: must be a string, not a whole number; put it in quotes",
            ],
        ),
        (
            kubernetes("Pod", "spec: {containers: []}\n").replace("ns\n", "ns\n  creationTimestamp: now\n"),
            &[
                "error a.yaml:6:3 Pod/ns/x metadata.creationTimestamp: \"now\" is not a time; write it as 2006-01-02T15:04:05Z, or remove it",
            ],
        ),
    ];
    for (text, expected) in cases {
        check(&text, expected);
    }
}

#[test]
fn misspelt_fields_of_kubernetes_objects() {
    let slice =
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: x}\naddressType: IPv4\n";
    let workload = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec:\n";
    let template = "  template: {metadata: {labels: {a: b}}, spec: {containers: []}}\n";
    for (text, field, meant) in [
        (kubernetes("Service", "spec: {ports: [], selecter: {a: b}}\n"), "spec.selecter", "selector"),
        (
            kubernetes("Service", "spec: {ports: [{port: 80, targetPrt: 1}]}\n"),
            "spec.ports[0].targetPrt",
            "targetPort",
        ),
        (kubernetes("Service", "specs: {}\nspec: {ports: []}\n"), "specs", "spec"),
        (kubernetes("Secret", "stringDat: {a: b}\n"), "stringDat", "stringData"),
        (kubernetes("ConfigMap", "dta: {a: b}\n"), "dta", "data"),
        (
            kubernetes("Pod", "spec: {containers: [{port: [{containerPort: 1}]}]}\n"),
            "spec.containers[0].port",
            "ports",
        ),
        (format!("{slice}portz: [{{port: 80}}]\n"), "portz", "ports"),
        (
            format!("{slice}endpoints: [{{addreses: [10.0.0.1], addresses: [10.0.0.2]}}]\n"),
            "endpoints[0].addreses",
            "addresses",
        ),
        (format!("{workload}  replica: 3\n  selector: {{}}\n{template}"), "spec.replica", "replicas"),
    ] {
        let reading = read("a.yaml", &text);
        let found: Vec<_> = reading.diagnostics.iter().map(|d| (d.severity, &*d.field, &*d.advice)).collect();
        let advice = format!("did you mean {meant}?");
        assert_eq!(found, [(tidegate_model::Severity::Warning, field, &*advice)], "{text}");
        assert_eq!(reading.objects.len(), 1);
    }
}

/// As `kubectl get --output yaml` shows them.
#[test]
fn whole_objects_of_a_cluster_are_not_complained_about() {
    check(include_str!("cluster.yaml"), &[]);
}

#[test]
fn lists_that_are_required() {
    check(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  servers:\n  - port: {number: 80, name: a, protocol: HTTP}\n",
        &[
            "error a.yaml:6:5 Gateway/default/g spec.servers[0].hosts: is missing; add hosts, which is required here",
        ],
    );
    check(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: s}\nspec: {ports: []}\n",
        &[
            "error a.yaml:4:1 ServiceEntry/default/s spec.hosts: is missing; add hosts, which is required here",
        ],
    );
}

#[test]
fn mesh_config_is_located_inside_its_text() {
    let mesh = "data:\n  mesh: |-\n    accessLogFile: /dev/stdout\n    defaultConfig:\n      concurency: 2\n      drainDuration: soon\n";
    let text = kubernetes("ConfigMap", mesh).replace("name: x", "name: istio");
    check(
        &text,
        &[
            "warning a.yaml:10:7 ConfigMap/ns/istio data.mesh.defaultConfig.concurency: there is no such field; did you mean concurrency?",
            "error a.yaml:11:7 ConfigMap/ns/istio data.mesh.defaultConfig.drainDuration: \"soon\" is not a duration; write numbers with units, such as 1.5s, 100ms or 1h30m (units: ns, us, ms, s, m, h)",
        ],
    );
    let text = kubernetes("ConfigMap", "data:\n  mesh: |\n    a: [\n").replace("name: x", "name: istio");
    check(
        &text,
        &[
            "error a.yaml:9:5 ConfigMap/ns/istio data.mesh: is not valid YAML: while parsing a node, did not find expected node content; check indentation, colons and quotes on this line and the one before",
        ],
    );
}

#[test]
fn secrets_are_not_repeated() {
    let secret = |rest: &str| kubernetes("Secret", &format!("type: kubernetes.io/tls\n{rest}"));
    let cases = [
        secret("data:\n  tls.key: s3cr3t!\n"),
        secret("data:\n  tls.key: [s3cr3t]\n"),
        secret("stringData:\n  tls.key: s3cr3t\n  tls.key: s3cr3t\n"),
        secret("data: s3cr3t\n"),
        secret("data: {}\n").replace(
            "ns\n",
            "ns\n  annotations:\n    kubectl.kubernetes.io/last-applied-configuration: '{\"data\":\"s3cr3t\"}'\n",
        ),
        secret("stringData: {tls.key: s3cr3t}\n"),
        secret("data: {tls.key: czNjcjN0}\n"),
        kubernetes("Secret", "stringData: {a: b}\n").replace("ns\n", "ns\n  creationTimestamp: s3cr3t\n"),
    ];
    for text in cases {
        let reading = read("a.yaml", &text);
        let shown = format!("{reading:?}");
        assert!(!shown.contains("s3cr3t") && !shown.contains("czNjcjN0"), "{shown}");
        for object in &reading.objects {
            let json = serde_json::to_string(&object.written.value()).unwrap();
            assert!(!json.contains("s3cr3t") && !json.contains("czNjcjN0"), "{json}");
        }
    }
}

#[test]
fn a_large_file_is_refused_whole() {
    let reading = read("a.yaml", &"# filler\n".repeat(1 << 20));
    assert_eq!(reading.diagnostics.len(), 1);
    assert_eq!(reading.diagnostics[0].code, "too-large");
    assert!(reading.unreadable);
}

#[test]
fn many_problems_are_cut() {
    let rows: String = (0..200).map(|i| format!("  - nothing{i}: 1\n")).collect();
    let reading = read("a.yaml", &virtual_service(&rows));
    assert_eq!(reading.diagnostics.len(), 50);
    assert!(reading.diagnostics[49].text.contains("150 others"));
    assert_eq!(reading.refused.len(), 1);
}

#[test]
fn a_file_of_nothing_but_errors_is_cut() {
    let reading = read("a.yaml", &"---\nx\n".repeat(3000));
    assert_eq!(reading.diagnostics.len(), 1000);
    assert!(reading.diagnostics[999].text.contains("2000 others"));
    assert!(reading.unreadable);
}
