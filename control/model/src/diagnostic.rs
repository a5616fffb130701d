use crate::{ObjectRef, Origin};
use serde::ser::{Serialize, SerializeStruct, Serializer};
use std::fmt;

/// How bad a [`Diagnostic`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Not enforced, or without effect here.
    Note,
    /// Served, but surely not what was meant.
    Warning,
    /// The object, or the part that is named, is refused.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// Something a user should know about an object: where, which field, what is wrong, what to do.
///
/// Secret material never appears in one. Serialized it is flat, with the keys that users see: `severity file line
/// column kind namespace name field text advice code`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where the field stands; the object's own place when the field has none.
    pub origin: Origin,
    /// The object; `None` for a file that does not parse.
    pub object: Option<ObjectRef>,
    /// The field's path, such as `spec.http[0].match[1].uri`; empty for the whole object.
    pub field: String,
    /// What is wrong.
    pub text: String,
    /// What to do about it.
    pub advice: String,
    /// A stable short word for scripts, such as `unknown-field`.
    pub code: &'static str,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.severity, self.origin)?;
        match &self.object {
            Some(o) => write!(f, "{o} ")?,
            None => f.write_str("- ")?,
        }
        let field = if self.field.is_empty() { "-" } else { &self.field };
        write!(f, "{field}: {}", self.text)?;
        if !self.advice.is_empty() {
            write!(f, "; {}", self.advice)?;
        }
        Ok(())
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let object = self.object.as_ref();
        let mut line = serializer.serialize_struct("Diagnostic", 11)?;
        line.serialize_field("severity", &self.severity)?;
        line.serialize_field("file", &self.origin.file)?;
        line.serialize_field("line", &self.origin.line)?;
        line.serialize_field("column", &self.origin.column)?;
        line.serialize_field("kind", &object.map(|o| &o.kind))?;
        line.serialize_field("namespace", &object.map(|o| &o.namespace))?;
        line.serialize_field("name", &object.map(|o| &o.name))?;
        line.serialize_field("field", &self.field)?;
        line.serialize_field("text", &self.text)?;
        line.serialize_field("advice", &self.advice)?;
        line.serialize_field("code", self.code)?;
        line.end()
    }
}
