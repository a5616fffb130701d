//! From one document's value to an [`Object`], or to all that is wrong with it.

use crate::decode::{Decode, Decoder, Problem, Unknown};
use crate::inspect::inspect;
use crate::kinds::{self, Kind};
use crate::kubernetes::{ConfigMap, ConfigMapFields};
use crate::mesh::{self, Text};
use crate::metadata;
use crate::object::{Object, Spec};
use crate::suggest;
use crate::value::{Data, Value};
use crate::written::Written;
use std::sync::Arc;
use tidegate_model::{ObjectRef, Severity};

/// Most diagnostics about one object.
const MAX_PROBLEMS: usize = 50;

/// What came of one object.
pub(crate) struct Interpreted {
    /// Which it is, when it says so.
    pub(crate) reference: Option<ObjectRef>,
    /// Its API group, as far as it says that.
    pub(crate) group: Arc<str>,
    /// The object, unless there was an error.
    pub(crate) object: Option<Object>,
    pub(crate) problems: Vec<Problem>,
}

/// The object that `value` is. `file` and `text` are the file that it was read from.
pub(crate) fn interpret(mut value: Value, file: &Arc<str>, text: &Text<'_>) -> Interpreted {
    let (api_version, kind) = match identity(&value) {
        Ok(found) => found,
        Err(problem) => {
            return Interpreted { reference: None, group: "".into(), object: None, problems: vec![problem] };
        }
    };
    let reference = metadata::reference(&kind, &value);
    let group = Arc::from(api_version.split_once('/').map_or("", |(group, _)| group));
    let mut problems = Vec::new();
    let read_as = match kinds::find(&api_version, &kind) {
        Ok(kind) => kind,
        Err(unknown) => {
            let severity = if unknown.foreign { Severity::Warning } else { Severity::Error };
            let (at, field) = (value.locate(unknown.field), unknown.field.to_owned());
            let (text, advice, code) = (unknown.text, unknown.advice, unknown.code);
            problems.push(Problem { severity, at, field, text, advice, code });
            Kind::Other
        }
    };
    problems.extend(inspect(&value, read_as.is_istio()));
    let mut is_mesh =
        read_as == Kind::ConfigMap && reference.as_ref().is_some_and(|r| mesh::is_mesh_config(&r.name));
    let config_data = config_map_fields(read_as, &value, &mut problems);
    if is_mesh && let Err(problem) = mesh::expand(&mut value, text) {
        problems.push(problem);
        is_mesh = false;
    }
    let unknown = if read_as.is_istio() { Unknown::Refuse } else { Unknown::Doubt };
    let mut at = Decoder::new(value.at, unknown, read_as == Kind::Secret);
    let mut meta = metadata::decode(&value, &mut at);
    let spec = match config_data {
        Some(fields) => config_map(fields, is_mesh, &value, &mut at),
        None => spec(read_as, &value, &mut at),
    };
    problems.append(&mut at.problems);
    bound(&mut problems);
    let refused = problems.iter().any(|problem| problem.severity == Severity::Error);
    if read_as == Kind::Secret {
        redact(&mut value);
        if let Some(meta) = &mut meta {
            meta.annotations.remove(LAST_APPLIED);
        }
    }
    let object = match (meta, spec, &reference) {
        (Some(meta), Some(spec), Some(reference)) if !refused => Some(Object {
            reference: reference.clone(),
            api_version: api_version.into(),
            labels: meta.labels,
            annotations: meta.annotations,
            created: meta.created,
            resource_version: meta.resource_version,
            generation: meta.generation,
            owners: meta.owners,
            spec,
            file: file.clone(),
            written: Written::new(&value),
        }),
        _ => None,
    };
    Interpreted { reference, group, object, problems }
}

/// `apiVersion` and `kind`.
fn identity(value: &Value) -> Result<(String, String), Problem> {
    let problem = |field: &str, text: &str, advice: &str, code| Problem {
        severity: Severity::Error,
        at: value.locate(field),
        field: field.to_owned(),
        text: text.to_owned(),
        advice: advice.to_owned(),
        code,
    };
    if !matches!(value.data, Data::Map(_)) {
        let text = format!("a document must be an object, not {}", value.describe());
        let advice = "start it with apiVersion, kind and metadata, or move the file elsewhere";
        return Err(problem("", &text, advice, "not-an-object"));
    }
    let text_of = |field: &str, advice: &str| match value.get(field) {
        None => Err(problem(field, "is missing", advice, "missing-field")),
        Some(found) => match found.as_str().filter(|text| !text.is_empty()) {
            Some(text) => Ok(text.to_owned()),
            None => Err(problem(
                field,
                &format!("must be a string, not {}", found.describe()),
                advice,
                "wrong-type",
            )),
        },
    };
    let api_version =
        text_of("apiVersion", "write one, such as networking.istio.io/v1; move other files elsewhere")?;
    let kind = text_of("kind", "write one, such as VirtualService; move other files elsewhere")?;
    Ok((api_version, kind))
}

fn config_map_fields(kind: Kind, value: &Value, problems: &mut Vec<Problem>) -> Option<ConfigMapFields> {
    if kind != Kind::ConfigMap {
        return None;
    }
    let mut at = Decoder::new(value.at, Unknown::Doubt, false);
    let fields = ConfigMapFields::decode(value, &mut at);
    problems.append(&mut at.problems);
    Some(fields.unwrap_or_default())
}

fn config_map<'a>(
    fields: ConfigMapFields,
    is_mesh: bool,
    value: &'a Value,
    at: &mut Decoder<'a>,
) -> Option<Spec> {
    let mesh = if is_mesh { mesh::decode(value, at)? } else { None };
    Some(Spec::ConfigMap(Box::new(ConfigMap { data: fields.data, binary_data: fields.binary_data, mesh })))
}

fn spec<'a>(kind: Kind, value: &'a Value, at: &mut Decoder<'a>) -> Option<Spec> {
    if kind.has_spec() {
        at.map(value, &["apiVersion", "kind", "metadata", "spec", "status"]);
    }
    match kind {
        Kind::Gateway => spec_field(value, at).map(Spec::Gateway),
        Kind::VirtualService => spec_field(value, at).map(Spec::VirtualService),
        Kind::DestinationRule => spec_field(value, at).map(Spec::DestinationRule),
        Kind::ServiceEntry => spec_field(value, at).map(Spec::ServiceEntry),
        Kind::WorkloadEntry => spec_field(value, at).map(Spec::WorkloadEntry),
        Kind::AuthorizationPolicy => spec_field(value, at).map(Spec::AuthorizationPolicy),
        Kind::RequestAuthentication => spec_field(value, at).map(Spec::RequestAuthentication),
        Kind::PeerAuthentication => spec_field(value, at).map(Spec::PeerAuthentication),
        Kind::Telemetry => spec_field(value, at).map(Spec::Telemetry),
        Kind::Service => spec_field(value, at).map(Spec::Service),
        Kind::Deployment => spec_field(value, at).map(Spec::Deployment),
        Kind::StatefulSet => spec_field(value, at).map(Spec::StatefulSet),
        Kind::EndpointSlice => at.root(&[], value.at, value).map(Spec::EndpointSlice),
        Kind::Endpoints => at.root(&[], value.at, value).map(Spec::Endpoints),
        Kind::Pod => at.root(&[], value.at, value).map(Spec::Pod),
        Kind::Namespace => at.root(&[], value.at, value).map(Spec::Namespace),
        Kind::Node => at.root(&[], value.at, value).map(Spec::Node),
        Kind::Secret => at.root(&[], value.at, value).map(Spec::Secret),
        Kind::ConfigMap | Kind::Other => Some(Spec::Other),
    }
}

fn spec_field<'a, T: Decode>(value: &'a Value, at: &mut Decoder<'a>) -> Option<T> {
    at.field(value.entries(), &["spec"])
}

/// Keeps what was written of a Secret but for its contents.
fn redact(secret: &mut Value) {
    for field in ["data", "stringData"] {
        if let Some(Data::Map(entries)) = secret.get_mut(field).map(|value| &mut value.data) {
            for entry in entries {
                entry.value.data = Data::Null;
            }
        }
    }
    // `kubectl apply` keeps a copy of the whole object here.
    if let Some(annotations) = secret.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"))
        && let Some(copy) = annotations.get_mut(LAST_APPLIED)
    {
        copy.data = Data::Null;
    }
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn bound(problems: &mut Vec<Problem>) {
    problems.sort_by_key(|problem| (problem.at.line, problem.at.column));
    if problems.len() > MAX_PROBLEMS {
        // Errors decide whether the object is refused, so they are kept before warnings.
        problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
        let more = problems.len() - MAX_PROBLEMS;
        problems.truncate(MAX_PROBLEMS);
        if let Some(last) = problems.last_mut() {
            let others = suggest::count(more, "other");
            last.text = format!("{} (and {others} in this object that are not shown)", last.text);
        }
    }
}
