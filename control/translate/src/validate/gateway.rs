use super::rules::{Check, host_syntax, is_label};
use crate::protocol::Protocol;
use std::collections::BTreeSet;
use std::net::IpAddr;
use tidegate_api::istio::{Gateway, Port, Server, ServerTlsMode, ServerTlsSettings, TlsProtocol};

pub(super) fn validate(check: &mut Check<'_>, gateway: &Gateway) {
    check.labels("spec.selector", &gateway.selector);
    if gateway.servers.is_empty() {
        check.error("spec.servers", "missing-field", "has no servers", "add at least one server");
    }
    let mut names = BTreeSet::new();
    for (i, server) in gateway.servers.iter().enumerate() {
        let field = format!("spec.servers[{i}]");
        validate_server(check, &field, server);
        if !server.port.name.is_empty() && !names.insert(&server.port.name) {
            let text = format!("port names must be unique; {:?} is there twice", server.port.name);
            check.error(&format!("{field}.port.name"), "duplicate", text, "give each port its own name");
        }
    }
}

fn validate_server(check: &mut Check<'_>, field: &str, server: &Server) {
    let protocol = port(check, &format!("{field}.port"), &server.port, server.bind.as_deref());
    let secured = matches!(protocol, Some(Protocol::Https | Protocol::Tls));
    if server.hosts.is_empty() {
        check.error(&format!("{field}.hosts"), "missing-field", "has no hosts", "add at least one, or \"*\"");
    }
    for (i, text) in server.hosts.iter().enumerate() {
        host(check, &format!("{field}.hosts[{i}]"), text, secured);
    }
    if let Some(bind) = server.bind.as_deref().filter(|b| !b.is_empty() && !b.starts_with("unix://"))
        && bind.parse::<IpAddr>().is_err()
    {
        let text = format!("{bind:?} is not an IP address");
        check.error(&format!("{field}.bind"), "invalid-address", text, "write an IP address");
    }
    match (&server.tls, protocol) {
        (None, Some(Protocol::Https | Protocol::Tls)) => {
            let text = "a server for HTTPS or TLS must have TLS settings";
            check.error(&format!("{field}.tls"), "invalid-tls", text, "add tls with mode and credentialName");
        }
        (Some(tls), Some(_)) => tls_of(check, &format!("{field}.tls"), tls, protocol, secured),
        _ => {}
    }
}

fn port(check: &mut Check<'_>, field: &str, port: &Port, bind: Option<&str>) -> Option<Protocol> {
    if bind.is_some_and(|b| b.starts_with("unix://")) {
        if port.number != 0 {
            let text = "the port number must be 0 with a unix domain socket";
            check.error(&format!("{field}.number"), "invalid-port", text, "use 0, or bind to an IP address");
        }
    } else {
        check.port(&format!("{field}.number"), port.number);
    }
    if port.name.is_empty() {
        check.error(&format!("{field}.name"), "missing-field", "is empty", "name the port, such as http");
    } else {
        check.label(&format!("{field}.name"), &port.name, "port");
    }
    let protocol = Protocol::parse(&port.protocol);
    if protocol.is_none() {
        let text = format!("{:?} is an invalid protocol", port.protocol);
        let advice = "use HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, TLS or TCP";
        check.error(&format!("{field}.protocol"), "invalid-protocol", text, advice);
    }
    protocol
}

fn host(check: &mut Check<'_>, field: &str, text: &str, secured: bool) {
    let host = match text.split_once('/') {
        None => text,
        Some((namespace, host)) => {
            if !matches!(namespace, "*" | ".") && !is_label(namespace) {
                let text = format!("{namespace:?} is an invalid value for a namespace");
                check.error(field, "invalid-host", text, "write namespace/host, ./host or */host");
            }
            host
        }
    };
    if host == "*" || host.parse::<IpAddr>().is_ok() {
        return;
    }
    if let Err(why) = host_syntax(host) {
        let text = format!("{host:?} is not a host name: {why}");
        check.error(field, "invalid-host", text, "write a name such as shop.example.com or *.example.com");
    } else if !host.contains('.') {
        let text = format!("short names (without a dot) such as {host:?} are not allowed here");
        check.error(field, "invalid-host", text, "write the full name");
    } else if secured && host.starts_with('*') && !host.starts_with("*.") {
        let text = format!("partial wildcards such as {host:?} are not allowed with TLS");
        check.error(field, "invalid-host", text, "use *. followed by a domain");
    }
}

fn tls_of(
    check: &mut Check<'_>,
    field: &str,
    tls: &ServerTlsSettings,
    protocol: Option<Protocol>,
    secured: bool,
) {
    let redirect = tls.https_redirect == Some(true);
    if !secured {
        let only_redirect =
            ServerTlsSettings { https_redirect: tls.https_redirect, ..ServerTlsSettings::default() } == *tls;
        if !protocol.is_some_and(Protocol::is_http) || !only_redirect {
            let text = "a plain text port cannot have TLS settings other than httpsRedirect of HTTP";
            check.error(field, "invalid-tls", text, "remove them, or use protocol HTTPS");
        }
        return;
    }
    if redirect {
        let text = "tls.httpsRedirect should only be used with http servers";
        check.warning(&format!("{field}.httpsRedirect"), "invalid-tls", text, "move it to the HTTP server");
    }
    certificates(check, field, tls);
    let order = |v: TlsProtocol| match v {
        TlsProtocol::Auto => None,
        TlsProtocol::Tls10 => Some(10),
        TlsProtocol::Tls11 => Some(11),
        TlsProtocol::Tls12 => Some(12),
        TlsProtocol::Tls13 => Some(13),
    };
    let least = tls.min_protocol_version.and_then(order);
    let most = tls.max_protocol_version.and_then(order);
    if least.zip(most).is_some_and(|(least, most)| least > most) {
        let text = "is above maxProtocolVersion";
        check.error(&format!("{field}.minProtocolVersion"), "invalid-tls", text, "swap them");
    }
}

fn certificates(check: &mut Check<'_>, field: &str, tls: &ServerTlsSettings) {
    let there = |s: &Option<String>| s.as_deref().is_some_and(|s| !s.is_empty());
    let files = there(&tls.server_certificate) || there(&tls.private_key) || there(&tls.ca_certificates);
    let named = there(&tls.credential_name) || !tls.credential_names.is_empty();
    let sources =
        [there(&tls.credential_name), !tls.credential_names.is_empty(), !tls.tls_certificates.is_empty()];
    let mode = tls.mode.unwrap_or(ServerTlsMode::Passthrough);
    match mode {
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {}
        ServerTlsMode::IstioMutual => {
            if files || named {
                let text = "ISTIO_MUTUAL uses the mesh's own certificates; no others can be given";
                check.error(field, "invalid-tls", text, "remove the certificates");
            }
        }
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {
            let given = sources.iter().filter(|s| **s).count() + usize::from(files);
            if given > 1 {
                let text = "only one of credential_name, credential_names, tls_certificates or certificate files \
                            can be given";
                check.error(field, "one-of", text, "keep credentialName");
            } else if !named && tls.tls_certificates.is_empty() {
                from_files(check, field, tls, mode);
            }
        }
    }
    if tls.credential_names.len() > 2 || tls.tls_certificates.len() > 2 {
        check.error(field, "invalid-tls", "has more than two certificates", "keep one RSA and one ECDSA");
    }
}

fn from_files(check: &mut Check<'_>, field: &str, tls: &ServerTlsSettings, mode: ServerTlsMode) {
    let mode_name = mode.as_str();
    let needs_ca = mode != ServerTlsMode::Simple && tls.ca_cert_credential_name.is_none();
    for (name, value, what, needed) in [
        ("serverCertificate", &tls.server_certificate, "a server certificate", true),
        ("privateKey", &tls.private_key, "a private key", true),
        ("caCertificates", &tls.ca_certificates, "a client CA bundle", needs_ca),
    ] {
        if needed && value.as_deref().unwrap_or_default().is_empty() {
            let text = format!("{mode_name} TLS requires {what}");
            check.error(&format!("{field}.{name}"), "invalid-tls", text, "name a Secret with credentialName");
        }
    }
}
