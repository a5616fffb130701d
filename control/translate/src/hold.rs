//! Make before break: changes that wait for what they need, and what stays for as long as it is needed.

use crate::Env;
use crate::admission::{Key, key};
use crate::clusters::{Absent, Clusters};
use crate::delegate::target;
use crate::hosts::{canonical, is_subset, resolve};
use crate::matches::gateway_name;
use crate::mesh_config::Mesh;
use crate::servers::full_name;
use crate::service_registry::Registry;
use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidegate_api::istio::{Destination, DestinationRule, ServiceEntry, Subset, VirtualService};
use tidegate_api::{Object, Objects, Spec};
use tidegate_model::{Diagnostic, Severity};

type Admitted = BTreeMap<Key, Arc<Object>>;

/// Puts versions back without which a route would lose its destination: of VirtualServices that name what is not there
/// yet, what DestinationRules and ServiceEntries no longer have and routes still name, and what of these was deleted
/// before the VirtualService that did without it could go live.
pub(crate) fn hold(last: &Admitted, objects: &mut Objects, env: &Env, diagnostics: &mut Vec<Diagnostic>) {
    let loaded = objects.clone();
    let owners = Owners::new(last, &loaded, env);
    let lost: Vec<Lost> = loaded.iter().flat_map(|new| lost(last, new, owners.as_ref(), env)).collect();
    let changed = |o: &Arc<Object>| last.get(&key(o)).is_some_and(|last| last != o);
    let waits = loaded.iter().any(|o| matches!(o.spec, Spec::VirtualService(_)) && changed(o));
    if !waits && lost.is_empty() {
        return;
    }
    // what is still needed is known when it is known which VirtualServices count
    let mut generous = loaded.clone();
    lost.iter().for_each(|lost| lost.put_back(&mut generous));
    let deleted = deleted(last, &loaded);
    let mut before = generous.clone();
    deleted.iter().for_each(|o| _ = before.insert((*o).clone()));
    let held = waiting(last, &generous, &before, env, diagnostics);
    for old in &held {
        objects.insert(old.clone());
    }
    if !deleted.is_empty() && !held.is_empty() {
        keep(&deleted, &held, (objects, &before), env, diagnostics);
    }
    if lost.is_empty() {
        return;
    }
    let needed = needed(objects, &generous, |_| true, env);
    for lost in &lost {
        if let Some(who) = needed.iter().find(|(target, _)| lost.is(target)).map(|(_, who)| who) {
            diagnostics.push(lost.diagnostic(who));
            lost.put_back(objects);
        }
    }
}

/// What there was and is no more, of objects that say where requests go.
fn deleted<'l>(last: &'l Admitted, loaded: &Objects) -> Vec<&'l Arc<Object>> {
    let is_gone = |object: &Object| {
        let mut reference = object.reference.clone();
        reference.name = object.reference.name.trim_end_matches(KEPT).into();
        loaded.get(&reference).is_none()
    };
    let says = |spec: &Spec| matches!(spec, Spec::DestinationRule(_) | Spec::ServiceEntry(_));
    last.values().filter(|o| says(&o.spec) && is_gone(o)).collect()
}

/// Puts back what was deleted and a VirtualService that is held needs: its new version may well do without.
fn keep(
    deleted: &[&Arc<Object>],
    held: &[Arc<Object>],
    (objects, before): (&mut Objects, &Objects),
    env: &Env,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let is_held = |who: &Object| held.iter().any(|o| key(o) == key(who));
    for (target, who) in needed(objects, before, is_held, env) {
        for object in deleted.iter().filter(|o| is_of(o, &target.host, env)) {
            if objects.insert((*object).clone()).is_none() {
                let text =
                    format!("was deleted, and {who}, which waits, still needs it; it stays until then");
                let advice = "let what that waits for be there, or correct it";
                diagnostics.push(object.diagnostic(Severity::Warning, "", text, advice, "held"));
            }
        }
    }
}

/// Whether an object says something of a host.
fn is_of(object: &Object, host: &str, env: &Env) -> bool {
    match &object.spec {
        Spec::ServiceEntry(entry) => entry.hosts.iter().any(|h| is_subset(host, &canonical(h))),
        Spec::DestinationRule(rule) => {
            is_subset(host, &resolve(&rule.host, &object.reference.namespace, &env.domain))
        }
        _ => false,
    }
}

/// The last versions of VirtualServices whose new ones name what is not there yet, while these name nothing that was not
/// there before. One that names what was deleted does not wait: nobody says that it comes back.
fn waiting(
    last: &Admitted,
    objects: &Objects,
    before: &Objects,
    env: &Env,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Arc<Object>> {
    let world = World::new(objects, env);
    let mut clusters = Clusters::new(&world);
    let mut lacking = Vec::new();
    for object in objects.iter() {
        let Spec::VirtualService(new) = &object.spec else { continue };
        let Some(last) = last.get(&key(object)).filter(|last| *last != object) else { continue };
        let Spec::VirtualService(old) = &last.spec else { continue };
        if let Some(what) = missing(&world, object, new, &mut clusters) {
            lacking.push((object, new, last, old, what));
        }
    }
    let mut held = Vec::new();
    if lacking.is_empty() {
        return held;
    }
    let before = World::new(before, env);
    let mut clusters_before = Clusters::new(&before);
    for (object, new, last, old, (field, missing)) in lacking {
        if self::missing(&before, last, old, &mut clusters_before).is_some() {
            continue;
        }
        let mut named = destinations(new).into_iter().map(|(_, to)| Target::of(object, to, env));
        if named.any(|to| absent(&to, &mut clusters).is_some() && absent(&to, &mut clusters_before).is_none())
        {
            continue;
        }
        let text = format!("waits for {missing}, which does not exist; the last version keeps serving");
        let advice = "create it, or correct the name; the change goes live by itself then";
        diagnostics.push(object.diagnostic(Severity::Warning, &field, text, advice, "held"));
        held.push(last.clone());
    }
    held
}

/// The first thing that a VirtualService names and that does not exist.
fn missing(
    world: &World<'_>,
    object: &Object,
    vs: &VirtualService,
    clusters: &mut Clusters<'_, '_>,
) -> Option<(String, String)> {
    let own = &*object.reference.namespace;
    for (r, rule) in vs.http.iter().enumerate().filter(|(_, rule)| rule.delegate.is_some()) {
        let missing = match target(world, object, rule) {
            Ok((leaf, vs)) => missing_destination(world, leaf, vs, clusters).map(|(_, what)| what),
            Err(absent) => Some(absent.wanted()),
        };
        if let Some(what) = missing {
            return Some((format!("spec.http[{r}].delegate"), what));
        }
    }
    let wanted: Vec<_> = vs.gateways.iter().filter(|g| *g != "mesh").map(|g| gateway_name(g, own)).collect();
    let known = |name: &String| world.gateways.iter().any(|(gateway, _)| *full_name(gateway) == **name);
    if let Some(first) = wanted.first().filter(|_| !wanted.iter().any(known)) {
        return Some(("spec.gateways".to_owned(), format!("Gateway {first}")));
    }
    missing_destination(world, object, vs, clusters)
}

fn missing_destination(
    world: &World<'_>,
    object: &Object,
    vs: &VirtualService,
    clusters: &mut Clusters<'_, '_>,
) -> Option<(String, String)> {
    destinations(vs).into_iter().find_map(|(field, to)| {
        let (at, what) = absent(&Target::of(object, to, world.env), clusters)?;
        Some((format!("{field}.{at}"), what))
    })
}

/// A destination in full.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    host: String,
    subset: String,
    port: Option<u32>,
}

impl Target {
    fn of(object: &Object, to: &Destination, env: &Env) -> Target {
        Target {
            host: resolve(&to.host, &object.reference.namespace, &env.domain),
            subset: to.subset.clone().unwrap_or_default(),
            port: to.port.as_ref().and_then(|p| p.number),
        }
    }
}

/// What of a destination does not exist: its field, and what it is.
fn absent(target: &Target, clusters: &mut Clusters<'_, '_>) -> Option<(&'static str, String)> {
    let Target { host, subset, port } = target;
    match (clusters.resolve(host, subset, *port, 80).1, port) {
        (Err(Absent::Host), _) => Some(("host", format!("service {host}"))),
        (Err(Absent::Port { .. }), Some(port)) => Some(("port", format!("port {port} of {host}"))),
        (Err(Absent::Subset(_)), _) => Some(("subset", format!("subset {subset} of {host}"))),
        _ => None,
    }
}

/// The destinations of all rules that have a weight, and the mirrors, each with its field.
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
    for (r, rule) in vs.http.iter().enumerate() {
        let all = format!("spec.http[{r}]");
        found.extend(rule.mirror.as_deref().into_iter().map(|to| (format!("{all}.mirror"), to)));
        let listed = rule.mirrors.iter().enumerate();
        found.extend(listed.map(|(m, to)| (format!("{all}.mirrors[{m}].destination"), &to.destination)));
    }
    found
}

/// The destinations that there would be no cluster for, and that `generous` has one for, with who of `whom` names them.
fn needed(
    objects: &Objects,
    generous: &Objects,
    whom: impl Fn(&Object) -> bool,
    env: &Env,
) -> BTreeMap<Target, String> {
    let (world, kept) = (World::new(objects, env), World::new(generous, env));
    let (mut clusters, mut kept) = (Clusters::new(&world), Clusters::new(&kept));
    let mut needed = BTreeMap::new();
    for (object, vs) in world.virtual_services.iter().filter(|(object, _)| whom(object)) {
        for (_, to) in destinations(vs) {
            let target = Target::of(object, to, env);
            if absent(&target, &mut clusters).is_some() && absent(&target, &mut kept).is_none() {
                needed.entry(target).or_insert_with(|| object.reference.to_string());
            }
        }
    }
    needed
}

/// What an object no longer has.
struct Lost {
    /// The object as it is now.
    of: Arc<Object>,
    host: String,
    what: Part,
}

enum Part {
    Subset(Box<Subset>),
    /// A host with these ports, as an object that has nothing else.
    Ports(Vec<u32>, Arc<Object>),
}

/// Ends the names of what stays of ServiceEntries; no object of a user has it in its name.
const KEPT: &str = "~";

/// Whether an object is what stays of an earlier version.
pub(crate) fn is_kept(object: &Object) -> bool {
    object.reference.name.ends_with(KEPT)
}

/// Whose the hosts of services were, and whose they are: the namespaces.
struct Owners {
    before: BTreeMap<Arc<str>, Arc<str>>,
    now: BTreeMap<Arc<str>, Arc<str>>,
}

impl Owners {
    /// `None` where nothing changed that says so.
    fn new(last: &Admitted, loaded: &Objects, env: &Env) -> Option<Self> {
        let says =
            |o: &Object| matches!(o.spec, Spec::Service(_) | Spec::ServiceEntry(_) | Spec::ConfigMap(_));
        let same = |o: &Arc<Object>| loaded.current(o).is_some_and(|new| Arc::ptr_eq(new, o) || new == o);
        let gone = last.values().any(|o| says(o) && !same(o));
        if !gone && loaded.iter().all(|o| !says(o) || last.contains_key(&key(o))) {
            return None;
        }
        let mut before = Objects::new();
        last.values().filter(|o| says(o)).for_each(|o| _ = before.insert(o.clone()));
        let of = |objects: &Objects| {
            let mesh = Mesh::new(objects, env);
            let registry = Registry::new(objects, env, mesh.service_export_to());
            registry.services().map(|s| (s.host.clone(), s.namespace.clone())).collect()
        };
        Some(Owners { before: of(&before), now: of(loaded) })
    }
}

fn lost(last: &Admitted, new: &Arc<Object>, owners: Option<&Owners>, env: &Env) -> Vec<Lost> {
    let (reference, group) = key(new);
    match &new.spec {
        Spec::DestinationRule(rule) => {
            let Some(before) = last.get(&(reference, group)).filter(|last| *last != new) else {
                return Vec::new();
            };
            let Spec::DestinationRule(old) = &before.spec else { return Vec::new() };
            let host = |rule: &DestinationRule| resolve(&rule.host, &new.reference.namespace, &env.domain);
            if host(old) != host(rule) {
                return Vec::new();
            }
            let has = |name: &str| rule.subsets.iter().any(|s| s.name == name);
            let gone = old.subsets.iter().filter(|s| !has(&s.name));
            gone.map(|s| Lost { of: new.clone(), host: host(rule), what: Part::Subset(Box::new(s.clone())) })
                .collect()
        }
        Spec::ServiceEntry(entry) => {
            let Some(owners) = owners else { return Vec::new() };
            let own = reference.namespace.clone();
            let is_own = |of: &BTreeMap<Arc<str>, Arc<str>>, host: &str| of.get(host) == Some(&own);
            let mut has = pairs(entry);
            // what it says of a host that is another's now it does not have
            has.retain(|(host, _)| is_own(&owners.now, host) || !owners.now.contains_key(&**host));
            let mut found = Vec::new();
            let mut kept = reference;
            // what stayed before, and then the last version
            while let Some(before) = last.get(&(kept.clone(), group.clone())) {
                if let Spec::ServiceEntry(old) = &before.spec {
                    let had = |host: &str| is_kept(before) || is_own(&owners.before, host);
                    found.extend(lost_hosts(new, before, old, had, &mut has));
                }
                kept.name = format!("{}{KEPT}", kept.name).into();
            }
            found
        }
        _ => Vec::new(),
    }
}

/// The hosts of a ServiceEntry with their ports.
fn pairs(entry: &ServiceEntry) -> BTreeSet<(String, u32)> {
    let ports = || entry.ports.iter().map(|p| p.number);
    entry.hosts.iter().flat_map(|h| ports().map(move |p| (canonical(h), p))).collect()
}

/// What an old version has, of the hosts that it `had`, and `has` has not, which it has then.
fn lost_hosts(
    new: &Arc<Object>,
    before: &Object,
    old: &ServiceEntry,
    had: impl Fn(&str) -> bool,
    has: &mut BTreeSet<(String, u32)>,
) -> Vec<Lost> {
    let mut gone: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (host, port) in pairs(old).into_iter().filter(|(host, _)| had(host)) {
        if has.insert((host.clone(), port)) {
            gone.entry(host).or_default().push(port);
        }
    }
    let lost = gone.into_iter().map(|(host, ports)| {
        let mut part = old.clone();
        part.hosts = vec![host.clone()];
        part.ports.retain(|p| ports.contains(&p.number));
        let spec = Spec::ServiceEntry(Box::new(part));
        let reference = new.reference.clone();
        let part = Arc::new(Object { spec, reference, ..before.clone() });
        Lost { of: new.clone(), host, what: Part::Ports(ports, part) }
    });
    lost.collect()
}

impl Lost {
    /// Whether a route that names `target` needs it.
    fn is(&self, target: &Target) -> bool {
        match &self.what {
            Part::Subset(subset) => target.subset == subset.name && is_subset(&target.host, &self.host),
            Part::Ports(ports, _) => {
                target.host == self.host && target.port.is_none_or(|port| ports.contains(&port))
            }
        }
    }

    fn put_back(&self, objects: &mut Objects) {
        match &self.what {
            Part::Subset(subset) => {
                let now = objects.get(&self.of.reference).unwrap_or(&self.of);
                if let Spec::DestinationRule(rule) = &now.spec {
                    let mut rule = rule.clone();
                    rule.subsets.push(Subset::clone(subset));
                    let with = Object { spec: Spec::DestinationRule(rule), ..Object::clone(now) };
                    objects.insert(Arc::new(with));
                }
            }
            Part::Ports(_, part) => {
                let mut part = Object::clone(part);
                while objects.get(&part.reference).is_some() {
                    part.reference.name = format!("{}{KEPT}", part.reference.name).into();
                }
                objects.insert(Arc::new(part));
            }
        }
    }

    fn diagnostic(&self, who: &str) -> Diagnostic {
        let (field, what) = match &self.what {
            Part::Subset(subset) => ("spec.subsets", format!("the subset {} of {}", subset.name, self.host)),
            Part::Ports(ports, _) => {
                let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
                ("spec", format!("port {} of {}", ports.join(", "), self.host))
            }
        };
        let text = format!("no longer has {what}, which {who} still names; that stays until no route does");
        let advice = "take it out of the routes, or put it back";
        self.of.diagnostic(Severity::Warning, field, text, advice, "held")
    }
}
