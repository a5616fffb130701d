//! YAML and JSON as Kubernetes reads them, with positions.
//!
//! One parse gives the values and the place of each, so that diagnostics and config never disagree. Scalars are
//! resolved here and not by a YAML 1.2 library because Kubernetes reads YAML 1.1: there `httpsRedirect: yes` is true
//! and the header value `on` is no string.

mod compose;
mod input;
mod scalar;
mod split;

pub(crate) use compose::{Invalid, compose};
pub(crate) use scalar::is_text;
pub(crate) use split::split;
