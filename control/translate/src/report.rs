use std::collections::HashSet;
use tidegate_api::Object;
use tidegate_model::{Diagnostic, FormatString, Severity};

/// Collects diagnostics.
#[derive(Debug, Default)]
pub(crate) struct Report {
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// The object, or the part named, is refused.
    pub(crate) fn error(
        &mut self,
        object: &Object,
        field: &str,
        code: &'static str,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.diagnostics.push(object.diagnostic(Severity::Error, field, text, advice, code));
    }

    /// It is served, but surely not what was meant.
    pub(crate) fn warning(
        &mut self,
        object: &Object,
        field: &str,
        code: &'static str,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.diagnostics.push(object.diagnostic(Severity::Warning, field, text, advice, code));
    }

    /// It is not enforced, or has no effect here.
    pub(crate) fn note(
        &mut self,
        object: &Object,
        field: &str,
        code: &'static str,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.diagnostics.push(object.diagnostic(Severity::Note, field, text, advice, code));
    }

    /// What an object's diagnostic says.
    pub(crate) fn add(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// Says which operators of a format stand for nothing.
    pub(crate) fn absent_operators(&mut self, object: &Object, field: &str, format: &FormatString) {
        for operator in format.absent() {
            let text = format!("%{operator}% stands for nothing here");
            self.note(object, field, "not-enforced", text, "");
        }
    }

    /// Everything, each once, by place.
    pub(crate) fn finish(self) -> Vec<Diagnostic> {
        let mut seen = HashSet::new();
        let mut all: Vec<_> = self.diagnostics.into_iter().filter(|d| seen.insert(d.clone())).collect();
        all.sort_by(|a, b| {
            (&a.origin, &a.object, &a.field, b.severity, a.code, &a.text)
                .cmp(&(&b.origin, &b.object, &b.field, a.severity, b.code, &b.text))
        });
        all
    }
}

/// The names in `known`, for advice: at most eight.
pub(crate) fn list<S: AsRef<str>>(known: impl IntoIterator<Item = S>) -> String {
    const MOST: usize = 8;
    let mut names = known.into_iter();
    let shown: Vec<String> = names.by_ref().take(MOST).map(|n| n.as_ref().to_owned()).collect();
    match names.count() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
