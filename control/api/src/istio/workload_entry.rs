use crate::decode::fields;
use std::collections::BTreeMap;

fields! {
    /// A workload outside Kubernetes, or an endpoint of a ServiceEntry.
    pub struct WorkloadEntry {
        /// An IP address, a DNS name or `unix:///path`.
        "address" => address: Option<String>,
        /// Ports by the names of the service's ports.
        "ports" => ports: BTreeMap<String, u32>,
        /// Labels, for subsets and selectors.
        "labels" => labels: BTreeMap<String, String>,
        /// The network that it is in.
        "network" => network: Option<String>,
        /// `region/zone/subzone`.
        "locality" => locality: Option<String>,
        /// Its share of load; 1 when absent.
        "weight" => weight: Option<u32>,
        /// Its service account.
        "serviceAccount" => service_account: Option<String>,
    }
}
