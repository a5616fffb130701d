use crate::Env;
use tidegate_api::Object;
use tidegate_model::Diagnostic;
/// Validates.
pub fn validate(_: &Object, _: &Env) -> Vec<Diagnostic> { Vec::new() }
