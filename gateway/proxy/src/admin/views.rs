//! What the admin page answers in JSON.

use crate::server::State;
use serde_json::{Map, Value, json};
use tidegate_model::Diagnostic;

/// `/generation`.
pub(super) fn generation(state: &State) -> Value {
    let since = state.shown().since.map(|t| humantime::format_rfc3339_millis(t).to_string());
    json!({ "generation": state.live.generation(), "live_since": since })
}

/// Everything said about the config.
pub(super) fn diagnostics(state: &State) -> Vec<Diagnostic> {
    state.shown().diagnostics().cloned().collect()
}

/// `/config`.
pub(super) fn config(state: &State) -> Value {
    let diagnostics = diagnostics(state);
    let (objects, restored) = {
        let report = &state.shown().report;
        (report.objects.clone(), report.restored)
    };
    let (objects, generation) = (objects(), state.live.generation());
    json!({ "generation": generation, "restored": restored, "objects": objects, "diagnostics": diagnostics })
}

/// `/config/table`: listeners, route tables, virtual hosts with their routes, clusters, endpoints;
/// of secrets only the names.
pub(super) fn table(state: &State) -> Value {
    let (model, addresses) = {
        let shown = state.shown();
        (shown.model.clone(), shown.addresses.clone())
    };
    let mut table = Map::new();
    table.insert("generation".into(), state.live.generation().into());
    let listening = addresses.iter().map(|(key, at)| json!({ "listener": key.to_string(), "address": at }));
    table.insert("listening".into(), listening.collect());
    match serde_json::to_value(&*model) {
        Ok(Value::Object(parts)) => table.extend(parts),
        Ok(_) => {}
        Err(e) => _ = table.insert("error".into(), e.to_string().into()),
    }
    Value::Object(table)
}
