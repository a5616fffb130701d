//! YAML and JSON as Kubernetes reads them, with positions.

mod scalar;

pub(crate) use scalar::{is_text, resolve};
