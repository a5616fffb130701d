use crate::decode::Problem;
use crate::interpret::interpret;
use crate::mesh::Text;
use crate::object::Object;
use crate::suggest;
use crate::value::{Data, Entry, Value};
use crate::yaml::{self, Invalid};
use std::sync::Arc;
use tidegate_model::{Diagnostic, ObjectRef, Origin, Severity};

/// Largest file, in bytes. A Kubernetes object is at most 1.5 MiB.
pub const MAX_FILE_SIZE: usize = 8 << 20;

/// Most diagnostics about one file.
const MAX_DIAGNOSTICS: usize = 1000;

/// What one file holds.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The objects that are well-formed, in the order they were written.
    pub objects: Vec<Object>,
    /// What is wrong with the others, and what is surely not meant.
    pub diagnostics: Vec<Diagnostic>,
    /// Objects that are there but were refused for an error.
    pub refused: Vec<Refused>,
    /// Whether some part of the text is no object, so that objects may be missing without a name.
    pub unreadable: bool,
}

/// An object that is there but was refused for an error.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refused {
    /// Which object.
    pub reference: ObjectRef,
    /// Its API group: `security.istio.io`; empty for the core group.
    pub group: Arc<str>,
    /// The host of a DestinationRule that has something to say of TLS to it.
    pub tls_host: Option<Arc<str>>,
}

impl Refused {
    /// Whether `object` is another version of it.
    pub fn is(&self, object: &Object) -> bool {
        self.reference == object.reference && *self.group == *object.group()
    }
}

/// Reads YAML (any number of documents) or JSON, up to [`MAX_FILE_SIZE`]. `file` is how diagnostics name it.
///
/// Documents do not affect each other: a syntax error costs the objects of its own document alone, and of an object
/// all that is wrong is reported, not only the first. A `List` stands for its items.
pub fn read(file: &str, text: &str) -> Reading {
    let mut reader =
        Reader { file: file.into(), text: Text::new(text), unreported: 0, reading: Reading::default() };
    if text.len() > MAX_FILE_SIZE {
        let advice = format!("split it into files of at most {} MiB", MAX_FILE_SIZE >> 20);
        let at = crate::Position { line: 1, column: 1 };
        reader.invalid("too-large", Invalid { at, text: "is too large".to_owned(), advice });
        return reader.reading;
    }
    for (lines_before, part) in yaml::split(text) {
        let (documents, error) = yaml::compose(part, lines_before, &reader.text.copied);
        for document in documents.into_iter().filter(|document| !document.is_null()) {
            reader.document(document);
        }
        if let Some(error) = error {
            reader.invalid("invalid-yaml", error);
        }
    }
    reader.finish()
}

struct Reader<'t> {
    file: Arc<str>,
    text: Text<'t>,
    unreported: usize,
    reading: Reading,
}

impl Reader<'_> {
    fn invalid(&mut self, code: &'static str, invalid: Invalid) {
        let Invalid { at, text, advice } = invalid;
        let problem = Problem { severity: Severity::Error, at, field: String::new(), text, advice, code };
        self.report(None, problem);
        self.reading.unreadable = true;
    }

    fn finish(mut self) -> Reading {
        if self.unreported > 0
            && let Some(last) = self.reading.diagnostics.last_mut()
        {
            let others = suggest::count(self.unreported, "other");
            last.text = format!("{} (and {others} in this file that are not shown)", last.text);
        }
        self.reading
    }

    fn report(&mut self, object: Option<&ObjectRef>, problem: Problem) {
        if self.reading.diagnostics.len() >= MAX_DIAGNOSTICS {
            self.unreported += 1;
            return;
        }
        self.reading.diagnostics.push(Diagnostic {
            severity: problem.severity,
            origin: Origin { file: self.file.clone(), line: problem.at.line, column: problem.at.column },
            object: object.cloned(),
            field: problem.field,
            text: problem.text,
            advice: problem.advice,
            code: problem.code,
        });
    }

    fn document(&mut self, document: Value) {
        if let Some(items) = items_that_are_none(&document) {
            let text = format!("must be a list, not {}", items.describe());
            let advice = "write each item on a line of its own with a leading '- '".to_owned();
            let (at, field) = (items.at, "items".to_owned());
            self.report(
                None,
                Problem { severity: Severity::Error, at, field, text, advice, code: "wrong-type" },
            );
            self.reading.unreadable = true;
            return;
        }
        match list_items(document) {
            Ok(items) => items.into_iter().for_each(|item| self.object(item)),
            Err(object) => self.object(object),
        }
    }

    fn object(&mut self, value: Value) {
        let tls_host = tls_host(&value);
        let interpreted = interpret(value, &self.file, &self.text);
        let refused = interpreted.object.is_none();
        for problem in interpreted.problems {
            self.report(interpreted.reference.as_ref(), problem);
        }
        self.reading.objects.extend(interpreted.object);
        match interpreted.reference {
            Some(reference) if refused => {
                self.reading.refused.push(Refused { reference, group: interpreted.group, tls_host });
            }
            None => self.reading.unreadable = true,
            Some(_) => {}
        }
    }
}

fn tls_host(object: &Value) -> Option<Arc<str>> {
    let spec = object
        .get("spec")
        .filter(|_| object.get("kind").and_then(Value::as_str) == Some("DestinationRule"))?;
    Some(spec.get("host")?.as_str()?.into()).filter(|_| has_key(spec, "tls"))
}

/// Whether a map in it has this key.
fn has_key(value: &Value, key: &str) -> bool {
    match &value.data {
        Data::Map(entries) => entries.iter().any(|e| e.key == key || has_key(&e.value, key)),
        Data::List(items) => items.iter().any(|item| has_key(item, key)),
        _ => false,
    }
}

/// What stands in a `List` for its items without being a list of them.
fn items_that_are_none(document: &Value) -> Option<&Value> {
    let is_list = document.get("kind").and_then(Value::as_str) == Some("List");
    document.get("items").filter(|items| is_list && !matches!(items.data, Data::List(_)))
}

/// The items of a `List`, or of a list of one kind, whose items need not say their kind; else the document itself.
fn list_items(document: Value) -> Result<Vec<Value>, Value> {
    let kind = document.get("kind").and_then(Value::as_str).and_then(|kind| kind.strip_suffix("List"));
    let items = document.entry("items").filter(|items| matches!(items.value.data, Data::List(_)));
    let (Some(kind), Some(_)) = (kind, items) else { return Err(document) };
    let inherited: Vec<Entry> = match (kind, document.entry("apiVersion"), document.entry("kind")) {
        ("", ..) | (_, None, _) | (_, _, None) => Vec::new(),
        (kind, Some(api_version), Some(list_kind)) => {
            let mut item_kind = list_kind.clone();
            item_kind.value.data = Data::String(kind.to_owned());
            vec![api_version.clone(), item_kind]
        }
    };
    let Data::Map(entries) = document.data else { return Ok(Vec::new()) };
    let items = entries.into_iter().rev().find(|entry| entry.key == "items").map(|entry| entry.value.data);
    let Some(Data::List(mut items)) = items else { return Ok(Vec::new()) };
    for item in &mut items {
        if let Data::Map(fields) = &mut item.data {
            for entry in &inherited {
                if !fields.iter().any(|field| field.key == entry.key) {
                    fields.push(entry.clone());
                }
            }
        }
    }
    Ok(items)
}
