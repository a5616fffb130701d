//! Telemetry objects: which of them are for this gateway (Istio 1.11).

use crate::Env;
use crate::report::Report;
use crate::world::{Item, World, selects};
use std::collections::BTreeMap;
use tidegate_api::Object;
use tidegate_api::istio::{DirectionSelector, Telemetry, WorkloadMode};

/// Those that are for this gateway; later ones override earlier ones.
pub(crate) struct Telemetries<'a>(Vec<Item<'a, Telemetry>>);

/// An item of one of them, with the object and the path of its field.
pub(crate) struct Section<'a, T> {
    pub(crate) object: &'a Object,
    pub(crate) field: String,
    pub(crate) settings: &'a T,
}

impl<'a> Telemetries<'a> {
    /// The oldest for all of the root namespace, of the gateway's own namespace, and of those with a selector there.
    pub(crate) fn new(world: &'a World<'_>, report: &mut Report) -> Self {
        let mut chosen: BTreeMap<Level, Item<'a, Telemetry>> = BTreeMap::new();
        for (object, telemetry) in world.objects.telemetries() {
            let Some(level) = level(world.env, object, telemetry, report) else { continue };
            if let Some((first, _)) = chosen.get(&level) {
                let text =
                    format!("has no effect: {} is older, and only one of them counts", first.reference.name);
                report.warning(object, "", "no-effect", text, "move its settings there, and remove it");
                continue;
            }
            chosen.insert(level, (object, telemetry));
        }
        Telemetries(chosen.into_values().collect())
    }

    /// A list of each, in order, for traffic of a gateway.
    pub(crate) fn sections<T>(
        &self,
        name: &str,
        list: impl Fn(&'a Telemetry) -> &'a [T],
    ) -> Vec<Vec<Section<'a, T>>> {
        let sections = |(object, telemetry): &Item<'a, Telemetry>| {
            let of = |(i, settings)| Section { object, field: format!("spec.{name}[{i}]"), settings };
            list(telemetry).iter().enumerate().map(of).collect::<Vec<_>>()
        };
        self.0.iter().map(sections).filter(|sections| !sections.is_empty()).collect()
    }
}

/// How closely one is meant for a gateway.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Mesh,
    Namespace,
    Workload,
}

fn level(env: &Env, object: &Object, telemetry: &Telemetry, report: &mut Report) -> Option<Level> {
    let namespace = &object.reference.namespace;
    let labels = telemetry.selector.as_ref().map(|s| &s.match_labels).filter(|labels| !labels.is_empty());
    let mut not_selected = |field: &str, text: &str| {
        report.note(object, field, "not-selected", text, "");
        None
    };
    let targets = "does not select this gateway: targets are Kubernetes Gateways, services and waypoints";
    if telemetry.target_ref.is_some() {
        return not_selected("spec.targetRef", targets);
    }
    if !telemetry.target_refs.is_empty() {
        return not_selected("spec.targetRefs", targets);
    }
    match labels {
        None if *namespace == env.root_namespace => Some(Level::Mesh),
        None if *namespace == env.namespace => Some(Level::Namespace),
        Some(labels) if *namespace == env.namespace && selects(labels, &env.labels) => Some(Level::Workload),
        _ => not_selected("", "does not select this gateway"),
    }
}

impl<T> Section<'_, T> {
    /// Whether it is about what a gateway does, which is a client; what is not is said so.
    pub(crate) fn is_for_clients(&self, of: Option<&DirectionSelector>, report: &mut Report) -> bool {
        let is_server = of.and_then(|of| of.mode) == Some(WorkloadMode::Server);
        if is_server {
            let text = "has no effect at a gateway, which counts as a client";
            report.note(self.object, &format!("{}.match.mode", self.field), "no-effect", text, "");
        }
        !is_server
    }
}
