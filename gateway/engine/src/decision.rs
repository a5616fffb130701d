use crate::rewrite::RegexRewrite;
use serde::Serialize;
use tidegate_model::{Destination, DirectResponse, Forward, HeaderOp, Redirect, Route, RuleRef};

/// What happens to a request. Where header operations stand last, they are those of CORS, to be applied
/// to whatever response there will be, after those of the rule.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'t> {
    /// Send it on.
    Forward(ForwardDecision<'t>),
    /// Answer with a redirect; [`Decision::write_location`] gives its location.
    Redirect(&'t Route, &'t Redirect, &'t [HeaderOp]),
    /// Answer directly.
    DirectResponse(&'t Route, &'t DirectResponse, &'t [HeaderOp]),
    /// Answer a CORS preflight with 200 and these headers.
    Preflight(&'t Route, &'t [HeaderOp]),
    /// 301 to https, from `httpsRedirect` of a server of this virtual host.
    HttpsRedirect,
    /// 404, and why.
    NoRoute(NoRoute),
}

impl<'t> Decision<'t> {
    /// The rule that decided, where one did.
    pub fn route(&self) -> Option<&'t Route> {
        match self {
            Decision::Forward(chosen) => Some(chosen.route),
            Decision::Redirect(route, ..)
            | Decision::DirectResponse(route, ..)
            | Decision::Preflight(route, _) => Some(route),
            Decision::HttpsRedirect | Decision::NoRoute(_) => None,
        }
    }
}

/// Where a request is sent.
#[derive(Clone, Copy, Debug)]
pub struct ForwardDecision<'t> {
    /// The rule that matched.
    pub route: &'t Route,
    /// Its action.
    pub forward: &'t Forward,
    /// The destination that the dice chose.
    pub destination: &'t Destination,
    /// Operations of CORS on the response's headers, after those of the destination.
    pub cors: &'t [HeaderOp],
    /// The compiled form of a [`tidegate_model::PathRewrite::Regex`].
    pub(crate) regex: Option<&'t RegexRewrite>,
}

/// Why nothing matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoRoute {
    /// No virtual host of this listener serves the authority.
    NoVirtualHost,
    /// The virtual host has no rule that matches.
    NoRule,
}

/// A decision with its reasons.
#[derive(Debug)]
pub struct Explanation<'t> {
    /// What happens.
    pub decision: Decision<'t>,
    /// The virtual host's domain that was chosen, if any.
    pub domain: Option<String>,
    /// Every rule of that virtual host in rank order up to and including the one that matched.
    pub considered: Vec<Considered>,
}

/// A rule that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Considered {
    /// The rule.
    pub rule: RuleRef,
    /// Which condition failed, in words with field and expectation; `None` for the rule that matched.
    pub lost_by: Option<String>,
}
