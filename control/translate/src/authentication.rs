//! RequestAuthentications: whose tokens this gateway accepts, and what of them goes where.

use crate::report::Report;
use crate::unserved::{report_unselected, selects_gateway};
use crate::validate::is_framing;
use crate::world::{Item, World};
use std::sync::Arc;
use std::time::Duration;
use tidegate_api::istio::{JwtRule, Presence, RequestAuthentication};
use tidegate_model::{
    Authentication, ClaimHeader, HeaderName, KeyLocation, KeySource, TokenLocation, TokenRule,
};

/// The time for fetching keys when nothing is said.
const FETCH_TIME: Duration = Duration::from_secs(5);
/// Claims that are lists separated by spaces whatever is said (RFC 8693 4.2).
const SPACE_DELIMITED: [&str; 2] = ["permission", "scope"];

/// The rules of the policies that select this gateway: those of the root namespace, then its own, each by age, and
/// all of them by issuer.
pub(crate) fn authentication(world: &World<'_>, report: &mut Report) -> Authentication {
    let mut policies = Vec::new();
    for item in world.objects.request_authentications() {
        if selects_gateway(world.env, item.0) {
            policies.push(item);
        } else {
            let (object, policy) = item;
            report_unselected(object, policy.target_ref.is_some(), !policy.target_refs.is_empty(), report);
        }
    }
    policies.sort_by_key(|(object, _)| object.reference.namespace != world.env.root_namespace);
    let mut rules: Vec<_> = policies.into_iter().flat_map(|item| policy(item, report)).collect();
    rules.sort_by(|a, b| a.issuer.cmp(&b.issuer));
    Authentication { rules }
}

fn policy((object, policy): Item<'_, RequestAuthentication>, report: &mut Report) -> Vec<Arc<TokenRule>> {
    if policy.jwt_rules.is_empty() {
        let text = "has no jwtRules, so it does nothing";
        report.warning(object, "", "no-rules", text, "add the issuers whose tokens are accepted");
    }
    let rules = policy.jwt_rules.iter().enumerate().map(|(index, rule)| {
        let field = format!("spec.jwtRules[{index}]");
        Arc::new(TokenRule {
            object: object.reference.clone(),
            index,
            origin: object.locate(&field),
            issuer: rule.issuer.as_deref().map(Into::into),
            audiences: rule.audiences.iter().map(|a| a.as_str().into()).collect(),
            keys: keys(rule, |name, text, advice| {
                report.warning(object, &format!("{field}.{name}"), "no-keys", text, advice);
            }),
            locations: locations(rule),
            required: rule.presence == Some(Presence::Required),
            forward: rule.forward_original_token == Some(true),
            payload_header: rule.output_payload_to_header.as_deref().and_then(output),
            claim_headers: claim_headers(rule),
            space_delimited: space_delimited(rule),
        })
    });
    rules.collect()
}

fn keys(rule: &JwtRule, mut warn: impl FnMut(&str, &str, &str)) -> KeySource {
    if let Some(jwks) = rule.jwks.as_deref().filter(|jwks| !jwks.is_empty()) {
        return KeySource::Inline(jwks.into());
    }
    let issuer = rule.issuer.as_deref().unwrap_or_default();
    let location = match rule.jwks_uri.as_deref() {
        Some(uri) => KeyLocation::KeySet(uri.into()),
        None if issuer.starts_with("https://") || issuer.starts_with("http://") => {
            KeyLocation::Issuer(issuer.into())
        }
        None => {
            let text = "is not a URL by which its keys could be found, so every token of it is refused";
            warn("issuer", text, "add jwks or jwksUri");
            return KeySource::Inline(r#"{"keys": []}"#.into());
        }
    };
    KeySource::Remote { location, timeout: rule.timeout.unwrap_or(FETCH_TIME) }
}

/// In the order in which Envoy reads them; without any, `Authorization` and `access_token`.
fn locations(rule: &JwtRule) -> Vec<TokenLocation> {
    if rule.from_headers.is_empty() && rule.from_params.is_empty() && rule.from_cookies.is_empty() {
        return vec![
            TokenLocation::Header(HeaderName::new("authorization"), "Bearer ".into()),
            TokenLocation::Param("access_token".into()),
        ];
    }
    let mut headers: Vec<_> = (rule.from_headers.iter())
        .map(|h| (HeaderName::new(&h.name), h.prefix.as_deref().unwrap_or_default()))
        .collect();
    let (mut params, mut cookies) = (rule.from_params.clone(), rule.from_cookies.clone());
    headers.sort();
    headers.dedup();
    params.sort();
    params.dedup();
    cookies.sort();
    cookies.dedup();
    let headers = headers.into_iter().map(|(name, prefix)| TokenLocation::Header(name, prefix.into()));
    let params = params.into_iter().map(|name| TokenLocation::Param(name.into()));
    let cookies = cookies.into_iter().map(|name| TokenLocation::Cookie(name.into()));
    headers.chain(params).chain(cookies).collect()
}

/// The header, unless it is one that is never written.
fn output(name: &str) -> Option<HeaderName> {
    (!name.is_empty() && !is_framing(name)).then(|| HeaderName::new(name))
}

fn claim_headers(rule: &JwtRule) -> Vec<ClaimHeader> {
    let written = rule.output_claim_to_headers.iter();
    written
        .filter_map(|c| Some(ClaimHeader { header: output(&c.header)?, claim: c.claim.as_str().into() }))
        .collect()
}

fn space_delimited(rule: &JwtRule) -> Vec<Arc<str>> {
    let mut claims: Vec<&str> = rule.space_delimited_claims.iter().map(String::as_str).collect();
    claims.extend(SPACE_DELIMITED);
    claims.sort_unstable();
    claims.dedup();
    claims.into_iter().map(Into::into).collect()
}
