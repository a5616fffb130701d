//! AuthorizationPolicies: who may send what through this gateway.

use crate::clusters::Clusters;
use crate::external_authorizer::Providers;
use crate::report::Report;
use crate::unserved::{report_unselected, selects_gateway};
use crate::validate::{attribute, ip_block};
use crate::world::World;
use std::sync::Arc;
use tidegate_api::Object;
use tidegate_api::istio::{self, AuthorizationPolicy, PolicyOperation, PolicySource};
use tidegate_model::{
    Attribute, Authorization, CheckProtocol, Clause, Diagnostic, Expected, ListenerProtocol, Model,
    ObjectRef, Origin, PathTemplate, PeerPart, Policy, PolicyAction, PolicyRule, PrincipalPattern, Severity,
    TextPattern, TlsAction,
};

/// The annotation of policies that are decided and not enforced.
const DRY_RUN: &str = "istio.io/dry-run";

/// The policies that select this gateway, by namespace and name, which is the order in which Envoy asks them.
pub(crate) fn authorization(
    world: &World<'_>,
    model: &Model,
    clusters: &mut Clusters<'_, '_>,
    report: &mut Report,
) -> Authorization {
    let identities = model.listeners.values().any(|listener| asks_clients(&listener.protocol));
    let connections = model.listeners.values().any(|listener| has_connections(&listener.protocol));
    let is_enforced = |(object, policy): &(&Object, &AuthorizationPolicy)| {
        policy.action == Some(istio::PolicyAction::Custom)
            && selects_gateway(world.env, object)
            && !is_dry_run(object)
    };
    let enforced = world.objects.authorization_policies().into_iter().find(is_enforced);
    let mut providers = Providers::of(enforced.map(|(_, policy)| policy));
    let mut policies = Vec::new();
    for (object, policy) in world.objects.authorization_policies() {
        if !selects_gateway(world.env, object) {
            report_unselected(object, policy.target_ref.is_some(), !policy.target_refs.is_empty(), report);
            continue;
        }
        let action = match policy.action {
            None | Some(istio::PolicyAction::Allow) => PolicyAction::Allow,
            Some(istio::PolicyAction::Deny) => PolicyAction::Deny,
            Some(istio::PolicyAction::Audit) => PolicyAction::Audit,
            Some(istio::PolicyAction::Custom) => {
                PolicyAction::Custom(providers.find(world, (object, policy), clusters, report))
            }
        };
        let translated = translated(object, policy, action, identities, report);
        if connections {
            report_connections(object, &translated, report);
        }
        policies.push(Arc::new(translated));
    }
    providers.report_unused(world, report);
    policies
        .extend(world.env.broken_policies.iter().map(|(object, origin)| Arc::new(broken(object, origin))));
    policies.sort_by(|a, b| a.object.cmp(&b.object));
    Authorization { policies }
}

/// A policy of which nothing is known but that it is there: it denies everything.
fn broken(object: &ObjectRef, origin: &Origin) -> Policy {
    Policy {
        object: object.clone(),
        origin: origin.clone(),
        action: PolicyAction::Deny,
        dry_run: false,
        rules: vec![PolicyRule::default()],
    }
}

/// What to say of the policies that deny everything because they are broken.
pub(crate) fn report_broken(world: &World<'_>) -> Vec<Diagnostic> {
    let of = |(object, origin): (&ObjectRef, &Origin)| {
        Diagnostic {
        severity: Severity::Error,
        origin: origin.clone(),
        object: Some(object.clone()),
        field: String::new(),
        text: "is refused for its errors and has no good version yet: what it would deny is not known, so every \
               request to this gateway is denied"
            .into(),
        advice: "correct the errors, remove the policy, or pass --allow-unenforced".into(),
        code: "denies-everything",
    }
    };
    world.env.broken_policies.iter().map(of).collect()
}

fn translated(
    object: &Object,
    policy: &AuthorizationPolicy,
    action: PolicyAction,
    identities: bool,
    report: &mut Report,
) -> Policy {
    let own = &*object.reference.namespace;
    let custom = matches!(action, PolicyAction::Custom(_));
    let rules = policy.rules.iter().enumerate().map(|(i, rule)| {
        let field = format!("spec.rules[{i}]");
        let of = |n: usize, s: &PolicySource, report: &mut Report| {
            let field = format!("{field}.from[{n}].source");
            let place = Place { object, field, own, identities, custom };
            source(&place, s, report)
        };
        let sources = rule.from.iter().enumerate();
        let sources = sources.filter_map(|(n, from)| Some(of(n, from.source.as_ref()?, report))).collect();
        let operations = rule.to.iter().filter_map(|to| Some(operation(to.operation.as_ref()?))).collect();
        let conditions = rule.when.iter().enumerate().filter_map(|(n, when)| {
            let place = Place { object, field: format!("{field}.when[{n}]"), own, identities, custom };
            let clause = clause(attribute(&when.key)?, &when.values, &when.not_values)?;
            place.report(&clause, ["values", "notValues"], report);
            Some(clause)
        });
        let conditions = conditions.collect();
        PolicyRule { sources, operations, conditions }
    });
    let rules = rules.collect();
    Policy {
        object: object.reference.clone(),
        origin: object.origin(),
        action,
        dry_run: is_dry_run(object),
        rules,
    }
}

/// Whether a policy is decided and not enforced: a boolean as Go reads it.
pub(crate) fn is_dry_run(object: &Object) -> bool {
    let is_true = |text: &str| matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True");
    object.annotations.get(DRY_RUN).is_some_and(|text| is_true(text))
}

/// Where clauses are written.
struct Place<'a> {
    object: &'a Object,
    field: String,
    /// The policy's namespace.
    own: &'a str,
    /// Whether clients may have identities here.
    identities: bool,
    /// Whether a provider decides.
    custom: bool,
}

impl Place<'_> {
    /// Says what can never match here.
    fn report(&self, clause: &Clause, names: [&str; 2], report: &mut Report) {
        let why = match &clause.attribute {
            Attribute::Peer(_) if !self.identities => {
                "no client has an identity here: no server of this gateway asks for certificates (MUTUAL, \
                 OPTIONAL_MUTUAL)"
            }
            Attribute::Filter(_) => "there are no filters of Envoy here",
            of_token if self.custom && of_token.is_of_tokens() => {
                "providers are asked before tokens are verified, as in Istio"
            }
            _ => return,
        };
        let lists = [(&clause.values, "never matches"), (&clause.not_values, "excludes nothing")];
        for (name, (list, what)) in names.iter().zip(lists) {
            if !list.is_empty() {
                let field = format!("{}.{name}", self.field);
                report.warning(self.object, &field, "never-matches", format!("{what}: {why}"), "");
            }
        }
    }
}

/// A clause, unless it asks for nothing.
fn clause(attribute: Attribute, values: &[String], not_values: &[String]) -> Option<Clause> {
    let expected = |list: &[String]| list.iter().filter_map(|text| expected(&attribute, text)).collect();
    let (values, not_values): (Vec<_>, Vec<_>) = (expected(values), expected(not_values));
    (!values.is_empty() || !not_values.is_empty()).then_some(Clause { attribute, values, not_values })
}

fn expected(attribute: &Attribute, text: &str) -> Option<Expected> {
    Some(match attribute {
        Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => {
            Expected::Network(ip_block(text)?)
        }
        Attribute::DestinationPort => Expected::Port(text.parse().ok()?),
        Attribute::Path if PathTemplate::is_meant(text) => {
            Expected::Template(PathTemplate::parse(text).ok()?)
        }
        Attribute::RequestPrincipal => Expected::Principal(PrincipalPattern::parse(text)),
        _ => Expected::Text(TextPattern::parse(text)),
    })
}

fn source(place: &Place<'_>, s: &PolicySource, report: &mut Report) -> Vec<Clause> {
    let full = |accounts: &[String]| -> Vec<String> {
        let full = |a: &String| if a.contains('/') { a.clone() } else { format!("{}/{a}", place.own) };
        accounts.iter().map(full).collect()
    };
    let (accounts, not_accounts) = (full(&s.service_accounts), full(&s.not_service_accounts));
    let peer = Attribute::Peer;
    let all = [
        (peer(PeerPart::Principal), &s.principals, &s.not_principals, ["principals", "notPrincipals"]),
        (peer(PeerPart::Namespace), &s.namespaces, &s.not_namespaces, ["namespaces", "notNamespaces"]),
        (peer(PeerPart::ServiceAccount), &accounts, &not_accounts, ["serviceAccounts", "notServiceAccounts"]),
        (
            peer(PeerPart::TrustDomain),
            &s.trust_domains,
            &s.not_trust_domains,
            ["trustDomains", "notTrustDomains"],
        ),
        (
            Attribute::RequestPrincipal,
            &s.request_principals,
            &s.not_request_principals,
            ["requestPrincipals", "notRequestPrincipals"],
        ),
        (Attribute::SourceIp, &s.ip_blocks, &s.not_ip_blocks, ["ipBlocks", "notIpBlocks"]),
        (
            Attribute::RemoteIp,
            &s.remote_ip_blocks,
            &s.not_remote_ip_blocks,
            ["remoteIpBlocks", "notRemoteIpBlocks"],
        ),
    ];
    let mut clauses = Vec::new();
    for (attribute, values, not_values, names) in all {
        if let Some(clause) = clause(attribute, values, not_values) {
            place.report(&clause, names, report);
            clauses.push(clause);
        }
    }
    clauses
}

fn operation(o: &PolicyOperation) -> Vec<Clause> {
    let all = [
        (Attribute::DestinationPort, &o.ports, &o.not_ports),
        (Attribute::Method, &o.methods, &o.not_methods),
        (Attribute::Host, &o.hosts, &o.not_hosts),
        (Attribute::Path, &o.paths, &o.not_paths),
    ];
    all.into_iter()
        .filter_map(|(attribute, values, not_values)| clause(attribute, values, not_values))
        .collect()
}

/// Whether clients of a listener may show certificates.
fn asks_clients(protocol: &ListenerProtocol) -> bool {
    let ListenerProtocol::Tls(servers) = protocol else { return false };
    servers.iter().any(|server| match &server.action {
        TlsAction::Http(termination) | TlsAction::Tcp(termination, _) => termination.clients.is_some(),
        TlsAction::Passthrough { .. } | TlsAction::Refuse(_) => false,
    })
}

/// Whether a listener has connections without requests that policies are about.
fn has_connections(protocol: &ListenerProtocol) -> bool {
    match protocol {
        ListenerProtocol::Http(_) => false,
        ListenerProtocol::Tcp(_) => true,
        ListenerProtocol::Tls(servers) => {
            let has_policies = |action: &TlsAction| match action {
                TlsAction::Tcp(_, route) => route.has_policies(),
                TlsAction::Passthrough { routes, .. } => routes.iter().any(|r| r.route.has_policies()),
                TlsAction::Http(_) | TlsAction::Refuse(_) => false,
            };
            servers.iter().any(|server| has_policies(&server.action))
        }
    }
}

/// Says what a policy means for connections without requests, where that surprises.
fn report_connections(object: &Object, policy: &Policy, report: &mut Report) {
    if let PolicyAction::Custom(Ok(by)) = &policy.action
        && by.protocol != CheckProtocol::Grpc
    {
        let text = "is asked by HTTP, so it is not asked about connections of the TCP and TLS passthrough servers of \
                    this gateway, which pass, as in Istio";
        report.warning(
            object,
            "spec.provider",
            "requests-alone",
            text,
            "use a provider of envoyExtAuthzGrpc",
        );
    }
    for (i, rule) in policy.rules.iter().enumerate() {
        let mut clauses = rule.sources.iter().chain(&rule.operations).flatten().chain(&rule.conditions);
        let asks_requests = clauses.clone().any(|c| !c.attribute.is_of_connections());
        let asks_connections = clauses.any(|c| c.attribute.is_of_connections());
        if !asks_requests || asks_connections || policy.dry_run {
            continue;
        }
        let (text, advice) = match policy.action {
            PolicyAction::Deny => (
                "asks only for what requests have, so it closes every connection of the TCP and TLS passthrough \
                 servers of this gateway, as in Istio",
                "add the ports that are meant",
            ),
            PolicyAction::Allow => (
                "asks for what requests have, so it allows no connection of the TCP and TLS passthrough servers of \
                 this gateway, as in Istio",
                "add a rule for these, with ports or addresses",
            ),
            _ => continue,
        };
        report.warning(object, &format!("spec.rules[{i}]"), "requests-alone", text, advice);
    }
}
