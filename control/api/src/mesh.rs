use crate::decode::{Decoder, Problem, Unknown};
use crate::istio::MeshConfig;
use crate::value::{Data, Position, Value};
use crate::yaml;
use std::cell::{Cell, OnceCell};
use tidegate_model::Severity;

/// The text of a file.
pub(crate) struct Text<'t> {
    text: &'t str,
    lines: OnceCell<Vec<&'t str>>,
    /// How many values anchors and aliases have copied in it.
    pub(crate) copied: Cell<usize>,
}

impl<'t> Text<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Text { text, lines: OnceCell::new(), copied: Cell::default() }
    }

    /// Its lines, counted only when they are asked for.
    fn lines(&self) -> &[&'t str] {
        self.lines.get_or_init(|| self.text.split('\n').collect())
    }
}

/// Whether a ConfigMap of this name holds Istio's mesh config: `istio`, or `istio-REVISION`.
pub(crate) fn is_mesh_config(name: &str) -> bool {
    name == "istio" || name.starts_with("istio-")
}

/// Puts the YAML that `data.mesh` holds as text in its place, so that its fields have positions. `file` is
/// where it stands.
pub(crate) fn expand(config_map: &mut Value, file: &Text<'_>) -> Result<(), Problem> {
    let Some(key) = config_map.get("data").and_then(|data| data.entry("mesh")).map(|entry| entry.at) else {
        return Ok(());
    };
    let Some(mesh) = config_map.get_mut("data").and_then(|data| data.get_mut("mesh")) else { return Ok(()) };
    let Data::String(text) = &mesh.data else { return Ok(()) };
    let at = mesh.at;
    let indent = block_indent(file.lines(), key);
    let shift = |inner: Position| match indent {
        Some(indent) => Position {
            line: key.line.saturating_add(inner.line),
            column: indent.saturating_add(inner.column),
        },
        None => at,
    };
    let (mut documents, error) = yaml::compose(text, 0, &file.copied);
    if let Some(error) = error {
        return Err(problem(shift(error.at), error.text, error.advice));
    }
    let document = if documents.is_empty() { None } else { Some(documents.swap_remove(0)) };
    match document.map(|document| document.moved(&shift)) {
        Some(expanded) if !expanded.is_null() => *mesh = expanded,
        _ => *mesh = Value { at, data: Data::Map(Vec::new()) },
    }
    Ok(())
}

fn problem(at: Position, text: String, advice: String) -> Problem {
    let field = "data.mesh".to_owned();
    Problem { severity: Severity::Error, at, field, text, advice, code: "invalid-yaml" }
}

/// How far the lines of a literal block under the key at `key` are indented; `None` when its value is no such block.
fn block_indent(lines: &[&str], key: Position) -> Option<u32> {
    let mut lines = lines.iter().skip(key.line.saturating_sub(1) as usize);
    let (_, header) = lines.next()?.split_once(':')?;
    let first = lines.find(|line| !line.trim().is_empty())?;
    let indent = first.chars().take_while(|c| *c == ' ').count();
    header.trim_start().starts_with('|').then(|| u32::try_from(indent).unwrap_or(u32::MAX))
}

/// The mesh config that an expanded ConfigMap holds.
pub(crate) fn decode<'a>(config_map: &'a Value, at: &mut Decoder<'a>) -> Option<Option<Box<MeshConfig>>> {
    let data = config_map.get("data").and_then(|data| data.entry("mesh"));
    let Some(mesh) = data.filter(|mesh| !mesh.value.is_null()) else { return Some(None) };
    let decoded = at.with_unknown(Unknown::Warn, |at| at.root(&["data", "mesh"], mesh.at, &mesh.value));
    decoded.map(Some)
}
