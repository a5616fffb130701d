//! What would happen to a request: the same table and the same code as the data plane's, asked by hand.

mod answer;
mod choose;
mod policies;
mod request;

#[cfg(test)]
mod tests;

use crate::args::{Output, Setup};
use crate::check::Config;
use crate::echo::Echo;
use crate::report;
use answer::{Answer, Lost, Rewritten, Rule, Share};
use anyhow::{Context, anyhow};
use request::{Carries, Request};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use tidegate_api::Objects;
use tidegate_engine::{
    ConnectionDecision, ConnectionView, Decision, ForwardDecision, ListenerView, NoRoute, Refusal,
    RouteTableView, Table, TcpDecision,
};
use tidegate_model::{ClusterName, HostPattern, Model, Severity, VirtualHostKey};
use tidegate_proxy::{ExplainQuery, Standings, standings};
use tidegate_translate::{Binding, Env, Translation, translate, translate_mesh};

/// Reads the config once and prints the answer to `query`, and what was refused of the config on stderr. With `echo` its
/// workloads are played meanwhile.
///
/// # Errors
/// What is wrong with the question, or that nothing can be printed.
pub(crate) fn print(setup: &Setup, query: &ExplainQuery, echo: bool) -> anyhow::Result<()> {
    let mut config = Config::read(setup);
    let mut echo = echo.then(Echo::start).transpose().context("--echo")?;
    if let Some(echo) = &mut echo {
        let listeners = translate(&config.objects, &config.env).model.listeners;
        let avoid = listeners.into_keys().map(|key| key.port).collect();
        config.objects = echo.replace(&config.objects, &avoid, &config.env.domain);
    }
    let translation = translate(&config.objects, &config.env);
    // what was refused is not in the answer, and may be why it is not the expected one
    for diagnostic in config.diagnostics.iter().chain(&translation.diagnostics) {
        if diagnostic.severity == Severity::Error {
            report::print(diagnostic, Output::Text, &mut io::stderr())?;
        }
    }
    let world = World::new(1, translation, config.objects, setup.mesh_env.clone());
    let answer = world.explain(query, &|_| None).map_err(|wrong| anyhow!(wrong))?;
    let text = match setup.output {
        Output::Text => answer.to_string(),
        Output::Json => serde_json::to_string_pretty(&answer)? + "\n",
    };
    io::stdout().write_all(text.as_bytes()).context("cannot print")
}

/// A config that can be asked. Tables are compiled when they are first needed.
pub(crate) struct World {
    generation: u64,
    gateway: View,
    bindings: BTreeMap<Arc<str>, Binding>,
    objects: Objects,
    mesh_env: Env,
    mesh: OnceLock<View>,
}

/// A model with its table.
struct View {
    model: Model,
    absent: BTreeMap<ClusterName, String>,
    table: OnceLock<Table>,
}

impl View {
    fn new(model: Model, absent: BTreeMap<ClusterName, String>) -> View {
        View { model, absent, table: OnceLock::new() }
    }

    fn table(&self) -> &Table {
        self.table.get_or_init(|| Table::compile(&self.model).table)
    }
}

/// What policies are held against.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Requests,
    /// What goes on as it is.
    Bytes,
    /// The same, of the mesh's own: no policy is about it.
    MeshTls,
}

impl World {
    /// A config as it was translated; `objects` as seen from `mesh_env` answer for `mesh`.
    pub(crate) fn new(generation: u64, translation: Translation, objects: Objects, mesh_env: Env) -> World {
        World {
            generation,
            gateway: View::new(translation.model, translation.absent),
            bindings: translation.bindings,
            objects,
            mesh_env,
            mesh: OnceLock::new(),
        }
    }

    /// Its number.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// What it was translated to.
    pub(crate) fn model(&self) -> &Model {
        &self.gateway.model
    }

    /// What it was translated from.
    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
    }

    /// What happens to a request. `running` knows the endpoints of clusters that run; of others only the config is
    /// known.
    ///
    /// # Errors
    /// What is wrong with the question: the URL, the Gateway, the port.
    pub(crate) fn explain(&self, query: &ExplainQuery, running: Standings<'_>) -> Result<Answer, String> {
        let mut request = Request::of(query)?;
        let mut answer = match query.gateway.as_deref() {
            Some("mesh") => self.explain_mesh(&mut request)?,
            Some(name) => {
                let binding = self.bindings.get(name).ok_or_else(|| self.no_such_gateway(name))?;
                self.explain_gateway(&mut request, Some(binding), query.client)?
            }
            None => self.explain_gateway(&mut request, None, query.client)?,
        };
        // of the mesh, which does not run here, only the config is known
        let unknown: Standings<'_> = &|_| None;
        let (view, running) = match query.gateway.as_deref() {
            Some("mesh") => (self.mesh.get(), unknown),
            _ => (Some(&self.gateway), running),
        };
        if let (Some(view), Some(name)) = (view, answer.cluster_name.clone()) {
            view.endpoints(&name, running, &mut answer);
        }
        answer.generation = self.generation;
        Ok(answer)
    }

    /// What the policies say, and where they let it through, what happens then.
    fn explain_gateway(
        &self,
        request: &mut Request,
        binding: Option<&Binding>,
        client: Option<IpAddr>,
    ) -> Result<Answer, String> {
        let view = &self.gateway;
        let reached = choose::choose(&view.model, &self.bindings, request, binding)?;
        let listener = view.table().listener(&reached.listener).ok_or("the listener is not there")?;
        if let Some(refused) = view.refuse(request) {
            return Ok(refused);
        }
        let (mut answer, carries) = self.explain_listener(request, &reached, &listener)?;
        answer.assumed = reached.is_assumed.then(|| {
            let (port, scheme) = (reached.server_port, request.carries.scheme());
            format!("port {port}, which the URL does not name: the only one that serves {scheme}")
        });
        let is_request = carries == Held::Requests;
        let has_policies = is_request || answer.outcome == "forward" && carries == Held::Bytes;
        let Some(authorizer) = view.table().authorizer().filter(|_| has_policies) else {
            return Ok(answer);
        };
        let judged = policies::judge(authorizer, reached.listener, request, is_request, client);
        let assumed = answer.assumed.clone();
        Ok(Answer { policies: judged.policies, assumed, ..judged.denied.unwrap_or(answer) })
    }

    /// What happens on a listener, and what its connection carries.
    fn explain_listener(
        &self,
        request: &Request,
        reached: &choose::Reached,
        listener: &ListenerView<'_>,
    ) -> Result<(Answer, Held), String> {
        let view = &self.gateway;
        // only sidecars ask for such names, and they offer this
        let of_mesh = request.sni().is_some_and(|sni| sni.starts_with("outbound_."));
        let offered = [b"istio".to_vec()];
        let protocols = if of_mesh { &offered[..] } else { &[] };
        let view_of = ConnectionView { sni: request.sni(), protocols };
        let explanation = listener.explain(&view_of, 0);
        let considered = explanation.considered.into_iter();
        let considered = considered.map(|(route, lost_by)| Lost::of_tcp(route, lost_by)).collect();
        let mut carries = Held::Bytes;
        let mut answer = match explanation.decision {
            ConnectionDecision::Http(table) => return Ok((view.answer(&table, request), Held::Requests)),
            ConnectionDecision::Https(server) => {
                let table = view.table().route_table(&server.table);
                let table = table.ok_or_else(|| format!("route table {} is not there", server.table))?;
                return Ok((view.answer(&table, request), Held::Requests));
            }
            ConnectionDecision::TlsToTcp(server, to) => {
                Answer { route_table: Some(server.table.to_string()), ..view.tcp(&to) }
            }
            ConnectionDecision::Tcp(to) => {
                if !to.route.has_policies() {
                    carries = Held::MeshTls;
                }
                view.tcp(&to)
            }
            ConnectionDecision::Refuse(why) => Answer {
                outcome: "no_route",
                reason: Some(match why {
                    Refusal::NoServer => format!(
                        "no TLS server of port {} has the name {}: the connection is closed in the handshake",
                        reached.server_port, request.host
                    ),
                    other => format!("{other}: the connection is closed"),
                }),
                ..Answer::default()
            },
        };
        answer.considered = considered;
        Ok((answer, carries))
    }

    fn explain_mesh(&self, request: &mut Request) -> Result<Answer, String> {
        let view = self.mesh.get_or_init(|| {
            let translation = translate_mesh(&self.objects, &self.mesh_env);
            View::new(translation.model, translation.absent)
        });
        let table = view.table().route_table(&Arc::from(request.port.to_string()));
        let table = table.ok_or_else(|| {
            let ports: Vec<_> = view.model.route_tables.keys().map(|name| &**name).collect();
            format!("no service of the mesh has the port {}; there are {}", request.port, ports.join(", "))
        })?;
        Ok(view.refuse(request).unwrap_or_else(|| view.answer(&table, request)))
    }

    fn no_such_gateway(&self, name: &str) -> String {
        let known: Vec<_> = self.bindings.keys().map(|name| &**name).filter(|name| *name != "mesh").collect();
        match known.is_empty() {
            true => format!(
                "Gateway {name} does not select this gateway, and no other does; compare its selector with --label"
            ),
            false => {
                format!("Gateway {name} does not select this gateway; those that do are {}", known.join(", "))
            }
        }
    }
}

impl View {
    /// What is answered before anything is routed; else the path gets the form that is.
    fn refuse(&self, request: &mut Request) -> Option<Answer> {
        let mesh = &self.model.mesh;
        let (status, why) = match request.carries {
            Carries::Tcp => return None,
            _ if request.is_connect() => {
                (405, "a gateway is no proxy for tunnels: CONNECT is refused (connect_refused)".to_owned())
            }
            _ => (400, request.canonicalize(mesh.path_normalization, mesh.strict_paths).err()?),
        };
        Some(Answer { outcome: "deny", status: Some(status), reason: Some(why), ..Answer::default() })
    }

    fn answer(&self, table: &RouteTableView<'_>, request: &Request) -> Answer {
        let explanation = table.explain(request, 0);
        let key = explanation
            .domain
            .as_deref()
            .map(|domain| VirtualHostKey { table: table.name().clone(), domain: HostPattern::parse(domain) });
        let host = key.and_then(|key| self.model.virtual_hosts.get(&key));
        // the rules of the virtual host in rank order, as those that were considered are
        let routes = host.into_iter().flat_map(|host| &host.routes);
        let lost = explanation.considered.into_iter().zip(routes).map(|(c, route)| Lost::new(c, route));
        let mut answer = Answer {
            rule: explanation.decision.route().map(Rule::of),
            route_table: Some(table.name().to_string()),
            virtual_host: explanation.domain,
            considered: lost.collect(),
            ..Answer::default()
        };
        let location = || {
            let mut location = Vec::new();
            explanation.decision.write_location(request, &mut location);
            Some(String::from_utf8_lossy(&location).into_owned())
        };
        match &explanation.decision {
            Decision::Forward(forward) => {
                let mut target = Vec::new();
                explanation.decision.write_target(request, &mut target);
                answer.rewritten = Some(Rewritten {
                    authority: authority(forward, request),
                    path: String::from_utf8_lossy(&target).into_owned(),
                });
                self.forward(forward, &mut answer);
            }
            Decision::Redirect(_, redirect, _) => {
                (answer.outcome, answer.status) = ("redirect", Some(redirect.status));
                answer.location = location();
            }
            Decision::HttpsRedirect => {
                (answer.outcome, answer.status) = ("redirect", Some(301));
                answer.reason = Some("httpsRedirect of the Gateway's server".to_owned());
                answer.location = location();
            }
            Decision::DirectResponse(_, response, _) => {
                (answer.outcome, answer.status) = ("direct_response", Some(response.status));
                answer.reason =
                    (&*response.details != "direct_response").then(|| response.details.to_string());
            }
            Decision::Preflight(..) => {
                (answer.outcome, answer.status) = ("direct_response", Some(200));
                answer.reason = Some("corsPolicy answers preflights".to_owned());
            }
            Decision::NoRoute(why) => {
                (answer.outcome, answer.status) = ("no_route", Some(404));
                answer.reason = Some(self.no_route(*why, table, request));
            }
        }
        answer
    }

    fn forward(&self, decision: &ForwardDecision<'_>, answer: &mut Answer) {
        let weights = decision.forward.destinations.iter().map(|d| (&d.cluster, d.weight)).collect();
        self.send(&decision.destination.cluster, weights, "503: ", answer);
    }

    /// Where the bytes of a connection go.
    fn tcp(&self, decision: &TcpDecision<'_>) -> Answer {
        let weights = decision.route.destinations.iter().map(|d| (&d.cluster, d.weight)).collect();
        let mut answer = Answer { rule: Some(Rule::of_tcp(decision.route)), ..Answer::default() };
        self.send(&decision.destination.cluster, weights, "the connection is closed: ", &mut answer);
        answer
    }

    /// The cluster that is chosen of all destinations; `fails` begins what is said when it has no endpoint.
    fn send(&self, name: &ClusterName, weights: Vec<(&ClusterName, u32)>, fails: &str, answer: &mut Answer) {
        let sum: u64 = weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
        answer.outcome = "forward";
        answer.cluster = Some(name.to_string());
        answer.cluster_name = Some(name.clone());
        let share = |(cluster, weight): (&ClusterName, u32)| Share {
            cluster: cluster.to_string(),
            weight,
            percent: percent(weight, sum),
        };
        answer.destinations = weights.into_iter().map(share).collect();
        let endpoints = self.model.endpoints.get(name).map_or(&[][..], |set| &set.endpoints);
        answer.endpoints = endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
        answer.endpoint = answer.endpoints.first().cloned();
        if !self.model.clusters.contains_key(name) {
            let why = self.absent.get(name).map(|why| format!(": {why}")).unwrap_or_default();
            answer.reason = Some(format!("{fails}there is no cluster {name}{why}"));
        } else if endpoints.is_empty() {
            answer.reason = Some(format!("{fails}cluster {name} has no ready endpoint"));
        }
    }

    /// What is known of the endpoints of the cluster that was chosen.
    fn endpoints(&self, name: &ClusterName, running: Standings<'_>, answer: &mut Answer) {
        let Some(cluster) = self.model.clusters.get(name) else { return };
        let set = self.model.endpoints.get(name);
        answer.subset = Some(cluster.subset.to_string()).filter(|subset| !subset.is_empty());
        answer.load_balancer = Some(cluster.load_balancer.clone());
        answer.tls.clone_from(&cluster.tls);
        answer.proxy_protocol = cluster.proxy_protocol;
        answer.standings =
            running(name).unwrap_or_else(|| set.map_or_else(Vec::new, |set| standings(cluster, set)));
        let used = answer.standings.iter().find(|standing| standing.percent > 0.0);
        match used {
            Some(used) => answer.endpoint = Some(used.address.clone()),
            None if !answer.standings.is_empty() && answer.reason.is_none() => {
                answer.endpoint = None;
                answer.reason = Some(format!("503: no endpoint of cluster {name} is healthy"));
            }
            None => {}
        }
    }

    fn no_route(&self, why: NoRoute, table: &RouteTableView<'_>, request: &Request) -> String {
        match why {
            NoRoute::NoRule => "no rule of the virtual host matches".to_owned(),
            NoRoute::NoVirtualHost => {
                let hosts = self.model.virtual_hosts.keys().filter(|key| key.table == *table.name());
                let mut hosts: Vec<_> = hosts.map(|key| key.domain.to_string()).collect();
                let more = hosts.len().saturating_sub(10);
                hosts.truncate(10);
                let there_are = match (hosts.is_empty(), more) {
                    (true, _) => "there is none: no VirtualService is bound to it".to_owned(),
                    (false, 0) => format!("there is {}", hosts.join(", ")),
                    (false, more) => format!("there is {} and {more} more", hosts.join(", ")),
                };
                format!("no virtual host of {} serves {}; {there_are}", table.name(), request.authority())
            }
        }
    }
}

/// The authority that is sent; where it depends on more than the config, its format.
fn authority(decision: &ForwardDecision<'_>, request: &Request) -> String {
    let rewritten = decision.destination.authority.as_ref();
    rewritten.map_or(request.authority(), |format| format.literal().unwrap_or(format.as_str())).to_owned()
}

/// To two decimals.
fn percent(weight: u32, sum: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a sum of weights that two decimals are made of")]
    let share = f64::from(weight) * 10_000.0 / sum.max(1) as f64;
    share.round() / 100.0
}
