use crate::Env;
use crate::export::{Reach, reach};
use crate::hosts::resolve;
use crate::mesh_config::Mesh;
use crate::rule_index::DestinationRules;
use crate::service_registry::Registry;
use crate::traffic_distribution::Distribution;
use std::collections::BTreeMap;
use tidegate_api::istio::{Gateway, VirtualService};
use tidegate_api::{Object, Objects};

/// An object with its typed content.
pub(crate) type Item<'a, T> = (&'a Object, &'a T);

/// The objects as one gateway or sidecar sees them, indexed.
pub(crate) struct World<'a> {
    pub(crate) env: &'a Env,
    pub(crate) objects: &'a Objects,
    pub(crate) mesh: Mesh<'a>,
    /// All Gateways by age.
    pub(crate) gateways: Vec<Item<'a, Gateway>>,
    /// All VirtualServices by age.
    pub(crate) virtual_services: Vec<Item<'a, VirtualService>>,
    /// The hosts of each VirtualService in full.
    pub(crate) hosts: Vec<Vec<String>>,
    /// The VirtualServices by namespace and name.
    by_name: BTreeMap<(&'a str, &'a str), usize>,
    pub(crate) registry: Registry<'a>,
    pub(crate) rules: DestinationRules<'a>,
    pub(crate) distribution: Distribution<'a>,
}

impl<'a> World<'a> {
    pub(crate) fn new(objects: &'a Objects, env: &'a Env) -> Self {
        let mesh = Mesh::new(objects, env);
        let registry = Registry::new(objects, env, mesh.service_export_to());
        let rules = DestinationRules::new(objects.destination_rules(), env, mesh.rule_export_to());
        let gateways = objects.gateways();
        let virtual_services = objects.virtual_services();
        let hosts = virtual_services.iter().map(|(object, vs)| {
            let own = &object.reference.namespace;
            vs.hosts.iter().map(|h| resolve(h, own, &env.domain)).collect()
        });
        let hosts = hosts.collect();
        let names = virtual_services.iter().map(|(object, _)| &object.reference).enumerate();
        let by_name = names.map(|(i, r)| ((&*r.namespace, &*r.name), i)).collect();
        let distribution = Distribution::new(objects);
        World {
            env,
            objects,
            mesh,
            gateways,
            virtual_services,
            hosts,
            by_name,
            registry,
            rules,
            distribution,
        }
    }

    /// The VirtualService of that namespace and name.
    pub(crate) fn virtual_service(&self, namespace: &str, name: &str) -> Option<Item<'a, VirtualService>> {
        self.by_name.get(&(namespace, name)).map(|i| self.virtual_services[*i])
    }

    /// How a VirtualService is visible to `viewer`, if it is.
    pub(crate) fn reach(&self, (object, vs): Item<'a, VirtualService>, viewer: &str) -> Option<Reach> {
        reach(&vs.export_to, self.mesh.virtual_service_export_to(), &object.reference.namespace, viewer)
    }

    /// The VirtualServices that this gateway sees in the order in which it merges them: private, then exported to
    /// its namespace, then public ones, each by age.
    pub(crate) fn visible_virtual_services(&self) -> Vec<usize> {
        let reaches = |i: &usize| self.reach(self.virtual_services[*i], &self.env.namespace);
        let mut visible: Vec<usize> =
            (0..self.virtual_services.len()).filter(|i| reaches(i).is_some()).collect();
        visible.sort_by_key(reaches);
        visible
    }
}

/// Whether `labels` have all of `selector`.
pub(crate) fn selects(
    selector: &std::collections::BTreeMap<String, String>,
    labels: &std::collections::BTreeMap<String, String>,
) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// A port number as such, when it is one.
pub(crate) fn port(number: u32) -> Option<u16> {
    u16::try_from(number).ok().filter(|p| *p > 0)
}
