use super::WorkloadEntry;
use crate::decode::{fields, names};
use std::collections::BTreeMap;

fields! {
    /// A service that no Kubernetes Service describes.
    pub struct ServiceEntry required ["hosts"] {
        /// Its hosts.
        "hosts" => hosts: Vec<String>,
        /// Its virtual addresses.
        "addresses" => addresses: Vec<String>,
        /// Its ports.
        "ports" => ports: Vec<ServicePort>,
        /// Whether it is part of the mesh; MESH_EXTERNAL when absent.
        "location" => location: Option<Location>,
        /// How its endpoints are found; NONE when absent.
        "resolution" => resolution: Option<Resolution>,
        /// Its endpoints.
        "endpoints" => endpoints: Vec<WorkloadEntry>,
        /// Labels of the pods and WorkloadEntries that are its endpoints.
        "workloadSelector" => workload_selector: Option<WorkloadSelector>,
        /// Namespaces that see it.
        "exportTo" => export_to: Vec<String>,
        /// Names that its certificate must have.
        "subjectAltNames" => subject_alt_names: Vec<String>,
    }

    /// A port of a [`ServiceEntry`].
    pub struct ServicePort {
        /// The port.
        "number" => number: u32,
        /// HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP, TLS, in any case.
        "protocol" => protocol: Option<String>,
        /// A name, unique in the ServiceEntry.
        "name" => name: String,
        /// The endpoint's port, when another.
        "targetPort" => target_port: Option<u32>,
    }

    /// Labels of workloads.
    pub struct WorkloadSelector {
        /// All of these.
        "labels" => labels: BTreeMap<String, String>,
    }
}

names! {
    /// Whether a service is part of the mesh.
    pub enum Location {
        /// It is not.
        "MESH_EXTERNAL" => MeshExternal,
        /// It is.
        "MESH_INTERNAL" => MeshInternal,
    }

    /// How the endpoints of a [`ServiceEntry`] are found.
    pub enum Resolution {
        /// The address that the client connected to.
        "NONE" => None,
        /// The addresses of its endpoints.
        "STATIC" => Static,
        /// By asynchronous DNS, all addresses.
        "DNS" => Dns,
        /// By DNS, one address at a time.
        "DNS_ROUND_ROBIN" => DnsRoundRobin,
        /// By DNS of the request's own host.
        "DYNAMIC_DNS" => DynamicDns,
    }
}
