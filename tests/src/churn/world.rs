//! What is served, and how it changes: services with subsets and endpoints, hosts whose routes name them, and a
//! certificate. A transition takes one write or several, and the order of those is anyone's.

use super::workloads::{FOR, Subset, Workload};
use crate::{Identity, objects};
use anyhow::Result;
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The paths that a host has rules for; what is left over goes to its last rule.
pub(super) const PATHS: [&str; 3] = ["/a/x", "/b/x", "/"];
/// Where the Gateway listens: in plaintext, and with TLS.
pub(super) const PORTS: [u16; 2] = [8080, 8443];
/// Services that there are at least, and at most.
const SERVICES: std::ops::RangeInclusive<usize> = 3..=6;
/// Endpoints that a new subset gets.
const ENDPOINTS: usize = 3;
/// How long endpoints are there before a subset is made of them, and after it went: a subset without any is a 503 by
/// anyone's rules.
const SETTLES: Duration = Duration::from_secs(2);

/// One file of the config, written or removed as the world is when its turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum File {
    Gateway,
    Secret,
    Routes(usize),
    Entry(u32),
    Rule(u32),
}

impl File {
    fn name(self) -> String {
        match self {
            File::Gateway => "gateway.yaml".into(),
            File::Secret => "secret.yaml".into(),
            File::Routes(n) => format!("routes-{n}.yaml"),
            File::Entry(n) => format!("entry-{n}.yaml"),
            File::Rule(n) => format!("rule-{n}.yaml"),
        }
    }
}

/// What is to be written, in any order, and who leaves what when that is done.
#[derive(Default)]
pub(super) struct Transition {
    pub(super) writes: Vec<File>,
    leaving: Vec<(usize, Subset)>,
}

/// A service: its endpoints by their number, and the versions that its DestinationRule has subsets of.
#[derive(Default)]
struct Service {
    endpoints: BTreeMap<usize, u32>,
    subsets: BTreeSet<u32>,
    newest: u32,
    /// When a version got its endpoints, or lost its subset.
    changed: BTreeMap<u32, Instant>,
}

impl Service {
    fn settled(&self, version: u32) -> bool {
        self.changed.get(&version).is_none_or(|at| at.elapsed() > SETTLES)
    }
}

/// The destinations of one rule, with their weights.
type Rule = Vec<(Subset, u32)>;

/// Everything.
pub(super) struct World {
    folder: PathBuf,
    rng: Rng,
    workloads: Vec<Arc<Workload>>,
    identities: Vec<Identity>,
    certificate: usize,
    services: BTreeMap<u32, Service>,
    newest: u32,
    /// By host: a rule for each of [`PATHS`].
    hosts: Vec<[Rule; PATHS.len()]>,
}

/// The name of a host.
pub(super) fn host(n: usize) -> String {
    format!("host-{n}.example")
}

impl World {
    /// Writes the first config.
    pub(super) fn new(
        folder: PathBuf,
        seed: u64,
        hosts: usize,
        workloads: Vec<Arc<Workload>>,
        identities: Vec<Identity>,
    ) -> Result<World> {
        let rng = Rng::with_seed(seed);
        let services = BTreeMap::new();
        let (certificate, newest) = (0, 0);
        let mut world =
            World { folder, rng, workloads, identities, certificate, services, newest, hosts: Vec::new() };
        while world.services.len() < *SERVICES.start() {
            world.add_service();
        }
        for _ in 0..hosts {
            let rules = PATHS.map(|_| world.some_rule(None));
            world.hosts.push(rules);
        }
        let files = (0..hosts).map(File::Routes).chain([File::Gateway, File::Secret]);
        let of_services = world.services.keys().flat_map(|n| [File::Entry(*n), File::Rule(*n)]);
        for file in files.chain(of_services).collect::<Vec<_>>() {
            world.write(file)?;
        }
        Ok(world)
    }

    /// Writes or removes a file, whole at once.
    pub(super) fn write(&self, file: File) -> Result<()> {
        let path = self.folder.join(file.name());
        let Some(text) = self.text(file) else {
            return match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
                _ => Ok(()),
            };
        };
        let beside = self.folder.join(".new");
        fs::write(&beside, text)?;
        Ok(fs::rename(beside, path)?)
    }

    /// Changes something; the files that say so are still to be written.
    pub(super) fn change(&mut self) -> Transition {
        let mut transition = match self.rng.u32(0..100) {
            0..25 => self.shift(),
            25..50 => self.replace_endpoint(),
            50..58 => self.next_certificate(),
            58..72 => self.new_service(),
            72..84 => self.drop_service(),
            84..92 => self.new_subset(),
            _ => self.drop_subset(),
        };
        self.rng.shuffle(&mut transition.writes);
        // whoever deletes an object that a route names asks for a 503
        transition.writes.sort_by_key(|file| self.text(*file).is_none());
        transition
    }

    /// Nobody is to be asked any more who left, and did not come back meanwhile.
    pub(super) fn done(&self, transition: &Transition) {
        for (n, subset) in &transition.leaving {
            let service = self.services.get(&subset.service);
            if service.and_then(|s| s.endpoints.get(n)) != Some(&subset.version) {
                self.workloads[*n].leave(*subset);
            }
        }
    }

    /// Replaces so many endpoints of the first service.
    pub(super) fn replace_endpoints(&mut self, count: usize) -> Transition {
        let Some((&service, _)) = self.services.first_key_value() else { return Transition::default() };
        let mut leaving = Vec::new();
        for _ in 0..count {
            leaving.extend(self.replace_one(service));
        }
        Transition { writes: vec![File::Entry(service)], leaving }
    }

    /// Has only one service, with one subset of so many endpoints.
    pub(super) fn one_service(&mut self, endpoints: usize) -> Result<()> {
        let dropped: Vec<u32> = self.services.keys().copied().collect();
        self.services.clear();
        let service = self.add_service();
        let subset = Subset { service, version: 1 };
        while self.services[&service].endpoints.len() < endpoints {
            self.add_endpoint(subset);
        }
        for rules in &mut self.hosts {
            *rules = PATHS.map(|_| vec![(subset, 1)]);
        }
        let gone = dropped.into_iter().flat_map(|n| [File::Entry(n), File::Rule(n)]);
        let routes = (0..self.hosts.len()).map(File::Routes);
        gone.chain(routes).chain([File::Entry(service), File::Rule(service)]).try_for_each(|f| self.write(f))
    }

    fn shift(&mut self) -> Transition {
        let (host, path) = (self.rng.usize(..self.hosts.len()), self.rng.usize(..PATHS.len()));
        self.hosts[host][path] = self.some_rule(None);
        Transition { writes: vec![File::Routes(host)], leaving: Vec::new() }
    }

    fn replace_endpoint(&mut self) -> Transition {
        let service = self.some_service();
        let leaving = self.replace_one(service).into_iter().collect();
        Transition { writes: vec![File::Entry(service)], leaving }
    }

    fn next_certificate(&mut self) -> Transition {
        self.certificate = (self.certificate + 1) % self.identities.len();
        Transition { writes: vec![File::Secret], leaving: Vec::new() }
    }

    /// A new service that a route names at once.
    fn new_service(&mut self) -> Transition {
        if self.services.len() >= *SERVICES.end() {
            return self.drop_service();
        }
        let service = self.add_service();
        let (host, path) = (self.rng.usize(..self.hosts.len()), self.rng.usize(..PATHS.len()));
        self.hosts[host][path] = vec![(Subset { service, version: 1 }, 1)];
        Transition {
            writes: vec![File::Entry(service), File::Rule(service), File::Routes(host)],
            leaving: Vec::new(),
        }
    }

    fn drop_service(&mut self) -> Transition {
        if self.services.len() <= *SERVICES.start() {
            return self.new_service();
        }
        let service = self.some_service();
        let gone = self.services.remove(&service).unwrap_or_default();
        let leaving = gone.endpoints.iter().map(|(n, v)| (*n, Subset { service, version: *v })).collect();
        let mut writes = vec![File::Entry(service), File::Rule(service)];
        writes.extend(self.leave_routes(|s| s.service == service));
        Transition { writes, leaving }
    }

    /// A new subset that a route names at once, or the endpoints of one.
    fn new_subset(&mut self) -> Transition {
        let service = self.some_service();
        let Some(known) = self.services.get_mut(&service) else { return Transition::default() };
        let Some(version) = Some(known.newest).filter(|v| !known.subsets.contains(v)) else {
            known.newest += 1;
            known.changed.insert(known.newest, Instant::now());
            let subset = Subset { service, version: known.newest };
            (0..ENDPOINTS).for_each(|_| self.add_endpoint(subset));
            return Transition { writes: vec![File::Entry(service)], leaving: Vec::new() };
        };
        if !known.settled(version) {
            return self.shift();
        }
        known.subsets.insert(version);
        let (host, path) = (self.rng.usize(..self.hosts.len()), self.rng.usize(..PATHS.len()));
        self.hosts[host][path] = vec![(Subset { service, version }, 1)];
        Transition { writes: vec![File::Rule(service), File::Routes(host)], leaving: Vec::new() }
    }

    /// A subset goes, and so do the routes to it; its endpoints go with a later change.
    fn drop_subset(&mut self) -> Transition {
        let service = self.some_service();
        let Some(known) = self.services.get_mut(&service) else { return Transition::default() };
        if known.subsets.len() < 2 {
            return self.new_subset();
        }
        let Some(version) = known.subsets.pop_first() else { return Transition::default() };
        known.changed.insert(version, Instant::now());
        let mut writes = vec![File::Rule(service)];
        writes.extend(self.leave_routes(|s| s == Subset { service, version }));
        Transition { writes, leaving: Vec::new() }
    }

    /// Takes what is no more out of all rules; these are the files that change by it.
    fn leave_routes(&mut self, gone: impl Fn(Subset) -> bool) -> Vec<File> {
        let mut writes = Vec::new();
        for host in 0..self.hosts.len() {
            for path in 0..PATHS.len() {
                let rule = &mut self.hosts[host][path];
                if !rule.iter().any(|(s, _)| gone(*s)) {
                    continue;
                }
                rule.retain(|(s, _)| !gone(*s));
                if rule.is_empty() {
                    self.hosts[host][path] = self.some_rule(Some(&gone));
                }
                if !writes.contains(&File::Routes(host)) {
                    writes.push(File::Routes(host));
                }
            }
        }
        writes
    }

    fn some_service(&mut self) -> u32 {
        let n = self.rng.usize(..self.services.len());
        self.services.keys().nth(n).copied().unwrap_or_default()
    }

    /// One or two destinations of those that there are.
    fn some_rule(&mut self, but: Option<&dyn Fn(Subset) -> bool>) -> Rule {
        let all: Vec<Subset> = self
            .services
            .iter()
            .flat_map(|(n, s)| s.subsets.iter().map(|v| Subset { service: *n, version: *v }))
            .filter(|s| but.is_none_or(|gone| !gone(*s)))
            .collect();
        let count = self.rng.usize(1..=2);
        let chosen: BTreeSet<Subset> = (0..count).map(|_| all[self.rng.usize(..all.len())]).collect();
        chosen.into_iter().map(|s| (s, self.rng.u32(1..100))).collect()
    }

    fn add_service(&mut self) -> u32 {
        self.newest += 1;
        let service = self.newest;
        self.services.insert(service, Service { newest: 1, subsets: [1].into(), ..Service::default() });
        (0..ENDPOINTS).for_each(|_| self.add_endpoint(Subset { service, version: 1 }));
        service
    }

    /// Gives a subset one more endpoint, of those that the service has not.
    fn add_endpoint(&mut self, subset: Subset) {
        let Some(service) = self.services.get_mut(&subset.service) else { return };
        let n = loop {
            let n = self.rng.usize(..self.workloads.len());
            if !service.endpoints.contains_key(&n) {
                break n;
            }
        };
        self.workloads[n].join(subset);
        service.endpoints.insert(n, subset.version);
    }

    /// Replaces an endpoint, or takes it out where its version has been without a subset.
    fn replace_one(&mut self, service: u32) -> Option<(usize, Subset)> {
        let known = self.services.get_mut(&service)?;
        let (n, version) =
            known.endpoints.iter().nth(self.rng.usize(..known.endpoints.len())).map(|(n, v)| (*n, *v))?;
        known.endpoints.remove(&n);
        let subset = Subset { service, version };
        if known.subsets.contains(&version) || version == known.newest || !known.settled(version) {
            self.add_endpoint(subset);
        }
        Some((n, subset))
    }
}

impl World {
    /// The text of a file; `None` where it is not there.
    fn text(&self, file: File) -> Option<String> {
        match file {
            File::Gateway => Some(objects::gateway("edge", PORTS)),
            File::Secret => Some(objects::secret("edge", &self.identities[self.certificate])),
            File::Routes(n) => Some(routes(n, &self.hosts[n])),
            File::Entry(n) => self.services.get(&n).map(|s| self.entry(n, s)),
            File::Rule(n) => self.services.get(&n).map(|s| rule(n, s)),
        }
    }

    fn entry(&self, n: u32, service: &Service) -> String {
        let mut text = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: service-{n}}}\nspec:\n\
             \x20 hosts: [service-{n}.example]\n  location: MESH_INTERNAL\n  resolution: STATIC\n\
             \x20 ports: [{{number: 80, name: http, protocol: HTTP}}]\n  endpoints:\n"
        );
        for (endpoint, version) in &service.endpoints {
            let at = self.workloads[*endpoint].at;
            let _ = writeln!(
                text,
                "  - {{address: {}, ports: {{http: {}}}, labels: {{version: '{version}'}}}}",
                at.ip(),
                at.port()
            );
        }
        text
    }
}

fn routes(n: usize, rules: &[Rule]) -> String {
    let mut text = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: host-{n}}}\nspec:\n\
         \x20 hosts: [{}]\n  gateways: [edge]\n  http:\n",
        host(n)
    );
    for (path, destinations) in PATHS.iter().zip(rules) {
        let prefix = path.trim_end_matches('x');
        let _ = writeln!(text, "  - match: [{{uri: {{prefix: {prefix}}}}}]\n    route:");
        for (subset, weight) in destinations {
            let Subset { service, version } = subset;
            let _ = writeln!(
                text,
                "    - {{destination: {{host: service-{service}.example, subset: v{version}}}, weight: {weight}, \
                 headers: {{request: {{set: {{{FOR}: '{subset}'}}}}}}}}"
            );
        }
    }
    text
}

fn rule(n: u32, service: &Service) -> String {
    let subsets: Vec<String> =
        service.subsets.iter().map(|v| format!("{{name: v{v}, labels: {{version: '{v}'}}}}")).collect();
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: service-{n}}}\nspec:\n\
         \x20 host: service-{n}.example\n  subsets: [{}]\n",
        subsets.join(", ")
    )
}
