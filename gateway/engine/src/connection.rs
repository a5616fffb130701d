//! Where a connection goes before it says a word of HTTP: plain HTTP, the TLS server that its SNI
//! names, or the route that its bytes take.

use crate::RouteTableView;
use crate::host_index::host_of;
use crate::sni_index::{SniIndex, Target};
use std::fmt;
use std::sync::Arc;
use tidegate_model::{
    ListenerProtocol, ObjectRef, SniRoute, TableName, TcpDestination, TcpRoute, TlsAction, TlsServer,
};

/// What a connection says about itself. On a listener that speaks TLS it is in the ClientHello.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectionView<'a> {
    /// The name that it asks for, in any case; `None` is none.
    pub sni: Option<&'a str>,
    /// The protocols that it offers (ALPN).
    pub protocols: &'a [Vec<u8>],
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug)]
pub enum ConnectionDecision<'t> {
    /// It speaks plain HTTP, routed by this table.
    Http(RouteTableView<'t>),
    /// TLS ends here; requests are routed by the table of the server's name.
    Https(&'t TlsServer),
    /// TLS ends here; what is in it goes on.
    TlsToTcp(&'t TlsServer, TcpDecision<'t>),
    /// Its bytes go on as they come.
    Tcp(TcpDecision<'t>),
    /// It is closed.
    Refuse(Refusal<'t>),
}

/// Where bytes go.
#[derive(Clone, Copy, Debug)]
pub struct TcpDecision<'t> {
    /// The rule that matched.
    pub route: &'t TcpRoute,
    /// The destination that the dice chose.
    pub destination: &'t TcpDestination,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal<'t> {
    /// There is no such listener, or nothing is routed on it.
    NoListener,
    /// No TLS server of the listener serves the name.
    NoServer,
    /// The server serves only clients that offer one of these protocols (ALPN).
    Protocol(&'t ObjectRef, &'t [Arc<str>]),
    /// The server cannot do what it asks for, and says why.
    Server(&'t ObjectRef, &'t str),
    /// The route has no destination with a weight.
    NoDestination,
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoListener => f.write_str("nothing is served here"),
            Refusal::NoServer => f.write_str("no TLS server of the port has this name"),
            Refusal::Protocol(owner, protocols) => {
                write!(f, "{owner} serves only clients that offer one of {} by ALPN", protocols.join(", "))
            }
            Refusal::Server(owner, why) => write!(f, "{owner} refuses connections: {why}"),
            Refusal::NoDestination => f.write_str("no destination of the route has a weight"),
        }
    }
}

/// A decision with its reasons.
#[derive(Debug)]
pub struct ConnectionExplanation<'t> {
    /// What happens.
    pub decision: ConnectionDecision<'t>,
    /// The rules for connections on the listener in the order in which they were written, and for
    /// each that lost, by what.
    pub considered: Vec<(&'t TcpRoute, Option<String>)>,
}

/// A listener, compiled: the entry to decisions about its connections.
#[derive(Clone, Copy, Debug)]
pub struct ListenerView<'t> {
    pub(crate) protocol: &'t ListenerProtocol,
    /// The route table of plain HTTP.
    pub(crate) http: Option<RouteTableView<'t>>,
    /// The names of TLS servers.
    pub(crate) names: Option<&'t SniIndex>,
}

impl<'t> ListenerView<'t> {
    /// Whether connections begin with a ClientHello, without which nothing can be decided.
    pub fn is_tls(&self) -> bool {
        self.names.is_some()
    }

    /// Decides a connection. `dice` is a uniformly random number that picks among weights.
    pub fn decide(&self, connection: &ConnectionView<'_>, dice: u64) -> ConnectionDecision<'t> {
        match self.protocol {
            ListenerProtocol::Http(_) => match self.http {
                Some(table) => ConnectionDecision::Http(table),
                None => ConnectionDecision::Refuse(Refusal::NoListener),
            },
            ListenerProtocol::Tcp(route) => tcp(route, dice, ConnectionDecision::Tcp),
            ListenerProtocol::Tls(servers) => match self.target(connection.sni) {
                Some(target) => decide_tls(servers, target, connection, dice),
                None => ConnectionDecision::Refuse(Refusal::NoServer),
            },
        }
    }

    /// Decides by the same code and says which rules for connections there are and why they lost.
    pub fn explain(&self, connection: &ConnectionView<'_>, dice: u64) -> ConnectionExplanation<'t> {
        let decision = self.decide(connection, dice);
        let considered = match self.protocol {
            ListenerProtocol::Http(_) => Vec::new(),
            ListenerProtocol::Tcp(route) => vec![(&**route, None)],
            ListenerProtocol::Tls(servers) => self.considered(servers, connection.sni),
        };
        ConnectionExplanation { decision, considered }
    }

    fn considered(&self, servers: &'t [TlsServer], sni: Option<&str>) -> Vec<(&'t TcpRoute, Option<String>)> {
        let won = self.target(sni);
        let name = sni.unwrap_or_default();
        let mut considered = Vec::new();
        for (s, server) in servers.iter().enumerate() {
            let TlsAction::Passthrough { routes, .. } = &server.action else { continue };
            for (r, SniRoute { hosts, route }) in routes.iter().enumerate() {
                let lost_by = match won {
                    Some(won) if won == (Target { server: s, route: Some(r) }) => None,
                    Some(won) if hosts.iter().any(|host| serves(host, name)) => {
                        Some(format!("sniHosts: {} has a more specific one", servers[won.server].table))
                    }
                    _ => Some(format!("sniHosts: none of {} is {name:?}", hosts.join(", "))),
                };
                considered.push((&**route, lost_by));
            }
        }
        considered
    }

    fn target(&self, sni: Option<&str>) -> Option<Target> {
        self.names?.find(sni)
    }

    /// The TLS server to which the host of an authority belongs: that of a connection with its name.
    pub fn tls_server_of(&self, authority: &[u8]) -> Option<&'t TableName> {
        self.tls_server(std::str::from_utf8(host_of(authority)).ok())
    }

    /// The TLS server that a name leads to now.
    pub fn tls_server(&self, sni: Option<&str>) -> Option<&'t TableName> {
        let ListenerProtocol::Tls(servers) = self.protocol else { return None };
        servers.get(self.target(sni)?.server).map(|server| &server.table)
    }
}

fn decide_tls<'t>(
    servers: &'t [TlsServer],
    target: Target,
    connection: &ConnectionView<'_>,
    dice: u64,
) -> ConnectionDecision<'t> {
    let server = &servers[target.server];
    match &server.action {
        TlsAction::Http(_) => ConnectionDecision::Https(server),
        TlsAction::Tcp(_, route) => tcp(route, dice, |to| ConnectionDecision::TlsToTcp(server, to)),
        TlsAction::Passthrough { routes, protocols } => {
            let offered = |p: &Arc<str>| connection.protocols.iter().any(|o| **o == *p.as_bytes());
            if !protocols.is_empty() && !protocols.iter().any(offered) {
                return ConnectionDecision::Refuse(Refusal::Protocol(&server.owner, protocols));
            }
            match target.route.and_then(|i| routes.get(i)) {
                Some(sni_route) => tcp(&sni_route.route, dice, ConnectionDecision::Tcp),
                None => ConnectionDecision::Refuse(Refusal::NoServer),
            }
        }
        TlsAction::Refuse(why) => ConnectionDecision::Refuse(Refusal::Server(&server.owner, why)),
    }
}

fn tcp<'t>(
    route: &'t TcpRoute,
    dice: u64,
    decision: impl FnOnce(TcpDecision<'t>) -> ConnectionDecision<'t>,
) -> ConnectionDecision<'t> {
    match pick(&route.destinations, dice) {
        Some(destination) => decision(TcpDecision { route, destination }),
        None => ConnectionDecision::Refuse(Refusal::NoDestination),
    }
}

/// The destination that the dice choose by weight; none when no weight is above 0.
fn pick(destinations: &[TcpDestination], dice: u64) -> Option<&TcpDestination> {
    let sum: u64 = destinations.iter().map(|d| u64::from(d.weight)).sum();
    // Scaled by a product and not by a remainder: the bias is under 2^-32.
    let mut point = (u128::from(dice) * u128::from(sum)) >> 64;
    destinations.iter().find(|d| {
        let weight = u128::from(d.weight);
        let chosen = point < weight;
        point = point.saturating_sub(weight);
        chosen
    })
}

/// Whether a pattern has a name, both in lower case.
fn serves(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        None => pattern.eq_ignore_ascii_case(name),
        Some("") => true,
        Some(suffix) => {
            let at = name.len().checked_sub(suffix.len()).filter(|at| *at > 0);
            at.is_some_and(|at| name.as_bytes()[at..].eq_ignore_ascii_case(suffix.as_bytes()))
        }
    }
}
