//! How a DestinationRule has TLS spoken to an upstream.

use crate::hosts::resolve;
use crate::protocol::Protocol;
use crate::report::Report;
use crate::secret::{self, Place};
use crate::world::{Item, World};
use std::sync::Arc;
use tidegate_api::Object;
use tidegate_api::istio::{ClientTlsMode, ClientTlsSettings, DestinationRule, TrafficPolicy};
use tidegate_model::{Model, SecretKey, ServerAuthorities, UpstreamTls};

/// What `caCertificates` says for the authorities that the system trusts, which are those that count without it.
const SYSTEM: &str = "system";

/// TLS that a policy asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Tls<'a> {
    /// With certificates of the user's own.
    Own(&'a ClientTlsSettings),
    /// With those of the mesh.
    Mesh,
}

impl<'a> Tls<'a> {
    /// `None` is plain text.
    pub(crate) fn of(settings: &'a ClientTlsSettings) -> Option<Self> {
        match settings.mode {
            None | Some(ClientTlsMode::Disable) => None,
            Some(ClientTlsMode::IstioMutual) => Some(Tls::Mesh),
            Some(ClientTlsMode::Simple | ClientTlsMode::Mutual) => Some(Tls::Own(settings)),
        }
    }
}

/// Where the settings of an object stand.
pub(crate) fn place<'p>(world: &'p World<'p>, object: &'p Object, field: &'p str) -> Place<'p> {
    Place { world, object, field, fails: "connections to this upstream fail" }
}

fn written(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// What `tls` asks for, towards a service that is known to have the names `of_service`. The secrets that it needs and
/// that are there are put into `model`, also broken ones: the data plane keeps the last good version of one.
pub(crate) fn settings(
    place: &Place<'_>,
    tls: &ClientTlsSettings,
    of_service: &[Arc<str>],
    model: &mut Model,
    report: &mut Report,
) -> UpstreamTls {
    let mutual = tls.mode == Some(ClientTlsMode::Mutual);
    let own: Vec<Arc<str>> = tls.subject_alt_names.iter().map(|name| name.as_str().into()).collect();
    UpstreamTls {
        certificate: mutual.then(|| certificate(place, tls, model, report)),
        authorities: authorities(place, tls, model, report),
        server_name: written(&tls.sni).map(Into::into),
        names: if own.is_empty() { of_service.to_vec() } else { own },
    }
}

fn certificate(
    place: &Place<'_>,
    tls: &ClientTlsSettings,
    model: &mut Model,
    report: &mut Report,
) -> SecretKey {
    let field = place.field;
    if let Some(name) = written(&tls.credential_name) {
        let at = format!("{field}.credentialName");
        let found = secret::certificate_named(place, &at, name, model, report);
        return found.unwrap_or_else(|| secret::unknown(name));
    }
    match (written(&tls.client_certificate), written(&tls.private_key)) {
        (Some(certificate), Some(key)) => {
            let fields = [format!("{field}.clientCertificate"), format!("{field}.privateKey")];
            secret::certificate_of_files(place, &fields, [certificate, key], model, report)
        }
        // invalid: it fails
        _ => secret::unknown("clientCertificate"),
    }
}

fn authorities(
    place: &Place<'_>,
    tls: &ClientTlsSettings,
    model: &mut Model,
    report: &mut Report,
) -> ServerAuthorities {
    if tls.insecure_skip_verify == Some(true) {
        return ServerAuthorities::Any;
    }
    if let Some(name) = written(&tls.credential_name) {
        let at = format!("{}.credentialName", place.field);
        let names = secret::authority_names(place, &at, name);
        return ServerAuthorities::Named(match names.as_slice() {
            [] => {
                // says why
                secret::certificate_named(place, &at, name, &mut Model::default(), report);
                secret::unknown(name)
            }
            names => secret::authorities_of(place, &at, names, model, report),
        });
    }
    match written(&tls.ca_certificates).filter(|path| *path != SYSTEM) {
        None => ServerAuthorities::System,
        Some(path) => {
            let revoked = written(&tls.ca_crl);
            let key = secret::authority_files(place, place.field, path, revoked, model, report);
            ServerAuthorities::Named(key)
        }
    }
}

/// The files that a rule names.
pub(crate) fn files(rule: &DestinationRule) -> Vec<String> {
    let of = |tls: &ClientTlsSettings| {
        [&tls.client_certificate, &tls.private_key, &tls.ca_certificates, &tls.ca_crl]
            .into_iter()
            .filter_map(|path| written(path).filter(|path| *path != SYSTEM).map(str::to_owned))
            .collect::<Vec<_>>()
    };
    levels(rule).into_iter().flat_map(|(_, tls)| of(tls)).collect()
}

/// The settings of a rule, at each level of it, with their fields.
fn levels(rule: &DestinationRule) -> Vec<(String, &ClientTlsSettings)> {
    let mut policies: Vec<(String, &TrafficPolicy)> = Vec::new();
    policies.extend(rule.traffic_policy.as_ref().map(|p| ("spec.trafficPolicy".to_owned(), p)));
    for (i, subset) in rule.subsets.iter().enumerate() {
        let policy = subset.traffic_policy.as_ref();
        policies.extend(policy.map(|p| (format!("spec.subsets[{i}].trafficPolicy"), p)));
    }
    let mut found = Vec::new();
    for (field, policy) in policies {
        let ports = policy.port_level_settings.iter().enumerate();
        let at_ports = ports.map(|(i, p)| (format!("{field}.portLevelSettings[{i}].tls"), p.tls.as_ref()));
        let own = (format!("{field}.tls"), policy.tls.as_ref());
        found.extend(std::iter::once(own).chain(at_ports).filter_map(|(field, tls)| Some((field, tls?))));
    }
    found
}

/// Says what there is to say of a rule's settings, whether routes lead to its service or not.
pub(crate) fn report(world: &World<'_>, (object, rule): Item<'_, DestinationRule>, report: &mut Report) {
    for (field, tls) in levels(rule) {
        match Tls::of(tls) {
            None => {}
            Some(Tls::Mesh) => mesh(world, object, &field, report),
            Some(Tls::Own(tls)) => {
                let mut model = Model::default();
                settings(&place(world, object, &field), tls, &[], &mut model, report);
                unverified(world, (object, rule), &field, tls, report);
                without_effect(object, &field, tls, report);
            }
        }
    }
}

fn mesh(world: &World<'_>, object: &Object, field: &str, report: &mut Report) {
    let text = if world.env.allow_unenforced {
        "is not enforced yet: plain text is spoken to the upstream, as --allow-unenforced says"
    } else {
        "mesh TLS to upstreams is not spoken yet: requests are answered with 503, never sent in plain text"
    };
    let advice = "use DISABLE, SIMPLE or MUTUAL, or leave tls out";
    report.warning(object, &format!("{field}.mode"), "upstream-tls", text, advice);
}

/// What is verified less, or more, than one may think.
fn unverified(
    world: &World<'_>,
    (object, rule): Item<'_, DestinationRule>,
    field: &str,
    tls: &ClientTlsSettings,
    report: &mut Report,
) {
    if tls.insecure_skip_verify == Some(true) {
        let text = "the upstream is not verified: whoever is on the way there can answer in its place";
        let advice = "name its authorities with credentialName or caCertificates instead";
        report.warning(object, &format!("{field}.insecureSkipVerify"), "unverified-upstream", text, advice);
        return;
    }
    let host = resolve(&rule.host, &object.reference.namespace, &world.env.domain);
    let service = world.registry.get(&host);
    if !tls.subject_alt_names.is_empty() || service.is_some_and(|s| !s.subject_alt_names().is_empty()) {
        return;
    }
    let bytes = service.filter(|service| service.ports.iter().any(|port| port.protocol == Protocol::Tcp));
    let asked = match (written(&tls.sni), bytes) {
        (Some(name), _) => Some(("sni", name)),
        (None, Some(service)) => Some(("mode", &*service.host)),
        (None, None) => None,
    };
    if let Some((name, asked)) = asked {
        let of = if name == "sni" { "where sni is set" } else { "of what is not HTTP" };
        let text = format!(
            "the upstream's certificate must be for {asked}; Istio asks for no name {of} and subjectAltNames are not"
        );
        let advice = "set subjectAltNames to the names that the certificate has";
        report.warning(object, &format!("{field}.{name}"), "stricter-than-istio", text, advice);
    }
}

fn without_effect(object: &Object, field: &str, tls: &ClientTlsSettings, report: &mut Report) {
    let skips = tls.insecure_skip_verify == Some(true);
    let simple = tls.mode == Some(ClientTlsMode::Simple);
    let named = written(&tls.credential_name).is_some();
    let system = written(&tls.ca_certificates).is_none_or(|path| path == SYSTEM);
    const SKIPPED: &str = "has no effect with insecureSkipVerify, in Istio neither";
    const SIMPLE: &str = "has no effect in mode SIMPLE: the gateway shows no certificate";
    for (name, there, why) in [
        ("clientCertificate", simple && written(&tls.client_certificate).is_some(), SIMPLE),
        ("privateKey", simple && written(&tls.private_key).is_some(), SIMPLE),
        ("caCertificates", skips && !system, SKIPPED),
        ("caCrl", skips && written(&tls.ca_crl).is_some(), SKIPPED),
        ("subjectAltNames", skips && !tls.subject_alt_names.is_empty(), SKIPPED),
    ] {
        if there {
            report.note(object, &format!("{field}.{name}"), "no-effect", why, "remove it");
        }
    }
    if !skips && written(&tls.ca_crl).is_some() && (named || system) {
        let text = "has no effect without caCertificates, in Istio neither";
        let advice =
            "put the list into the Secret of the authorities, as ca.crl, or name the authorities by file";
        report.warning(object, &format!("{field}.caCrl"), "no-effect", text, advice);
    }
}
