//! YAML and JSON as Kubernetes reads them, with positions.

mod compose;
mod scalar;
mod split;

pub(crate) use compose::{Invalid, compose};
pub(crate) use scalar::is_text;
pub(crate) use split::split;
