//! What a rule does to the requests that it accepts.

use crate::clusters::{Absent, Clusters};
use crate::delegate::Rule;
use crate::fault::fault;
use crate::headers;
use crate::hosts::resolve;
use crate::report::{Report, list};
use std::sync::Arc;
use tidegate_api::Object;
use tidegate_api::istio::{self, HttpRoute, HttpRouteDestination, Percent};
use tidegate_model::{
    Action, ClusterName, Destination, DirectResponse, Forward, InvalidFormat, Mirror, PathRewrite, Redirect,
    RedirectPath, RedirectPort, Share,
};

/// What the route's path match makes of `rewrite.uri`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathKind {
    /// A prefix, or no path match: the prefix is replaced.
    Prefix,
    /// Exact or regex: the whole path is replaced.
    Whole,
}

/// The action of a rule for a listener on `port`.
pub(crate) fn action(
    rule: &Rule<'_>,
    kind: PathKind,
    port: u16,
    domain: &str,
    clusters: &mut Clusters<'_, '_>,
    report: &mut Report,
) -> Action {
    let route = &*rule.route;
    let made = if let Some(redirect) = &route.redirect {
        redirected(route, redirect)
    } else if let Some(direct) = &route.direct_response {
        answered(route, direct)
    } else {
        forwarded(rule, kind, port, domain, clusters, report)
    };
    made.unwrap_or_else(|_| refused("invalid_header_operation"))
}

/// The answer of a rule that cannot be carried out: leaving it out would let its requests go elsewhere.
fn refused(why: &str) -> Action {
    Action::DirectResponse(DirectResponse {
        status: 503,
        body: Arc::from([]),
        response_headers: Vec::new(),
        details: why.into(),
    })
}

fn redirected(route: &HttpRoute, redirect: &istio::HttpRedirect) -> Result<Action, InvalidFormat> {
    let text = |s: &Option<String>| s.as_deref().filter(|s| !s.is_empty()).map(Arc::from);
    let port = match (redirect.port, redirect.derive_port) {
        (Some(0), _) => RedirectPort::Keep,
        (Some(number), _) => u16::try_from(number).map_or(RedirectPort::Keep, RedirectPort::Number),
        (None, Some(istio::RedirectPort::FromRequestPort)) => RedirectPort::FromRequestPort,
        (None, None | Some(istio::RedirectPort::FromProtocolDefault)) => RedirectPort::Keep,
    };
    let path = match (absolute(redirect.uri.as_deref()), absolute(redirect.prefix_rewrite.as_deref())) {
        (Some(uri), _) => Some(RedirectPath::Full(uri)),
        (None, prefix) => prefix.map(RedirectPath::Prefix),
    };
    let status = match redirect.redirect_code {
        None | Some(0) => 301,
        Some(code) => u16::try_from(code).unwrap_or(301),
    };
    Ok(Action::Redirect(Redirect {
        status,
        scheme: text(&redirect.scheme),
        authority: text(&redirect.authority),
        port,
        path,
        response_headers: headers::response(route)?,
    }))
}

fn answered(route: &HttpRoute, direct: &istio::HttpDirectResponse) -> Result<Action, InvalidFormat> {
    let body = direct.body.as_ref().map_or(&[][..], |b| match (&b.string, &b.bytes) {
        (Some(text), _) => text.as_bytes(),
        (None, Some(bytes)) => &bytes.0,
        (None, None) => &[],
    });
    Ok(Action::DirectResponse(DirectResponse {
        status: u16::try_from(direct.status).unwrap_or(503),
        body: body.into(),
        response_headers: headers::response(route)?,
        details: "direct_response".into(),
    }))
}

fn forwarded(
    rule: &Rule<'_>,
    kind: PathKind,
    port: u16,
    domain: &str,
    clusters: &mut Clusters<'_, '_>,
    report: &mut Report,
) -> Result<Action, InvalidFormat> {
    let route = &*rule.route;
    let several = route.route.len() > 1;
    let weight = |d: &HttpRouteDestination| u32::try_from(d.weight.unwrap_or(0)).unwrap_or(0);
    let mut destinations = Vec::new();
    for (i, destination) in route.route.iter().enumerate() {
        if several && weight(destination) == 0 {
            continue;
        }
        let merged = headers::merge(route, destination, route.route.len())?;
        let target = &destination.destination;
        let (cluster, host, made) = resolved(rule, target, port, domain, clusters);
        if let Err(absent) = made {
            let field = format!("{}.route[{i}].destination", rule.field());
            let why = absent.text(&host, target.subset.as_deref().unwrap_or_default());
            dangling(rule.object, &field, &why, &absent, FAILING_REQUESTS, report);
        }
        destinations.push(Destination {
            cluster,
            weight: if several { weight(destination) } else { 1 },
            authority: merged.authority,
            request_headers: merged.request,
            response_headers: merged.response,
        });
    }
    if destinations.is_empty() {
        return Ok(refused("no_destination"));
    }
    destinations.shrink_to_fit();
    Ok(Action::Forward(Forward {
        destinations,
        path_rewrite: path_rewrite(route, kind),
        timeout: route.timeout.filter(|t| !t.is_zero()),
        retries: clusters.retries(route.retries.as_deref()),
        fault: route.fault.as_deref().map(fault).unwrap_or_default(),
        mirrors: mirrors(rule, port, domain, clusters, report),
    }))
}

/// Says which rules name a share of requests to mirror, and no mirror.
pub(crate) fn report_shares_without_mirror(rules: &[Rule<'_>], report: &mut Report) {
    for rule in rules.iter().filter(|rule| rule.route.mirror.is_none()) {
        for (name, written) in [
            ("mirrorPercent", rule.route.mirror_percent.is_some()),
            ("mirrorPercentage", rule.route.mirror_percentage.is_some()),
        ] {
            if written {
                let text = "has no effect without mirror: nothing is copied by it";
                let advice = "add mirror; each of mirrors has a percentage of its own";
                report.warning(rule.object, &format!("{}.{name}", rule.field()), "no-effect", text, advice);
            }
        }
    }
}

/// The mirrors of a rule that get anything.
fn mirrors(
    rule: &Rule<'_>,
    port: u16,
    domain: &str,
    clusters: &mut Clusters<'_, '_>,
    report: &mut Report,
) -> Vec<Mirror> {
    let route = &*rule.route;
    let share_of = |percentage: &Option<Percent>, otherwise| {
        percentage.as_ref().map_or(otherwise, |p| Share::percent(p.value.unwrap_or(0.0)))
    };
    let all = route.mirror_percent.map_or(Share::all(), |percent| Share::percent(percent.into()));
    let single = route
        .mirror
        .as_deref()
        .into_iter()
        .map(|to| ("mirror".to_owned(), to, share_of(&route.mirror_percentage, all)));
    let listed = route.mirrors.iter().enumerate().map(|(i, mirror)| {
        let share = share_of(&mirror.percentage, Share::all());
        (format!("mirrors[{i}].destination"), &mirror.destination, share)
    });
    let mut mirrors = Vec::new();
    for (field, target, share) in single.chain(listed) {
        if share == Share::default() {
            continue;
        }
        let (cluster, host, made) = resolved(rule, target, port, domain, clusters);
        if let Err(absent) = made {
            let field = format!("{}.{field}", rule.field());
            let why = absent.text(&host, target.subset.as_deref().unwrap_or_default());
            dangling(rule.object, &field, &why, &absent, "requests are not copied to it", report);
        }
        mirrors.push(Mirror { cluster, share });
    }
    mirrors
}

/// The cluster that a rule refers to, and the host in full.
fn resolved(
    rule: &Rule<'_>,
    target: &istio::Destination,
    port: u16,
    domain: &str,
    clusters: &mut Clusters<'_, '_>,
) -> (ClusterName, String, Result<(), Absent>) {
    let host = resolve(&target.host, &rule.object.reference.namespace, domain);
    let number = target.port.as_ref().and_then(|p| p.number);
    let subset = target.subset.as_deref().unwrap_or_default();
    let (cluster, made) = clusters.resolve(&host, subset, number, port);
    (cluster, host, made)
}

/// A path as it is written, with a slash before one that has none: it would run into the host.
fn absolute(path: Option<&str>) -> Option<Arc<str>> {
    let path = path.filter(|p| !p.is_empty())?;
    Some(if path.starts_with('/') { path.into() } else { format!("/{path}").into() })
}

fn path_rewrite(route: &HttpRoute, kind: PathKind) -> Option<PathRewrite> {
    let rewrite = route.rewrite.as_ref()?;
    if let Some(regex) = &rewrite.uri_regex_rewrite {
        return Some(PathRewrite::Regex {
            pattern: regex.matches.as_deref()?.into(),
            substitution: regex.rewrite.as_deref().unwrap_or_default().into(),
        });
    }
    let uri = absolute(rewrite.uri.as_deref())?;
    Some(match kind {
        PathKind::Prefix => PathRewrite::Prefix(uri),
        PathKind::Whole => PathRewrite::Full(uri),
    })
}

/// What becomes of requests to a destination that has no cluster.
const FAILING_REQUESTS: &str = "requests are answered with 503 (NC)";

/// Says that a destination has no cluster, why, and what happens because of that.
pub(crate) fn dangling(
    object: &Object,
    field: &str,
    why: &str,
    absent: &Absent,
    so: &str,
    report: &mut Report,
) {
    let text = format!("{why}; {so}");
    match absent {
        Absent::Host => {
            let advice = "create the Service or ServiceEntry, export it to this gateway, or correct the host";
            report.warning(object, &format!("{field}.host"), "unknown-host", text, advice);
        }
        Absent::Port { number, known } => {
            let (at, text) = match object.field(&format!("{field}.port")) {
                Some(_) => ("port", text),
                None => ("host", format!("for the listener on port {number}: {text}")),
            };
            let advice = match known.len() {
                0 => "add the port to the service".to_owned(),
                _ => format!(
                    "set destination.port.number to one of {}",
                    list(known.iter().map(u16::to_string))
                ),
            };
            report.warning(object, &format!("{field}.{at}"), "unknown-port", text, advice);
        }
        Absent::Subset(known) => {
            let advice = match known.len() {
                0 => "create a DestinationRule with that subset".to_owned(),
                _ => format!("use one of {}", list(known)),
            };
            report.warning(object, &format!("{field}.subset"), "unknown-subset", text, advice);
        }
        Absent::MeshTls => {
            let text = format!("{why}; {so} and never sent in plain text");
            let advice = "remove the tls setting, or run with --allow-unenforced for plain text";
            report.warning(object, &format!("{field}.host"), "upstream-tls", text, advice);
        }
        Absent::BrokenRule(_) => {
            let text = format!("{why}; {so} and never sent in plain text");
            let advice = "correct its errors, or accept with --allow-unenforced what is sent without it";
            report.warning(object, &format!("{field}.host"), "upstream-tls", text, advice);
        }
        Absent::NoAddress => {
            let advice = "set its resolution to STATIC with endpoints, to DNS, or to DYNAMIC_DNS, which goes to the host \
                          that a request asks for";
            report.warning(object, &format!("{field}.host"), "no-address", text, advice);
        }
    }
}
