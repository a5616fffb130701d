use crate::clusters::{Absent, Clusters};
use crate::hosts::resolve;
use crate::world::World;
use crate::{Env, validate};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidegate_api::istio::{Destination, VirtualService};
use tidegate_api::{Object, Objects, Spec};
use tidegate_model::{Diagnostic, ObjectRef, Severity};

/// Decides which version of each object counts. It remembers the versions that it admitted:
///
/// 1. An object that is not valid keeps its last good version; without one it is left out.
/// 2. A VirtualService that now names a host, port or subset that does not exist, while its last version names none such,
///    is held at that version until what it waits for is there (make before break).
#[derive(Debug, Default)]
pub struct Admission {
    admitted: BTreeMap<Key, Arc<Object>>,
    /// What validation said about each object that was loaded last.
    checked: BTreeMap<Key, (Arc<Object>, Arc<[Diagnostic]>)>,
}

type Key = (ObjectRef, Arc<str>);

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
        self.hold(&mut objects, env, &mut diagnostics);
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

    /// Puts the last version of each VirtualService back that would otherwise lose a destination.
    fn hold(&self, objects: &mut Objects, env: &Env, diagnostics: &mut Vec<Diagnostic>) {
        let mut held = Vec::new();
        {
            let world = World::new(objects, env);
            let mut clusters = Clusters::new(&world);
            for object in objects.iter() {
                let Spec::VirtualService(new) = &object.spec else { continue };
                let Some(last) = self.admitted.get(&key(object)).filter(|last| *last != object) else {
                    continue;
                };
                let Spec::VirtualService(old) = &last.spec else { continue };
                let Some((field, missing)) = dangling(object, new, env, &mut clusters) else { continue };
                if dangling(last, old, env, &mut clusters).is_some() {
                    continue;
                }
                let text =
                    format!("waits for {missing}, which does not exist; the last version keeps serving");
                let advice = "create it, or correct the name; the change goes live by itself then";
                diagnostics.push(object.diagnostic(Severity::Warning, &field, text, advice, "held"));
                held.push(last.clone());
            }
        }
        for last in held {
            objects.insert(last);
        }
    }
}

fn key(object: &Object) -> Key {
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

/// The first destination whose host, port or subset does not exist, and what is missing.
fn dangling(
    object: &Object,
    vs: &VirtualService,
    env: &Env,
    clusters: &mut Clusters<'_, '_>,
) -> Option<(String, String)> {
    for (field, target) in destinations(vs) {
        let host = resolve(&target.host, &object.reference.namespace, &env.domain);
        let subset = target.subset.as_deref().unwrap_or_default();
        let number = target.port.as_ref().and_then(|p| p.number);
        match clusters.resolve(&host, subset, number, 80).1 {
            Err(Absent::Host) => return Some((format!("{field}.host"), format!("service {host}"))),
            Err(Absent::Port(_)) if let Some(number) = number => {
                return Some((format!("{field}.port"), format!("port {number} of {host}")));
            }
            Err(Absent::Subset(_)) => {
                return Some((format!("{field}.subset"), format!("subset {subset} of {host}")));
            }
            _ => {}
        }
    }
    None
}

/// The destinations of all rules that have a weight, each with its field.
fn destinations(vs: &VirtualService) -> Vec<(String, &Destination)> {
    let mut found = Vec::new();
    let mut add = |field: String, several: bool, weight: Option<i32>, target| {
        if !several || weight.unwrap_or(0) != 0 {
            found.push((format!("{field}.destination"), target));
        }
    };
    for (r, rule) in vs.http.iter().enumerate() {
        for (d, to) in rule.route.iter().enumerate() {
            add(format!("spec.http[{r}].route[{d}]"), rule.route.len() > 1, to.weight, &to.destination);
        }
    }
    let tls = vs.tls.iter().enumerate().map(|(r, rule)| (format!("spec.tls[{r}]"), &rule.route));
    let tcp = vs.tcp.iter().enumerate().map(|(r, rule)| (format!("spec.tcp[{r}]"), &rule.route));
    for (field, route) in tls.chain(tcp) {
        for (d, to) in route.iter().enumerate() {
            add(format!("{field}.route[{d}]"), route.len() > 1, to.weight, &to.destination);
        }
    }
    found
}
