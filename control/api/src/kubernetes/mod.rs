//! The parts of Kubernetes' own objects that routing needs. Other fields that they have are left alone.

mod config_map;
mod endpoint_slice;
mod endpoints;
mod namespace;
mod node;
mod pod;
mod secret;
mod service;
mod workload;

pub use config_map::*;
pub use endpoint_slice::*;
pub use endpoints::*;
pub use namespace::*;
pub use node::*;
pub use pod::*;
pub use secret::*;
pub use service::*;
pub use workload::*;

pub(crate) use config_map::ConfigMapFields;
