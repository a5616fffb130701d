use crate::Env;
use crate::report::Report;
use crate::retries::unknown_conditions;
use std::time::Duration;
use tidegate_api::istio::{
    ExtensionProvider, ForwardClientCertDetails, HttpRetry, LocalityLoadBalancerSetting, MeshConfig,
    MeshH2UpgradePolicy, MeshTlsConfig, NormalizationType, TcpKeepalive, Topology,
};
use tidegate_api::{Object, Objects};
use tidegate_model::{ForwardClientCert, MeshSettings, ObjectRef, PathNormalization};

/// How long a connection to an upstream may take when nothing is said.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The mesh config: that of the ConfigMap `istio` in the root namespace, or Istio's defaults.
pub(crate) struct Mesh<'a> {
    written: Option<(&'a Object, &'a MeshConfig)>,
}

impl<'a> Mesh<'a> {
    pub(crate) fn new(objects: &'a Objects, env: &Env) -> Self {
        let reference = ObjectRef::new("ConfigMap", &env.root_namespace, "istio");
        let found = objects.config_maps().into_iter().find(|(o, _)| o.reference == reference);
        Mesh { written: found.and_then(|(object, map)| Some((object, map.mesh.as_deref()?))) }
    }

    /// Says which ConfigMaps hold a mesh config and do not count.
    pub(crate) fn others(&self, objects: &Objects, env: &Env, report: &mut Report) {
        let counts = self.object().map(|o| &o.reference);
        for (object, map) in objects.config_maps() {
            if map.mesh.is_some() && Some(&object.reference) != counts {
                let text = format!("has no effect: the mesh config is that of {}/istio", env.root_namespace);
                let advice = "move there what is wanted, or remove it";
                report.warning(object, "data.mesh", "no-effect", text, advice);
            }
        }
    }

    /// The ConfigMap that counts, with what it says.
    pub(crate) fn written(&self) -> Option<(&'a Object, &'a MeshConfig)> {
        self.written
    }

    /// The providers of telemetry and authorization.
    pub(crate) fn providers(&self) -> &'a [ExtensionProvider] {
        self.config().map_or(&[], |c| &c.extension_providers)
    }

    /// Which of them has that name, in any case.
    pub(crate) fn provider(&self, name: &str) -> Option<usize> {
        let has_name =
            |p: &ExtensionProvider| p.name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(name));
        self.providers().iter().position(has_name)
    }

    pub(crate) fn config(&self) -> Option<&'a MeshConfig> {
        self.written.map(|(_, config)| config)
    }

    /// The ConfigMap that counts.
    pub(crate) fn object(&self) -> Option<&'a Object> {
        self.written.map(|(object, _)| object)
    }

    pub(crate) fn service_export_to(&self) -> &'a [String] {
        self.config().map_or(&[], |c| &c.default_service_export_to)
    }

    pub(crate) fn virtual_service_export_to(&self) -> &'a [String] {
        self.config().map_or(&[], |c| &c.default_virtual_service_export_to)
    }

    pub(crate) fn rule_export_to(&self) -> &'a [String] {
        self.config().map_or(&[], |c| &c.default_destination_rule_export_to)
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.config().and_then(|c| c.connect_timeout).unwrap_or(CONNECT_TIMEOUT)
    }

    /// How localities count where no DestinationRule says it.
    pub(crate) fn locality_lb_setting(&self) -> Option<&'a LocalityLoadBalancerSetting> {
        self.config().and_then(|c| c.locality_lb_setting.as_ref())
    }

    /// Probes of connections where no DestinationRule says it.
    pub(crate) fn tcp_keepalive(&self) -> Option<&'a TcpKeepalive> {
        self.config().and_then(|c| c.tcp_keepalive.as_ref())
    }

    /// Whether HTTP/2 is spoken to ports of HTTP where no DestinationRule says what is.
    pub(crate) fn upgrades_to_http2(&self) -> bool {
        self.config().is_some_and(|c| c.h2_upgrade_policy == Some(MeshH2UpgradePolicy::Upgrade))
    }

    /// What TLS is like where a server does not say it, with the object that does.
    pub(crate) fn tls_defaults(&self) -> Option<(&'a Object, &'a MeshTlsConfig)> {
        let (object, config) = self.written?;
        Some((object, config.tls_defaults.as_ref()?))
    }

    /// The retries of rules that say nothing about them.
    pub(crate) fn default_retries(&self) -> Option<&'a HttpRetry> {
        self.config().and_then(|c| c.default_http_retry_policy.as_ref())
    }

    /// What the data plane needs of it.
    pub(crate) fn settings(&self, report: &mut Report) -> MeshSettings {
        let defaults = MeshSettings::default();
        let Some((object, config)) = self.written else { return defaults };
        for unknown in self
            .default_retries()
            .iter()
            .flat_map(|r| unknown_conditions(r.retry_on.as_deref().unwrap_or_default()))
        {
            let text = format!("{unknown:?} is neither a retry condition nor a status, and is left out");
            let advice = "use names such as connect-failure, or statuses, joined by commas";
            report.error(object, "data.mesh.defaultHttpRetryPolicy.retryOn", "invalid-retries", text, advice);
        }
        let tls = config.tls_defaults.as_ref();
        for (name, written) in [
            ("cipherSuites", tls.is_some_and(|t| !t.cipher_suites.is_empty())),
            ("ecdhCurves", tls.is_some_and(|t| !t.ecdh_curves.is_empty())),
        ] {
            if written {
                let text = "is enforced for clients and not yet towards upstreams, to which the strong ones are offered";
                report.note(object, &format!("data.mesh.tlsDefaults.{name}"), "not-enforced", text, "");
            }
        }
        let proxy = config.default_config.as_ref();
        let normalization = config.path_normalization.as_ref().and_then(|p| p.normalization);
        let server = proxy.and_then(|p| p.proxy_headers.as_ref()).and_then(|h| h.server.as_ref());
        let server_header = match server {
            Some(s) if s.disabled == Some(true) => None,
            Some(s) => s.value.as_deref().map(Into::into).or(defaults.server_header),
            None => defaults.server_header,
        };
        let topology = proxy.and_then(|p| p.gateway_topology.as_ref());
        let proxy_protocol = topology.is_some_and(|t| t.proxy_protocol.is_some());
        if proxy_protocol {
            let text = "PROXY headers are believed from private, link-local and loopback addresses, or from those of \
                        --proxy-protocol-from; connections from elsewhere have none";
            let field = "data.mesh.defaultConfig.gatewayTopology.proxyProtocol";
            report.note(object, field, "trusted-peers", text, "");
        }
        MeshSettings {
            // what Telemetry objects say of these too is translated with them
            access_log: None,
            path_normalization: match normalization {
                None | Some(NormalizationType::Default | NormalizationType::Base) => PathNormalization::Base,
                Some(NormalizationType::None) => PathNormalization::None,
                Some(NormalizationType::MergeSlashes) => PathNormalization::MergeSlashes,
                Some(NormalizationType::DecodeAndMergeSlashes) => PathNormalization::DecodeAndMergeSlashes,
            },
            strict_paths: defaults.strict_paths,
            server_header,
            trusted_proxies: topology.and_then(|t| t.num_trusted_proxies).unwrap_or(0),
            client_certificates: topology.map_or_else(ForwardClientCert::default, client_certificates),
            proxy_protocol,
            tracing: None,
        }
    }
}

fn client_certificates(topology: &Topology) -> ForwardClientCert {
    use ForwardClientCertDetails as Written;
    match topology.forward_client_cert_details {
        None | Some(Written::Undefined) => ForwardClientCert::default(),
        Some(Written::Sanitize) => ForwardClientCert::Sanitize,
        Some(Written::ForwardOnly) => ForwardClientCert::ForwardOnly,
        Some(Written::AppendForward) => ForwardClientCert::AppendForward,
        Some(Written::SanitizeSet) => ForwardClientCert::SanitizeSet,
        Some(Written::AlwaysForwardOnly) => ForwardClientCert::AlwaysForwardOnly,
    }
}
