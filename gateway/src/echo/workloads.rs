//! Which workloads a config has, from what is said about them: endpoints, pods, and else what pods are made from.

use std::collections::{BTreeMap, BTreeSet};
use tidegate_api::istio::{DestinationRule, Resolution, ServiceEntry, WorkloadEntry};
use tidegate_api::kubernetes::{
    Container, EndpointConditions, EndpointPort, NumberOrName, Pod, Service, ServicePort, ServiceType,
    Workload,
};
use tidegate_api::{Object, Objects};

/// The label by which an EndpointSlice names its Service.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A workload as one service sees it: what a listener plays, and what takes the place of the real endpoint.
#[derive(Debug)]
pub(super) struct Station<'o> {
    /// What it is known by across reloads.
    pub(super) key: String,
    /// The Service or ServiceEntry that it serves.
    pub(super) service: &'o Object,
    /// Hosts of that service.
    pub(super) hosts: Vec<String>,
    /// The Deployment's or other owner's name.
    pub(super) workload: String,
    /// Labels of the workload.
    pub(super) labels: BTreeMap<String, String>,
    /// The ports that it is reached on.
    pub(super) ports: Vec<StationPort>,
    /// Whether it is ready, where an EndpointSlice says so.
    pub(super) conditions: Option<EndpointConditions>,
    /// The zone, where an EndpointSlice says so.
    pub(super) zone: Option<String>,
    /// The ServiceEntry's endpoint that it stands for, with weight and locality.
    pub(super) entry: Option<WorkloadEntry>,
    /// Where it was written.
    pub(super) source: &'o Object,
}

/// A port of a [`Station`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StationPort {
    /// The name of the service's port.
    pub(super) name: Option<String>,
    /// The workload's own port.
    pub(super) number: u16,
}

/// Every workload of the config, once for each service that it is part of.
pub(super) fn stations<'o>(objects: &'o Objects, domain: &str) -> Vec<Station<'o>> {
    let world = World::new(objects);
    let mut stations = Vec::new();
    for (object, service) in objects.services() {
        if !world.is_alias(service, domain) {
            stations.extend(world.of_service(object, service, domain));
        }
    }
    for (object, entry) in objects.service_entries() {
        stations.extend(world.of_service_entry(object, entry));
    }
    let mut seen = BTreeSet::new();
    stations.retain(|station| seen.insert(station.key.clone()));
    stations
}

/// The first subset that a workload belongs to; empty for none.
pub(super) fn subset(objects: &Objects, station: &Station<'_>, domain: &str) -> String {
    let names = |object: &Object, rule: &DestinationRule| {
        let host = match rule.host.contains('.') || rule.host.starts_with('*') {
            true => rule.host.clone(),
            false => format!("{}.{}.svc.{domain}", rule.host, object.reference.namespace),
        };
        station.hosts.iter().any(|h| match host.strip_prefix('*') {
            Some(suffix) => h.ends_with(suffix),
            None => *h == host,
        })
    };
    let rules = objects.destination_rules();
    let subsets =
        rules.iter().filter(|(object, rule)| names(object, rule)).flat_map(|(_, rule)| &rule.subsets);
    let found = subsets.into_iter().find(|subset| selects(&subset.labels, &station.labels));
    found.map(|subset| subset.name.clone()).unwrap_or_default()
}

fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// What is looked up while workloads are sought.
struct World<'o> {
    objects: &'o Objects,
    pods: BTreeMap<(&'o str, &'o str), (&'o Object, &'o Pod)>,
    pods_by_ip: BTreeMap<&'o str, (&'o Object, &'o Pod)>,
}

impl<'o> World<'o> {
    fn new(objects: &'o Objects) -> Self {
        let pods = objects.pods();
        let name = |o: &'o Object| (&*o.reference.namespace, &*o.reference.name);
        World {
            objects,
            pods: pods.iter().map(|(o, pod)| (name(o), (*o, *pod))).collect(),
            pods_by_ip: pods
                .iter()
                .filter_map(|(o, pod)| Some((pod.status.pod_ip.as_deref()?, (*o, *pod))))
                .collect(),
        }
    }

    /// Whether a Service is another name for one that the config has.
    fn is_alias(&self, service: &Service, domain: &str) -> bool {
        let (Some(ServiceType::ExternalName), Some(target)) = (service.service_type, &service.external_name)
        else {
            return false;
        };
        let target = target.trim_end_matches('.');
        self.objects.services().iter().any(|(o, _)| service_host(o, domain) == target)
            || self.objects.service_entries().iter().any(|(_, e)| e.hosts.iter().any(|h| h == target))
    }

    fn of_service(&self, object: &'o Object, service: &'o Service, domain: &str) -> Vec<Station<'o>> {
        let base = Base { object, hosts: vec![service_host(object, domain)] };
        let mut found = self.slices(&base);
        if found.is_empty() {
            found = self.endpoints(&base);
        }
        if !service.selector.is_empty() {
            if found.is_empty() {
                found = self.selected_pods(&base, service);
            }
            found.extend(self.selected_entries(&base, service));
            if found.is_empty() {
                found = self.selected_templates(&base, service);
            }
        }
        if found.is_empty() && !self.scaled_to_zero(object, service) {
            let mut station =
                base.station("service", &object.reference.name, service.selector.clone(), object);
            station.ports = service_ports(service, &[]);
            found.push(station);
        }
        found
    }

    fn slices(&self, base: &Base<'o>) -> Vec<Station<'o>> {
        let mut found = Vec::new();
        for (object, slice) in self.objects.endpoint_slices() {
            let of_this =
                object.labels.get(SERVICE_NAME).is_some_and(|name| **name == *base.object.reference.name)
                    && object.reference.namespace == base.object.reference.namespace;
            for endpoint in slice.endpoints.iter().filter(|_| of_this) {
                let Some(address) = endpoint.addresses.first() else { continue };
                let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref());
                let mut station = self.endpoint(base, pod, endpoint.hostname.as_deref(), address, object);
                station.ports = endpoint_ports(&slice.ports);
                station.conditions.clone_from(&endpoint.conditions);
                station.zone.clone_from(&endpoint.zone);
                found.push(station);
            }
        }
        found
    }

    fn endpoints(&self, base: &Base<'o>) -> Vec<Station<'o>> {
        let mut found = Vec::new();
        for (object, endpoints) in self.objects.endpoints() {
            let (name, namespace) = (&object.reference.name, &object.reference.namespace);
            let of_this =
                *name == base.object.reference.name && *namespace == base.object.reference.namespace;
            for subset in endpoints.subsets.iter().filter(|_| of_this) {
                for address in &subset.addresses {
                    let pod = address.target_ref.as_ref().and_then(|target| target.name.as_deref());
                    let mut station =
                        self.endpoint(base, pod, address.hostname.as_deref(), &address.ip, object);
                    station.ports = endpoint_ports(&subset.ports);
                    found.push(station);
                }
            }
        }
        found
    }

    /// A station for an endpoint, whose workload is known by its pod.
    fn endpoint(
        &self,
        base: &Base<'o>,
        pod: Option<&str>,
        hostname: Option<&str>,
        address: &str,
        source: &'o Object,
    ) -> Station<'o> {
        let named = pod.and_then(|name| self.pods.get(&(&*base.object.reference.namespace, name)));
        match named.or_else(|| self.pods_by_ip.get(address)) {
            Some((pod, _)) => base.station(address, &owner(pod), pod.labels.clone(), source),
            None => {
                let workload = hostname.unwrap_or(&base.object.reference.name);
                base.station(address, workload, BTreeMap::new(), source)
            }
        }
    }

    fn selected_pods(&self, base: &Base<'o>, service: &'o Service) -> Vec<Station<'o>> {
        let pods =
            self.objects.pods().into_iter().filter(|(o, _)| base.selects(&service.selector, o, &o.labels));
        pods.map(|(object, pod)| {
            let mut station =
                base.station(&object.reference.name, &owner(object), object.labels.clone(), object);
            station.ports = service_ports(service, &pod.spec.containers);
            station
        })
        .collect()
    }

    fn selected_entries(&self, base: &Base<'o>, service: &'o Service) -> Vec<Station<'o>> {
        let mut found = Vec::new();
        for (object, entry) in self.objects.workload_entries() {
            let labels = entry_labels(object, entry);
            if base.selects(&service.selector, object, labels) {
                let mut station =
                    base.station(&object.reference.name, &object.reference.name, labels.clone(), object);
                station.ports = service_ports(service, &[]);
                for port in &mut station.ports {
                    let own = port.name.as_ref().and_then(|name| entry.ports.get(name));
                    port.number = own.and_then(|own| u16::try_from(*own).ok()).unwrap_or(port.number);
                }
                found.push(station);
            }
        }
        found
    }

    /// What makes pods that a Service selects, once for each: the pods themselves are not there.
    fn selected_templates(&self, base: &Base<'o>, service: &'o Service) -> Vec<Station<'o>> {
        let mut found = Vec::new();
        for (object, workload) in self.templates() {
            let labels = &workload.template.metadata.labels;
            if base.selects(&service.selector, object, labels) && workload.replicas != Some(0) {
                let key = format!("{}/{}", object.reference.kind, object.reference.name);
                let mut station = base.station(&key, &object.reference.name, labels.clone(), object);
                station.ports = service_ports(service, &workload.template.spec.containers);
                found.push(station);
            }
        }
        found
    }

    fn templates(&self) -> impl Iterator<Item = (&'o Object, &'o Workload)> {
        self.objects.deployments().into_iter().chain(self.objects.stateful_sets())
    }

    /// Whether there is something that makes pods for this Service, but all of it makes none.
    fn scaled_to_zero(&self, object: &Object, service: &Service) -> bool {
        !service.selector.is_empty()
            && self.templates().any(|(o, workload)| {
                o.reference.namespace == object.reference.namespace
                    && selects(&service.selector, &workload.template.metadata.labels)
            })
    }

    fn of_service_entry(&self, object: &'o Object, entry: &'o ServiceEntry) -> Vec<Station<'o>> {
        // there is nothing to put an address in place of where the client's own is used
        if matches!(entry.resolution, None | Some(Resolution::None)) {
            return Vec::new();
        }
        let base = Base { object, hosts: entry.hosts.clone() };
        let mut found: Vec<Station<'o>> = entry
            .endpoints
            .iter()
            .enumerate()
            .map(|(index, e)| base.entry(&format!("endpoint-{index}"), e, e.labels.clone(), object))
            .collect();
        if let Some(selector) = &entry.workload_selector {
            found.extend(self.selected_by_entry(&base, &selector.labels));
        }
        if let (true, Some(host)) = (found.is_empty(), entry.hosts.first()) {
            let mut station = base.entry("host", &WorkloadEntry::default(), BTreeMap::new(), object);
            station.workload.clone_from(host);
            found.push(station);
        }
        for station in &mut found {
            let own = station.entry.as_ref().map(|e| &e.ports);
            station.ports = entry_ports(entry, own);
        }
        found
    }

    fn selected_by_entry(&self, base: &Base<'o>, selector: &BTreeMap<String, String>) -> Vec<Station<'o>> {
        let mut found = Vec::new();
        for (object, entry) in self.objects.workload_entries() {
            let labels = entry_labels(object, entry);
            if base.selects(selector, object, labels) {
                let mut station = base.entry(&object.reference.name, entry, labels.clone(), object);
                station.workload = object.reference.name.to_string();
                found.push(station);
            }
        }
        for (object, _) in self.objects.pods() {
            if base.selects(selector, object, &object.labels) {
                let entry = WorkloadEntry::default();
                let mut station = base.entry(&object.reference.name, &entry, object.labels.clone(), object);
                station.workload = owner(object);
                found.push(station);
            }
        }
        found
    }
}

/// The service whose stations are made.
struct Base<'o> {
    object: &'o Object,
    hosts: Vec<String>,
}

impl<'o> Base<'o> {
    /// Whether `selector` of this service takes in a workload.
    fn selects(
        &self,
        selector: &BTreeMap<String, String>,
        workload: &Object,
        labels: &BTreeMap<String, String>,
    ) -> bool {
        workload.reference.namespace == self.object.reference.namespace && selects(selector, labels)
    }

    fn station(
        &self,
        key: &str,
        workload: &str,
        labels: BTreeMap<String, String>,
        source: &'o Object,
    ) -> Station<'o> {
        Station {
            key: format!("{}/{key}", self.object.reference),
            service: self.object,
            hosts: self.hosts.clone(),
            workload: workload.to_owned(),
            labels,
            ports: Vec::new(),
            conditions: None,
            zone: None,
            entry: None,
            source,
        }
    }

    fn entry(
        &self,
        key: &str,
        entry: &WorkloadEntry,
        labels: BTreeMap<String, String>,
        source: &'o Object,
    ) -> Station<'o> {
        let workload = entry.address.as_deref().unwrap_or(&self.object.reference.name);
        let mut station = self.station(key, workload, labels, source);
        station.entry = Some(entry.clone());
        station
    }
}

fn service_host(object: &Object, domain: &str) -> String {
    format!("{}.{}.svc.{domain}", object.reference.name, object.reference.namespace)
}

/// Labels of a WorkloadEntry: those of its content, else those of the object.
fn entry_labels<'o>(object: &'o Object, entry: &'o WorkloadEntry) -> &'o BTreeMap<String, String> {
    if entry.labels.is_empty() { &object.labels } else { &entry.labels }
}

/// What a pod was made by: the Deployment behind a ReplicaSet, or any other owner, or else the pod.
fn owner(pod: &Object) -> String {
    let Some(owner) = pod.owners.first() else { return pod.reference.name.to_string() };
    let hash = pod.labels.get("pod-template-hash").map(String::as_str);
    let deployment = match owner.name.rsplit_once('-') {
        Some((deployment, suffix)) if hash.is_none_or(|hash| hash == suffix) => deployment,
        _ => &owner.name,
    };
    if owner.kind == "ReplicaSet" { deployment.to_owned() } else { owner.name.clone() }
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|p| p.eq_ignore_ascii_case("tcp"))
}

fn endpoint_ports(ports: &[EndpointPort]) -> Vec<StationPort> {
    let tcp = ports.iter().filter(|port| is_tcp(port.protocol.as_deref()));
    tcp.filter_map(|port| {
        Some(StationPort { name: port.name.clone(), number: u16::try_from(port.port?).ok()? })
    })
    .collect()
}

/// Ports by the Service's `targetPort`. A named one is looked up in `containers`; where nothing is known of those,
/// the Service's own number stands for it.
fn service_ports(service: &Service, containers: &[Container]) -> Vec<StationPort> {
    let target = |port: &ServicePort| match &port.target_port {
        None => Some(port.port),
        Some(NumberOrName::Number(number)) => Some(*number),
        Some(NumberOrName::Name(_)) if containers.is_empty() => Some(port.port),
        Some(NumberOrName::Name(name)) => {
            let mut ports = containers.iter().flat_map(|container| &container.ports);
            ports.find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port)
        }
    };
    let tcp = service.ports.iter().filter(|port| is_tcp(port.protocol.as_deref()));
    tcp.filter_map(|port| {
        Some(StationPort { name: port.name.clone(), number: u16::try_from(target(port)?).ok()? })
    })
    .collect()
}

/// Ports of a ServiceEntry's endpoint: its own by name, else the `targetPort`, else the number.
fn entry_ports(entry: &ServiceEntry, own: Option<&BTreeMap<String, u32>>) -> Vec<StationPort> {
    let number = |port: &tidegate_api::istio::ServicePort| {
        let own = own.and_then(|own| own.get(&port.name).copied());
        u16::try_from(own.or(port.target_port).unwrap_or(port.number)).ok()
    };
    let ports = entry.ports.iter();
    ports
        .filter_map(|port| Some(StationPort { name: Some(port.name.clone()), number: number(port)? }))
        .collect()
}
