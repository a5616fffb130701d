//! Objects of kinds that the gateway does not serve.

use crate::Env;
use crate::report::Report;
use crate::world::{World, selects};
use std::collections::BTreeMap;
use tidegate_api::field::key;
use tidegate_api::{Object, Spec};

/// Reports them.
pub(crate) fn report(world: &World<'_>, report: &mut Report) {
    proxy_config(world, report);
    for object in world.objects.others() {
        match (object.group(), &*object.reference.kind) {
            ("security.istio.io", "PeerAuthentication") => {
                let text = "has no effect at a gateway: it says what sidecars accept";
                report.note(object, "", "no-effect", text, "");
            }
            ("networking.istio.io", "EnvoyFilter") => {
                let text = "is not enforced: there is no Envoy here to patch";
                let advice = "find another way to what it does, and remove it";
                report.warning(object, "", "not-enforced", text, advice);
            }
            ("gateway.networking.k8s.io", _) | ("networking.k8s.io", "Ingress") => {
                let advice = "use a Gateway and VirtualService of networking.istio.io";
                report.warning(object, "", "not-enforced", "is not served yet", advice);
            }
            (group, _) if group.ends_with("istio.io") => {
                report.note(object, "", "not-enforced", "is not enforced by this gateway yet", "");
            }
            _ => report.note(object, "", "kind-not-used", "has no effect on routing", ""),
        }
    }
}

/// Says which of the gateway's own workloads have settings of a proxy in an annotation, where Istio would look for them.
fn proxy_config(world: &World<'_>, report: &mut Report) {
    const ANNOTATION: &str = "proxy.istio.io/config";
    let namespace = &world.env.namespace;
    for object in world.objects.iter().filter(|object| object.reference.namespace == *namespace) {
        let (labels, has, metadata) = match &object.spec {
            Spec::Pod(_) => (&object.labels, object.annotations.contains_key(ANNOTATION), "metadata"),
            Spec::Deployment(workload) | Spec::StatefulSet(workload) => {
                let metadata = &workload.template.metadata;
                (&metadata.labels, metadata.annotations.contains_key(ANNOTATION), "spec.template.metadata")
            }
            _ => continue,
        };
        if has && selects(&world.env.labels, labels) {
            let field = format!("{metadata}.annotations{}", key(ANNOTATION));
            let text = "is not read: settings of this gateway are those of the mesh";
            let advice = "move it to defaultConfig of the mesh config";
            report.warning(object, &field, "not-enforced", text, advice);
        }
    }
}

/// Says why a policy is not for this gateway.
pub(crate) fn report_unselected(object: &Object, target_ref: bool, target_refs: bool, report: &mut Report) {
    let targets = "does not select this gateway: targets are Kubernetes Gateways, services and waypoints";
    let (field, text) = match (target_ref, target_refs) {
        (true, _) => ("spec.targetRef", targets),
        (_, true) => ("spec.targetRefs", targets),
        _ => ("", "does not select this gateway"),
    };
    report.note(object, field, "not-selected", text, "");
}

/// Whether a policy of `security.istio.io` is for this gateway.
pub(crate) fn selects_gateway(env: &Env, object: &Object) -> bool {
    let namespace = &object.reference.namespace;
    if *namespace != env.namespace && *namespace != env.root_namespace {
        return false;
    }
    // A policy with targets is for Kubernetes Gateways, services and waypoints.
    if object.field("spec.targetRef").is_some() || object.field("spec.targetRefs").is_some() {
        return false;
    }
    let labels = object.field("spec.selector.matchLabels");
    let labels = labels.as_ref().map_or(&[][..], |v| v.entries());
    let selector: BTreeMap<String, String> =
        labels.iter().map(|e| (e.key.clone(), e.value.as_str().unwrap_or_default().to_owned())).collect();
    selects(&selector, &env.labels)
}
