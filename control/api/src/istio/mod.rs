//! Istio's networking API (`networking.istio.io` v1, v1beta1 and v1alpha3, which have one schema), what is served of
//! its security and telemetry APIs, and its mesh config: every field, by the names of Istio's CRDs.

mod authorization_policy;
mod destination_rule;
mod gateway;
mod mesh_config;
mod peer_authentication;
mod proxy_config;
mod request_authentication;
mod service_entry;
mod telemetry;
mod virtual_service;
mod workload_entry;

pub use authorization_policy::*;
pub use destination_rule::*;
pub use gateway::*;
pub use mesh_config::*;
pub use peer_authentication::*;
pub use proxy_config::*;
pub use request_authentication::*;
pub use service_entry::*;
pub use telemetry::*;
pub use virtual_service::*;
pub use workload_entry::*;
