//! Which endpoints of a service are preferred by where they run, where no rule says it: `trafficDistribution`.

use crate::locality::{self, HOSTNAME, NETWORK, PARTS};
use crate::report::Report;
use crate::service_registry::{Service, Source};
use crate::unused_endpoints::{unknown_region, without_region};
use crate::world::World;
use std::collections::BTreeMap;
use tidegate_api::istio::LocalityLoadBalancerSetting;
use tidegate_api::{Object, Objects};
use tidegate_model::Locality;

/// The annotation that says it of Services, ServiceEntries and, for all of these, namespaces.
const ANNOTATION: &str = "networking.istio.io/traffic-distribution";

/// The endpoints that come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prefer {
    SameZone,
    SameNode,
}

impl Prefer {
    fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "preferclose" | "prefersamezone" => Some(Prefer::SameZone),
            "prefersamenode" => Some(Prefer::SameNode),
            _ => None,
        }
    }
}

/// What is said of namespaces, and the settings that stand for it.
pub(crate) struct Distribution<'a> {
    namespaces: BTreeMap<&'a str, &'a Object>,
    same_zone: LocalityLoadBalancerSetting,
    same_node: LocalityLoadBalancerSetting,
}

impl<'a> Distribution<'a> {
    pub(crate) fn new(objects: &'a Objects) -> Self {
        let all = objects.namespaces().into_iter().map(|(object, _)| object);
        let says = all.filter(|o| o.annotations.contains_key(ANNOTATION));
        let setting = |labels: &[&str]| LocalityLoadBalancerSetting {
            failover_priority: labels.iter().map(|label| (*label).to_owned()).collect(),
            ..LocalityLoadBalancerSetting::default()
        };
        let [region, zone, subzone] = PARTS;
        Distribution {
            namespaces: says.map(|o| (&*o.reference.name, o)).collect(),
            same_zone: setting(&[NETWORK, region, zone]),
            same_node: setting(&[NETWORK, region, zone, subzone, HOSTNAME]),
        }
    }

    /// The setting for a service: by its field, else by its annotation, else by that of its namespace.
    pub(crate) fn of(&self, service: &Service<'_>) -> Option<&LocalityLoadBalancerSetting> {
        Some(match self.prefers(service)? {
            Prefer::SameZone => &self.same_zone,
            Prefer::SameNode => &self.same_node,
        })
    }

    fn prefers(&self, service: &Service<'_>) -> Option<Prefer> {
        let source = service.sources.first()?;
        let field = match source {
            Source::Kubernetes((_, kube)) => kube.traffic_distribution.as_deref(),
            Source::Entry(_) => None,
        };
        let annotation = |object: &Object| {
            object.annotations.get(ANNOTATION).filter(|text| !text.is_empty()).map(|text| Prefer::parse(text))
        };
        let of_namespace = || self.namespaces.get(&*service.namespace).and_then(|o| annotation(o));
        let annotated = || annotation(source.object()).or_else(of_namespace).flatten();
        field.and_then(Prefer::parse).or_else(annotated)
    }

    /// Says what is no preference, and which need to know more of this gateway.
    pub(crate) fn report(&self, world: &World<'_>, report: &mut Report) {
        for namespace in self.namespaces.values() {
            annotation(namespace, report);
        }
        let here = locality::of_labels(&world.env.labels);
        for service in world.registry.services() {
            let Some(source) = service.sources.first() else { continue };
            let object = source.object();
            annotation(object, report);
            if let Source::Kubernetes((_, kube)) = source
                && let Some(text) =
                    kube.traffic_distribution.as_deref().filter(|t| Prefer::parse(t).is_none())
            {
                unknown(object, "spec.trafficDistribution", text, report);
            }
            let Some(prefers) = self.prefers(service) else { continue };
            if let Some(text) = without_region(world, service) {
                unknown_region(object, &Self::field(source), text, report);
            }
            let node = prefers == Prefer::SameNode && !world.env.labels.contains_key(HOSTNAME);
            if here == Locality::default() || node {
                let what = if node { "which node this gateway is on" } else { "where this gateway runs" };
                let text = format!("{what} is not known, so no endpoint is preferred for being there");
                let label =
                    if node { "kubernetes.io/hostname=NODE" } else { "istio-locality=REGION.ZONE.SUBZONE" };
                let advice = format!("give the gateway --label {label}");
                report.note(object, &Self::field(source), "unknown-locality", text, advice);
            }
        }
    }

    /// Where it is said of a service; empty where its namespace says it.
    fn field(source: &Source<'_>) -> String {
        match source {
            Source::Kubernetes((_, kube)) if kube.traffic_distribution.is_some() => {
                "spec.trafficDistribution".to_owned()
            }
            _ => source.object().annotation(ANNOTATION).map(|(_, field)| field).unwrap_or_default(),
        }
    }
}

fn annotation(object: &Object, report: &mut Report) {
    if let Some((text, field)) = object.annotation(ANNOTATION)
        && !text.is_empty()
        && Prefer::parse(text).is_none()
    {
        unknown(object, &field, text, report);
    }
}

fn unknown(object: &Object, field: &str, text: &str, report: &mut Report) {
    let text = format!("{text:?} is no traffic distribution, so requests go to all endpoints alike");
    report.warning(object, field, "no-effect", text, "use PreferClose, PreferSameZone or PreferSameNode");
}
