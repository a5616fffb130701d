use crate::field;
use crate::istio::{
    AuthorizationPolicy, DestinationRule, Gateway, PeerAuthentication, RequestAuthentication, ServiceEntry,
    Telemetry, VirtualService, WorkloadEntry,
};
use crate::kubernetes::{
    ConfigMap, EndpointSlice, Endpoints, Namespace, Node, Pod, Secret, Service, Workload,
};
use crate::value::{Position, Value};
use crate::written::Written;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;
use tidegate_model::{Diagnostic, ObjectRef, Origin, Severity};

/// An object as a user wrote it: its metadata, its typed content, and where each field of it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Kind, namespace and name. Without a namespace it is `default`; for cluster-scoped kinds it is empty.
    pub reference: ObjectRef,
    /// `apiVersion` as it was written.
    pub api_version: Arc<str>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `metadata.creationTimestamp`.
    pub created: Option<SystemTime>,
    /// `metadata.resourceVersion`.
    pub resource_version: Option<String>,
    /// `metadata.generation`.
    pub generation: Option<u64>,
    /// `metadata.ownerReferences`.
    pub owners: Vec<Owner>,
    /// The typed content.
    pub spec: Spec,
    /// The file it was read from.
    pub file: Arc<str>,
    /// The object as it was written, with positions: which fields were given is seen here. Of a Secret the contents
    /// are gone, and of Istio's ConfigMap the YAML in `data.mesh` is expanded.
    pub written: Written,
}

/// An owner of an object, as Deployments own ReplicaSets and these own Pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// The typed content of an [`Object`], by kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// `networking.istio.io` Gateway.
    Gateway(Box<Gateway>),
    /// `networking.istio.io` VirtualService.
    VirtualService(Box<VirtualService>),
    /// `networking.istio.io` DestinationRule.
    DestinationRule(Box<DestinationRule>),
    /// `networking.istio.io` ServiceEntry.
    ServiceEntry(Box<ServiceEntry>),
    /// `networking.istio.io` WorkloadEntry.
    WorkloadEntry(Box<WorkloadEntry>),
    /// `security.istio.io` RequestAuthentication.
    RequestAuthentication(Box<RequestAuthentication>),
    /// `security.istio.io` AuthorizationPolicy.
    AuthorizationPolicy(Box<AuthorizationPolicy>),
    /// `security.istio.io` PeerAuthentication.
    PeerAuthentication(Box<PeerAuthentication>),
    /// `telemetry.istio.io` Telemetry.
    Telemetry(Box<Telemetry>),
    /// A Service.
    Service(Box<Service>),
    /// `discovery.k8s.io` EndpointSlice.
    EndpointSlice(Box<EndpointSlice>),
    /// Endpoints.
    Endpoints(Box<Endpoints>),
    /// A Pod.
    Pod(Box<Pod>),
    /// `apps` Deployment.
    Deployment(Box<Workload>),
    /// `apps` StatefulSet.
    StatefulSet(Box<Workload>),
    /// A Namespace.
    Namespace(Box<Namespace>),
    /// A Node.
    Node(Box<Node>),
    /// A Secret.
    Secret(Box<Secret>),
    /// A ConfigMap.
    ConfigMap(Box<ConfigMap>),
    /// Any other kind: it has no effect on routing, or none yet. What it says is in [`Object::written`].
    Other,
}

impl Object {
    /// The API group: `networking.istio.io` of `networking.istio.io/v1`, empty for `v1`.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// Where the object starts.
    pub fn origin(&self) -> Origin {
        self.at(self.written.at())
    }

    /// Where `path` was written, or else its nearest ancestor, or else the object. See [`crate::field`].
    pub fn locate(&self, path: &str) -> Origin {
        self.at(self.written.locate(path))
    }

    /// The value that was written at `path`; `None` when there is none, or `null`.
    pub fn field(&self, path: &str) -> Option<Value> {
        self.written.find(path).filter(|value| !value.is_null())
    }

    /// A diagnostic about `field` (empty for the whole object), located.
    pub fn diagnostic(
        &self,
        severity: Severity,
        field: &str,
        text: impl Into<String>,
        advice: impl Into<String>,
        code: &'static str,
    ) -> Diagnostic {
        Diagnostic {
            severity,
            origin: self.locate(field),
            object: Some(self.reference.clone()),
            field: field.to_owned(),
            text: text.into(),
            advice: advice.into(),
            code,
        }
    }

    fn at(&self, position: Position) -> Origin {
        Origin { file: self.file.clone(), line: position.line, column: position.column }
    }

    /// The value of an annotation, and its field path.
    pub fn annotation(&self, name: &str) -> Option<(&str, String)> {
        let value = self.annotations.get(name)?;
        Some((value, format!("metadata.annotations{}", field::key(name))))
    }
}
