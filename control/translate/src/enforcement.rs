//! Which fields are enforced: a list per kind of those that are, so that every other one that a user wrote is
//! reported.

use crate::locality;
use crate::report::Report;
use crate::world::World;
use tidegate_api::field::key;
use tidegate_api::istio::DestinationRule;
use tidegate_api::{Data, Object, Spec, Value};
use tidegate_model::Locality;

/// A kind's fields. A path covers everything below it; `[]` stands for the items of a list.
struct Fields {
    enforced: &'static [&'static str],
    /// Fields that are not enforced for a reason of their own.
    reasons: &'static [(&'static str, &'static str)],
}

const GATEWAY: Fields = Fields {
    enforced: &[
        "selector",
        "servers[].port.number",
        "servers[].port.name",
        "servers[].port.protocol",
        "servers[].bind",
        "servers[].hosts",
        "servers[].tls.httpsRedirect",
        "servers[].tls.mode",
        "servers[].tls.credentialName",
        "servers[].tls.credentialNames",
        "servers[].tls.minProtocolVersion",
        "servers[].tls.maxProtocolVersion",
        "servers[].tls.serverCertificate",
        "servers[].tls.privateKey",
        "servers[].tls.tlsCertificates",
        "servers[].tls.caCertificates",
        "servers[].tls.caCrl",
        "servers[].tls.caCertCredentialName",
        "servers[].tls.subjectAltNames",
        "servers[].tls.verifyCertificateSpki",
        "servers[].tls.verifyCertificateHash",
        "servers[].tls.insecureSkipVerify",
        "servers[].tls.cipherSuites",
        "servers[].tls.ecdhCurves",
    ],
    reasons: &[
        ("servers[].name", "has no effect: in Istio it names statistics"),
        ("servers[].defaultEndpoint", "has no effect at a gateway, in Istio neither"),
        ("servers[].port.targetPort", "has no effect, in Istio neither: the Service's targetPort counts"),
    ],
};

/// Conditions of rules for TLS and TCP that a gateway does not look at.
const OF_SIDECARS: &str =
    "has no effect at a gateway, in Istio neither: the rule counts there as if it was not written";

const VIRTUAL_SERVICE: Fields = Fields {
    enforced: &[
        "hosts",
        "gateways",
        "exportTo",
        "http[].name",
        "http[].match[].name",
        "http[].match[].uri",
        "http[].match[].scheme",
        "http[].match[].method",
        "http[].match[].authority",
        "http[].match[].headers",
        "http[].match[].port",
        "http[].match[].sourceLabels",
        "http[].match[].sourceNamespace",
        "http[].match[].gateways",
        "http[].match[].queryParams",
        "http[].match[].ignoreUriCase",
        "http[].match[].withoutHeaders",
        "http[].route[].destination",
        "http[].route[].weight",
        "http[].route[].headers",
        "http[].redirect",
        "http[].directResponse",
        "http[].delegate",
        "http[].rewrite",
        "http[].timeout",
        "http[].retries.attempts",
        "http[].retries.perTryTimeout",
        "http[].retries.retryOn",
        "http[].retries.retryIgnorePreviousHosts",
        "http[].retries.backoff",
        "http[].corsPolicy",
        "http[].fault",
        "http[].mirror",
        "http[].mirrors",
        "http[].mirrorPercent",
        "http[].mirror_percent",
        "http[].mirrorPercentage",
        "http[].headers",
        "tcp[].match[].port",
        "tcp[].match[].gateways",
        "tcp[].route[].destination",
        "tcp[].route[].weight",
        "tls[].match[].sniHosts",
        "tls[].match[].port",
        "tls[].match[].gateways",
        "tls[].route[].destination",
        "tls[].route[].weight",
    ],
    reasons: &[
        ("http[].match[].statPrefix", "has no effect: in Istio it names statistics of Envoy"),
        ("http[].retries.retryRemoteLocalities", "is not enforced yet: retries go where other requests go"),
        ("tcp[].match[].destinationSubnets", OF_SIDECARS),
        ("tcp[].match[].sourceSubnet", "has no effect, in Istio neither"),
        ("tcp[].match[].sourceLabels", OF_SIDECARS),
        ("tcp[].match[].sourceNamespace", OF_SIDECARS),
        ("tls[].match[].destinationSubnets", OF_SIDECARS),
        ("tls[].match[].sourceLabels", OF_SIDECARS),
        ("tls[].match[].sourceNamespace", OF_SIDECARS),
    ],
};

macro_rules! traffic_policy {
    ($($at:literal),*) => {
        &[
            "host",
            "exportTo",
            "workloadSelector",
            "subsets[].name",
            "subsets[].labels",
            $(
                concat!($at, "portLevelSettings[].port"),
                concat!($at, "portLevelSettings[].loadBalancer.simple"),
                concat!($at, "portLevelSettings[].loadBalancer.consistentHash"),
                concat!($at, "portLevelSettings[].loadBalancer.localityLbSetting"),
                concat!($at, "portLevelSettings[].loadBalancer.warmup"),
                concat!($at, "portLevelSettings[].loadBalancer.warmupDurationSecs"),
                concat!($at, "portLevelSettings[].outlierDetection.splitExternalLocalOriginErrors"),
                concat!($at, "portLevelSettings[].outlierDetection.consecutiveLocalOriginFailures"),
                concat!($at, "portLevelSettings[].outlierDetection.consecutiveGatewayErrors"),
                concat!($at, "portLevelSettings[].outlierDetection.consecutive5xxErrors"),
                concat!($at, "portLevelSettings[].outlierDetection.interval"),
                concat!($at, "portLevelSettings[].outlierDetection.baseEjectionTime"),
                concat!($at, "portLevelSettings[].outlierDetection.maxEjectionPercent"),
                concat!($at, "portLevelSettings[].outlierDetection.minHealthPercent"),
                concat!($at, "portLevelSettings[].outlierDetection.outlierDetectionHttpErrorCodes"),
                concat!($at, "portLevelSettings[].connectionPool.tcp.connectTimeout"),
                concat!($at, "portLevelSettings[].connectionPool.tcp.maxConnections"),
                concat!($at, "portLevelSettings[].connectionPool.tcp.maxConnectionDuration"),
                concat!($at, "portLevelSettings[].connectionPool.tcp.tcpKeepalive"),
                concat!($at, "portLevelSettings[].connectionPool.http.http1MaxPendingRequests"),
                concat!($at, "portLevelSettings[].connectionPool.http.http2MaxRequests"),
                concat!($at, "portLevelSettings[].connectionPool.http.maxRequestsPerConnection"),
                concat!($at, "portLevelSettings[].connectionPool.http.maxConcurrentStreams"),
                concat!($at, "portLevelSettings[].connectionPool.tcp.idleTimeout"),
                concat!($at, "portLevelSettings[].connectionPool.http.idleTimeout"),
                concat!($at, "portLevelSettings[].connectionPool.http.h2UpgradePolicy"),
                concat!($at, "portLevelSettings[].connectionPool.http.useClientProtocol"),
                concat!($at, "portLevelSettings[].connectionPool.http.maxRetries"),
                concat!($at, "portLevelSettings[].connectionPool.http.http2KeepAlive"),
                concat!($at, "portLevelSettings[].tls"),
                concat!($at, "loadBalancer.simple"),
                concat!($at, "loadBalancer.consistentHash"),
                concat!($at, "loadBalancer.localityLbSetting"),
                concat!($at, "loadBalancer.warmup"),
                concat!($at, "loadBalancer.warmupDurationSecs"),
                concat!($at, "outlierDetection.splitExternalLocalOriginErrors"),
                concat!($at, "outlierDetection.consecutiveLocalOriginFailures"),
                concat!($at, "outlierDetection.consecutiveGatewayErrors"),
                concat!($at, "outlierDetection.consecutive5xxErrors"),
                concat!($at, "outlierDetection.interval"),
                concat!($at, "outlierDetection.baseEjectionTime"),
                concat!($at, "outlierDetection.maxEjectionPercent"),
                concat!($at, "outlierDetection.minHealthPercent"),
                concat!($at, "outlierDetection.outlierDetectionHttpErrorCodes"),
                concat!($at, "connectionPool.tcp.connectTimeout"),
                concat!($at, "connectionPool.tcp.maxConnections"),
                concat!($at, "connectionPool.tcp.maxConnectionDuration"),
                concat!($at, "connectionPool.tcp.tcpKeepalive"),
                concat!($at, "connectionPool.http.http1MaxPendingRequests"),
                concat!($at, "connectionPool.http.http2MaxRequests"),
                concat!($at, "connectionPool.http.maxRequestsPerConnection"),
                concat!($at, "connectionPool.http.maxConcurrentStreams"),
                concat!($at, "connectionPool.tcp.idleTimeout"),
                concat!($at, "connectionPool.http.idleTimeout"),
                concat!($at, "connectionPool.http.h2UpgradePolicy"),
                concat!($at, "connectionPool.http.useClientProtocol"),
                concat!($at, "connectionPool.http.maxRetries"),
                concat!($at, "connectionPool.http.http2KeepAlive"),
                concat!($at, "retryBudget"),
                concat!($at, "proxyProtocol"),
                // Mesh TLS is reported with the reference to it: it fails closed.
                concat!($at, "tls"),
            )*
        ]
    };
}

/// Of the deprecated field, at every level of a policy.
const CONSECUTIVE_ERRORS: &str =
    "has no effect, in Istio neither: consecutive5xxErrors and consecutiveGatewayErrors count";

const DESTINATION_RULE: Fields = Fields {
    enforced: traffic_policy!("trafficPolicy.", "subsets[].trafficPolicy."),
    reasons: &[
        ("trafficPolicy.outlierDetection.consecutiveErrors", CONSECUTIVE_ERRORS),
        ("trafficPolicy.portLevelSettings[].outlierDetection.consecutiveErrors", CONSECUTIVE_ERRORS),
        ("subsets[].trafficPolicy.outlierDetection.consecutiveErrors", CONSECUTIVE_ERRORS),
        (
            "subsets[].trafficPolicy.portLevelSettings[].outlierDetection.consecutiveErrors",
            CONSECUTIVE_ERRORS,
        ),
    ],
};

const SERVICE_ENTRY: Fields = Fields {
    enforced: &[
        "hosts",
        "ports",
        "resolution",
        "location",
        "exportTo",
        "workloadSelector",
        "endpoints[].address",
        "endpoints[].ports",
        "endpoints[].labels",
        "endpoints[].weight",
        "endpoints[].locality",
        "subjectAltNames",
    ],
    reasons: &[
        ("addresses", "has no effect at a gateway: it captures traffic of sidecars by its address"),
        ("endpoints[].network", "is not enforced yet: endpoints of all networks are dialled directly"),
        ("endpoints[].serviceAccount", "has no effect as long as mesh TLS is not spoken"),
    ],
};

const WORKLOAD_ENTRY: Fields = Fields {
    enforced: &["address", "ports", "labels", "weight", "locality"],
    reasons: &[
        ("network", "is not enforced yet: endpoints of all networks are dialled directly"),
        ("serviceAccount", "has no effect as long as mesh TLS is not spoken"),
    ],
};

const REQUEST_AUTHENTICATION: Fields = Fields {
    enforced: &[
        "selector",
        // A policy with targets does not select this gateway, which is said of it as a whole.
        "targetRef",
        "targetRefs",
        "jwtRules[].issuer",
        "jwtRules[].audiences",
        "jwtRules[].jwksUri",
        "jwtRules[].jwks_uri",
        "jwtRules[].jwks",
        "jwtRules[].fromHeaders",
        "jwtRules[].fromParams",
        "jwtRules[].fromCookies",
        "jwtRules[].outputPayloadToHeader",
        "jwtRules[].outputClaimToHeaders",
        "jwtRules[].forwardOriginalToken",
        "jwtRules[].timeout",
        "jwtRules[].spaceDelimitedClaims",
        "jwtRules[].presence",
    ],
    reasons: &[],
};

const AUTHORIZATION_POLICY: Fields = Fields {
    enforced: &[
        "selector",
        // A policy with targets does not select this gateway, which is said of it as a whole.
        "targetRef",
        "targetRefs",
        "action",
        "provider",
        // What of them can never match is said where they are translated.
        "rules[].from[].source",
        "rules[].to[].operation",
        "rules[].when[]",
    ],
    reasons: &[],
};

const TELEMETRY: Fields = Fields {
    enforced: &[
        "selector",
        // One with targets does not select this gateway, which is said of it as a whole.
        "targetRef",
        "targetRefs",
        "tracing[].match",
        "tracing[].providers",
        "tracing[].randomSamplingPercentage",
        "tracing[].disableSpanReporting",
        "tracing[].disableContextPropagation",
        "tracing[].customTags",
        "tracing[].enableIstioTags",
        "accessLogging[].match",
        "accessLogging[].providers",
        "accessLogging[].disabled",
        "accessLogging[].filter",
    ],
    reasons: &[
        (
            "tracing[].useRequestIdForTraceSampling",
            "has no effect: the gateway makes the ids of requests itself, and they do not decide what is sampled",
        ),
        ("metrics", "is not enforced yet: Istio's standard metrics are counted with their standard labels"),
    ],
};

const MESH_CONFIG: Fields = Fields {
    enforced: &[
        "accessLogFile",
        "accessLogFormat",
        "accessLogEncoding",
        "pathNormalization.normalization",
        "connectTimeout",
        "localityLbSetting",
        "tcpKeepalive",
        "h2UpgradePolicy",
        // What of it is not enforced towards upstreams is said where it is translated.
        "tlsDefaults.minProtocolVersion",
        "tlsDefaults.cipherSuites",
        "tlsDefaults.ecdhCurves",
        "defaultHttpRetryPolicy.attempts",
        "defaultHttpRetryPolicy.perTryTimeout",
        "defaultHttpRetryPolicy.retryOn",
        "defaultHttpRetryPolicy.retryIgnorePreviousHosts",
        "defaultHttpRetryPolicy.backoff",
        "defaultServiceExportTo",
        "defaultVirtualServiceExportTo",
        "defaultDestinationRuleExportTo",
        "defaultConfig.gatewayTopology.numTrustedProxies",
        "defaultConfig.gatewayTopology.forwardClientCertDetails",
        "defaultConfig.gatewayTopology.proxyProtocol",
        "defaultConfig.proxyHeaders.server",
        "defaultConfig.tracing.sampling",
        "defaultConfig.tracing.maxPathTagLength",
        "defaultConfig.tracing.customTags",
        "defaultConfig.tracing.enableIstioTags",
        "defaultProviders.tracing",
        "defaultProviders.accessLogging",
        "extensionProviders[].name",
        "extensionProviders[].opentelemetry.service",
        "extensionProviders[].opentelemetry.port",
        "extensionProviders[].opentelemetry.maxTagLength",
        "extensionProviders[].opentelemetry.http.path",
        "extensionProviders[].opentelemetry.http.timeout",
        "extensionProviders[].opentelemetry.http.headers",
        "extensionProviders[].opentelemetry.grpc.timeout",
        "extensionProviders[].opentelemetry.grpc.initialMetadata",
        "extensionProviders[].envoyExtAuthzHttp",
        "extensionProviders[].envoyExtAuthzGrpc",
        "extensionProviders[].envoyFileAccessLog.path",
        "extensionProviders[].envoyFileAccessLog.logFormat",
    ],
    reasons: &[
        (
            "defaultHttpRetryPolicy.retryRemoteLocalities",
            "is not enforced yet: retries go where other requests go",
        ),
        (
            "enableTracing",
            "has no effect: requests are traced where defaultProviders.tracing or a Telemetry names a provider",
        ),
        (
            "defaultConfig.proxyHeaders.forwardedClientCert",
            "has no effect at a gateway, in Istio neither: gatewayTopology.forwardClientCertDetails counts there",
        ),
        (
            "defaultConfig.proxyHeaders.setCurrentClientCertDetails",
            "has no effect at a gateway, in Istio neither: it always says Subject, Cert, DNS and URI",
        ),
        (
            "defaultConfig.tracing.tlsSettings",
            "is not enforced, in Istio neither for providers of extensionProviders: collectors are spoken to in plaintext",
        ),
        (
            "extensionProviders[].envoyFileAccessLog.omitEmptyValues",
            "is not enforced yet: values that are absent are written as - and null",
        ),
        ("extensionProviders[].prometheus", "has no effect: metrics are served for Prometheus in any case"),
        (
            "outboundTrafficPolicy",
            "has no effect at a gateway, in Istio neither: it goes to the hosts that routes name and to no others",
        ),
        ("inboundTrafficPolicy", "has no effect at a gateway: it is about sidecars"),
        ("defaultConfig.discoveryAddress", "has no effect: there is no control plane to ask here"),
    ],
};

/// Values without effect of fields that are otherwise enforced: the end of the path, the value or one of those that
/// commas join, the reason.
const VALUES: &[(&str, &str, &str)] = &[
    (
        "loadBalancer.simple",
        "PASSTHROUGH",
        "PASSTHROUGH has no effect at a gateway, which knows no original address: LEAST_REQUEST is used",
    ),
    (
        "location",
        "MESH_INTERNAL",
        "MESH_INTERNAL has no effect on requests yet: mesh TLS is not spoken to upstreams",
    ),
    (
        "retryOn",
        "retriable-headers",
        "retriable-headers has no effect, in Istio neither: there is no field that names headers",
    ),
    (
        "retryOn",
        "http3-post-connect-failure",
        "http3-post-connect-failure has no effect: HTTP/3 is not spoken to upstreams",
    ),
];

/// Reports every field that was written and is not enforced, at its shortest path.
pub(crate) fn report(world: &World<'_>, report: &mut Report) {
    for object in world.objects.iter() {
        let fields = match &object.spec {
            Spec::Gateway(_) => &GATEWAY,
            Spec::VirtualService(_) => &VIRTUAL_SERVICE,
            Spec::DestinationRule(_) => &DESTINATION_RULE,
            Spec::ServiceEntry(_) => &SERVICE_ENTRY,
            Spec::WorkloadEntry(_) => &WORKLOAD_ENTRY,
            Spec::RequestAuthentication(_) => &REQUEST_AUTHENTICATION,
            Spec::AuthorizationPolicy(_) => &AUTHORIZATION_POLICY,
            Spec::Telemetry(_) => &TELEMETRY,
            _ => continue,
        };
        walk_from(object, "spec", fields, report);
        if let Spec::DestinationRule(rule) = &object.spec {
            localities(object, rule, world, report);
        }
    }
    if let Some(object) = world.mesh.object() {
        walk_from(object, "data.mesh", &MESH_CONFIG, report);
    }
}

/// Localities say little to a gateway that does not know where it is.
fn localities(object: &Object, rule: &DestinationRule, world: &World<'_>, report: &mut Report) {
    if locality::of_labels(&world.env.labels) != Locality::default() {
        return;
    }
    for (field, _) in locality::settings(rule) {
        let text = "where this gateway runs is not known, so it is in no region, zone or subzone";
        let advice = "give it --label istio-locality=REGION.ZONE.SUBZONE";
        report.note(object, &field, "unknown-locality", text, advice);
    }
}

fn walk_from(object: &Object, root: &str, fields: &Fields, report: &mut Report) {
    let Some(value) = object.field(root) else { return };
    for entry in value.entries() {
        let path = format!("{root}{}", key(&entry.key));
        walk(object, &entry.value, path, entry.key.clone(), fields, report);
    }
}

fn walk(object: &Object, value: &Value, path: String, pattern: String, fields: &Fields, report: &mut Report) {
    let empty = match &value.data {
        Data::Null => true,
        Data::List(items) => items.is_empty(),
        Data::Map(entries) => entries.is_empty(),
        _ => false,
    };
    if empty {
        return;
    }
    if fields.enforced.contains(&pattern.as_str()) {
        let without_effect = |(end, text, _): &&(&str, &str, &str)| {
            pattern.ends_with(end)
                && matches!(&value.data, Data::String(s) if s.split(',').any(|part| part.trim() == *text))
        };
        for (.., reason) in VALUES.iter().filter(without_effect) {
            report.note(object, &path, "no-effect", *reason, "");
        }
        return;
    }
    let below = |p: &str| p.strip_prefix(pattern.as_str()).is_some_and(|rest| rest.starts_with(['.', '[']));
    let known = fields.enforced.iter().chain(fields.reasons.iter().map(|(p, _)| p)).any(|p| below(p));
    match &value.data {
        Data::Map(entries) if known => {
            for entry in entries {
                let path = format!("{path}{}", key(&entry.key));
                walk(object, &entry.value, path, format!("{pattern}.{}", entry.key), fields, report);
            }
        }
        Data::List(items) if known => {
            for (i, item) in items.iter().enumerate() {
                walk(object, item, format!("{path}[{i}]"), format!("{pattern}[]"), fields, report);
            }
        }
        _ => {
            let reason = fields.reasons.iter().find(|(p, _)| *p == pattern).map(|(_, reason)| *reason);
            let reason = reason.unwrap_or("is not enforced yet");
            let code = if reason.starts_with("has no effect") { "no-effect" } else { "not-enforced" };
            report.note(object, &path, code, reason, "");
        }
    }
}
