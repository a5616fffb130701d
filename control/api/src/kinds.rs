//! Which kinds there are, in which API groups and versions.

use crate::suggest;

/// How an object of some kind is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Gateway,
    VirtualService,
    DestinationRule,
    ServiceEntry,
    WorkloadEntry,
    RequestAuthentication,
    PeerAuthentication,
    AuthorizationPolicy,
    Telemetry,
    Service,
    EndpointSlice,
    Endpoints,
    Pod,
    Deployment,
    StatefulSet,
    Namespace,
    Node,
    Secret,
    ConfigMap,
    /// It has no effect on routing, or none yet.
    Other,
}

/// What is wrong with an `apiVersion` or `kind`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UnknownKind {
    pub(crate) field: &'static str,
    pub(crate) text: String,
    pub(crate) advice: String,
    pub(crate) code: &'static str,
    /// The group is nobody's that we know: the object may be another project's.
    pub(crate) foreign: bool,
}

const ISTIO_NETWORKING: &str = "networking.istio.io";
const ISTIO_VERSIONS: &[&str] = &["v1", "v1beta1", "v1alpha3"];

type Row = (&'static str, &'static str, &'static [&'static str], Kind);

const KINDS: &[Row] = &[
    (ISTIO_NETWORKING, "Gateway", ISTIO_VERSIONS, Kind::Gateway),
    (ISTIO_NETWORKING, "VirtualService", ISTIO_VERSIONS, Kind::VirtualService),
    (ISTIO_NETWORKING, "DestinationRule", ISTIO_VERSIONS, Kind::DestinationRule),
    (ISTIO_NETWORKING, "ServiceEntry", ISTIO_VERSIONS, Kind::ServiceEntry),
    (ISTIO_NETWORKING, "WorkloadEntry", ISTIO_VERSIONS, Kind::WorkloadEntry),
    (ISTIO_NETWORKING, "WorkloadGroup", ISTIO_VERSIONS, Kind::Other),
    (ISTIO_NETWORKING, "Sidecar", ISTIO_VERSIONS, Kind::Other),
    (ISTIO_NETWORKING, "EnvoyFilter", &["v1alpha3"], Kind::Other),
    (ISTIO_NETWORKING, "ProxyConfig", &["v1beta1"], Kind::Other),
    ("security.istio.io", "AuthorizationPolicy", &["v1", "v1beta1"], Kind::AuthorizationPolicy),
    ("security.istio.io", "PeerAuthentication", &["v1", "v1beta1"], Kind::PeerAuthentication),
    ("security.istio.io", "RequestAuthentication", &["v1", "v1beta1"], Kind::RequestAuthentication),
    ("telemetry.istio.io", "Telemetry", &["v1", "v1alpha1"], Kind::Telemetry),
    ("extensions.istio.io", "WasmPlugin", &["v1alpha1"], Kind::Other),
    ("extensions.istio.io", "TrafficExtension", &["v1alpha1"], Kind::Other),
    ("install.istio.io", "IstioOperator", &["v1alpha1"], Kind::Other),
    ("", "Service", &["v1"], Kind::Service),
    ("", "Endpoints", &["v1"], Kind::Endpoints),
    ("", "Pod", &["v1"], Kind::Pod),
    ("", "Namespace", &["v1"], Kind::Namespace),
    ("", "Node", &["v1"], Kind::Node),
    ("", "Secret", &["v1"], Kind::Secret),
    ("", "ConfigMap", &["v1"], Kind::ConfigMap),
    ("discovery.k8s.io", "EndpointSlice", &["v1", "v1beta1"], Kind::EndpointSlice),
    ("apps", "Deployment", &["v1"], Kind::Deployment),
    ("apps", "StatefulSet", &["v1"], Kind::StatefulSet),
];

/// Kinds of other groups that users of Istio know by the same name.
const SHARED_NAMES: &[(&str, &str)] =
    &[("gateway.networking.k8s.io", "Gateway"), ("serving.knative.dev", "Service")];

const CLUSTER_SCOPED: &[&str] = &[
    "APIService",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "GatewayClass",
    "IngressClass",
    "MutatingWebhookConfiguration",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PriorityClass",
    "StorageClass",
    "ValidatingWebhookConfiguration",
];

impl Kind {
    /// Whether its fields are checked one by one, as Istio's are.
    pub(crate) fn is_istio(self) -> bool {
        use Kind::{
            AuthorizationPolicy, DestinationRule, Gateway, PeerAuthentication, RequestAuthentication,
            ServiceEntry, Telemetry, VirtualService, WorkloadEntry,
        };
        matches!(
            self,
            Gateway
                | VirtualService
                | DestinationRule
                | ServiceEntry
                | WorkloadEntry
                | RequestAuthentication
                | PeerAuthentication
                | AuthorizationPolicy
                | Telemetry
        )
    }

    /// Whether an object of it is a `spec`, its `status` and nothing else.
    pub(crate) fn has_spec(self) -> bool {
        self.is_istio() || matches!(self, Kind::Service | Kind::Deployment | Kind::StatefulSet)
    }
}

/// Whether objects of `kind` have no namespace.
pub(crate) fn is_cluster_scoped(kind: &str) -> bool {
    CLUSTER_SCOPED.binary_search(&kind).is_ok()
}

/// The kind of objects that say `api_version` and `kind`.
pub(crate) fn find(api_version: &str, kind: &str) -> Result<Kind, UnknownKind> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if let Some((_, _, versions, found)) = KINDS.iter().find(|row| (row.0, row.1) == (group, kind)) {
        return if versions.contains(&version) {
            Ok(*found)
        } else {
            Err(unknown_version(group, kind, version, versions))
        };
    }
    let elsewhere = KINDS.iter().find(|row| row.1 == kind);
    let owned =
        group.ends_with("istio.io") || matches!(group, "" | "apps" | "discovery.k8s.io" | "extensions");
    match elsewhere {
        Some(_) if SHARED_NAMES.contains(&(group, kind)) => Ok(Kind::Other),
        Some(row) => Err(wrong_group(api_version, row, owned)),
        None if KINDS.iter().any(|row| row.0 == group && group.ends_with("istio.io")) => {
            Err(unknown_kind(group, kind))
        }
        None if group.ends_with("istio.io") => Err(unknown_group(group)),
        None => Ok(Kind::Other),
    }
}

fn unknown_version(group: &str, kind: &str, version: &str, versions: &[&str]) -> UnknownKind {
    let slash = if group.is_empty() { "" } else { "/" };
    UnknownKind {
        field: "apiVersion",
        text: format!("there is no version {version:?} of {kind}"),
        advice: format!("write {group}{slash}{}", versions[0]),
        code: "unknown-version",
        foreign: false,
    }
}

fn wrong_group(api_version: &str, row: &Row, owned: bool) -> UnknownKind {
    let slash = if row.0.is_empty() { "" } else { "/" };
    UnknownKind {
        field: "apiVersion",
        text: format!("there is no {} in {api_version:?} that has an effect here", row.1),
        advice: format!("write {}{slash}{}", row.0, row.2[0]),
        code: "unknown-group",
        foreign: !owned,
    }
}

fn unknown_kind(group: &str, kind: &str) -> UnknownKind {
    let known: Vec<&str> = KINDS.iter().filter(|row| row.0 == group).map(|row| row.1).collect();
    let advice = match suggest::nearest(kind, &known) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("use one of {}", suggest::list(&known)),
    };
    UnknownKind {
        field: "kind",
        text: format!("there is no kind {kind:?} in {group}"),
        advice,
        code: "unknown-kind",
        foreign: false,
    }
}

fn unknown_group(group: &str) -> UnknownKind {
    let mut known: Vec<&str> =
        KINDS.iter().map(|row| row.0).filter(|name| name.ends_with("istio.io")).collect();
    known.dedup();
    let advice = match suggest::nearest(group, &known) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("use one of {}", suggest::list(&known)),
    };
    UnknownKind {
        field: "apiVersion",
        text: format!("there is no API group {group:?}"),
        advice,
        code: "unknown-group",
        foreign: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        let cases = [
            ("networking.istio.io/v1", "Gateway", Ok(Kind::Gateway)),
            ("networking.istio.io/v1alpha3", "VirtualService", Ok(Kind::VirtualService)),
            ("gateway.networking.k8s.io/v1", "Gateway", Ok(Kind::Other)),
            ("v1", "Service", Ok(Kind::Service)),
            ("v1", "ServiceAccount", Ok(Kind::Other)),
            ("apps/v1", "Deployment", Ok(Kind::Deployment)),
            ("apps/v1", "DaemonSet", Ok(Kind::Other)),
            ("networking.k8s.io/v1", "Ingress", Ok(Kind::Other)),
            ("security.istio.io/v1", "PeerAuthentication", Ok(Kind::PeerAuthentication)),
            ("security.istio.io/v1beta1", "RequestAuthentication", Ok(Kind::RequestAuthentication)),
            ("networking.istio.io/v2", "Gateway", Err(("unknown-version", "write networking.istio.io/v1"))),
            ("networking.istio.io/v1", "Ingress", Err(("unknown-kind", "use one of"))),
            (
                "networking.istio.io/v1",
                "VirtualServices",
                Err(("unknown-kind", "did you mean VirtualService?")),
            ),
            ("v1", "VirtualService", Err(("unknown-group", "write networking.istio.io/v1"))),
            ("apps/v1", "Service", Err(("unknown-group", "write v1"))),
            ("v1", "Deployment", Err(("unknown-group", "write apps/v1"))),
            ("networkin.istio.io/v1", "Sidecar", Err(("unknown-group", "write networking.istio.io/v1"))),
            ("networkin.istio.io/v1", "Ingress", Err(("unknown-group", "did you mean networking.istio.io?"))),
            (
                "appmesh.k8s.aws/v1beta2",
                "VirtualService",
                Err(("unknown-group", "write networking.istio.io/v1")),
            ),
        ];
        for (api_version, kind, expected) in cases {
            match (find(api_version, kind), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{api_version} {kind}"),
                (Err(found), Err((code, advice))) => {
                    assert_eq!(found.code, code, "{api_version} {kind}");
                    assert!(found.advice.starts_with(advice), "{api_version} {kind}: {}", found.advice);
                }
                (found, _) => panic!("{api_version} {kind}: {found:?}"),
            }
        }
        assert!(find("appmesh.k8s.aws/v1beta2", "VirtualService").is_err_and(|e| e.foreign));
        assert!(CLUSTER_SCOPED.is_sorted());
    }
}
