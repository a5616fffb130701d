//! Security policies that are refused, so that what they would say is not known.

use std::collections::BTreeMap;
use tidegate_api::Refused;
use tidegate_model::{Diagnostic, ObjectRef, Origin};
use tidegate_translate::{Admitted, Env, guards};

/// Policies that may guard this gateway, for all that can be known: refused, and without a good version.
#[derive(Debug, Default)]
pub(crate) struct Unknown {
    /// AuthorizationPolicies, each with where it is written: they deny everything.
    pub(crate) broken: BTreeMap<ObjectRef, Origin>,
    /// Others: they keep the gateway from being ready.
    pub(crate) others: Vec<ObjectRef>,
}

/// Those of a config about which that was said, where they are not let be by `--allow-unenforced`.
///
/// A document that is not even an object counts for nothing: it could be anything, and one bad file would take the
/// gateway down with all it serves. It is an error, and no API server would have accepted it.
pub(crate) fn unknown(refused: &[Refused], admitted: &Admitted, said: &[Diagnostic], env: &Env) -> Unknown {
    let mut unknown = Unknown::default();
    if env.allow_unenforced {
        return unknown;
    }
    let may_guard = |r: &&Refused| {
        let namespace = &r.reference.namespace;
        &*r.group == "security.istio.io"
            // it says what sidecars accept
            && &*r.reference.kind != "PeerAuthentication"
            && (*namespace == env.namespace || *namespace == env.root_namespace)
    };
    let served = |r: &&Refused| admitted.objects.iter().any(|object| r.is(object));
    let refused = refused.iter().filter(may_guard).filter(|r| !served(r)).map(|r| &r.reference);
    let left_out = admitted.left_out.iter();
    let left_out = left_out.filter(|o| o.group() == "security.istio.io" && guards(o, env));
    for policy in refused.chain(left_out.map(|o| &o.reference)) {
        match &*policy.kind {
            "AuthorizationPolicy" => {
                let mut about =
                    said.iter().chain(&admitted.diagnostics).filter(|d| d.object.as_ref() == Some(policy));
                let origin = about.next().map(|d| d.origin.clone()).unwrap_or_default();
                unknown.broken.insert(policy.clone(), origin);
            }
            _ => unknown.others.push(policy.clone()),
        }
    }
    unknown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Invocation, Setup, parse};
    use std::fs;
    use std::path::Path;
    use tidegate_source::Folder;
    use tidegate_translate::Admission;

    fn setup(dir: &Path, more: &[&str]) -> Setup {
        let arguments = ["x", "--check", "--config", dir.to_str().unwrap()];
        let Invocation::Check(setup) = parse(arguments.iter().chain(more).copied()).unwrap() else {
            panic!("not a check")
        };
        setup
    }

    /// How many are broken, and how many others are unknown.
    fn found(folder: &mut Folder, setup: &Setup) -> (usize, usize) {
        let loaded = folder.load();
        let admitted = Admission::new().admit(loaded.objects, &setup.env);
        let unknown = unknown(&loaded.refused, &admitted, &loaded.diagnostics, &setup.env);
        (unknown.broken.len(), unknown.others.len())
    }

    fn policy(kind: &str, namespace: &str, spec: &str) -> String {
        format!(
            "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: {namespace}}}\n\
             spec:\n  {spec}\n"
        )
    }

    /// Not even YAML.
    const TWICE: &str = "action: DENY\n  action: ALLOW";
    /// Valid, and for other workloads.
    const OTHERS: &str = "selector: {matchLabels: {app: other}}";

    #[test]
    fn what_is_refused_without_a_good_version_is_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let (authorization, authentication) = ("AuthorizationPolicy", "RequestAuthentication");
        for (kind, namespace, spec, expected) in [
            (authorization, "istio-system", TWICE, (1, 0)),
            (authentication, "istio-system", TWICE, (0, 1)),
            (authorization, "istio-system", OTHERS, (0, 0)),
            (authorization, "elsewhere", TWICE, (0, 0)),
            ("PeerAuthentication", "istio-system", TWICE, (0, 0)),
            (authorization, "istio-system", "action: NONE", (1, 0)),
            (authorization, "istio-system", "rules: [{when: [{key: request.color, values: [red]}]}]", (1, 0)),
            (authorization, "elsewhere", "rules: [{when: [{key: request.color, values: [red]}]}]", (0, 0)),
            (authentication, "istio-system", "jwtRules: [{issuer: i}]", (0, 0)),
            (authentication, "istio-system", "jwtRules: [{issuer: i, jwks: no JSON}]", (0, 1)),
            (authentication, "elsewhere", "jwtRules: [{issuer: i, jwks: no JSON}]", (0, 0)),
        ] {
            fs::write(dir.path().join("policy.yaml"), policy(kind, namespace, spec)).unwrap();
            for (more, expected) in [(&[][..], expected), (&["--allow-unenforced"], (0, 0))] {
                let setup = setup(dir.path(), more);
                let mut folder = Folder::open(setup.config.clone());
                assert_eq!(found(&mut folder, &setup), expected, "{kind} {namespace} {spec}");
            }
        }
    }

    #[test]
    fn a_policy_with_a_good_version_is_judged_by_that() {
        let dir = tempfile::tempdir().unwrap();
        let setup = setup(dir.path(), &[]);
        let mut folder = Folder::open(setup.config.clone());
        let file = dir.path().join("policy.yaml");
        fs::write(&file, policy("AuthorizationPolicy", "istio-system", OTHERS)).unwrap();
        assert_eq!(found(&mut folder, &setup), (0, 0));
        // another file in its place is complete at once
        let new = dir.path().join("new");
        fs::write(&new, policy("AuthorizationPolicy", "istio-system", TWICE)).unwrap();
        fs::rename(&new, &file).unwrap();
        assert_eq!(found(&mut folder, &setup), (0, 0));
    }
}
