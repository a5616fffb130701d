use crate::decode::{fields, names};
use std::collections::BTreeMap;

fields! {
    /// Some of the endpoints of a Service, which the label `kubernetes.io/service-name` names.
    pub struct EndpointSlice others ["apiVersion", "kind", "metadata"] {
        /// What its addresses are.
        "addressType" => address_type: AddressType,
        /// The endpoints.
        "endpoints" => endpoints: Vec<Endpoint>,
        /// The ports that each endpoint has.
        "ports" => ports: Vec<EndpointPort>,
    }

    /// An endpoint.
    pub struct Endpoint others ["hints", "topology"] {
        /// Its addresses, which are all the same one; the first is used.
        "addresses" => addresses: Vec<String>,
        /// Whether it can be used.
        "conditions" => conditions: Option<EndpointConditions>,
        /// Its host name.
        "hostname" => hostname: Option<String>,
        /// The pod that it is.
        "targetRef" => target_ref: Option<ObjectReference>,
        /// The node that it runs on.
        "nodeName" => node_name: Option<String>,
        /// The zone that it is in.
        "zone" => zone: Option<String>,
        /// Topology of the v1beta1 API.
        "deprecatedTopology" => deprecated_topology: BTreeMap<String, String>,
    }

    /// Whether an endpoint can be used.
    pub struct EndpointConditions {
        /// Ready for traffic; absent is true.
        "ready" => ready: Option<bool>,
        /// Ready, or would be if it were not terminating.
        "serving" => serving: Option<bool>,
        /// About to end.
        "terminating" => terminating: Option<bool>,
    }

    /// A port of endpoints.
    pub struct EndpointPort {
        /// The name of the Service's port.
        "name" => name: Option<String>,
        /// TCP when absent.
        "protocol" => protocol: Option<String>,
        /// The endpoint's port.
        "port" => port: Option<u32>,
        /// What is spoken on it.
        "appProtocol" => app_protocol: Option<String>,
    }

    /// A reference to an object.
    pub struct ObjectReference others ["uid", "apiVersion", "resourceVersion", "fieldPath"] {
        /// Its kind.
        "kind" => kind: Option<String>,
        /// Its namespace.
        "namespace" => namespace: Option<String>,
        /// Its name.
        "name" => name: Option<String>,
    }
}

names! {
    /// What the addresses of an EndpointSlice are.
    #[derive(Default)]
    pub enum AddressType {
        /// IPv4 addresses.
        #[default]
        "IPv4" => Ipv4,
        /// IPv6 addresses.
        "IPv6" => Ipv6,
        /// DNS names.
        "FQDN" => Fqdn,
    }
}
