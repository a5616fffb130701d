use crate::decode::fields;

fields! {
    /// A pod; its labels are those of the object.
    pub struct Pod {
        /// What it runs.
        "spec" => spec: PodSpec,
        /// How it is.
        "status" => status: PodStatus,
    }

    /// What a pod runs.
    pub struct PodSpec {
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
    pub struct Container {
        /// Its name.
        "name" => name: Option<String>,
        /// Its ports.
        "ports" => ports: Vec<ContainerPort>,
    }

    /// A port of a container.
    pub struct ContainerPort {
        /// The name that Services may use.
        "name" => name: Option<String>,
        /// The port.
        "containerPort" => container_port: u32,
        /// TCP when absent.
        "protocol" => protocol: Option<String>,
    }

    /// How a pod is.
    pub struct PodStatus = default {
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
    pub struct PodIp {
        /// The IP address.
        "ip" => ip: Option<String>,
    }

    /// A condition of a pod.
    pub struct PodCondition {
        /// Which, such as `Ready`.
        "type" => condition: Option<String>,
        /// `True`, `False` or `Unknown`.
        "status" => status: Option<String>,
    }
}
