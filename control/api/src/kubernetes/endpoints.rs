use super::{EndpointPort, ObjectReference};
use crate::decode::fields;

fields! {
    /// The endpoints of the Service of the same name.
    pub struct Endpoints others ["apiVersion", "kind", "metadata"] {
        /// Sets of addresses with their ports.
        "subsets" => subsets: Vec<EndpointSubset>,
    }

    /// Addresses that have the same ports.
    pub struct EndpointSubset {
        /// Those that are ready.
        "addresses" => addresses: Vec<EndpointAddress>,
        /// Those that are not.
        "notReadyAddresses" => not_ready_addresses: Vec<EndpointAddress>,
        /// Their ports.
        "ports" => ports: Vec<EndpointPort>,
    }

    /// An address.
    pub struct EndpointAddress {
        /// The IP address.
        "ip" => ip: String,
        /// Its host name.
        "hostname" => hostname: Option<String>,
        /// The node that it runs on.
        "nodeName" => node_name: Option<String>,
        /// The pod that it is.
        "targetRef" => target_ref: Option<ObjectReference>,
    }
}
