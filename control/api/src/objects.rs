use crate::istio::{
    AuthorizationPolicy, DestinationRule, Gateway, RequestAuthentication, ServiceEntry, Telemetry,
    VirtualService, WorkloadEntry,
};
use crate::kubernetes::{
    ConfigMap, EndpointSlice, Endpoints, Namespace, Node, Pod, Secret, Service, Workload,
};
use crate::object::{Object, Spec};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidegate_model::ObjectRef;

/// Objects by kind, namespace, name and API group, each of them once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    by_key: BTreeMap<(ObjectRef, Arc<str>), Arc<Object>>,
}

impl Objects {
    /// No objects.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies `object`: it takes the place of one with the same kind, namespace, name and group, which is returned.
    pub fn insert(&mut self, object: Arc<Object>) -> Option<Arc<Object>> {
        let key = (object.reference.clone(), object.group().into());
        self.by_key.insert(key, object)
    }

    /// The object of that kind, namespace and name (of two API groups, the first by name).
    pub fn get(&self, reference: &ObjectRef) -> Option<&Arc<Object>> {
        let from = (reference.clone(), Arc::from(""));
        let (key, object) = self.by_key.range(from..).next()?;
        (key.0 == *reference).then_some(object)
    }

    /// The object in the place of `object`: of its kind, namespace, name and group.
    pub fn current(&self, object: &Object) -> Option<&Arc<Object>> {
        self.by_key.get(&(object.reference.clone(), object.group().into()))
    }

    /// All objects, by kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.by_key.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Objects in Istio's order: by creation timestamp, then name, then namespace, those without a timestamp last. In
    /// what order they were inserted makes no difference.
    fn sorted<'a, T>(
        &'a self,
        kind: &str,
        typed: impl Fn(&'a Spec) -> Option<&'a T>,
    ) -> Vec<(&'a Object, &'a T)> {
        let from = (ObjectRef::new(kind, "", ""), Arc::from(""));
        let of_kind = self.by_key.range(from..).take_while(|(key, _)| &*key.0.kind == kind);
        let mut found: Vec<_> =
            of_kind.filter_map(|(_, object)| Some((&**object, typed(&object.spec)?))).collect();
        found.sort_by_key(|(object, _)| {
            let r = &object.reference;
            (object.created.is_none(), object.created, &r.name, &r.namespace)
        });
        found
    }
}

macro_rules! by_kind {
    ($( $(#[$meta:meta])* $method:ident: $kind:ident($ty:ty), )*) => {
        impl Objects {
            $(
                $(#[$meta])*
                pub fn $method(&self) -> Vec<(&Object, &$ty)> {
                    self.sorted(stringify!($kind), |spec| match spec {
                        Spec::$kind(typed) => Some(&**typed),
                        _ => None,
                    })
                }
            )*
        }
    };
}

by_kind! {
    /// Gateways in Istio's order: by creation timestamp, then name, then namespace.
    gateways: Gateway(Gateway),
    /// VirtualServices in Istio's order.
    virtual_services: VirtualService(VirtualService),
    /// DestinationRules in Istio's order.
    destination_rules: DestinationRule(DestinationRule),
    /// ServiceEntries in Istio's order.
    service_entries: ServiceEntry(ServiceEntry),
    /// WorkloadEntries in Istio's order.
    workload_entries: WorkloadEntry(WorkloadEntry),
    /// RequestAuthentications in Istio's order.
    request_authentications: RequestAuthentication(RequestAuthentication),
    /// AuthorizationPolicies in Istio's order.
    authorization_policies: AuthorizationPolicy(AuthorizationPolicy),
    /// Telemetries in Istio's order.
    telemetries: Telemetry(Telemetry),
    /// Services in Istio's order.
    services: Service(Service),
    /// EndpointSlices in Istio's order.
    endpoint_slices: EndpointSlice(EndpointSlice),
    /// Endpoints in Istio's order.
    endpoints: Endpoints(Endpoints),
    /// Pods in Istio's order.
    pods: Pod(Pod),
    /// Deployments in Istio's order.
    deployments: Deployment(Workload),
    /// StatefulSets in Istio's order.
    stateful_sets: StatefulSet(Workload),
    /// Namespaces in Istio's order.
    namespaces: Namespace(Namespace),
    /// Nodes in Istio's order.
    nodes: Node(Node),
    /// Secrets in Istio's order.
    secrets: Secret(Secret),
    /// ConfigMaps in Istio's order.
    config_maps: ConfigMap(ConfigMap),
}

impl Objects {
    /// Objects of kinds that have no effect on routing, or none yet, by kind, namespace and name.
    pub fn others(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.iter().filter(|object| matches!(object.spec, Spec::PeerAuthentication(_) | Spec::Other))
    }
}

impl FromIterator<Object> for Objects {
    fn from_iter<I: IntoIterator<Item = Object>>(objects: I) -> Self {
        let mut all = Objects::new();
        for object in objects {
            all.insert(Arc::new(object));
        }
        all
    }
}
