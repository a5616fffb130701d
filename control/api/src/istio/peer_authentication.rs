use super::LabelSelector;
use crate::decode::{fields, names};
use std::collections::BTreeMap;

fields! {
    /// What sidecars accept (`security.istio.io`). A gateway has no part in it.
    pub struct PeerAuthentication = default {
        /// The workloads; absent is all of the namespace.
        "selector" => selector: Option<LabelSelector>,
        /// On every port.
        "mtls" => mtls: Option<MutualTls>,
        /// On some ports, by their numbers.
        "portLevelMtls" => port_level_mtls: BTreeMap<String, MutualTls>,
    }

    /// Whether mesh TLS is spoken.
    pub struct MutualTls {
        /// Absent is what the namespace or the mesh says.
        "mode" => mode: Option<MutualTlsMode>,
    }
}

names! {
    /// Whether mesh TLS is spoken.
    pub enum MutualTlsMode {
        /// As the namespace or the mesh says.
        "UNSET" => Unset,
        /// Never.
        "DISABLE" => Disable,
        /// As the client does.
        "PERMISSIVE" => Permissive,
        /// Always.
        "STRICT" => Strict,
    }
}
