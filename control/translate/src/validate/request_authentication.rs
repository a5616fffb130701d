use super::rules::{Check, bracket, is_framing, is_token};
use tidegate_api::istio::{JwtRule, LabelSelector, PolicyTarget, RequestAuthentication};

/// The most items of `jwtRules`.
const MOST_RULES: usize = 4096;
/// The most targets.
const MOST_TARGETS: usize = 16;
/// The most items of `spaceDelimitedClaims`.
const MOST_CLAIMS: usize = 64;
/// The longest URL of keys.
const LONGEST_URL: usize = 2048;
/// What a policy can be for, by API group and kind.
const TARGETS: [(&str, &str); 4] = [
    ("core", "Service"),
    ("networking.istio.io", "ServiceEntry"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
];
/// The longest name of a target, and of its API group.
const LONGEST_NAME: usize = 253;

pub(super) fn validate(check: &mut Check<'_>, policy: &RequestAuthentication) {
    selection(check, policy.selector.as_ref(), policy.target_ref.as_ref(), &policy.target_refs);
    too_many(check, "spec.jwtRules", policy.jwt_rules.len(), MOST_RULES);
    for (i, rule) in policy.jwt_rules.iter().enumerate() {
        jwt_rule(check, &format!("spec.jwtRules[{i}]"), rule);
    }
}

pub(super) fn too_many(check: &mut Check<'_>, field: &str, count: usize, most: usize) {
    if count > most {
        let text = format!("has {count} items, and at most {most} are allowed");
        check.error(field, "too-many", text, "remove some, or split the policy");
    }
}

/// The workloads that a policy is for.
pub(super) fn selection(
    check: &mut Check<'_>,
    selector: Option<&LabelSelector>,
    target_ref: Option<&PolicyTarget>,
    target_refs: &[PolicyTarget],
) {
    let set = [selector.is_some(), target_ref.is_some(), !target_refs.is_empty()];
    if set.into_iter().filter(|set| *set).count() > 1 {
        let text = "only one of targetRefs and selector can be set";
        check.error("spec", "one-of", text, "keep the one that is meant");
    }
    if let Some(selector) = selector {
        for (key, value) in &selector.match_labels {
            let field = format!("spec.selector.matchLabels{}", bracket(key));
            if key.is_empty() || key.contains('*') || value.contains('*') {
                let text = "a label must have a key, and no wildcards";
                check.error(&field, "invalid-label", text, "write the whole label");
            }
            if value.len() > 63 {
                check.error(&field, "invalid-label", "is longer than 63 characters", "use a shorter label");
            }
        }
    }
    if let Some(target) = target_ref {
        policy_target(check, "spec.targetRef", target);
    }
    too_many(check, "spec.targetRefs", target_refs.len(), MOST_TARGETS);
    for (i, target) in target_refs.iter().enumerate() {
        policy_target(check, &format!("spec.targetRefs[{i}]"), target);
    }
}

fn policy_target(check: &mut Check<'_>, field: &str, target: &PolicyTarget) {
    let plain = |text: &str, most: usize, upper: bool, dots: bool| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        text.len() <= most
            && edge(text.chars().next())
            && edge(text.chars().next_back())
            && text.chars().all(|c| {
                c.is_ascii_alphanumeric() && (upper || !c.is_ascii_uppercase())
                    || c == '-'
                    || dots && c == '.'
            })
    };
    let group = target.group.as_deref().unwrap_or_default();
    if !group.is_empty() && !plain(group, LONGEST_NAME, false, true) {
        let text = format!("{group:?} is not an API group");
        check.error(&format!("{field}.group"), "invalid-target", text, "write it like the kind's apiVersion");
    }
    if !plain(&target.kind, 63, true, false) || target.kind.starts_with(|c: char| c.is_ascii_digit()) {
        let text = format!("{:?} is not a kind", target.kind);
        check.error(&format!("{field}.kind"), "invalid-target", text, "write a kind, such as Gateway");
    }
    let group = if group.is_empty() { "core" } else { group };
    if !TARGETS.contains(&(group, &target.kind)) {
        let text = format!("{:?} of {group} cannot be a target", target.kind);
        let advice =
            "name a Gateway or GatewayClass of gateway.networking.k8s.io, a Service, or a ServiceEntry";
        check.error(&format!("{field}.kind"), "invalid-target", text, advice);
    }
    if target.name.is_empty() || target.name.len() > LONGEST_NAME {
        let text = "is not the name of an object";
        check.error(&format!("{field}.name"), "invalid-target", text, "use 1 to 253 characters");
    }
    if target.namespace.as_deref().is_some_and(|n| !n.is_empty()) {
        let text = "targets in other namespaces are not supported";
        check.error(&format!("{field}.namespace"), "invalid-target", text, "remove it");
    }
}

fn jwt_rule(check: &mut Check<'_>, field: &str, rule: &JwtRule) {
    if rule.issuer.as_deref() == Some("") {
        check.error(
            &format!("{field}.issuer"),
            "empty",
            "must not be empty",
            "write the issuer, or remove it",
        );
    }
    let without = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    if without(&rule.issuer) && without(&rule.jwks_uri) {
        let text = "has neither issuer nor jwksUri";
        check.error(field, "missing-field", text, "write the issuer of the tokens");
    }
    for (name, items) in [
        ("audiences", &rule.audiences),
        ("fromParams", &rule.from_params),
        ("fromCookies", &rule.from_cookies),
        ("spaceDelimitedClaims", &rule.space_delimited_claims),
    ] {
        for (i, _) in items.iter().enumerate().filter(|(_, item)| item.is_empty()) {
            check.error(&format!("{field}.{name}[{i}]"), "empty", "must not be empty", "remove it");
        }
    }
    too_many(check, &format!("{field}.spaceDelimitedClaims"), rule.space_delimited_claims.len(), MOST_CLAIMS);
    if let Some(url) = &rule.jwks_uri {
        key_url(check, &format!("{field}.jwksUri"), url);
    }
    if let Some(jwks) = rule.jwks.as_deref().filter(|jwks| !jwks.is_empty()) {
        key_set(check, &format!("{field}.jwks"), jwks);
    }
    check.duration(&format!("{field}.timeout"), rule.timeout);
    headers(check, field, rule);
}

fn headers(check: &mut Check<'_>, field: &str, rule: &JwtRule) {
    for (i, header) in rule.from_headers.iter().enumerate() {
        let field = format!("{field}.fromHeaders[{i}].name");
        if !is_token(&header.name) {
            let text = format!("{:?} is not a header name", header.name);
            check.error(&field, "invalid-header", text, "write the header that has the token");
        }
    }
    for (i, output) in rule.output_claim_to_headers.iter().enumerate() {
        let field = format!("{field}.outputClaimToHeaders[{i}]");
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        if output.header.is_empty() || !output.header.bytes().all(plain) {
            let text = format!("{:?} is not a header that a claim can be copied to", output.header);
            check.error(
                &format!("{field}.header"),
                "invalid-header",
                text,
                "use letters, digits, '-' and '_'",
            );
        }
        if output.claim.is_empty() {
            check.error(&format!("{field}.claim"), "empty", "must not be empty", "name the claim");
        }
        never_written(check, &format!("{field}.header"), &output.header);
    }
    if let Some(header) = rule.output_payload_to_header.as_deref().filter(|h| !h.is_empty()) {
        let field = format!("{field}.outputPayloadToHeader");
        if !is_token(header) {
            let text = format!("{header:?} is not a header name");
            check.error(&field, "invalid-header", text, "use letters, digits and '-'");
        }
        never_written(check, &field, header);
    }
}

fn never_written(check: &mut Check<'_>, field: &str, header: &str) {
    if is_framing(header) {
        let text =
            format!("{header} says how a message is delimited, addressed or connected, so it is not written");
        check.warning(field, "not-enforced", text, "use another header");
    }
}

fn key_url(check: &mut Check<'_>, field: &str, url: &str) {
    const ADVICE: &str = "write it like https://issuer.example.com/keys";
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let authority = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let wrong = match authority {
        _ if url.len() > LONGEST_URL => Some("it is longer than 2048 characters"),
        None => Some("it does not begin with http:// or https://"),
        Some("") => Some("it has no host"),
        Some(authority) if authority.contains('@') => Some("it has a user in it"),
        Some(_) if url.bytes().any(|b| !b.is_ascii_graphic() || b == b'\\') => {
            Some("it has characters that a URL cannot have")
        }
        Some(_) => None,
    };
    if let Some(why) = wrong {
        check.error(field, "invalid-url", format!("is not a URL of keys: {why}"), ADVICE);
    }
}

/// The form alone; whether a key can be used is seen where it is.
fn key_set(check: &mut Check<'_>, field: &str, jwks: &str) {
    const ADVICE: &str = "write a JSON Web Key Set: {\"keys\": [...]}";
    let parsed: Result<serde_json::Value, _> = serde_json::from_str(jwks);
    let wrong = match &parsed {
        Err(_) => "is not JSON",
        Ok(set) if !set.get("keys").is_some_and(serde_json::Value::is_array) => "has no list of keys",
        Ok(_) => return,
    };
    check.error(field, "invalid-keys", wrong, ADVICE);
}
