use crate::destination_rule::{policy, subset};
use crate::hosts::is_subset;
use crate::locality;
use crate::protocol::Protocol;
use crate::report::Report;
use crate::retries;
use crate::service_registry::{Port, Service};
use crate::upstream_tls::{self, Tls};
use crate::world::{World, port};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tidegate_api::Object;
use tidegate_api::istio::HttpRetry;
use tidegate_model::{Cluster, ClusterName, EndpointSet, Model, ObjectRef, RetryPolicy, UpstreamTls};

/// The clusters that routes name, made when one first does.
pub(crate) struct Clusters<'w, 'a> {
    world: &'w World<'a>,
    made: BTreeMap<ClusterName, Made>,
    known: BTreeMap<ClusterName, Result<(), Absent>>,
    /// What is said of those that are absent.
    absent: BTreeMap<ClusterName, String>,
    /// How long connections to them may stand still.
    tcp_idle: BTreeMap<ClusterName, Option<Duration>>,
    /// The certificates and authorities that their TLS needs.
    credentials: Model,
}

/// A cluster with its endpoints.
type Made = (Arc<Cluster>, Arc<EndpointSet>);

/// What goes to the endpoints of a cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    /// What the DestinationRule asks for.
    AsRuled,
    /// The client's own mesh TLS: only workloads that speak it are reached.
    MeshTls,
}

/// The label of workloads that speak mesh TLS; the sidecar injector sets it.
const TLS_MODE: &str = "security.istio.io/tlsMode";

/// Why a destination has no cluster, so that its requests are answered with 503.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// No such service, or it is not exported to this gateway.
    Host,
    /// The service has no such port, but the known ones.
    Port {
        /// The port that is not there.
        number: u16,
        known: Vec<u16>,
    },
    /// No DestinationRule that applies has the subset, but these.
    Subset(Vec<String>),
    /// The DestinationRule asks for mesh TLS, which is not spoken yet: better no answer than plain text.
    MeshTls,
    /// A DestinationRule that is not known sets up TLS: better no answer than plain text.
    BrokenRule(ObjectRef),
    /// The addresses are whatever a client asked for.
    NoAddress,
}

impl Absent {
    /// What is missing, for a destination with this host and subset.
    pub(crate) fn text(&self, host: &str, subset: &str) -> String {
        match self {
            Absent::Host => format!("there is no service {host}"),
            Absent::Port { number, .. } => format!("{host} has no port {number}"),
            Absent::Subset(_) => format!("no DestinationRule for {host} has the subset {subset:?}"),
            Absent::MeshTls => format!(
                "the DestinationRule of {host} asks for mesh TLS (ISTIO_MUTUAL) to the upstream, which is not spoken yet"
            ),
            Absent::BrokenRule(rule) => {
                format!(
                    "{rule} sets up TLS to {host}, but is refused for its errors and has no good version yet"
                )
            }
            Absent::NoAddress => format!("{host} is a ServiceEntry without addresses of its own"),
        }
    }
}

impl<'w, 'a> Clusters<'w, 'a> {
    pub(crate) fn new(world: &'w World<'a>) -> Self {
        Clusters {
            world,
            made: BTreeMap::new(),
            known: BTreeMap::new(),
            absent: BTreeMap::new(),
            tcp_idle: BTreeMap::new(),
            credentials: Model::default(),
        }
    }

    /// How requests of a rule with these retries are tried again.
    pub(crate) fn retries(&self, written: Option<&HttpRetry>) -> Option<RetryPolicy> {
        retries::policy(written, &self.world.mesh, self.world.env)
    }

    /// The cluster for a destination: its port, else the service's only one, else that of the listener.
    ///
    /// One that does not exist has a name too, which the access log shows.
    pub(crate) fn resolve(
        &mut self,
        host: &str,
        subset: &str,
        number: Option<u32>,
        listener: u16,
    ) -> (ClusterName, Result<(), Absent>) {
        let (name, found) = self.find(host, subset, number, listener);
        if let Err(absent) = &found
            && !self.absent.contains_key(&name)
        {
            self.absent.insert(name.clone(), absent.text(host, subset));
        }
        (name, found)
    }

    fn find(
        &mut self,
        host: &str,
        subset: &str,
        number: Option<u32>,
        listener: u16,
    ) -> (ClusterName, Result<(), Absent>) {
        let world = self.world;
        let registry = &world.registry;
        let found = registry.get(host);
        // What an ExternalName stands for, when that is a service itself (one level).
        let aliased = found.and_then(|s| s.alias.as_deref()).and_then(|a| registry.get(a));
        let Some(service) = aliased.or(found) else {
            let name = ClusterName::outbound(number.and_then(port).unwrap_or(listener), subset, host);
            return (name, Err(Absent::Host));
        };
        let number = match (number, service.ports.as_slice()) {
            (Some(number), _) => port(number).unwrap_or(listener),
            (None, [only]) => only.number,
            (None, _) => listener,
        };
        let name = ClusterName::outbound(number, subset, &service.host);
        if let Some(known) = self.known.get(&name) {
            return (name, known.clone());
        }
        let mut made = self.make(service, number, subset, &name, Wire::AsRuled);
        for former in &service.former {
            if matches!(made, Err(Absent::Port { .. } | Absent::Subset(_))) {
                made = self.make(former, number, subset, &name, Wire::AsRuled).or(made);
            }
        }
        let made = made.map(|(made, tcp_idle)| {
            self.made.insert(name.clone(), made);
            self.tcp_idle.insert(name.clone(), tcp_idle);
        });
        self.known.insert(name.clone(), made.clone());
        (name, made)
    }

    /// The clusters of a service that other networks ask for by SNI: of each port, and of each subset of it.
    pub(crate) fn by_sni(&mut self, host: &str) -> Vec<ClusterName> {
        let world = self.world;
        let Some(service) = world.registry.get(host) else { return Vec::new() };
        let rules = world.rules.lookup(&service.host, &service.namespace);
        let subsets: BTreeSet<&str> =
            rules.iter().flat_map(|(_, rule)| &rule.subsets).map(|s| s.name.as_str()).collect();
        let mut names = Vec::new();
        for port in &service.ports {
            for subset in std::iter::once("").chain(subsets.iter().copied()) {
                let name = ClusterName::by_sni(port.number, subset, &service.host);
                if let Ok((made, tcp_idle)) = self.make(service, port.number, subset, &name, Wire::MeshTls) {
                    self.made.insert(name.clone(), made);
                    self.tcp_idle.insert(name.clone(), tcp_idle);
                    names.push(name);
                }
            }
        }
        names
    }

    /// How long a connection to a cluster may stand still; `None` is for ever.
    pub(crate) fn tcp_idle_timeout(&self, name: &ClusterName) -> Option<Duration> {
        self.tcp_idle.get(name).copied().flatten()
    }

    fn make(
        &mut self,
        service: &Service<'a>,
        number: u16,
        subset_name: &str,
        name: &ClusterName,
        wire: Wire,
    ) -> Result<(Made, Option<Duration>), Absent> {
        let any_port = Port { number, name: String::new(), protocol: Protocol::Http };
        let at = match service.port(number) {
            Some(port) => port,
            None if service.alias.is_some() && service.ports.is_empty() => &any_port,
            None => {
                let known = service.ports.iter().map(|p| p.number).collect();
                return Err(Absent::Port { number, known });
            }
        };
        let mut broken = self.world.env.broken_rules.iter();
        if let Some((_, rule)) = broken.find(|(host, _)| is_subset(&service.host, host)) {
            return Err(Absent::BrokenRule(rule.clone()));
        }
        let rules = self.world.rules.lookup(&service.host, &service.namespace);
        let named = (!subset_name.is_empty()).then(|| subset(&rules, subset_name));
        if named == Some(None) {
            let known = rules.iter().flat_map(|(_, r)| &r.subsets).map(|s| s.name.clone());
            return Err(Absent::Subset(known.collect()));
        }
        let named = named.flatten();
        let policy = policy(&rules, named, number, at.protocol, self.world);
        let tls = policy.tls.filter(|_| wire == Wire::AsRuled);
        let tls = tls.map_or(Ok(None), |tls| self.tls(tls, service))?;
        if service.has_no_endpoints_by_nature() {
            return Err(Absent::NoAddress);
        }
        let none = BTreeMap::new();
        let mut endpoints =
            self.world.registry.endpoints_of(service, at, named.map_or(&none, |(_, s)| &s.labels));
        if wire == Wire::MeshTls {
            endpoints.retain(|e| e.labels.get(TLS_MODE).is_some_and(|mode| mode == "istio"));
        }
        // what the service prefers counts before the mesh, and also where nobody notices that endpoints fail
        let preferred = self.world.distribution.of(service).filter(|_| policy.locality.is_none());
        let failover = policy.outlier_detection.is_some() || preferred.is_some();
        let locality = policy.locality.or(preferred).or(self.world.mesh.locality_lb_setting());
        locality::apply(&mut endpoints, locality, &self.world.env.labels, failover);
        let cluster = Cluster {
            name: name.clone(),
            host: service.host.clone(),
            port: number,
            subset: subset_name.into(),
            service_name: service.name.clone(),
            service_namespace: service.namespace.clone(),
            protocol: policy.protocol,
            tls,
            proxy_protocol: policy.proxy_protocol,
            load_balancer: policy.load_balancer,
            outlier_detection: policy.outlier_detection,
            warmup: policy.warmup,
            limits: policy.limits,
            connect_timeout: policy.connect_timeout,
            idle_timeout: policy.idle_timeout,
            retry_budget: policy.retry_budget,
        };
        let endpoints = EndpointSet { cluster: name.clone(), endpoints };
        Ok(((Arc::new(cluster), Arc::new(endpoints)), policy.tcp_idle_timeout))
    }

    /// How TLS is spoken. Mesh TLS may be left out where the user allowed it; any other never.
    fn tls(
        &mut self,
        (object, tls): (&Object, Tls<'_>),
        service: &Service<'a>,
    ) -> Result<Option<UpstreamTls>, Absent> {
        match tls {
            Tls::Own(settings) => {
                // what is wrong with them is said where all rules are looked at
                let place = upstream_tls::place(self.world, object, "");
                let names = service.subject_alt_names();
                let silent = &mut Report::default();
                Ok(Some(upstream_tls::settings(&place, settings, &names, &mut self.credentials, silent)))
            }
            Tls::Mesh if self.world.env.allow_unenforced => Ok(None),
            Tls::Mesh => Err(Absent::MeshTls),
        }
    }

    /// Puts the clusters, their endpoints and what their TLS needs into `model`. Returns why others are not in it.
    pub(crate) fn finish(self, model: &mut Model) -> BTreeMap<ClusterName, String> {
        let Model { mut secrets, mut authorities, .. } = self.credentials;
        model.secrets.append(&mut secrets);
        model.authorities.append(&mut authorities);
        for (name, (cluster, endpoints)) in self.made {
            model.clusters.insert(name.clone(), cluster);
            model.endpoints.insert(name, endpoints);
        }
        self.absent
    }
}
