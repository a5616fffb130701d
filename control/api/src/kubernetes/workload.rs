use super::PodSpec;
use crate::decode::fields;
use std::collections::BTreeMap;

fields! {
    /// The `spec` of a Deployment or StatefulSet.
    pub struct Workload others ["strategy", "updateStrategy", "minReadySeconds", "revisionHistoryLimit", "paused", "progressDeadlineSeconds", "volumeClaimTemplates", "podManagementPolicy", "persistentVolumeClaimRetentionPolicy", "ordinals"] {
        /// How many pods; 1 when absent.
        "replicas" => replicas: Option<u32>,
        /// Labels of its pods.
        "selector" => selector: PodSelector,
        /// What its pods are made from.
        "template" => template: PodTemplate,
        /// The headless Service of a StatefulSet.
        "serviceName" => service_name: Option<String>,
    }

    /// Which pods belong to a workload.
    pub struct PodSelector = default others ["matchExpressions"] {
        /// Labels that they all have.
        "matchLabels" => match_labels: BTreeMap<String, String>,
    }

    /// What pods are made from.
    pub struct PodTemplate {
        /// Their labels.
        "metadata" => metadata: PodMetadata,
        /// What they run.
        "spec" => spec: PodSpec,
    }

    /// What pods of a template are called.
    pub struct PodMetadata = default others ["name", "generateName", "namespace", "selfLink", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "ownerReferences", "finalizers", "managedFields", "clusterName"] {
        /// Labels.
        "labels" => labels: BTreeMap<String, String>,
        /// Annotations.
        "annotations" => annotations: BTreeMap<String, String>,
    }
}
