use crate::RequestView;
use crate::decision::{Considered, Decision, Explanation, NoRoute};
use crate::host_index::HostIndex;
use crate::matcher::Reason;
use crate::virtual_host::CompiledHost;
use tidegate_model::{RouteTable, TableName};

/// One route table of a [`crate::Table`]: the entry to [`Decision`]s.
#[derive(Clone, Copy, Debug)]
pub struct RouteTableView<'t> {
    pub(crate) source: &'t RouteTable,
    pub(crate) hosts: &'t HostIndex,
}

/// Where in the table the answer to a request was found.
enum Found<'t> {
    NoHost,
    Https(&'t CompiledHost),
    /// The rank of the rule that matched.
    Rule(&'t CompiledHost, Option<usize>),
}

impl<'t> RouteTableView<'t> {
    /// The table's name.
    pub fn name(&self) -> &'t TableName {
        &self.source.name
    }

    /// The Gateway's server port number.
    pub fn server_port(&self) -> u16 {
        self.source.server_port
    }

    /// Whether its requests come over TLS.
    pub fn tls(&self) -> bool {
        self.source.tls
    }

    /// Decides a request. `dice` is a uniformly random number that picks among weights.
    pub fn decide<R: RequestView + ?Sized>(&self, request: &R, dice: u64) -> Decision<'t> {
        self.find(request).decision(request, dice)
    }

    /// Decides by the same code and says which rules were considered and why they lost.
    pub fn explain<R: RequestView + ?Sized>(&self, request: &R, dice: u64) -> Explanation<'t> {
        let found = self.find(request);
        let decision = found.decision(request, dice);
        let (host, considered) = match found {
            Found::NoHost => (None, Vec::new()),
            Found::Https(host) => (Some(host), Vec::new()),
            Found::Rule(host, winner) => {
                let end = winner.map_or(host.rules().len(), |rank| rank + 1);
                let considered = host.rules()[..end].iter().map(|rule| {
                    let mut reason = Reason::default();
                    rule.matcher().accepts(request, &mut reason);
                    Considered { rule: rule.route().rule.clone(), lost_by: reason.0 }
                });
                (Some(host), considered.collect())
            }
        };
        let domain = host.map(|host| host.source().key.domain.to_string());
        Explanation { decision, domain, considered }
    }

    fn find<R: RequestView + ?Sized>(&self, request: &R) -> Found<'t> {
        match self.hosts.find(request.authority()) {
            None => Found::NoHost,
            Some(host) if host.source().https_redirect && request.scheme() == crate::Scheme::Http => {
                Found::Https(host)
            }
            Some(host) => Found::Rule(host, host.find(request)),
        }
    }
}

impl<'t> Found<'t> {
    fn decision<R: RequestView + ?Sized>(&self, request: &R, dice: u64) -> Decision<'t> {
        match self {
            Found::NoHost => Decision::NoRoute(NoRoute::NoVirtualHost),
            Found::Https(_) => Decision::HttpsRedirect,
            Found::Rule(_, None) => Decision::NoRoute(NoRoute::NoRule),
            Found::Rule(host, Some(rank)) => host.rules()[*rank].decide(request, dice),
        }
    }
}
