use crate::decode::{Decode, Decoder, fields, names};
use crate::value::{Data, Value};
use std::collections::BTreeMap;

fields! {
    /// The `spec` of a Service.
    pub struct Service others ["loadBalancerIP", "loadBalancerSourceRanges", "externalTrafficPolicy", "healthCheckNodePort", "sessionAffinityConfig", "ipFamily", "ipFamilies", "ipFamilyPolicy", "allocateLoadBalancerNodePorts", "loadBalancerClass", "internalTrafficPolicy", "topologyKeys"] {
        /// ClusterIP when absent.
        "type" => service_type: Option<ServiceType>,
        /// Labels of its pods; empty for one whose endpoints are written by hand.
        "selector" => selector: BTreeMap<String, String>,
        /// Its ports.
        "ports" => ports: Vec<ServicePort>,
        /// Its address; `None` as text for a headless one.
        "clusterIP" => cluster_ip: Option<String>,
        /// All its addresses.
        "clusterIPs" => cluster_ips: Vec<String>,
        /// The name it stands for, of type ExternalName.
        "externalName" => external_name: Option<String>,
        /// More addresses that reach it.
        "externalIPs" => external_ips: Vec<String>,
        /// `None` or `ClientIP`.
        "sessionAffinity" => session_affinity: Option<String>,
        /// Whether endpoints that are not ready are published too.
        "publishNotReadyAddresses" => publish_not_ready_addresses: Option<bool>,
        /// Which endpoints are preferred: `PreferClose`, `PreferSameZone` or `PreferSameNode`.
        "trafficDistribution" => traffic_distribution: Option<String>,
    }

    /// A port of a Service.
    pub struct ServicePort {
        /// Its name; needed when there are several.
        "name" => name: Option<String>,
        /// TCP when absent.
        "protocol" => protocol: Option<String>,
        /// What is spoken on it, such as `http`, `kubernetes.io/h2c`, `https`.
        "appProtocol" => app_protocol: Option<String>,
        /// The port.
        "port" => port: u32,
        /// The pod's port; the same when absent.
        "targetPort" => target_port: Option<NumberOrName>,
        /// The node's port.
        "nodePort" => node_port: Option<u32>,
    }
}

impl Service {
    /// The port with that number that TCP is spoken on, and its index. The same number may be UDP's as well.
    pub fn declared(&self, number: u16) -> Option<(usize, &ServicePort)> {
        let tcp = |p: &ServicePort| !p.protocol.as_deref().is_some_and(|p| p.eq_ignore_ascii_case("UDP"));
        self.ports.iter().enumerate().find(|(_, p)| p.port == u32::from(number) && tcp(p))
    }
}

names! {
    /// What a Service is.
    pub enum ServiceType {
        /// Reached inside the cluster.
        "ClusterIP" => ClusterIp,
        /// Reached at every node.
        "NodePort" => NodePort,
        /// Reached through a load balancer.
        "LoadBalancer" => LoadBalancer,
        /// Another name for a host.
        "ExternalName" => ExternalName,
    }
}

/// A port by its number, or by the name that a container gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NumberOrName {
    /// The number.
    Number(u32),
    /// The name.
    Name(String),
}

impl Decode for NumberOrName {
    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self> {
        match &value.data {
            Data::String(name) => Some(NumberOrName::Name(name.clone())),
            Data::Integer(_) => u32::decode(value, at).map(NumberOrName::Number),
            _ => at.wrong_type("a port number or a port name", value),
        }
    }
}
