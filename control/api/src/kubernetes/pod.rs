use crate::decode::fields;

fields! {
    /// A pod; its labels are those of the object.
    pub struct Pod others ["apiVersion", "kind", "metadata"] {
        /// What it runs.
        "spec" => spec: PodSpec,
        /// How it is.
        "status" => status: PodStatus,
    }

    /// What a pod runs.
    pub struct PodSpec others ["volumes", "initContainers", "ephemeralContainers", "restartPolicy", "terminationGracePeriodSeconds", "activeDeadlineSeconds", "dnsPolicy", "nodeSelector", "serviceAccount", "automountServiceAccountToken", "hostPID", "hostIPC", "shareProcessNamespace", "securityContext", "imagePullSecrets", "affinity", "schedulerName", "tolerations", "hostAliases", "priorityClassName", "priority", "dnsConfig", "readinessGates", "runtimeClassName", "enableServiceLinks", "preemptionPolicy", "overhead", "topologySpreadConstraints", "setHostnameAsFQDN", "os", "hostUsers", "schedulingGates", "resourceClaims", "resources", "hostnameOverride", "schedulingGroup", "workloadRef", "evictionResponders"] {
        /// Its containers.
        "containers" => containers: Vec<Container>,
        /// The node that it runs on.
        "nodeName" => node_name: Option<String>,
        /// Its host name.
        "hostname" => hostname: Option<String>,
        /// The headless Service that gives it a DNS name.
        "subdomain" => subdomain: Option<String>,
        /// Its service account.
        "serviceAccountName" => service_account_name: Option<String>,
        /// Whether it has the node's network.
        "hostNetwork" => host_network: Option<bool>,
    }

    /// A container.
    pub struct Container others ["image", "command", "args", "workingDir", "envFrom", "env", "resources", "resizePolicy", "restartPolicy", "restartPolicyRules", "volumeMounts", "volumeDevices", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "terminationMessagePath", "terminationMessagePolicy", "imagePullPolicy", "securityContext", "stdin", "stdinOnce", "tty"] {
        /// Its name.
        "name" => name: Option<String>,
        /// Its ports.
        "ports" => ports: Vec<ContainerPort>,
    }

    /// A port of a container.
    pub struct ContainerPort others ["hostPort", "hostIP"] {
        /// The name that Services may use.
        "name" => name: Option<String>,
        /// The port.
        "containerPort" => container_port: u32,
        /// TCP when absent.
        "protocol" => protocol: Option<String>,
    }

    /// How a pod is. The cluster writes it, with fields that come and go.
    pub struct PodStatus = default others ["*"] {
        /// Pending, Running, Succeeded, Failed.
        "phase" => phase: Option<String>,
        /// Its address.
        "podIP" => pod_ip: Option<String>,
        /// All its addresses.
        "podIPs" => pod_ips: Vec<PodIp>,
        /// Conditions, such as Ready.
        "conditions" => conditions: Vec<PodCondition>,
    }

    /// An address of a pod.
    pub struct PodIp others ["*"] {
        /// The IP address.
        "ip" => ip: Option<String>,
    }

    /// A condition of a pod.
    pub struct PodCondition others ["*"] {
        /// Which, such as `Ready`.
        "type" => condition: Option<String>,
        /// `True`, `False` or `Unknown`.
        "status" => status: Option<String>,
    }
}
