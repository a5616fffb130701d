//! The DestinationRules, found by the host of a service.

use crate::Env;
use crate::hosts::{is_subset, resolve};
use crate::world::{Item, selects};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_api::istio::DestinationRule;

/// The DestinationRules, as the client that an [`Env`] describes looks for them.
pub(crate) struct DestinationRules<'a> {
    /// What comes first: those of the client's namespace that it sees. Of the root namespace, what is its own alone.
    own: Hosts<'a>,
    /// By namespace, those that others see as well.
    exported: BTreeMap<&'a str, Hosts<'a>>,
    env: &'a Env,
}

/// The rules of a namespace by the host in full.
#[derive(Default)]
struct Hosts<'a> {
    exact: BTreeMap<String, Vec<Merged<'a>>>,
    wildcard: BTreeMap<String, Vec<Merged<'a>>>,
}

/// Rules that count as one.
pub(crate) struct Merged<'a> {
    /// The first that says something counts.
    pub(crate) rules: Vec<Item<'a, DestinationRule>>,
    export_to: BTreeSet<&'a str>,
    pub(crate) selector: Option<&'a BTreeMap<String, String>>,
}

impl<'a> DestinationRules<'a> {
    /// `rules` by age. Without `exportTo`, `default` counts.
    pub(crate) fn new(mut rules: Vec<Item<'a, DestinationRule>>, env: &'a Env, default: &[String]) -> Self {
        let mut all = DestinationRules { own: Hosts::default(), exported: BTreeMap::new(), env };
        rules.sort_by_key(|(_, rule)| rule.workload_selector.is_none());
        let is_root = env.namespace == env.root_namespace;
        for item in rules {
            let namespace = &*item.0.reference.namespace;
            let host = resolve(&item.1.host, namespace, &env.domain);
            let export_to = export_to(item.1);
            let names_own = export_to.contains(".") || export_to.contains(namespace);
            let private = match export_to.len() {
                0 => default.iter().any(|d| d == "."),
                len => len == 1 && names_own,
            };
            let sees = export_to.is_empty() || export_to.contains("*") || names_own;
            if *namespace == *env.namespace && sees && (private || !is_root) {
                all.own.add(item, &host, &export_to);
            }
            if !private {
                all.exported.entry(namespace).or_default().add(item, &host, &export_to);
            }
        }
        all
    }

    /// The rules for `host`, a service of `namespace`: those of the client's namespace, else of the service's, else
    /// of the root namespace. There, the most specific host, whether its rules are for this client or not. Several are
    /// merged; of those that cannot be, the first that selects the client counts, else the newest.
    pub(crate) fn lookup(&self, host: &str, namespace: &str) -> Vec<Item<'a, DestinationRule>> {
        let own: Vec<_> = self.own.find(host).iter().collect();
        let mut found = own;
        for namespace in [namespace, &*self.env.root_namespace] {
            if found.is_empty() {
                let exported = self.exported.get(namespace).map_or(&[][..], |hosts| hosts.find(host));
                found = exported.iter().filter(|merged| self.sees(merged, namespace)).collect();
            }
        }
        let selected = found.iter().find(|m| m.selector.is_some_and(|s| selects(s, &self.env.labels)));
        let general = || found.iter().rfind(|m| m.selector.is_none());
        selected.or_else(general).map_or(Vec::new(), |merged| merged.rules.clone())
    }

    fn sees(&self, merged: &Merged<'_>, namespace: &str) -> bool {
        let (export_to, client) = (&merged.export_to, &*self.env.namespace);
        export_to.is_empty()
            || export_to.contains("*")
            || export_to.contains(client)
            || (namespace == client && export_to.contains("."))
    }

    /// All rules as they are merged.
    pub(crate) fn merged(&self) -> impl Iterator<Item = &Merged<'a>> {
        let all = std::iter::once(&self.own).chain(self.exported.values());
        all.flat_map(|hosts| hosts.exact.values().chain(hosts.wildcard.values()).flatten())
    }
}

/// The namespaces that see a rule; one with a selector is for its own. Empty is the default.
pub(crate) fn export_to(rule: &DestinationRule) -> BTreeSet<&str> {
    match rule.workload_selector {
        Some(_) => BTreeSet::from(["."]),
        None => rule.export_to.iter().map(String::as_str).collect(),
    }
}

impl<'a> Hosts<'a> {
    /// Merges a rule into those that are for the same clients.
    fn add(&mut self, item: Item<'a, DestinationRule>, host: &str, export_to: &BTreeSet<&'a str>) {
        let hosts = if host.starts_with('*') { &mut self.wildcard } else { &mut self.exact };
        let all = hosts.entry(host.to_owned()).or_default();
        let selector = item.1.workload_selector.as_ref().map(|s| &s.match_labels);
        let mut alone = true;
        for merged in all.iter_mut() {
            let within = !merged.export_to.is_empty() && export_to.is_superset(&merged.export_to);
            let others = merged.selector.is_some() && selector.is_some() && merged.selector != selector;
            if others || !(*export_to == merged.export_to || within) {
                alone = true;
                continue;
            }
            merged.rules.push(item);
            // beside one for some clients it is also that for all others
            alone = merged.selector != selector;
        }
        if alone {
            all.push(Merged { rules: vec![item], export_to: export_to.clone(), selector });
        }
    }

    /// Those with exactly that host, else with the longest wildcard.
    fn find(&self, host: &str) -> &[Merged<'a>] {
        let wider = || {
            let fits = self.wildcard.iter().filter(|(wildcard, _)| is_subset(host, wildcard));
            fits.max_by_key(|(wildcard, _)| wildcard.len()).map(|(_, merged)| merged)
        };
        self.exact.get(host).or_else(wider).map_or(&[], Vec::as_slice)
    }
}
