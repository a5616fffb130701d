use super::{LabelSelector, PolicyTarget};
use crate::decode::{fields, names};

fields! {
    /// Who may send what to some workloads (`security.istio.io`).
    pub struct AuthorizationPolicy = default {
        /// The workloads; without selector and targets all of the namespace.
        "selector" => selector: Option<LabelSelector>,
        /// The resource that it is attached to (deprecated form).
        "targetRef" => target_ref: Option<PolicyTarget>,
        /// The resources that it is attached to.
        "targetRefs" => target_refs: Vec<PolicyTarget>,
        /// What is done with a request that a rule matches; ALLOW when absent.
        "action" => action: Option<PolicyAction>,
        /// Who decides for CUSTOM.
        "provider" => provider: Option<PolicyProvider>,
        /// One of them must match; without any, none does.
        "rules" => rules: Vec<PolicyRule>,
    }

    /// Who decides.
    pub struct PolicyProvider {
        /// A provider of the mesh config.
        "name" => name: Option<String>,
    }

    /// A rule: all of its parts must match, of each part one item.
    pub struct PolicyRule {
        /// Who sends; anyone when empty.
        "from" => from: Vec<PolicyFrom>,
        /// What is sent; anything when empty.
        "to" => to: Vec<PolicyTo>,
        /// What else must hold, all of it.
        "when" => when: Vec<PolicyCondition>,
    }

    /// A sender.
    pub struct PolicyFrom {
        /// It.
        "source" => source: Option<PolicySource>,
    }

    /// An operation.
    pub struct PolicyTo {
        /// It.
        "operation" => operation: Option<PolicyOperation>,
    }

    /// A sender: all fields must match, of each field one value.
    pub struct PolicySource {
        /// Identities by mutual TLS.
        "principals" => principals: Vec<String>,
        /// None of these identities.
        "notPrincipals" => not_principals: Vec<String>,
        /// Issuers and subjects of tokens.
        "requestPrincipals" => request_principals: Vec<String>,
        /// None of these issuers and subjects.
        "notRequestPrincipals" => not_request_principals: Vec<String>,
        /// Namespaces of identities.
        "namespaces" => namespaces: Vec<String>,
        /// None of these namespaces.
        "notNamespaces" => not_namespaces: Vec<String>,
        /// Service accounts of identities.
        "serviceAccounts" => service_accounts: Vec<String>,
        /// None of these service accounts.
        "notServiceAccounts" => not_service_accounts: Vec<String>,
        /// Trust domains of identities.
        "trustDomains" => trust_domains: Vec<String>,
        /// None of these trust domains.
        "notTrustDomains" => not_trust_domains: Vec<String>,
        /// Addresses of the peer.
        "ipBlocks" => ip_blocks: Vec<String>,
        /// None of these addresses.
        "notIpBlocks" => not_ip_blocks: Vec<String>,
        /// Addresses of the client, as trusted proxies say.
        "remoteIpBlocks" => remote_ip_blocks: Vec<String>,
        /// None of these addresses.
        "notRemoteIpBlocks" => not_remote_ip_blocks: Vec<String>,
    }

    /// An operation: all fields must match, of each field one value.
    pub struct PolicyOperation {
        /// Hosts of requests, with their ports.
        "hosts" => hosts: Vec<String>,
        /// None of these hosts.
        "notHosts" => not_hosts: Vec<String>,
        /// Ports of the workload.
        "ports" => ports: Vec<String>,
        /// None of these ports.
        "notPorts" => not_ports: Vec<String>,
        /// Methods.
        "methods" => methods: Vec<String>,
        /// None of these methods.
        "notMethods" => not_methods: Vec<String>,
        /// Paths.
        "paths" => paths: Vec<String>,
        /// None of these paths.
        "notPaths" => not_paths: Vec<String>,
    }

    /// Something else that must hold.
    pub struct PolicyCondition {
        /// What is looked at.
        "key" => key: String,
        /// One of these it must be.
        "values" => values: Vec<String>,
        /// None of these it may be.
        "notValues" => not_values: Vec<String>,
    }
}

names! {
    /// What is done with a request that a rule matches.
    pub enum PolicyAction {
        /// It passes, and others do not.
        "ALLOW" => Allow,
        /// It is refused.
        "DENY" => Deny,
        /// It is noted.
        "AUDIT" => Audit,
        /// A provider decides.
        "CUSTOM" => Custom,
    }
}
