use crate::decode::fields;
use crate::istio::MeshConfig;
use std::collections::BTreeMap;

fields! {
    pub(crate) struct ConfigMapFields others ["apiVersion", "kind", "metadata", "immutable"] {
        "data" => data: BTreeMap<String, String>,
        "binaryData" => binary_data: BTreeMap<String, crate::Base64>,
    }
}

/// Configuration by keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConfigMap {
    /// Texts.
    pub data: BTreeMap<String, String>,
    /// Bytes.
    pub binary_data: BTreeMap<String, crate::Base64>,
    /// The mesh config, when this is Istio's ConfigMap: named `istio` or `istio-REVISION`, with a key `mesh`.
    pub mesh: Option<Box<MeshConfig>>,
}
