//! The gateway's side of a test: its objects, and how it is started.

use anyhow::Result;
use std::net::SocketAddr;
use tempfile::TempDir;
use tidegate_tests::{Authority, Gateway, Identity, Net, Start, objects};

/// A host that the objects name.
pub(crate) const HOST: &str = "shop.example";

/// The objects of a gateway, as YAML.
#[derive(Default)]
pub(crate) struct Objects(String);

impl Objects {
    fn object(&mut self, api: &str, kind: &str, name: &str, rest: &str) {
        self.0 += &format!("---\napiVersion: {api}\nkind: {kind}\nmetadata: {{name: {name}}}\n{rest}\n");
    }

    /// A Gateway with one server; `more` belongs to the server, such as `, tls: {...}`.
    pub(crate) fn gateway(&mut self, name: &str, port: u16, protocol: &str, hosts: &str, more: &str) {
        let server = format!(
            "port: {{number: {port}, name: p{port}, protocol: {protocol}}}, hosts: [\"{hosts}\"]{more}"
        );
        let spec = format!("spec: {{selector: {{istio: ingressgateway}}, servers: [{{{server}}}]}}");
        self.object("networking.istio.io/v1", "Gateway", name, &spec);
    }

    /// A VirtualService with these rules at these gateways.
    pub(crate) fn routes(&mut self, name: &str, hosts: &str, gateways: &str, rules: &str) {
        let spec = format!("spec:\n  hosts: [\"{hosts}\"]\n  gateways: [{gateways}]\n  http:\n{rules}");
        self.object("networking.istio.io/v1", "VirtualService", name, &spec);
    }

    /// A ServiceEntry with one endpoint.
    pub(crate) fn upstream(&mut self, host: &str, at: SocketAddr, protocol: &str) {
        let spec = format!(
            "spec:\n  hosts: [{host}]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  \
             ports: [{{number: 80, name: p, protocol: {protocol}}}]\n  \
             endpoints: [{{address: {}, ports: {{p: {}}}}}]",
            at.ip(),
            at.port()
        );
        self.object("networking.istio.io/v1", "ServiceEntry", &host.replace('.', "-"), &spec);
    }

    /// A host of its own for one upstream, at these gateways.
    pub(crate) fn site(&mut self, host: &str, gateways: &str, at: SocketAddr, protocol: &str) {
        let upstream = format!("upstream.{host}");
        let rule = format!("  - route: [{{destination: {{host: {upstream}}}}}]");
        self.routes(&host.replace('.', "-"), host, gateways, &rule);
        self.upstream(&upstream, at, protocol);
    }

    /// A Secret with a certificate, in the gateway's namespace.
    pub(crate) fn secret(&mut self, name: &str, identity: &Identity) {
        self.0 += &format!("---\n{}", objects::secret(name, identity));
    }

    /// Who signs certificates, in the gateway's namespace.
    pub(crate) fn authority(&mut self, name: &str, authority: &Authority) {
        let pem = authority.certificate().replace('\n', "\n    ");
        self.0 += &format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: istio-system}}\n\
             stringData:\n  ca.crt: |\n    {}\n",
            pem.trim_end()
        );
    }

    /// A policy towards the upstreams of a host.
    pub(crate) fn policy(&mut self, host: &str, policy: &str) {
        let spec = format!("spec: {{host: {host}, trafficPolicy: {{{policy}}}}}");
        self.object("networking.istio.io/v1", "DestinationRule", &host.replace('.', "-"), &spec);
    }

    /// Believes what this many proxies in front say about the client.
    pub(crate) fn trusted_proxies(&mut self, n: u32) {
        self.topology(&format!("numTrustedProxies: {n}"));
    }

    /// Has every connection begin with a PROXY header.
    pub(crate) fn proxy_protocol(&mut self) {
        self.topology("proxyProtocol: {}");
    }

    fn topology(&mut self, setting: &str) {
        self.0 += &format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
             data:\n  mesh: |\n    defaultConfig: {{gatewayTopology: {{{setting}}}}}\n"
        );
    }

    /// As they are written.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// A gateway that serves them.
    pub(crate) async fn start(&self, net: &Net) -> Result<(Gateway, TempDir)> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("site.yaml"), &self.0)?;
        let gateway = Start::with(folder.path()).arg("--concurrency").arg("1").start(net).await?;
        Ok((gateway, folder))
    }
}

/// Rules that answer in every way: here, with a redirect, for a workload that does not listen, from the
/// workload. No rule takes what begins with `/~`.
pub(crate) const RULES: &str = r#"
  - match: [{uri: {exact: /direct}}]
    directResponse: {status: 418, body: {string: "short and stout"}}
  - match: [{uri: {exact: /moved}}]
    redirect: {uri: /elsewhere, redirectCode: 308}
  - match: [{uri: {exact: /nowhere}}]
    route: [{destination: {host: nowhere.example}}]
  - match: [{uri: {regex: "/([^~].*)?"}}]
    route: [{destination: {host: origin.example}}]"#;
