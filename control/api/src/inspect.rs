use crate::decode::Problem;
use crate::field::{self, Segment};
use crate::value::{Data, Position, Value};
use std::collections::HashMap;
use tidegate_model::Severity;

/// What is wrong with an object whatever its kind: keys that stand twice, and in Istio's kinds `null`, which the API
/// server drops without a word.
pub(crate) fn inspect(object: &Value, report_nulls: bool) -> Vec<Problem> {
    let mut inspection = Inspection { path: Vec::new(), report_nulls, problems: Vec::new() };
    inspection.value(object);
    inspection.problems
}

struct Inspection<'a> {
    path: Vec<Segment<'a>>,
    report_nulls: bool,
    problems: Vec<Problem>,
}

impl<'a> Inspection<'a> {
    fn value(&mut self, value: &'a Value) {
        match &value.data {
            Data::Map(entries) => {
                let mut seen: HashMap<&str, Position> = HashMap::with_capacity(entries.len());
                for entry in entries {
                    self.path.push(Segment::Key(entry.key.as_str().into()));
                    if let Some(first) = seen.insert(&entry.key, entry.at) {
                        self.twice(entry.at, first);
                    }
                    if entry.value.is_null() {
                        self.null(entry.at);
                    }
                    self.value(&entry.value);
                    self.path.pop();
                }
            }
            Data::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.path.push(Segment::Index(index));
                    self.value(item);
                    self.path.pop();
                }
            }
            _ => {}
        }
    }

    fn twice(&mut self, at: Position, first: Position) {
        self.report(
            Severity::Error,
            at,
            format!("is written twice, first on line {}", first.line),
            "keep one of them",
            "duplicate-key",
        );
    }

    fn null(&mut self, at: Position) {
        let inside_spec = matches!(self.path.first(), Some(Segment::Key(key)) if key == "spec");
        if self.report_nulls && inside_spec {
            let text = "has no value (null), which is the same as leaving it out".to_owned();
            self.report(Severity::Warning, at, text, "give it a value or remove it", "null-field");
        }
    }

    fn report(&mut self, severity: Severity, at: Position, text: String, advice: &str, code: &'static str) {
        let field = field::path(&self.path);
        self.problems.push(Problem { severity, at, field, text, advice: advice.to_owned(), code });
    }
}
