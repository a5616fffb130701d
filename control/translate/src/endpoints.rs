//! The endpoints of a service's port.

use crate::locality;
use crate::service_registry::{Port, Registry, Service, Source};
use crate::world::{Item, port, selects};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use tidegate_api::istio::{Resolution, ServiceEntry, WorkloadEntry};
use tidegate_api::kubernetes::{
    EndpointPort, NumberOrName, ObjectReference, Pod, Service as KubeService, ServicePort,
};
use tidegate_api::{Object, Value};
use tidegate_model::{Address, Endpoint, Locality};

impl<'a> Registry<'a> {
    /// The ready endpoints of `service` on `at` whose labels have all of `subset`, each address once.
    pub(crate) fn endpoints_of(
        &self,
        service: &Service<'a>,
        at: &Port,
        subset: &BTreeMap<String, String>,
    ) -> Vec<Endpoint> {
        let mut found = Vec::new();
        for source in &service.sources {
            match source {
                Source::Kubernetes(item) => self.of_kubernetes(*item, service, at, &mut found),
                Source::Entry(item) => self.of_entry(*item, service, at, &mut found),
            }
        }
        let mut seen = BTreeSet::new();
        found.retain(|e| locality::has(e, subset) && seen.insert(e.address.clone()));
        found
    }

    fn of_kubernetes(
        &self,
        (object, kube): Item<'a, KubeService>,
        service: &Service<'a>,
        at: &Port,
        out: &mut Vec<Endpoint>,
    ) {
        if let Some(name) = &service.alias {
            out.push(bare(Address::Dns(name.as_str().into(), at.number)));
            return;
        }
        let Some((_, declared)) = kube.declared(at.number) else { return };
        let key = (&*object.reference.namespace, &*object.reference.name);
        let unready_too = kube.publish_not_ready_addresses == Some(true);
        if self.slices.contains_key(&key) {
            self.of_slices(key, declared, unready_too, out);
        } else if self.endpoints.contains_key(&key) {
            self.of_endpoints(key, declared, unready_too, out);
        } else if !kube.selector.is_empty() {
            let pods = self.pods.get(key.0).map_or(&[][..], Vec::as_slice);
            for pod in pods.iter().filter(|(o, _)| selects(&kube.selector, &o.labels)) {
                out.extend(self.of_pod(*pod, declared, unready_too));
            }
        }
        if !kube.selector.is_empty() {
            let target = declared.target_port.as_ref();
            self.of_workload_entries(key.0, &kube.selector, at, target, out);
        }
    }

    fn of_slices(
        &self,
        key: (&str, &str),
        declared: &ServicePort,
        unready_too: bool,
        out: &mut Vec<Endpoint>,
    ) {
        for (object, slice) in self.slices.get(&key).into_iter().flatten() {
            let Some(number) = endpoint_port(&slice.ports, declared) else { continue };
            for e in &slice.endpoints {
                let ready = e.conditions.as_ref().is_none_or(|c| c.ready != Some(false));
                let Some(address) = e.addresses.first() else { continue };
                if !(ready || unready_too) {
                    continue;
                }
                let pod = self.pod_of(e.target_ref.as_ref(), &object.reference.namespace, address);
                let mut made = self.with_pod(address_of(address, number), pod, e.node_name.as_deref());
                if let (Some(zone), true) = (&e.zone, made.locality == Locality::default()) {
                    made.locality.zone = zone.as_str().into();
                }
                out.push(made);
            }
        }
    }

    fn of_endpoints(
        &self,
        key: (&str, &str),
        declared: &ServicePort,
        unready_too: bool,
        out: &mut Vec<Endpoint>,
    ) {
        let Some((object, endpoints)) = self.endpoints.get(&key) else { return };
        for subset in &endpoints.subsets {
            let Some(number) = endpoint_port(&subset.ports, declared) else { continue };
            let unready = subset.not_ready_addresses.iter().filter(|_| unready_too);
            for e in subset.addresses.iter().chain(unready) {
                let pod = self.pod_of(e.target_ref.as_ref(), &object.reference.namespace, &e.ip);
                out.push(self.with_pod(address_of(&e.ip, number), pod, e.node_name.as_deref()));
            }
        }
    }

    fn pod_of(&self, target: Option<&ObjectReference>, own: &str, address: &str) -> Option<Item<'a, Pod>> {
        let named = target.filter(|t| t.kind.as_deref().is_none_or(|k| k == "Pod")).and_then(|t| {
            let namespace = t.namespace.as_deref().unwrap_or(own);
            self.pods_by_name.get(&(namespace, t.name.as_deref()?))
        });
        named.or_else(|| self.pods_by_ip.get(address)).copied()
    }

    fn of_pod(&self, pod: Item<'_, Pod>, declared: &ServicePort, unready_too: bool) -> Option<Endpoint> {
        let spec = pod.1;
        let ip = spec.status.pod_ip.as_deref()?;
        let number = match &declared.target_port {
            None => port(declared.port)?,
            Some(NumberOrName::Number(n)) => port(*n)?,
            Some(NumberOrName::Name(name)) => container_port(spec, name)?,
        };
        (unready_too || is_ready(spec)).then(|| self.with_pod(address_of(ip, number), Some(pod), None))
    }

    /// An endpoint with what its pod says of it, and the pod's node, or else the one that is named.
    fn with_pod(&self, address: Address, pod: Option<Item<'_, Pod>>, node: Option<&str>) -> Endpoint {
        let node = pod.and_then(|(_, pod)| pod.spec.node_name.as_deref()).or(node);
        let of_node = node.and_then(|name| self.nodes.get(name)).map(|node| &node.labels);
        let labels = pod.map(labels_of).unwrap_or_default();
        Endpoint {
            workload: pod.map_or(Arc::default(), |(object, _)| workload_of(object)),
            locality: locality::of_pod(&labels, of_node),
            labels: Arc::new(labels),
            ..bare(address)
        }
    }

    fn of_entry(
        &self,
        (object, entry): Item<'a, ServiceEntry>,
        service: &Service<'a>,
        at: &Port,
        out: &mut Vec<Endpoint>,
    ) {
        let Some(declared) = entry.ports.iter().find(|p| port(p.number) == Some(at.number)) else { return };
        let target = declared.target_port.and_then(port);
        let named = target.map(|n| NumberOrName::Number(n.into()));
        let resolution = entry.resolution.unwrap_or(Resolution::None);
        if let Some(selector) = &entry.workload_selector {
            let namespace = &*object.reference.namespace;
            self.of_workload_entries(namespace, &selector.labels, at, named.as_ref(), out);
            let pods = self.pods.get(namespace).map_or(&[][..], Vec::as_slice);
            for (pod, spec) in pods.iter().filter(|(o, _)| selects(&selector.labels, &o.labels)) {
                if let (Some(ip), true) = (spec.status.pod_ip.as_deref(), is_ready(spec)) {
                    let number = target.unwrap_or(at.number);
                    out.push(self.with_pod(address_of(ip, number), Some((pod, spec)), None));
                }
            }
            return;
        }
        let number = target.unwrap_or(at.number);
        match resolution {
            Resolution::None => {}
            Resolution::DynamicDns => out.push(bare(Address::RequestHost(service.host.clone(), number))),
            Resolution::Dns | Resolution::DnsRoundRobin if entry.endpoints.is_empty() => {
                out.push(bare(resolved(Address::Dns(service.host.clone(), number), resolution)));
            }
            Resolution::Static | Resolution::Dns | Resolution::DnsRoundRobin => {
                let made = entry.endpoints.iter().filter_map(|e| of_workload(e, None, at, named.as_ref()));
                out.extend(made.map(|e| Endpoint { address: resolved(e.address, resolution), ..e }));
            }
        }
    }

    fn of_workload_entries(
        &self,
        namespace: &str,
        selector: &BTreeMap<String, String>,
        at: &Port,
        target: Option<&NumberOrName>,
        out: &mut Vec<Endpoint>,
    ) {
        let selected = |(object, entry): &&Item<'_, WorkloadEntry>| {
            let label = |key| object.labels.get(key).or_else(|| entry.labels.get(key));
            selector.iter().all(|(key, value)| label(key) == Some(value))
        };
        let all = self.workload_entries.get(namespace).into_iter().flatten();
        for (object, entry) in all.filter(selected).filter(|(object, _)| is_healthy(object)) {
            out.extend(of_workload(entry, Some(object), at, target));
        }
    }
}

/// The annotation of a WorkloadEntry whose workload says how it is.
const HEALTH_CHECKS: &str = "proxy.istio.io/health-checks-enabled";

/// Whether a WorkloadEntry may have requests: where its workload is checked, only after it was found to be healthy.
pub(crate) fn is_healthy(entry: &Object) -> bool {
    let enabled = entry.annotations.get(HEALTH_CHECKS).map(String::as_str);
    if !matches!(enabled, Some("1" | "t" | "T" | "true" | "TRUE" | "True")) {
        return true;
    }
    let conditions = entry.field("status.conditions");
    let mut conditions = conditions.iter().flat_map(Value::items);
    let is = |condition: &Value, key: &str, text: &str| {
        condition.get(key).and_then(Value::as_str).is_some_and(|found| found == text)
    };
    conditions.find(|c| is(c, "type", "Healthy")).is_some_and(|c| is(c, "status", "True"))
}

/// The number of the port that `declared` is at endpoints.
fn endpoint_port(ports: &[EndpointPort], declared: &ServicePort) -> Option<u16> {
    let name = |n: &Option<String>| n.clone().unwrap_or_default();
    let wanted = name(&declared.name);
    ports.iter().find(|p| name(&p.name) == wanted).and_then(|p| port(p.port?))
}

/// The port that a container of `pod` gives that name.
pub(crate) fn container_port(pod: &Pod, name: &str) -> Option<u16> {
    let mut ports = pod.spec.containers.iter().flat_map(|c| &c.ports);
    port(ports.find(|p| p.name.as_deref() == Some(name))?.container_port)
}

fn is_ready(pod: &Pod) -> bool {
    let running = pod.status.phase.as_deref().is_none_or(|p| p == "Running");
    let mut conditions = pod.status.conditions.iter();
    let ready = conditions.find(|c| c.condition.as_deref() == Some("Ready"));
    running && ready.is_none_or(|c| c.status.as_deref() == Some("True"))
}

fn of_workload(
    entry: &WorkloadEntry,
    object: Option<&Object>,
    at: &Port,
    target: Option<&NumberOrName>,
) -> Option<Endpoint> {
    let address = entry.address.as_deref().filter(|a| !a.starts_with("unix://"))?;
    let by_name = |name: &str| entry.ports.get(name).copied().and_then(port);
    let number = match target {
        // Only the workload can say what number the name stands for.
        Some(NumberOrName::Name(name)) => by_name(name)?,
        Some(NumberOrName::Number(n)) => by_name(&at.name).or(port(*n)).unwrap_or(at.number),
        None => by_name(&at.name).unwrap_or(at.number),
    };
    // those of the object count first
    let mut labels = entry.labels.clone();
    labels.extend(object.iter().flat_map(|o| o.labels.clone()));
    Some(Endpoint {
        address: address_of(address, number),
        weight: entry.weight.unwrap_or(1).max(1),
        workload: object.map(|o| o.reference.name.clone()).unwrap_or_default(),
        locality: entry
            .locality
            .as_deref()
            .map_or_else(|| locality::of_labels(&labels), |l| locality::parse(l, '/')),
        labels: Arc::new(labels),
        priority: 0,
        locality_weight: None,
    })
}

fn address_of(text: &str, port: u16) -> Address {
    match text.parse::<IpAddr>() {
        Ok(ip) => Address::Socket((ip, port).into()),
        Err(_) => Address::Dns(text.to_ascii_lowercase().into(), port),
    }
}

/// A name as the resolution has it: all of its addresses, or one at a time.
fn resolved(address: Address, resolution: Resolution) -> Address {
    match (address, resolution) {
        (Address::Dns(name, port), Resolution::DnsRoundRobin) => Address::DnsInTurns(name, port),
        (address, _) => address,
    }
}

fn bare(address: Address) -> Endpoint {
    Endpoint {
        address,
        weight: 1,
        workload: Arc::default(),
        labels: Arc::default(),
        locality: Locality::default(),
        priority: 0,
        locality_weight: None,
    }
}

/// The labels of a pod, of which one names its node.
fn labels_of((object, pod): Item<'_, Pod>) -> BTreeMap<String, String> {
    let mut labels = object.labels.clone();
    labels.extend(pod.spec.node_name.iter().map(|node| (locality::HOSTNAME.to_owned(), node.clone())));
    labels
}

/// The Deployment of a pod that a ReplicaSet owns; any other owner; else the pod.
fn workload_of(pod: &Object) -> Arc<str> {
    let Some(owner) = pod.owners.first() else { return pod.reference.name.clone() };
    let hash = pod.labels.get("pod-template-hash").map(|h| format!("-{h}"));
    match hash {
        Some(hash) if owner.kind == "ReplicaSet" => owner.name.trim_end_matches(&hash).into(),
        _ => owner.name.as_str().into(),
    }
}
