//! A case made real: its folder of YAML, its workloads, its certificates and a gateway.

use super::schema::{Case, Place, SecretSpec, UpstreamSpec};
use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use tempfile::TempDir;
use tidegate_tests::{Authority, Backend, Gateway, Identity, Net, Start, TokenSigner};

/// What a workload's address stands for.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) subset: Option<String>,
    pub(super) labels: BTreeMap<String, String>,
}

impl Endpoint {
    pub(super) fn is(&self, place: &Place) -> bool {
        self.host == place.host
            && place.port.is_none_or(|p| p == self.port)
            && (place.subset.is_none() || place.subset == self.subset)
    }
}

/// The world of one case.
pub(super) struct World {
    pub(super) gateway: Gateway,
    pub(super) backend: Backend,
    pub(super) endpoints: BTreeMap<SocketAddr, Endpoint>,
    pub(super) failing: BTreeMap<IpAddr, u16>,
    /// Addresses of workloads that refuse connections.
    pub(super) refusing: Vec<Ipv4Addr>,
    /// Certificates (DER) by the name of their secret.
    pub(super) certificates: BTreeMap<String, Vec<u8>>,
    pub(super) clients: Clients,
    /// Signs the tokens that the case asks for.
    pub(super) tokens: Option<TokenSigner>,
    _folder: TempDir,
    _net: Net,
}

/// Client certificates that a request may show.
pub(super) struct Clients {
    pub(super) trusted: Identity,
    pub(super) other: Identity,
}

impl World {
    /// Writes the case's folder, starts its workloads and its gateway.
    pub(super) async fn start(case: &Case) -> Result<World> {
        let folder = tempfile::tempdir()?;
        let mut builder = Builder::new(case)?;
        let objects = builder.objects(case).await?;
        let mut start = Start::with(folder.path());
        for port in builder.ports(case) {
            start = start.port(port, 10000 + port);
        }
        std::fs::create_dir(folder.path().join("cluster"))?;
        write_all(&folder.path().join("case.yaml"), &objects)?;
        write_all(&folder.path().join("cluster/world.yaml"), &builder.extra)?;
        let gateway = start.start(&builder.net).await?;
        Ok(World {
            gateway,
            backend: builder.backend,
            endpoints: builder.endpoints,
            failing: builder.failing,
            refusing: builder.refusing,
            certificates: builder.certificates,
            clients: builder.clients,
            tokens: builder.tokens,
            _folder: folder,
            _net: builder.net,
        })
    }
}

/// Writes objects as one file of YAML documents.
pub(super) fn write_all(path: &Path, objects: &[Value]) -> Result<()> {
    let documents: Result<Vec<String>, _> = objects.iter().map(serde_yaml::to_string).collect();
    Ok(std::fs::write(path, documents?.join("---\n"))?)
}

/// A subset's name and labels.
type Subset = (String, BTreeMap<String, String>);

/// A host as the cluster knows it.
pub(super) fn full_name(host: &str, namespace: &str) -> String {
    if host.contains('.') { host.to_owned() } else { format!("{host}.{namespace}.svc.cluster.local") }
}

pub(super) fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

pub(super) fn namespace_of(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or("default")
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn labels(value: &Value) -> BTreeMap<String, String> {
    let text = |(k, v): (&String, &Value)| (k.clone(), v.as_str().unwrap_or_default().to_owned());
    value.as_object().map(|m| m.iter().map(text).collect()).unwrap_or_default()
}

struct Pod {
    address: Ipv4Addr,
    name: String,
    subset: Option<String>,
    labels: BTreeMap<String, String>,
}

struct Builder {
    net: Net,
    backend: Backend,
    authority: Authority,
    clients: Clients,
    tokens: Option<TokenSigner>,
    endpoints: BTreeMap<SocketAddr, Endpoint>,
    failing: BTreeMap<IpAddr, u16>,
    refusing: Vec<Ipv4Addr>,
    certificates: BTreeMap<String, Vec<u8>>,
    /// Subsets with their labels, by service.
    subsets: BTreeMap<String, Vec<Subset>>,
    extra: Vec<Value>,
}

impl Builder {
    fn new(case: &Case) -> Result<Self> {
        let authority = Authority::new("test-ca")?;
        let signs = case.steps.iter().any(|s| s.request.jwt.is_some());
        let client = ["client.example".to_owned()];
        let clients = Clients {
            trusted: authority.issue("client", &client)?,
            other: Authority::new("other-ca")?.issue("client", &client)?,
        };
        Ok(Builder {
            net: Net::reserve()?,
            backend: Backend::default(),
            authority,
            clients,
            tokens: if signs { Some(TokenSigner::new()?) } else { None },
            endpoints: BTreeMap::new(),
            failing: BTreeMap::new(),
            refusing: Vec::new(),
            certificates: BTreeMap::new(),
            subsets: subsets(&case.config),
            extra: Vec::new(),
        })
    }

    /// The case's own objects as they are written; what goes with them is in `extra`.
    async fn objects(&mut self, case: &Case) -> Result<Vec<Value>> {
        let mut objects = case.config.clone();
        let services = services(&objects);
        let unknown: Vec<_> = case.upstream.keys().filter(|h| !services.contains(*h)).collect();
        ensure!(unknown.is_empty(), "upstream names no Service of the case: {unknown:?}");
        for object in &mut objects {
            match object["kind"].as_str() {
                Some("Service") => self.service(object, &case.upstream).await?,
                Some("ServiceEntry") => bail!("this runner gives a ServiceEntry no workloads"),
                Some("RequestAuthentication") => self.trust_tokens(object)?,
                _ => {}
            }
        }
        self.secrets(case)?;
        if let Some(mesh) = &case.mesh_config {
            self.extra.push(json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "istio", "namespace": "istio-system"},
                "data": {"mesh": serde_yaml::to_string(mesh)?},
            }));
        }
        Ok(objects)
    }

    /// Server ports that need root, and whose translation the case does not ask for: they move up.
    fn ports(&self, case: &Case) -> BTreeSet<u16> {
        let gateways = case.config.iter().filter(|o| o["kind"] == "Gateway");
        let servers = gateways.flat_map(|g| list(&g["spec"], "servers"));
        let server_ports =
            servers.filter_map(|s| s["port"]["number"].as_u64()).filter_map(|p| p.try_into().ok());
        let asked = case.steps.iter().map(|s| s.request.port);
        let translated = |p: &u16| {
            case.steps.iter().any(|s| s.request.port == *p && s.request.pod_port.is_some_and(|pod| pod != *p))
        };
        server_ports.chain(asked).filter(|p| *p < 1024 && !translated(p)).collect()
    }

    async fn service(&mut self, object: &mut Value, upstream: &BTreeMap<String, UpstreamSpec>) -> Result<()> {
        let (name, namespace) = (name_of(object).to_owned(), namespace_of(object).to_owned());
        let host = full_name(&name, &namespace);
        let selector = labels(&object["spec"]["selector"]);
        let is_gateway = namespace == "istio-system"
            && !selector.is_empty()
            && selector.iter().all(|(k, v)| k == "istio" && v == "ingressgateway");
        if object["spec"]["type"] == "ExternalName" || is_gateway {
            return Ok(());
        }
        let default = UpstreamSpec::default();
        let wanted = upstream.get(&host).unwrap_or(&default);
        let pods = self.pods(&name, &host, &selector, wanted.endpoints.unwrap_or(1))?;
        let spec = object["spec"].as_object_mut().context("a Service without spec")?;
        let cluster_ip = format!("10.96.0.{}", self.extra.len() + 1);
        spec.entry("clusterIP").or_insert_with(|| cluster_ip.into());
        let mut ports = Vec::new();
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            ports.push(self.service_port(port, &host, &pods, wanted).await?);
        }
        if let Some(failing) = &wanted.failing {
            let pod = failing.endpoint.checked_sub(1).and_then(|i| pods.get(i));
            self.failing
                .insert(pod.context("upstream.failing names no endpoint")?.address.into(), failing.status);
        }
        self.extra.extend(pods.iter().map(|p| pod_object(p, &namespace)));
        if !pods.is_empty() {
            self.extra.push(slice_object(&name, &namespace, &ports, &pods));
        }
        Ok(())
    }

    fn pods(
        &self,
        name: &str,
        host: &str,
        selector: &BTreeMap<String, String>,
        each: usize,
    ) -> Result<Vec<Pod>> {
        let whole = vec![(String::new(), BTreeMap::new())];
        let groups = self.subsets.get(host).unwrap_or(&whole);
        let mut pods = Vec::new();
        for (g, (subset, more)) in groups.iter().enumerate() {
            for k in 0..each {
                let mut labels = selector.clone();
                labels.extend(more.clone());
                let subset = (!subset.is_empty()).then(|| subset.clone());
                pods.push(Pod { address: self.net.next()?, name: format!("{name}-{g}-{k}"), subset, labels });
            }
        }
        Ok(pods)
    }

    /// Starts the workloads of one port, and says how the EndpointSlice names it.
    async fn service_port(
        &mut self,
        port: &mut Value,
        host: &str,
        pods: &[Pod],
        wanted: &UpstreamSpec,
    ) -> Result<Value> {
        let number: u16 =
            port["port"].as_u64().and_then(|p| p.try_into().ok()).context("a port without number")?;
        let target = 20000 + number % 10000;
        port["targetPort"] = target.into();
        for pod in pods {
            let at = SocketAddr::new(pod.address.into(), target);
            let endpoint = Endpoint {
                host: host.to_owned(),
                port: number,
                subset: pod.subset.clone(),
                labels: pod.labels.clone(),
            };
            self.endpoints.insert(at, endpoint);
            if wanted.refuse_connections {
                self.refusing.push(pod.address);
            } else {
                self.backend.listen(at).await?;
            }
        }
        let mut named = Map::new();
        named.insert("name".into(), port.get("name").cloned().unwrap_or_else(|| "".into()));
        named.insert("port".into(), target.into());
        named.insert("protocol".into(), port.get("protocol").cloned().unwrap_or_else(|| "TCP".into()));
        if let Some(protocol) = port.get("appProtocol") {
            named.insert("appProtocol".into(), protocol.clone());
        }
        Ok(named.into())
    }

    /// Puts the run's own key set where the case asks for it.
    fn trust_tokens(&mut self, object: &mut Value) -> Result<()> {
        let signer = match self.tokens.take() {
            Some(signer) => signer,
            None => TokenSigner::new()?,
        };
        let set = signer.key_set()?;
        for rule in object["spec"]["jwtRules"].as_array_mut().into_iter().flatten() {
            if rule["jwks"] == "${TEST_JWKS}" {
                rule["jwks"] = set.clone().into();
            }
        }
        self.tokens = Some(signer);
        Ok(())
    }

    fn secrets(&mut self, case: &Case) -> Result<()> {
        let asked = case.steps.iter().flat_map(|s| [s.request.sni.as_deref(), s.request.host.as_deref()]);
        let names = asked.flatten().filter_map(|n| n.split(':').next()).filter(|n| !n.is_empty());
        let names: BTreeSet<&str> = names.chain(["example.com", "*.example.com"]).collect();
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        for secret in &case.secrets {
            let any = secret.certificate_for == ["*"];
            let names = if any { &names } else { &secret.certificate_for };
            let identity = self.authority.issue(&secret.secret, names)?;
            let object = secret_object(secret, &identity, &self.authority.certificate())?;
            self.certificates.insert(secret.secret.clone(), identity.der);
            self.extra.push(object);
        }
        Ok(())
    }
}

fn services(objects: &[Value]) -> BTreeSet<String> {
    let services = objects.iter().filter(|o| o["kind"] == "Service");
    services.map(|o| full_name(name_of(o), namespace_of(o))).collect()
}

fn subsets(objects: &[Value]) -> BTreeMap<String, Vec<Subset>> {
    let mut subsets: BTreeMap<String, Vec<Subset>> = BTreeMap::new();
    for rule in objects.iter().filter(|o| o["kind"] == "DestinationRule") {
        let host = rule["spec"]["host"].as_str().unwrap_or_default();
        for service in services(objects) {
            let covers = match host.strip_prefix('*') {
                Some(suffix) => service.ends_with(suffix),
                None => full_name(host, namespace_of(rule)) == service,
            };
            if covers {
                let of_rule = list(&rule["spec"], "subsets").iter();
                let of_rule = of_rule
                    .map(|s| (s["name"].as_str().unwrap_or_default().to_owned(), labels(&s["labels"])));
                subsets.entry(service).or_default().extend(of_rule);
            }
        }
    }
    subsets.retain(|_, s| !s.is_empty());
    subsets
}

fn pod_object(pod: &Pod, namespace: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": pod.name, "namespace": namespace, "labels": pod.labels},
        "spec": {"containers": [{"name": "app", "image": "echo"}]},
        "status": {
            "phase": "Running", "podIP": pod.address, "podIPs": [{"ip": pod.address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn slice_object(service: &str, namespace: &str, ports: &[Value], pods: &[Pod]) -> Value {
    let endpoint = |p: &Pod| {
        json!({
            "addresses": [p.address], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": p.name, "namespace": namespace},
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-1"), "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4", "ports": ports,
        "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// A Secret that holds the asked keys of an identity.
fn secret_object(secret: &SecretSpec, identity: &Identity, authority: &str) -> Result<Value> {
    let mut data = Map::new();
    for key in &secret.keys {
        let value = match key.as_str() {
            "tls.crt" | "cert" => &identity.certificate,
            "tls.key" | "key" => &identity.key,
            "ca.crt" | "cacert" => authority,
            other => bail!("this runner has no {other} for a Secret"),
        };
        data.insert(key.clone(), BASE64.encode(value).into());
    }
    let typed = data.contains_key("tls.crt") && data.contains_key("tls.key");
    Ok(json!({
        "apiVersion": "v1", "kind": "Secret", "type": if typed { "kubernetes.io/tls" } else { "Opaque" },
        "metadata": {"name": secret.secret, "namespace": secret.namespace},
        "data": data,
    }))
}
