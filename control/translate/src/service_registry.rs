use crate::Env;
use crate::export::{Reach, reach};
use crate::hold::is_kept;
use crate::hosts::{canonical, is_subset, service_host};
use crate::protocol::Protocol;
use crate::world::{Item, port, selects};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidegate_api::istio::{Resolution, ServiceEntry, WorkloadEntry};
use tidegate_api::kubernetes::{
    AddressType, EndpointSlice, Endpoints, Pod, Service as KubeService, ServiceType,
};
use tidegate_api::{Object, Objects};

/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The annotation that is a Service's `exportTo`.
const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// A host that routes can name.
#[derive(Debug)]
pub(crate) struct Service<'a> {
    pub(crate) host: Arc<str>,
    /// Its short name, for metrics.
    pub(crate) name: Arc<str>,
    pub(crate) namespace: Arc<str>,
    pub(crate) ports: Vec<Port>,
    /// Where it comes from: one Service, or the ServiceEntries that have its host.
    pub(crate) sources: Vec<Source<'a>>,
    /// Of an ExternalName Service: what it stands for, in lower case.
    pub(crate) alias: Option<String>,
    /// What is kept of namespaces that had the host before, for what routes need and this one does not have.
    pub(crate) former: Vec<Service<'a>>,
}

/// A port of a [`Service`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
}

/// What a [`Service`] comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    Kubernetes(Item<'a, KubeService>),
    Entry(Item<'a, ServiceEntry>),
}

/// What an entry says of a host that is not its own.
#[derive(Debug)]
pub(crate) struct Denied<'a> {
    pub(crate) entry: &'a Object,
    pub(crate) field: String,
    pub(crate) host: Arc<str>,
    /// Whose the host is.
    pub(crate) owner: &'a Object,
}

/// The services that are visible, and what their endpoints are made of.
#[derive(Debug)]
pub(crate) struct Registry<'a> {
    services: BTreeMap<Arc<str>, Service<'a>>,
    /// What entries say of hosts that are not their own.
    pub(crate) denied: Vec<Denied<'a>>,
    pub(crate) slices: BTreeMap<(&'a str, &'a str), Vec<Item<'a, EndpointSlice>>>,
    pub(crate) endpoints: BTreeMap<(&'a str, &'a str), Item<'a, Endpoints>>,
    /// By namespace.
    pub(crate) pods: BTreeMap<&'a str, Vec<Item<'a, Pod>>>,
    pub(crate) pods_by_name: BTreeMap<(&'a str, &'a str), Item<'a, Pod>>,
    pub(crate) pods_by_ip: BTreeMap<&'a str, Item<'a, Pod>>,
    pub(crate) nodes: BTreeMap<&'a str, &'a Object>,
    /// By namespace.
    pub(crate) workload_entries: BTreeMap<&'a str, Vec<Item<'a, WorkloadEntry>>>,
}

impl<'a> Registry<'a> {
    /// What a proxy in `env.namespace` sees.
    pub(crate) fn new(objects: &'a Objects, env: &Env, default_export_to: &[String]) -> Self {
        let mut registry = Registry {
            services: BTreeMap::new(),
            denied: Vec::new(),
            slices: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            pods: BTreeMap::new(),
            pods_by_name: BTreeMap::new(),
            pods_by_ip: BTreeMap::new(),
            nodes: BTreeMap::new(),
            workload_entries: BTreeMap::new(),
        };
        for (object, service) in objects.services() {
            let export_to: Vec<String> = object
                .annotations
                .get(EXPORT_TO)
                .map(|v| v.split(',').map(|n| n.trim().to_owned()).collect())
                .unwrap_or_default();
            if reach(&export_to, default_export_to, &object.reference.namespace, &env.namespace).is_some() {
                registry.add_service((object, service), &env.domain);
            }
        }
        let mut entries = Vec::new();
        for (object, entry) in objects.service_entries() {
            let found =
                reach(&entry.export_to, default_export_to, &object.reference.namespace, &env.namespace);
            entries.extend(found.map(|reach| (reach, (object, entry))));
        }
        // A host is of who comes first: those who name the gateway's namespace before those who name all, by age. What is
        // only kept of an earlier version comes last.
        entries.sort_by_key(|(reach, (object, _))| {
            let r = &object.reference;
            let age = (object.created.is_none(), object.created);
            (is_kept(object), *reach == Reach::Public, age, r.namespace.clone(), r.name.clone())
        });
        entries.into_iter().for_each(|(_, item)| registry.add_entry(item));
        registry.index_workloads(objects);
        registry
    }

    fn add_service(&mut self, item: Item<'a, KubeService>, domain: &str) {
        let (object, service) = item;
        let reference = &object.reference;
        let host: Arc<str> = service_host(&reference.name, &reference.namespace, domain).into();
        let external = service.service_type == Some(ServiceType::ExternalName);
        let alias = service.external_name.as_ref().filter(|_| external);
        let ports = service.ports.iter().filter_map(|p| {
            let name = p.name.clone().unwrap_or_default();
            let protocol = Protocol::of_service_port(p.protocol.as_deref(), p.app_protocol.as_deref(), &name);
            Some(Port { number: port(p.port)?, name, protocol }).filter(|p| p.protocol != Protocol::Udp)
        });
        let made = Service {
            host: host.clone(),
            name: reference.name.clone(),
            namespace: reference.namespace.clone(),
            ports: ports.collect(),
            sources: vec![Source::Kubernetes(item)],
            alias: alias.map(|a| a.trim_end_matches('.').to_ascii_lowercase()),
            former: Vec::new(),
        };
        self.services.insert(host, made);
    }

    /// A host is of one namespace. Of several entries there ports are merged, endpoints combined; a Service of
    /// Kubernetes has the ports that it has.
    fn add_entry(&mut self, item: Item<'a, ServiceEntry>) {
        let (object, entry) = item;
        let namespace = &object.reference.namespace;
        for (i, host) in entry.hosts.iter().enumerate() {
            let host: Arc<str> = canonical(host).into();
            let new = || Service::of_entries(&host, namespace);
            let mut service = self.services.entry(host.clone()).or_insert_with(new);
            let owner = service.sources.first().map(Source::object);
            let deny = |field, owner| Denied { entry: object, field, host: host.clone(), owner };
            if let Some(owner) = owner
                && service.namespace != *namespace
            {
                if !is_kept(object) {
                    self.denied.push(deny(format!("spec.hosts[{i}]"), owner));
                    continue;
                }
                service = service.before_in(namespace);
            }
            let closed = matches!(service.sources.first(), Some(Source::Kubernetes(_))) && !is_kept(object);
            service.sources.push(Source::Entry(item));
            for (p, port) in ports(entry) {
                match owner {
                    _ if service.port(port.number).is_some() => {}
                    Some(owner) if closed => self.denied.push(deny(format!("spec.ports[{p}]"), owner)),
                    _ => service.ports.push(port),
                }
            }
        }
    }

    fn index_workloads(&mut self, objects: &'a Objects) {
        for (object, slice) in objects.endpoint_slices() {
            if slice.address_type == AddressType::Fqdn {
                continue;
            }
            if let Some(service) = object.labels.get(SERVICE_NAME) {
                self.slices.entry((&object.reference.namespace, service)).or_default().push((object, slice));
            }
        }
        for item in objects.endpoints() {
            self.endpoints.insert((&item.0.reference.namespace, &item.0.reference.name), item);
        }
        for item in objects.pods() {
            let (reference, status) = (&item.0.reference, &item.1.status);
            self.pods.entry(&reference.namespace).or_default().push(item);
            self.pods_by_name.insert((&reference.namespace, &reference.name), item);
            let ips = status.pod_ips.iter().filter_map(|ip| ip.ip.as_deref());
            for ip in status.pod_ip.as_deref().into_iter().chain(ips) {
                self.pods_by_ip.entry(ip).or_insert(item);
            }
        }
        self.nodes = objects.nodes().into_iter().map(|(o, _)| (&*o.reference.name, o)).collect();
        for item in objects.workload_entries() {
            self.workload_entries.entry(&item.0.reference.namespace).or_default().push(item);
        }
    }

    /// The service with exactly that host.
    pub(crate) fn get(&self, host: &str) -> Option<&Service<'a>> {
        self.services.get(host)
    }

    /// The services that have only names of `host`.
    pub(crate) fn within(&self, host: &str) -> Vec<&Service<'a>> {
        match host.starts_with('*') {
            true => self.services.values().filter(|s| is_subset(&s.host, host)).collect(),
            false => self.services.get(host).into_iter().collect(),
        }
    }

    /// Whether there is one.
    pub(crate) fn has_within(&self, host: &str) -> bool {
        self.services.contains_key(host)
            || (host.starts_with('*') && self.services.keys().any(|s| is_subset(s, host)))
    }

    /// All services by host.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Service<'a>> {
        self.services.values()
    }

    /// The Services of `namespace` that select a workload with `labels`.
    pub(crate) fn selecting<'s>(
        &'s self,
        namespace: &'s str,
        labels: &'s BTreeMap<String, String>,
    ) -> impl Iterator<Item = Item<'a, KubeService>> + 's {
        self.services.values().filter(move |s| *s.namespace == *namespace).filter_map(move |s| {
            match s.sources.first() {
                Some(Source::Kubernetes(item))
                    if !item.1.selector.is_empty() && selects(&item.1.selector, labels) =>
                {
                    Some(*item)
                }
                _ => None,
            }
        })
    }
}

/// The ports of an entry, each with its index.
fn ports(entry: &ServiceEntry) -> impl Iterator<Item = (usize, Port)> {
    entry.ports.iter().enumerate().filter_map(|(i, p)| {
        let protocol = match &p.protocol {
            Some(protocol) => Protocol::parse(protocol).unwrap_or(Protocol::Unknown),
            None => Protocol::of_service_port(None, None, &p.name),
        };
        Some((i, Port { number: port(p.number)?, name: p.name.clone(), protocol }))
    })
}

impl<'a> Source<'a> {
    /// The Service or ServiceEntry.
    pub(crate) fn object(&self) -> &'a Object {
        match self {
            Source::Kubernetes((object, _)) | Source::Entry((object, _)) => object,
        }
    }
}

impl<'a> Service<'a> {
    /// The port with that number.
    pub(crate) fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|p| p.number == number)
    }

    /// One that ServiceEntries of a namespace make.
    fn of_entries(host: &Arc<str>, namespace: &Arc<str>) -> Self {
        Service {
            host: host.clone(),
            name: host.clone(),
            namespace: namespace.clone(),
            ports: Vec::new(),
            sources: Vec::new(),
            alias: None,
            former: Vec::new(),
        }
    }

    /// What it was when it was of that namespace, as far as that is kept.
    fn before_in(&mut self, namespace: &Arc<str>) -> &mut Self {
        let known = self.former.iter().position(|former| former.namespace == *namespace);
        let at = known.unwrap_or_else(|| {
            self.former.push(Service::of_entries(&self.host, namespace));
            self.former.len() - 1
        });
        &mut self.former[at]
    }

    /// The names of which certificates of its endpoints must have one; empty where that is not said.
    pub(crate) fn subject_alt_names(&self) -> Vec<Arc<str>> {
        let entries = self.sources.iter().filter_map(|source| match source {
            Source::Kubernetes(_) => None,
            Source::Entry((_, entry)) => Some(entry),
        });
        entries.flat_map(|entry| &entry.subject_alt_names).map(|name| name.as_str().into()).collect()
    }

    /// Whether its endpoints are whatever address a client asked for, so that a gateway has none.
    pub(crate) fn has_no_endpoints_by_nature(&self) -> bool {
        !self.sources.is_empty()
            && self.sources.iter().all(|s| match s {
                Source::Kubernetes(_) => false,
                Source::Entry((_, entry)) => {
                    matches!(entry.resolution, None | Some(Resolution::None))
                        && entry.workload_selector.is_none()
                }
            })
    }
}
