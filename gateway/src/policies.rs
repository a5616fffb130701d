//! Policies that are refused, so that what they would say is not known: who may do what, and where TLS is spoken.

use std::collections::BTreeMap;
use tidegate_api::Refused;
use tidegate_model::{Diagnostic, ObjectRef, Origin};
use tidegate_translate::{Admitted, Env, full_host, guards, tls_host};

/// Policies that may guard this gateway, for all that can be known: refused, and without a good version.
#[derive(Debug, Default)]
pub(crate) struct Unknown {
    /// AuthorizationPolicies, each with where it is written: they deny everything.
    pub(crate) broken: BTreeMap<ObjectRef, Origin>,
    /// Others: they keep the gateway from being ready.
    pub(crate) others: Vec<ObjectRef>,
    /// DestinationRules, by the host to which they set up TLS: nothing is sent there.
    pub(crate) rules: BTreeMap<String, ObjectRef>,
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
    let refused = || refused.iter().filter(|r| !served(r));
    let tls = refused().filter_map(|r| Some((r.tls_host.as_deref()?, &r.reference)));
    let tls = tls.chain(admitted.left_out.iter().filter_map(|o| Some((tls_host(o)?, &o.reference))));
    unknown.rules = tls.map(|(host, rule)| (full_host(host, &rule.namespace, env), rule.clone())).collect();
    let refused = refused().filter(may_guard).map(|r| &r.reference);
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
    fn where_tls_is_not_known_is_known() {
        let dir = tempfile::tempdir().unwrap();
        for (spec, expected) in [
            ("host: a, trafficPolicy: {tls: {mode: SIMPEL}}", Some("a.default.svc.cluster.local")),
            (
                "host: '*.b.example', trafficPolicy: {tls: {mode: SIMPLE, sni: 'no name'}}",
                Some("*.b.example"),
            ),
            (
                "host: c.example, subsets: [{name: s, trafficPolicy: {tls: {mode: SIMPLE, sni: '?'}}}]",
                Some("c.example"),
            ),
            ("host: d.example, trafficPolicy: {tls: {mode: SIMPLE}}", None),
            ("host: e.example, trafficPolicy: {loadBalancer: {simple: NO}}", None),
        ] {
            let text = format!(
                "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: r, namespace: default}}\n\
                 spec: {{{spec}}}\n"
            );
            fs::write(dir.path().join("rule.yaml"), text).unwrap();
            let setup = setup(dir.path(), &[]);
            let loaded = Folder::open(setup.config.clone()).load();
            let admitted = Admission::new().admit(loaded.objects, &setup.env);
            let rules = unknown(&loaded.refused, &admitted, &loaded.diagnostics, &setup.env).rules;
            assert_eq!(rules.keys().next().map(String::as_str), expected, "{spec}");
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
