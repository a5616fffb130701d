//! Puts listeners of our own in place of real endpoints, as if they had been written so.

use super::workloads::{SERVICE_NAME, Station};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tidegate_api::istio::{Resolution, WorkloadEntry};
use tidegate_api::kubernetes::{
    AddressType, Endpoint, EndpointPort, EndpointSlice, Endpoints, ObjectReference, Pod, PodStatus,
};
use tidegate_api::{Object, Objects, Owner, Spec};
use tidegate_model::ObjectRef;

/// `objects` with the listener of each station (`address` of its ports) in place of the endpoints that it came from.
pub(super) fn rewrite(
    objects: &Objects,
    stations: &[Station<'_>],
    address: impl Fn(&Station<'_>, u16) -> Option<SocketAddr>,
) -> Objects {
    let mut rewritten = objects.clone();
    for station in stations {
        empty(&mut rewritten, station.source);
        match &station.service.spec {
            Spec::ServiceEntry(_) => close_entry(&mut rewritten, station.service),
            _ => close_service(&mut rewritten, station.service),
        }
    }
    for station in stations {
        match &station.entry {
            Some(entry) => add_entry(&mut rewritten, station, entry, &address),
            None => add_slices(&mut rewritten, station, &address),
        }
    }
    rewritten
}

/// Takes the endpoints out of the object that they were written in.
fn empty(objects: &mut Objects, source: &Object) {
    let mut object = source.clone();
    match &mut object.spec {
        Spec::EndpointSlice(slice) => slice.endpoints.clear(),
        Spec::Endpoints(endpoints) => **endpoints = Endpoints::default(),
        Spec::WorkloadEntry(entry) => {
            entry.labels.clear();
            object.labels.clear();
        }
        Spec::Pod(pod) => pod.status = PodStatus::default(),
        _ => return,
    }
    objects.insert(Arc::new(object));
}

/// A Service that is another name for a host becomes one with endpoints.
fn close_service(objects: &mut Objects, service: &Object) {
    let mut object = service.clone();
    if let Spec::Service(spec) = &mut object.spec
        && spec.external_name.take().is_some()
    {
        spec.service_type = None;
        objects.insert(Arc::new(object));
    }
}

/// A ServiceEntry has the endpoints that it is given, and no others.
fn close_entry(objects: &mut Objects, entry: &Object) {
    let mut object = entry.clone();
    if let Spec::ServiceEntry(spec) = &mut object.spec {
        spec.resolution = Some(Resolution::Static);
        spec.workload_selector = None;
        spec.endpoints.clear();
        objects.insert(Arc::new(object));
    }
}

fn add_entry(
    objects: &mut Objects,
    station: &Station<'_>,
    entry: &WorkloadEntry,
    address: impl Fn(&Station<'_>, u16) -> Option<SocketAddr>,
) {
    let listeners: Vec<_> =
        station.ports.iter().filter_map(|p| Some((p.name.clone()?, address(station, p.number)?))).collect();
    let (Some((_, first)), Some(object)) = (listeners.first(), objects.get(&station.service.reference))
    else {
        return;
    };
    let mut object = Object::clone(object);
    if let Spec::ServiceEntry(spec) = &mut object.spec {
        spec.endpoints.push(WorkloadEntry {
            address: Some(first.ip().to_string()),
            ports: listeners.iter().map(|(name, at)| (name.clone(), u32::from(at.port()))).collect(),
            labels: station.labels.clone(),
            network: None,
            ..entry.clone()
        });
    }
    objects.insert(Arc::new(object));
}

/// A pod, and slices that name it: one for each address that its listeners have, which is one as a rule.
fn add_slices(
    objects: &mut Objects,
    station: &Station<'_>,
    address: impl Fn(&Station<'_>, u16) -> Option<SocketAddr>,
) {
    let mut by_ip: BTreeMap<_, Vec<EndpointPort>> = BTreeMap::new();
    for port in &station.ports {
        let Some(at) = address(station, port.number) else { continue };
        by_ip.entry(at.ip()).or_default().push(EndpointPort {
            name: port.name.clone(),
            port: Some(at.port().into()),
            ..EndpointPort::default()
        });
    }
    let name = pod_name(station);
    for (index, (ip, ports)) in by_ip.into_iter().enumerate() {
        let name = if index == 0 { name.clone() } else { format!("{name}-{index}") };
        let mut pod = Pod::default();
        pod.status.pod_ip = Some(ip.to_string());
        pod.status.phase = Some("Running".to_owned());
        let endpoint = Endpoint {
            addresses: vec![ip.to_string()],
            conditions: station.conditions.clone(),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".to_owned()),
                namespace: Some(station.service.reference.namespace.to_string()),
                name: Some(name.clone()),
            }),
            zone: station.zone.clone(),
            ..Endpoint::default()
        };
        let slice = EndpointSlice { address_type: AddressType::Ipv4, endpoints: vec![endpoint], ports };
        let service = station.service.reference.name.to_string();
        let labels = BTreeMap::from([(SERVICE_NAME.to_owned(), service)]);
        objects.insert(made(station, "Pod", &name, "v1", station.labels.clone(), Spec::Pod(Box::new(pod))));
        let slice = Spec::EndpointSlice(Box::new(slice));
        objects.insert(made(station, "EndpointSlice", &name, "discovery.k8s.io/v1", labels, slice));
    }
}

/// `echo.SERVICE.SOURCE`: unique, and not a name that a pod has.
fn pod_name(station: &Station<'_>) -> String {
    let tail = station.key.splitn(3, '/').last().unwrap_or_default();
    format!("echo.{}", tail.replace(['/', ':'], "."))
}

/// An object that stands where what it was made from was written.
fn made(
    station: &Station<'_>,
    kind: &str,
    name: &str,
    api_version: &str,
    labels: BTreeMap<String, String>,
    spec: Spec,
) -> Arc<Object> {
    Arc::new(Object {
        reference: ObjectRef::new(kind, &station.service.reference.namespace, name),
        api_version: api_version.into(),
        labels,
        annotations: BTreeMap::new(),
        created: None,
        resource_version: None,
        generation: None,
        owners: vec![Owner { kind: "Deployment".to_owned(), name: station.workload.clone() }],
        spec,
        file: station.source.file.clone(),
        written: station.source.written.clone(),
    })
}
