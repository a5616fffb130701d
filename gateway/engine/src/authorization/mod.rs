//! Who may send what: the policies of a gateway as pure functions of a connection and a request.
//!
//! What cannot be known for sure counts against the request: where a match refuses (a value of DENY, an exception of
//! ALLOW) one value of a repeated header is enough, also under a name with `_` for `-`, and so is a host without its
//! port or the dot at its end, or a `Host` beside a target that names another; where a match lets pass, each value must be one of those that are wanted, and the host is taken as
//! it was sent.

mod clause;
mod identity;
mod text;

use crate::RequestView;
use clause::CompiledClause;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tidegate_model::{Authorization, ExternalAuthorizer, Policy, PolicyAction, PolicyRule};

/// Who is at the two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// The peer.
    pub source: IpAddr,
    /// The client, as trusted proxies say.
    pub remote: IpAddr,
    /// We.
    pub destination: SocketAddr,
    /// The name that the client asked for by TLS; empty for none.
    pub sni: &'a str,
    /// The URIs, the DNS names and the subject of the client's certificate, which was verified; empty without one.
    pub names: &'a [Box<str>],
}

/// What a policy is held against.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The connection.
    pub ends: Ends<'a>,
    /// The request; `None` for a connection that carries none.
    pub request: Option<&'a dyn RequestView>,
}

/// The policies of a gateway, compiled.
#[derive(Debug)]
pub struct Authorizer {
    /// Policies whose provider cannot be asked.
    unasked: Stage,
    custom: Stage,
    deny: Stage,
    allow: Stage,
    audit: Stage,
    /// Policies that are tried only.
    dry_deny: Stage,
    dry_allow: Stage,
}

/// A rule that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatchedRule<'t> {
    /// Whose.
    pub policy: &'t Policy,
    /// Its place in `spec.rules`.
    pub rule: usize,
}

/// As Envoy names it: `ns[NAMESPACE]-policy[NAME]-rule[INDEX]`.
impl fmt::Display for MatchedRule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = &self.policy.object;
        write!(f, "ns[{}]-policy[{}]-rule[{}]", object.namespace, object.name, self.rule)?;
        match self.policy.action {
            PolicyAction::Custom(Err(_)) => f.write_str("-deny-due-to-bad-CUSTOM-action"),
            _ => Ok(()),
        }
    }
}

/// Why something is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forbidden<'t> {
    /// A rule says so.
    By(MatchedRule<'t>),
    /// No rule allows it, and there are policies that allow something.
    NotAllowed,
}

/// As Envoy says it in `response_code_details`.
impl fmt::Display for Forbidden<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Forbidden::By(rule) => write!(f, "rbac_access_denied_matched_policy[{rule}]"),
            Forbidden::NotAllowed => f.write_str("rbac_access_denied_matched_policy[none]"),
        }
    }
}

/// A check that a request needs before the other policies are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check<'t> {
    /// The rule that asks for it.
    pub rule: MatchedRule<'t>,
    /// Who decides.
    pub by: &'t Arc<ExternalAuthorizer>,
}

/// What is noted of something that passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes<'t> {
    /// The first rule of AUDIT that matches.
    pub audited: Option<MatchedRule<'t>>,
    /// What policies that are tried only would have done, where there are any.
    pub dry_run: Option<Result<(), Forbidden<'t>>>,
}

/// A rule that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsideredPolicy<'t> {
    /// Which.
    pub rule: MatchedRule<'t>,
    /// Why it does not match; `None` for one that does.
    pub lost_by: Option<String>,
}

impl Authorizer {
    /// Compiles policies; `None` where there are none.
    pub fn compile(authorization: &Authorization) -> Option<Self> {
        let stage = |dry_run: bool, is: fn(&PolicyAction) -> bool| {
            let policies = authorization.policies.iter().filter(|p| p.dry_run == dry_run && is(&p.action));
            Stage(policies.map(CompiledPolicy::compile).collect())
        };
        (!authorization.policies.is_empty()).then(|| Authorizer {
            unasked: stage(false, |action| matches!(action, PolicyAction::Custom(Err(_)))),
            custom: stage(false, |action| matches!(action, PolicyAction::Custom(Ok(_)))),
            deny: stage(false, |action| *action == PolicyAction::Deny),
            allow: stage(false, |action| *action == PolicyAction::Allow),
            audit: stage(false, |action| *action == PolicyAction::Audit),
            dry_deny: stage(true, |action| {
                matches!(action, PolicyAction::Deny | PolicyAction::Audit | PolicyAction::Custom(_))
            }),
            dry_allow: stage(true, |action| *action == PolicyAction::Allow),
        })
    }

    /// Who must be asked first, if anyone.
    ///
    /// # Errors
    /// When someone decides about it who cannot be asked, whoever else can.
    pub fn check(&self, subject: &Subject<'_>) -> Result<Option<Check<'_>>, Forbidden<'_>> {
        if let Some(rule) = self.unasked.find(subject) {
            return Err(Forbidden::By(rule));
        }
        let Some(rule) = self.custom.find(subject) else { return Ok(None) };
        match &rule.policy.action {
            PolicyAction::Custom(Ok(by)) => Ok(Some(Check { rule, by })),
            // what else is there was looked for before
            _ => Err(Forbidden::By(rule)),
        }
    }

    /// Whether policies of DENY and ALLOW let it through.
    ///
    /// # Errors
    /// When they do not: why.
    pub fn enforce(&self, subject: &Subject<'_>) -> Result<(), Forbidden<'_>> {
        enforce(&self.deny, &self.allow, subject)
    }

    /// Whether there is anything to note of what passes.
    pub fn has_notes(&self) -> bool {
        [&self.audit, &self.dry_deny, &self.dry_allow].iter().any(|stage| !stage.0.is_empty())
    }

    /// What is noted of it.
    pub fn notes(&self, subject: &Subject<'_>) -> Notes<'_> {
        let tried = !self.dry_deny.0.is_empty() || !self.dry_allow.0.is_empty();
        Notes {
            audited: self.audit.find(subject),
            dry_run: tried.then(|| enforce(&self.dry_deny, &self.dry_allow, subject)),
        }
    }

    /// Every rule in the order in which they are asked, whatever the others say, each with why it does not match.
    pub fn explain(&self, subject: &Subject<'_>) -> Vec<ConsideredPolicy<'_>> {
        let enforced = [&self.unasked, &self.custom, &self.deny, &self.allow];
        let stages = enforced.into_iter().chain([&self.audit, &self.dry_deny, &self.dry_allow]);
        let policies = stages.flat_map(|stage| &stage.0);
        let considered = policies.flat_map(|policy| {
            policy.rules.iter().enumerate().map(|(rule, compiled)| ConsideredPolicy {
                rule: MatchedRule { policy: &policy.source, rule },
                lost_by: compiled.lost_by(subject, policy.refuses()),
            })
        });
        considered.collect()
    }
}

fn enforce<'t>(deny: &'t Stage, allow: &'t Stage, subject: &Subject<'_>) -> Result<(), Forbidden<'t>> {
    if let Some(rule) = deny.find(subject) {
        return Err(Forbidden::By(rule));
    }
    match allow.0.is_empty() || allow.find(subject).is_some() {
        true => Ok(()),
        false => Err(Forbidden::NotAllowed),
    }
}

/// The policies of one action.
#[derive(Debug)]
struct Stage(Box<[CompiledPolicy]>);

impl Stage {
    /// The first rule that matches.
    fn find(&self, subject: &Subject<'_>) -> Option<MatchedRule<'_>> {
        self.0.iter().find_map(|policy| {
            let refuses = policy.refuses();
            let rule = policy.rules.iter().position(|rule| rule.matches(subject, refuses))?;
            Some(MatchedRule { policy: &policy.source, rule })
        })
    }
}

#[derive(Debug)]
struct CompiledPolicy {
    source: Arc<Policy>,
    rules: Box<[CompiledRule]>,
}

impl CompiledPolicy {
    fn compile(source: &Arc<Policy>) -> Self {
        let before_tokens = matches!(source.action, PolicyAction::Custom(_));
        CompiledPolicy {
            source: source.clone(),
            rules: source.rules.iter().map(|rule| CompiledRule::compile(rule, before_tokens)).collect(),
        }
    }

    /// Whether a match counts against the request.
    fn refuses(&self) -> bool {
        self.source.action != PolicyAction::Allow
    }
}

#[derive(Debug)]
struct CompiledRule {
    sources: Box<[Box<[CompiledClause]>]>,
    operations: Box<[Box<[CompiledClause]>]>,
    conditions: Box<[CompiledClause]>,
    /// It asks for something that only requests have.
    of_requests: bool,
}

impl CompiledRule {
    fn compile(rule: &PolicyRule, before_tokens: bool) -> Self {
        let clauses = |of: &Vec<_>| of.iter().map(|c| CompiledClause::compile(c, before_tokens)).collect();
        let mut all = rule.sources.iter().chain(&rule.operations).flatten().chain(&rule.conditions);
        CompiledRule {
            sources: rule.sources.iter().map(clauses).collect(),
            operations: rule.operations.iter().map(clauses).collect(),
            conditions: clauses(&rule.conditions),
            of_requests: all.any(|clause| !clause.attribute.is_of_connections()),
        }
    }

    /// As in Istio, a connection without requests is never allowed by a rule that asks for something of requests, and
    /// such a rule refuses it for whatever else it asks.
    fn matches(&self, subject: &Subject<'_>, refuses: bool) -> bool {
        let all = |clauses: &[CompiledClause]| clauses.iter().all(|clause| clause.holds(subject, refuses));
        let any = |of: &[Box<[CompiledClause]>]| of.is_empty() || of.iter().any(|clauses| all(clauses));
        if self.of_requests && subject.request.is_none() && !refuses {
            return false;
        }
        any(&self.operations) && any(&self.sources) && all(&self.conditions)
    }

    fn lost_by(&self, subject: &Subject<'_>, refuses: bool) -> Option<String> {
        if self.matches(subject, refuses) {
            return None;
        }
        if self.of_requests && subject.request.is_none() && !refuses {
            return Some("it asks for something that only requests have".into());
        }
        let lost = |clauses: &[CompiledClause]| {
            let failed = clauses.iter().find(|clause| !clause.holds(subject, refuses))?;
            Some(failed.reason(subject, refuses))
        };
        for (name, of) in [("to", &self.operations), ("from", &self.sources)] {
            let reasons: Option<Vec<_>> = of.iter().map(|clauses| lost(clauses)).collect();
            if let Some(reasons) = reasons.filter(|reasons| !reasons.is_empty()) {
                let each = reasons.iter().enumerate().map(|(i, why)| format!("{name}[{i}] {why}"));
                return Some(each.collect::<Vec<_>>().join("; "));
            }
        }
        lost(&self.conditions).map(|why| format!("when {why}"))
    }
}
