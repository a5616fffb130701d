use crate::{Env, hold, validate};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidegate_api::{Object, Objects};
use tidegate_model::{Diagnostic, ObjectRef, Severity};

/// Decides which version of each object counts. It remembers the versions that it admitted:
///
/// 1. An object that is not valid keeps its last good version; without one it is left out.
/// 2. A VirtualService that now names a host, port, subset, mirror, delegate or Gateway that does not exist, while its
///    last version names none such, is held at that version until what it waits for is there (make before break).
/// 3. A subset that a DestinationRule no longer has, or a host or port that a ServiceEntry no longer has, stays for as long
///    as a route needs it. So does what a namespace has of a host that becomes another's, where that one has not the same.
/// 4. A ServiceEntry or DestinationRule that was deleted stays for as long as a VirtualService that is held needs it.
///
/// Whatever else was deleted is gone: nothing stands in for an object that there is not.
#[derive(Debug, Default)]
pub struct Admission {
    admitted: BTreeMap<Key, Arc<Object>>,
    /// What validation said about each object that was loaded last.
    checked: BTreeMap<Key, (Arc<Object>, Arc<[Diagnostic]>)>,
}

/// What an object is known by: its reference and its API group.
pub(crate) type Key = (ObjectRef, Arc<str>);

/// The objects that count.
#[derive(Clone, Debug, Default)]
pub struct Admitted {
    /// Valid ones, each in the version that counts.
    pub objects: Objects,
    /// What is wrong with the others, and warnings of validation.
    pub diagnostics: Vec<Diagnostic>,
    /// Those that are not valid and have no good version.
    pub left_out: Vec<Arc<Object>>,
}

impl Admission {
    /// One that has admitted nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that has admitted these before, where they are valid.
    pub fn of(objects: impl IntoIterator<Item = Arc<Object>>) -> Self {
        let valid = |object: &Arc<Object>| {
            !validate::validate(object).iter().any(|diagnostic| diagnostic.severity == Severity::Error)
        };
        let admitted = objects.into_iter().filter(valid).map(|object| (key(&object), object)).collect();
        Admission { admitted, checked: BTreeMap::new() }
    }

    /// Admits `loaded`. What is not in it any more is forgotten.
    pub fn admit(&mut self, loaded: Objects, env: &Env) -> Admitted {
        let mut diagnostics = Vec::new();
        let mut checked = BTreeMap::new();
        let mut objects = Objects::new();
        let mut left_out = Vec::new();
        for object in loaded.iter() {
            let key = key(object);
            let found = self.check(&key, object);
            let mut valid = true;
            for d in found.iter() {
                valid &= d.severity != Severity::Error;
                diagnostics.push(d.clone());
            }
            checked.insert(key.clone(), (object.clone(), found));
            let counting = if valid { Some(object) } else { self.admitted.get(&key) };
            if !valid {
                diagnostics.push(refused(object, counting.is_some()));
            }
            match counting {
                Some(object) => _ = objects.insert(object.clone()),
                None => left_out.push(object.clone()),
            }
        }
        hold::hold(&self.admitted, &mut objects, env, &mut diagnostics);
        self.checked = checked;
        self.admitted = objects.iter().map(|o| (key(o), o.clone())).collect();
        Admitted { objects, diagnostics, left_out }
    }

    /// The result of validation, anew only for an object that changed.
    fn check(&self, key: &Key, object: &Arc<Object>) -> Arc<[Diagnostic]> {
        match self.checked.get(key) {
            Some((seen, found)) if Arc::ptr_eq(seen, object) || seen == object => found.clone(),
            _ => validate::validate(object).into(),
        }
    }
}

pub(crate) fn key(object: &Object) -> Key {
    (object.reference.clone(), object.group().into())
}

fn refused(object: &Object, has_last: bool) -> Diagnostic {
    let text = if has_last {
        "is refused for its errors; the last good version keeps serving"
    } else {
        "is refused for its errors and has no good version yet; it is left out"
    };
    object.diagnostic(Severity::Error, "", text, "correct the errors", "refused")
}
