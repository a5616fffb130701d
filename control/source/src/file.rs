//! One file: what it holds now, and what it held when it was good.

use crate::scan::Stamp;
use std::collections::HashSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use tidegate_api::{MAX_FILE_SIZE, Object, Reading, Refused, read};
use tidegate_model::{Diagnostic, ObjectRef, Origin, Severity};

/// A file as it was last read.
#[derive(Debug, Default)]
pub(crate) struct FileState {
    pub(crate) stamp: Option<Stamp>,
    content: Option<u64>,
    /// Its objects, with the last good version of those that are broken now, in the order they were written.
    pub(crate) objects: Vec<Arc<Object>>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    pub(crate) refused: Vec<Refused>,
}

impl FileState {
    /// One that was not read yet, of which these objects were good.
    pub(crate) fn kept(objects: Vec<Arc<Object>>) -> Self {
        FileState { objects, ..FileState::default() }
    }

    /// Reads the file again, if its content is another. What is not of this stamp is not taken: it may be half written.
    pub(crate) fn update(&mut self, path: &Path, stamp: Stamp) {
        let name = path.to_string_lossy();
        let found = content(path);
        if found.as_ref().is_ok_and(|(_, of)| *of != stamp) {
            return;
        }
        self.stamp = Some(stamp);
        let reading = match found {
            Ok((content, _)) => {
                let hash = hash(&content);
                if self.content.replace(hash) == Some(hash) {
                    return;
                }
                match std::str::from_utf8(&content) {
                    Ok(text) => read(&name, text),
                    Err(error) => broken(not_text(&name, &content[..error.valid_up_to()])),
                }
            }
            Err(error) => {
                self.content = None;
                broken(unreadable_diagnostic(&name, &error.to_string()))
            }
        };
        self.take(&name, reading);
    }

    fn take(&mut self, file: &str, reading: Reading) {
        let kept = Kept::new(std::mem::take(&mut self.objects), &reading);
        self.diagnostics = reading.diagnostics;
        self.refused = reading.refused;
        for object in kept.objects() {
            let at = origin_of_error(object, &self.diagnostics, file);
            self.diagnostics.push(kept_diagnostic(object, at));
        }
        self.objects = kept.merge(reading.objects);
    }
}

/// Says that the last good version of an object serves in place of a broken one, which is at `origin`.
pub(crate) fn kept_diagnostic(object: &Object, origin: Origin) -> Diagnostic {
    Diagnostic {
        severity: Severity::Note,
        origin,
        object: Some(object.reference.clone()),
        field: String::new(),
        text: "its last good version keeps serving".to_owned(),
        advice: "correct the error".to_owned(),
        code: "last-good",
    }
}

/// Where the error is that broke `object`: one of its own, or else one of its file.
fn origin_of_error(object: &Object, diagnostics: &[Diagnostic], file: &str) -> Origin {
    let mut errors = diagnostics.iter().filter(|d| d.severity == Severity::Error);
    let own = errors.clone().find(|d| d.object.as_ref() == Some(&object.reference));
    let error = own.or_else(|| errors.find(|d| d.object.is_none()));
    error.map_or_else(|| Origin { file: file.into(), ..Origin::default() }, |d| d.origin.clone())
}

/// A diagnostic for a path that cannot be read.
pub(crate) fn unreadable_diagnostic(path: &str, reason: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        origin: Origin { file: path.into(), line: 0, column: 0 },
        object: None,
        field: String::new(),
        text: format!("cannot be read: {reason}"),
        advice: "check that it exists and that the gateway's user may read it".to_owned(),
        code: "unreadable",
    }
}

/// For a file that is not read although it looks as if it was meant to be.
pub(crate) fn skipped_diagnostic(path: &str, reason: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Note,
        text: format!("is not read: {reason}"),
        advice: "rename it to NAME.yaml, NAME.yml or NAME.json if it is config".to_owned(),
        code: "file-skipped",
        ..unreadable_diagnostic(path, reason)
    }
}

fn broken(diagnostic: Diagnostic) -> Reading {
    Reading { diagnostics: vec![diagnostic], unreadable: true, ..Reading::default() }
}

/// A diagnostic for a file of which `text` is all that is UTF-8.
fn not_text(file: &str, text: &[u8]) -> Diagnostic {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let line = text.split(|b| *b == b'\n').count();
    let column =
        text.rsplit(|b| *b == b'\n').next().map_or(0, |line| String::from_utf8_lossy(line).chars().count());
    Diagnostic {
        severity: Severity::Error,
        origin: Origin { file: file.into(), line: count(line), column: count(column + 1) },
        object: None,
        field: String::new(),
        text: "is not valid UTF-8 from here on".to_owned(),
        advice: "save the file in UTF-8".to_owned(),
        code: "not-utf8",
    }
}

/// What is in a file, and its stamp after it was read.
fn content(path: &Path) -> io::Result<(Vec<u8>, Stamp)> {
    let (mut file, mut content) = (File::open(path)?, Vec::new());
    // One byte more than allowed shows `read` that there is too much.
    (&mut file).take(MAX_FILE_SIZE as u64 + 1).read_to_end(&mut content)?;
    Ok((content, Stamp::of(&file.metadata()?)))
}

fn hash(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// Objects of the last good version that are to stay, each with the object that it stood after.
struct Kept {
    after: Vec<(Option<Arc<Object>>, Arc<Object>)>,
}

impl Kept {
    fn new(before: Vec<Arc<Object>>, now: &Reading) -> Self {
        let present: HashSet<_> = now.objects.iter().map(identity).collect();
        let stays = |object: &Object| {
            let missing = !present.contains(&identity(object));
            missing && (now.unreadable || now.refused.iter().any(|refused| refused.is(object)))
        };
        let mut previous = None;
        let mut after = Vec::new();
        for object in before {
            if stays(&object) {
                after.push((previous.clone(), object.clone()));
            }
            previous = Some(object);
        }
        Kept { after }
    }

    fn objects(&self) -> impl Iterator<Item = &Object> {
        self.after.iter().map(|(_, object)| &**object)
    }

    /// Puts them back among `now` where they stood: the order of objects has a meaning.
    fn merge(self, now: Vec<Object>) -> Vec<Arc<Object>> {
        let mut merged: Vec<Arc<Object>> = now.into_iter().map(Arc::new).collect();
        for (previous, object) in self.after {
            let place = previous.and_then(|p| merged.iter().rposition(|o| identity(o) == identity(&p)));
            merged.insert(place.map_or(0, |place| place + 1), object);
        }
        merged
    }
}

fn identity(object: &Object) -> (&ObjectRef, &str) {
    (&object.reference, object.group())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_since_it_was_looked_at_is_not_taken() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("a.yaml");
        let stamp = || Stamp::of(&std::fs::metadata(&path).unwrap());
        std::fs::write(&path, "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n").unwrap();
        let (mut state, seen) = (FileState::default(), stamp());
        state.update(&path, seen.clone());
        assert_eq!(state.objects.len(), 1);
        std::fs::write(&path, "").unwrap();
        state.update(&path, seen.clone());
        assert_eq!((state.objects.len(), state.stamp.as_ref()), (1, Some(&seen)));
        state.update(&path, stamp());
        assert_eq!((state.objects.len(), state.stamp), (0, Some(stamp())));
    }
}
