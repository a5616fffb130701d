//! Providers that decide for policies of action CUSTOM.

use crate::authorization::is_dry_run;
use crate::clusters::Clusters;
use crate::hosts::canonical;
use crate::report::Report;
use crate::validate::{is_framing, is_token};
use crate::world::{Item, World};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tidegate_api::Object;
use tidegate_api::istio::{
    AuthorizationPolicy, ExtAuthzBody, ExtAuthzGrpcProvider, ExtAuthzHttpProvider, ExtensionProvider,
};
use tidegate_model::{
    CheckProtocol, CheckedBody, ClusterName, ExternalAuthorizer, FormatString, HeaderName, HttpCheck,
    TextPattern,
};

/// The time for an answer when nothing is said, as in Istio.
const TIMEOUT: Duration = Duration::from_secs(600);
/// The status of requests that a provider failed to decide on, when nothing is said.
const STATUS: u16 = 403;
/// The most bytes of a body that are kept to be checked.
const LARGEST_BODY: u32 = 8 << 20;

/// The providers that policies name.
#[derive(Default)]
pub(crate) struct Providers {
    /// The one that counts: the first that was named, by policies that are enforced if there are any.
    first: Option<String>,
    found: Option<Result<Arc<ExternalAuthorizer>, Arc<str>>>,
    used: BTreeSet<usize>,
}

impl Providers {
    /// Those of a gateway whose enforced policies name this one first.
    pub(crate) fn of(first: Option<&AuthorizationPolicy>) -> Self {
        Providers { first: first.map(|policy| name(policy).to_owned()), ..Providers::default() }
    }

    /// The provider that a policy names. One that cannot be asked refuses what the policy's rules match.
    pub(crate) fn find(
        &mut self,
        world: &World<'_>,
        (object, policy): Item<'_, AuthorizationPolicy>,
        clusters: &mut Clusters<'_, '_>,
        report: &mut Report,
    ) -> Result<Arc<ExternalAuthorizer>, Arc<str>> {
        const FIELD: &str = "spec.provider.name";
        let name = name(policy);
        let first = self.first.get_or_insert_with(|| name.to_owned());
        if !first.eq_ignore_ascii_case(name) {
            let why =
                format!("is not {first:?}, which another policy names, and only one provider can decide");
            let advice = "use one provider for all policies of the gateway";
            if is_dry_run(object) {
                report.warning(object, FIELD, "several-providers", why, advice);
            } else {
                let why = format!("{why}; what the rules match is denied");
                report.error(object, FIELD, "several-providers", why, advice);
            }
            return Err("several providers are named".into());
        }
        let Some((index, mesh)) = world.mesh.provider(name).zip(world.mesh.object()) else {
            let why = format!(
                "there is no provider {name:?} among extensionProviders; what the rules match is denied"
            );
            report.error(object, FIELD, "no-provider", why, "correct the name, or add it");
            return Err("there is no such provider".into());
        };
        self.used.insert(index);
        let found = self.found.get_or_insert_with(|| provider(mesh, index, world, clusters, report));
        if let Err(why) = &found {
            let text = format!("provider {name:?} cannot be asked: {why}; what the rules match is denied");
            report.error(object, FIELD, "no-provider", text, "correct the provider in the mesh config");
        }
        found.clone()
    }

    /// Says which providers decide nothing.
    pub(crate) fn report_unused(&self, world: &World<'_>, report: &mut Report) {
        let Some(mesh) = world.mesh.object() else { return };
        for (i, provider) in world.mesh.providers().iter().enumerate().filter(|(i, _)| !self.used.contains(i))
        {
            let kinds = [
                ("envoyExtAuthzHttp", provider.envoy_ext_authz_http.is_some()),
                ("envoyExtAuthzGrpc", provider.envoy_ext_authz_grpc.is_some()),
            ];
            for (kind, _) in kinds.iter().filter(|(_, there)| *there) {
                let field = format!("data.mesh.extensionProviders[{i}].{kind}");
                let text = "has no effect as long as no AuthorizationPolicy with action CUSTOM names it";
                report.note(mesh, &field, "no-effect", text, "");
            }
        }
    }
}

/// The provider that a policy names.
fn name(policy: &AuthorizationPolicy) -> &str {
    policy.provider.as_ref().and_then(|p| p.name.as_deref()).unwrap_or_default()
}

fn provider(
    mesh: &Object,
    index: usize,
    world: &World<'_>,
    clusters: &mut Clusters<'_, '_>,
    report: &mut Report,
) -> Result<Arc<ExternalAuthorizer>, Arc<str>> {
    let provider: &ExtensionProvider = &world.mesh.providers()[index];
    let at = format!("data.mesh.extensionProviders[{index}]");
    let name = provider.name.as_deref().unwrap_or_default();
    let made = match (&provider.envoy_ext_authz_http, &provider.envoy_ext_authz_grpc) {
        (Some(http), None) => {
            let place = Place { mesh, field: format!("{at}.envoyExtAuthzHttp"), name };
            by_http(&place, http, clusters, report)
        }
        (None, Some(grpc)) => {
            let place = Place { mesh, field: format!("{at}.envoyExtAuthzGrpc"), name };
            by_grpc(&place, grpc, clusters, report)
        }
        _ => Err("it is neither envoyExtAuthzHttp nor envoyExtAuthzGrpc".into()),
    };
    made.map(Arc::new)
}

/// Where a provider is written.
struct Place<'a> {
    mesh: &'a Object,
    field: String,
    name: &'a str,
}

impl Place<'_> {
    fn cluster(
        &self,
        service: Option<&str>,
        port: Option<u32>,
        clusters: &mut Clusters<'_, '_>,
        report: &mut Report,
    ) -> Result<ClusterName, Arc<str>> {
        let service = service.unwrap_or_default();
        let host = canonical(service.split_once('/').map_or(service, |(_, host)| host));
        let (name, found) = clusters.resolve(&host, "", Some(port.unwrap_or(0)), 0);
        found.map(|()| name).map_err(|absent| {
            let text = absent.text(&host, "");
            let advice = "name the full host of a Service or ServiceEntry, and a port of it";
            let field = format!("{}.service", self.field);
            report.error(self.mesh, &field, "unknown-host", text.clone(), advice);
            text.into()
        })
    }

    fn status(&self, written: Option<&str>, report: &mut Report) -> u16 {
        let Some(text) = written.filter(|text| !text.is_empty()) else { return STATUS };
        let status = text.parse::<u16>().ok().filter(|status| (400..600).contains(status));
        status.unwrap_or_else(|| {
            let field = format!("{}.statusOnError", self.field);
            let why = format!("{text:?} is not the status of an error; {STATUS} is used");
            report.error(self.mesh, &field, "invalid-status", why, "use 400 to 599");
            STATUS
        })
    }

    fn body(&self, written: Option<&ExtAuthzBody>, http: bool, report: &mut Report) -> Option<CheckedBody> {
        let body = written?;
        let field = format!("{}.includeRequestBodyInCheck", self.field);
        let most = body.max_request_bytes.unwrap_or(0);
        if most == 0 {
            let why = "is missing or 0, so only requests without a body pass";
            report.error(self.mesh, &format!("{field}.maxRequestBytes"), "missing-field", why, "set it");
        } else if most > LARGEST_BODY {
            let why = format!("is more than is kept: {LARGEST_BODY} bytes are the most");
            report.warning(self.mesh, &format!("{field}.maxRequestBytes"), "out-of-range", why, "use less");
        }
        let as_bytes = body.pack_as_bytes == Some(true);
        if http && as_bytes {
            let why = "has no effect by HTTP, in Istio neither";
            report.note(self.mesh, &format!("{field}.packAsBytes"), "no-effect", why, "");
        }
        let most = most.min(LARGEST_BODY) as usize;
        Some(CheckedBody { most, partial: body.allow_partial_message == Some(true), as_bytes })
    }

    /// Names of headers, of which framing is never taken.
    fn headers(&self, name: &str, written: &[String], report: &mut Report) -> Vec<TextPattern> {
        let mut all = Vec::new();
        for (i, text) in written.iter().enumerate() {
            let field = format!("{}.{name}[{i}]", self.field);
            if !is_token(text) {
                let why = format!("{text:?} is not a header name, and is left out");
                report.error(
                    self.mesh,
                    &field,
                    "invalid-header",
                    why,
                    "write a name, a prefix* or a *suffix",
                );
            } else if is_framing(text) {
                let why = format!(
                    "{text} says how a message is delimited, addressed or connected, so it is not taken over"
                );
                report.warning(self.mesh, &field, "not-enforced", why, "remove it");
            } else {
                all.push(TextPattern::parse(&text.to_ascii_lowercase()));
            }
        }
        all
    }
}

fn timeout(written: Option<Duration>) -> Duration {
    written.filter(|time| !time.is_zero()).unwrap_or(TIMEOUT)
}

fn by_http(
    place: &Place<'_>,
    http: &ExtAuthzHttpProvider,
    clusters: &mut Clusters<'_, '_>,
    report: &mut Report,
) -> Result<ExternalAuthorizer, Arc<str>> {
    let cluster = place.cluster(http.service.as_deref(), http.port, clusters, report)?;
    let prefix = http.path_prefix.as_deref().unwrap_or_default();
    if !prefix.is_empty() && (!prefix.starts_with('/') || prefix.bytes().any(|b| !b.is_ascii_graphic())) {
        let why = format!("{prefix:?} is not the beginning of a path");
        let field = format!("{}.pathPrefix", place.field);
        report.error(place.mesh, &field, "invalid-path", why.clone(), "begin it with a slash");
        return Err(why.into());
    }
    let mut request_headers =
        place.headers("includeRequestHeadersInCheck", &http.include_request_headers_in_check, report);
    request_headers.extend(place.headers("includeHeadersInCheck", &http.include_headers_in_check, report));
    let protocol = CheckProtocol::Http(HttpCheck {
        path_prefix: prefix.into(),
        request_headers,
        additional_headers: additional_headers(place, http, report),
        upstream_on_allow: place.headers(
            "headersToUpstreamOnAllow",
            &http.headers_to_upstream_on_allow,
            report,
        ),
        downstream_on_allow: place.headers(
            "headersToDownstreamOnAllow",
            &http.headers_to_downstream_on_allow,
            report,
        ),
        downstream_on_deny: place.headers(
            "headersToDownstreamOnDeny",
            &http.headers_to_downstream_on_deny,
            report,
        ),
    });
    Ok(ExternalAuthorizer {
        name: place.name.into(),
        cluster,
        timeout: timeout(http.timeout),
        fail_open: http.fail_open == Some(true),
        status_on_error: place.status(http.status_on_error.as_deref(), report),
        clear_route_cache: http.clear_route_cache == Some(true),
        body: place.body(http.include_request_body_in_check.as_ref(), true, report),
        protocol,
    })
}

/// The headers that are sent beside those of the request, as formats.
fn additional_headers(
    place: &Place<'_>,
    http: &ExtAuthzHttpProvider,
    report: &mut Report,
) -> Vec<(HeaderName, FormatString)> {
    let mut headers = Vec::new();
    let field = format!("{}.includeAdditionalHeadersInCheck", place.field);
    for (name, value) in &http.include_additional_headers_in_check {
        let is_value = value.bytes().all(|b| (0x20..0x7f).contains(&b));
        if !is_token(name) || is_framing(name) || !is_value {
            let why = format!("{name:?} cannot be sent as a header, and is left out");
            let advice = "write a header's name and a plain value";
            report.error(place.mesh, &field, "invalid-header", why, advice);
            continue;
        }
        match FormatString::parse(value) {
            Ok(format) => {
                for absent in format.absent() {
                    let why = format!("{absent} of {name:?} stands for nothing here");
                    report.warning(place.mesh, &field, "not-enforced", why, "");
                }
                headers.push((HeaderName::new(name), format));
            }
            Err(why) => {
                let why = format!("the value of {name:?} is no format, and is left out: {why}");
                let advice = "write %% for a percent sign";
                report.error(place.mesh, &field, "invalid-header", why, advice);
            }
        }
    }
    headers
}

fn by_grpc(
    place: &Place<'_>,
    grpc: &ExtAuthzGrpcProvider,
    clusters: &mut Clusters<'_, '_>,
    report: &mut Report,
) -> Result<ExternalAuthorizer, Arc<str>> {
    Ok(ExternalAuthorizer {
        name: place.name.into(),
        cluster: place.cluster(grpc.service.as_deref(), grpc.port, clusters, report)?,
        timeout: timeout(grpc.timeout),
        fail_open: grpc.fail_open == Some(true),
        status_on_error: place.status(grpc.status_on_error.as_deref(), report),
        clear_route_cache: grpc.clear_route_cache == Some(true),
        body: place.body(grpc.include_request_body_in_check.as_ref(), false, report),
        protocol: CheckProtocol::Grpc,
    })
}
