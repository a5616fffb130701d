use crate::cors::{Asked, CompiledCors};
use crate::matcher::Matcher;
use crate::pattern::Patterns;
use crate::redirect::Origin;
use crate::rewrite::RegexRewrite;
use crate::{Decision, ForwardDecision, RequestView};
use std::sync::Arc;
use tidegate_model::{Action, DirectResponse, Forward, Redirect, Route};

/// One rule of a virtual host, compiled.
#[derive(Debug)]
pub(crate) struct Rule {
    route: Arc<Route>,
    matcher: Matcher,
    cors: Option<Box<CompiledCors>>,
    /// Sums of the weights up to and including each destination.
    weights: Box<[u64]>,
    regex: Option<Box<RegexRewrite>>,
    /// The route's redirect with the table's port in it, where it asks for that.
    redirect: Option<Box<Redirect>>,
    /// The answer of a rule that does not compile, instead of its action.
    refusal: Option<Box<DirectResponse>>,
}

impl Rule {
    /// Compiles a route; `origin` is that of its table. Also says what of it is refused.
    pub(crate) fn compile(
        route: &Arc<Route>,
        origin: Origin,
        patterns: &mut Patterns,
    ) -> (Self, Vec<String>) {
        let mut invalid = Vec::new();
        let matcher = Matcher::compile(&route.matches, patterns, &mut invalid);
        let cors = route.cors.as_ref().map(|cors| CompiledCors::compile(cors, patterns, &mut invalid));
        let mut reasons: Vec<String> = invalid.iter().map(ToString::to_string).collect();
        let mut rule = Rule {
            route: route.clone(),
            matcher,
            cors: cors.map(Box::new),
            weights: [].into(),
            regex: None,
            redirect: None,
            refusal: None,
        };
        match &*route.action {
            Action::Forward(forward) => rule.compile_forward(forward, patterns, &mut reasons),
            Action::Redirect(redirect) => {
                let port = origin.port_of(redirect);
                if port != redirect.port {
                    rule.redirect = Some(Box::new(Redirect { port, ..redirect.clone() }));
                }
            }
            Action::DirectResponse(_) => {}
        }
        if !reasons.is_empty() {
            rule.refusal = Some(Box::new(refusal()));
        }
        (rule, reasons)
    }

    fn compile_forward(&mut self, forward: &Forward, patterns: &mut Patterns, reasons: &mut Vec<String>) {
        self.weights = forward
            .destinations
            .iter()
            .scan(0, |sum, d| {
                *sum += u64::from(d.weight);
                Some(*sum)
            })
            .collect();
        if self.weights.last().is_none_or(|sum| *sum == 0) {
            reasons.push("no destination has a weight: give at least one a weight above 0".into());
        }
        match forward.path_rewrite.as_ref().map(|r| RegexRewrite::compile(r, patterns)).transpose() {
            Ok(regex) => self.regex = regex.flatten().map(Box::new),
            Err(e) => reasons.push(e.to_string()),
        }
    }

    /// Its conditions.
    pub(crate) fn matcher(&self) -> &Matcher {
        &self.matcher
    }

    /// The route that it was compiled from.
    pub(crate) fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// What happens to a request that it accepts.
    pub(crate) fn decide<R: RequestView + ?Sized>(&self, request: &R, dice: u64) -> Decision<'_> {
        let route = &*self.route;
        if let Some(refusal) = &self.refusal {
            return Decision::DirectResponse(route, refusal, &[]);
        }
        let cors = match self.cors.as_ref().map_or(Asked::Nothing, |cors| cors.asked(request)) {
            Asked::Preflight(headers) => return Decision::Preflight(route, headers),
            Asked::Response(headers) => headers,
            Asked::Nothing => &[],
        };
        match &*route.action {
            Action::Forward(forward) => Decision::Forward(ForwardDecision {
                route,
                forward,
                destination: &forward.destinations[self.pick(dice)],
                cors,
                regex: self.regex.as_deref(),
            }),
            Action::Redirect(redirect) => {
                Decision::Redirect(route, self.redirect.as_deref().unwrap_or(redirect), cors)
            }
            Action::DirectResponse(direct) => Decision::DirectResponse(route, direct, cors),
        }
    }

    /// The destination that the dice choose.
    fn pick(&self, dice: u64) -> usize {
        let [others @ .., sum] = &*self.weights else { return 0 };
        if others.is_empty() {
            return 0;
        }
        // Scaled by a product and not by a remainder: the bias is under 2^-32.
        let point = (u128::from(dice) * u128::from(*sum)) >> 64;
        self.weights.partition_point(|w| u128::from(*w) <= point)
    }
}

/// The answer of rules that are refused, so that no wider rule gets their requests.
fn refusal() -> DirectResponse {
    DirectResponse {
        status: 500,
        body: [].into(),
        response_headers: Vec::new(),
        details: "route_does_not_compile".into(),
    }
}
