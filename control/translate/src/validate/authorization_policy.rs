use super::request_authentication::{selection, too_many};
use super::rules::{Check, is_token};
use ipnet::IpNet;
use std::net::IpAddr;
use tidegate_api::istio::{
    AuthorizationPolicy, PolicyAction, PolicyCondition, PolicyOperation, PolicyRule, PolicySource,
};
use tidegate_model::{Attribute, ClaimPath, HeaderName, PathTemplate, PeerPart};

/// The most rules, and the most items of `from` and `to`.
const MOST_RULES: usize = 512;
/// The most service accounts.
const MOST_ACCOUNTS: usize = 16;
/// The longest service account.
const LONGEST_ACCOUNT: usize = 320;

pub(super) fn validate(check: &mut Check<'_>, policy: &AuthorizationPolicy) {
    selection(check, policy.selector.as_ref(), policy.target_ref.as_ref(), &policy.target_refs);
    action(check, policy);
    too_many(check, "spec.rules", policy.rules.len(), MOST_RULES);
    for (i, r) in policy.rules.iter().enumerate() {
        let field = format!("spec.rules[{i}]");
        rule(check, &field, r);
        if policy.action == Some(PolicyAction::Custom) {
            custom(check, &field, r);
        }
    }
}

/// A provider is asked before it is known who sends a request, so no rule of it can depend on that.
fn custom(check: &mut Check<'_>, field: &str, rule: &PolicyRule) {
    let mut unsupported = |field: String| {
        let text = "is not supported with action CUSTOM";
        let advice = "remove it, or decide about it in a policy with ALLOW or DENY";
        check.error(&field, "invalid-custom", text, advice);
    };
    for (i, source) in rule.from.iter().enumerate().filter_map(|(i, from)| Some((i, from.source.as_ref()?))) {
        for (name, list) in [
            ("namespaces", &source.namespaces),
            ("notNamespaces", &source.not_namespaces),
            ("serviceAccounts", &source.service_accounts),
            ("notServiceAccounts", &source.not_service_accounts),
            ("principals", &source.principals),
            ("notPrincipals", &source.not_principals),
            ("requestPrincipals", &source.request_principals),
            ("notRequestPrincipals", &source.not_request_principals),
        ] {
            if !list.is_empty() {
                unsupported(format!("{field}.from[{i}].source.{name}"));
            }
        }
    }
    for (i, when) in rule.when.iter().enumerate() {
        let of_peer = matches!(&*when.key, "source.namespace" | "source.serviceAccount" | "source.principal");
        if of_peer || when.key.starts_with("request.auth.") {
            unsupported(format!("{field}.when[{i}].key"));
        }
    }
}

fn action(check: &mut Check<'_>, policy: &AuthorizationPolicy) {
    let is_custom = policy.action == Some(PolicyAction::Custom);
    let provider = policy.provider.as_ref().and_then(|p| p.name.as_deref()).unwrap_or_default();
    if is_custom && provider.trim().is_empty() {
        let text = "must name the provider that decides";
        check.error("spec.provider.name", "missing-field", text, "name one of the mesh's extensionProviders");
    }
    if !is_custom && policy.provider.is_some() {
        let text = "has a meaning only with action CUSTOM";
        check.error("spec.provider", "one-of", text, "remove it, or set action: CUSTOM");
    }
    if policy.rules.is_empty()
        && let Some(action @ (PolicyAction::Deny | PolicyAction::Custom)) = policy.action
    {
        let text = format!("{} without rules does nothing, since none matches", action.as_str());
        check.error("spec.rules", "missing-field", text, "write - {} for a rule that matches everything");
    }
}

fn rule(check: &mut Check<'_>, field: &str, rule: &PolicyRule) {
    for (name, count) in [("from", rule.from.len()), ("to", rule.to.len())] {
        let field = format!("{field}.{name}");
        too_many(check, &field, count, MOST_RULES);
        let written = check.object.field(&field);
        if count == 0 && written.is_some_and(|value| !value.is_null()) {
            let text = "is an empty list, which says nothing";
            check.error(&field, "empty", text, "remove it for anything, or write what is meant");
        }
    }
    for (i, from) in rule.from.iter().enumerate() {
        let field = format!("{field}.from[{i}].source");
        match &from.source {
            Some(of) => source(check, &field, of),
            None => check.error(&field, "missing-field", "is missing", "write what the source is"),
        }
    }
    for (i, to) in rule.to.iter().enumerate() {
        let field = format!("{field}.to[{i}].operation");
        match &to.operation {
            Some(of) => operation(check, &field, of),
            None => check.error(&field, "missing-field", "is missing", "write what the operation is"),
        }
    }
    for (i, when) in rule.when.iter().enumerate() {
        condition(check, &format!("{field}.when[{i}]"), when);
    }
}

/// Something must be asked, and no value may be empty.
fn values(check: &mut Check<'_>, field: &str, lists: &[(&str, &[String])]) {
    if lists.iter().all(|(_, list)| list.is_empty()) {
        let text = "asks for nothing";
        check.error(field, "empty", text, "write at least one of its fields, or remove it");
    }
    for (name, list) in lists {
        for (i, _) in list.iter().enumerate().filter(|(_, value)| value.is_empty()) {
            check.error(&format!("{field}.{name}[{i}]"), "empty", "must not be empty", "remove it");
        }
    }
}

fn source(check: &mut Check<'_>, field: &str, source: &PolicySource) {
    let accounts =
        [("serviceAccounts", &source.service_accounts), ("notServiceAccounts", &source.not_service_accounts)];
    let blocks = [
        ("ipBlocks", &source.ip_blocks),
        ("notIpBlocks", &source.not_ip_blocks),
        ("remoteIpBlocks", &source.remote_ip_blocks),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
    ];
    let identities = [
        ("principals", &source.principals),
        ("notPrincipals", &source.not_principals),
        ("namespaces", &source.namespaces),
        ("notNamespaces", &source.not_namespaces),
    ];
    let others = [
        ("requestPrincipals", &source.request_principals),
        ("notRequestPrincipals", &source.not_request_principals),
        ("trustDomains", &source.trust_domains),
        ("notTrustDomains", &source.not_trust_domains),
    ];
    let all = accounts.iter().chain(&blocks).chain(&identities).chain(&others);
    values(check, field, &all.map(|(name, list)| (*name, list.as_slice())).collect::<Vec<_>>());
    for (name, list) in blocks {
        for (i, block) in list.iter().enumerate() {
            network(check, &format!("{field}.{name}[{i}]"), block);
        }
    }
    let is_set = |lists: &[(&str, &Vec<String>)]| lists.iter().any(|(_, list)| !list.is_empty());
    if is_set(&accounts) && is_set(&identities) {
        let text = "cannot have serviceAccounts together with namespaces or principals";
        check.error(field, "one-of", text, "split it into two sources, or write principals for all of them");
    }
    for (name, list) in accounts {
        let field = format!("{field}.{name}");
        too_many(check, &field, list.len(), MOST_ACCOUNTS);
        for (i, account) in list.iter().enumerate().filter(|(_, account)| !account.is_empty()) {
            let wrong = account.len() > LONGEST_ACCOUNT
                || account.contains('*')
                || account.split('/').count() > 2
                || account.split('/').any(str::is_empty);
            if wrong {
                let text = format!("{account:?} is not a service account");
                check.error(
                    &format!("{field}[{i}]"),
                    "invalid-account",
                    text,
                    "write NAMESPACE/NAME or NAME",
                );
            }
        }
    }
}

fn operation(check: &mut Check<'_>, field: &str, operation: &PolicyOperation) {
    let ports = [("ports", &operation.ports), ("notPorts", &operation.not_ports)];
    let paths = [("paths", &operation.paths), ("notPaths", &operation.not_paths)];
    let others = [
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
    ];
    let all = ports.iter().chain(&paths).chain(&others);
    values(check, field, &all.map(|(name, list)| (*name, list.as_slice())).collect::<Vec<_>>());
    for (name, list) in ports {
        for (i, number) in list.iter().enumerate() {
            port(check, &format!("{field}.{name}[{i}]"), number);
        }
    }
    for (name, list) in paths {
        for (i, path) in list.iter().enumerate().filter(|(_, path)| path.contains(['{', '}'])) {
            if let Err(why) = PathTemplate::parse(path) {
                let text = format!("{path:?} is not a path template: {why}");
                let advice = "use {*} for one segment, and {**} for any number of them as the last operator";
                check.error(&format!("{field}.{name}[{i}]"), "invalid-template", text, advice);
            }
        }
    }
}

fn condition(check: &mut Check<'_>, field: &str, condition: &PolicyCondition) {
    let lists = [("values", &condition.values), ("notValues", &condition.not_values)];
    if lists.iter().all(|(_, list)| list.is_empty()) {
        let text = "has neither values nor notValues";
        check.error(field, "empty", text, "write what it must be, or must not be");
    }
    let Some(attribute) = attribute(&condition.key) else {
        let text = format!("there is no attribute {:?}", condition.key);
        let advice = "use request.headers[NAME], source.ip, remote.ip, request.auth.claims[NAME] and others that \
                      Istio lists under authorization policy conditions";
        check.error(&format!("{field}.key"), "unknown-attribute", text, advice);
        return;
    };
    for (name, list) in lists {
        for (i, value) in list.iter().enumerate() {
            let field = format!("{field}.{name}[{i}]");
            match attribute {
                Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => {
                    network(check, &field, value);
                }
                Attribute::DestinationPort => port(check, &field, value),
                _ if value.is_empty() => check.error(&field, "empty", "must not be empty", "remove it"),
                _ => {}
            }
        }
    }
}

fn network(check: &mut Check<'_>, field: &str, text: &str) {
    if ip_block(text).is_none() {
        let wrong = format!("{text:?} is neither an address nor a network");
        check.error(field, "invalid-network", wrong, "write it like 203.0.113.7 or 203.0.113.0/24");
    }
}

fn port(check: &mut Check<'_>, field: &str, text: &str) {
    if !text.parse::<u16>().is_ok_and(|number| number > 0) {
        let wrong = format!("{text:?} is not a port");
        check.error(field, "invalid-port", wrong, "use 1 to 65535");
    }
}

/// An address, or a network.
pub(crate) fn ip_block(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    // what clients are is told without the form of IPv4 in IPv6
    match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => {
            let v4 = v6.addr().to_ipv4_mapped();
            v4.map_or(Some(net), |ip| IpNet::new(ip.into(), v6.prefix_len() - 96).ok())
        }
        net => Some(net),
    }
}

/// The attribute that a condition's key names.
pub(crate) fn attribute(key: &str) -> Option<Attribute> {
    const FILTERS: &str = "experimental.envoy.filters.";
    Some(match key {
        "source.ip" => Attribute::SourceIp,
        "remote.ip" => Attribute::RemoteIp,
        "source.namespace" => Attribute::Peer(PeerPart::Namespace),
        "source.principal" => Attribute::Peer(PeerPart::Principal),
        "source.serviceAccount" => Attribute::Peer(PeerPart::ServiceAccount),
        "source.trustDomain" => Attribute::Peer(PeerPart::TrustDomain),
        "request.auth.principal" => Attribute::RequestPrincipal,
        "request.auth.audiences" => Attribute::Audiences,
        "request.auth.presenter" => Attribute::Presenter,
        "destination.ip" => Attribute::DestinationIp,
        "destination.port" => Attribute::DestinationPort,
        "connection.sni" => Attribute::Sni,
        _ => {
            if let Some(name) = key.strip_prefix("request.headers[") {
                let name = name.strip_suffix(']')?;
                return is_token(name.strip_prefix(':').unwrap_or(name)).then(|| header(name));
            }
            if key.starts_with("request.auth.claims[") {
                return ClaimPath::parse(&format!("@{key}")).map(Attribute::Claim);
            }
            let filter = key.strip_prefix(FILTERS)?;
            let named = filter.split_once('[').is_some_and(|(name, rest)| {
                !name.is_empty() && rest.strip_suffix(']').is_some_and(|rest| !rest.is_empty())
            });
            return named.then(|| Attribute::Filter(key.into()));
        }
    })
}

fn header(name: &str) -> Attribute {
    match HeaderName::new(name) {
        name if matches!(name.as_str(), "host" | ":authority") => {
            Attribute::Header(HeaderName::new(":authority"))
        }
        name => Attribute::Header(name),
    }
}
