//! The patterns of egress gateways: the sample's own files and a few more, with a real name server and real TLS.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidegate_tests::{
    Authority, Backend, Gateway, NameServer, Net, Request, Seen, Start, Upstream, Wants, exchange, get,
    workspace,
};

/// Where the sample's stand-ins listen.
const HTTP: u16 = 9080;
const TLS: u16 = 9443;
const PATIENCE: Duration = Duration::from_secs(60);

/// Beside the sample: a client certificate for one host, TLS to whatever name is asked for, and one server for many names.
const MORE: &str = r#"---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: more, namespace: istio-system}
spec:
  selector: {istio: egressgateway}
  servers:
  - {port: {number: 8080, name: http, protocol: HTTP}, hosts: [vault.example, "*.api.example"]}
  - {port: {number: 8443, name: tls, protocol: TLS}, tls: {mode: PASSTHROUGH}, hosts: ["*.shared.example"]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: vault, namespace: istio-system}
spec:
  hosts: [vault.example]
  resolution: DNS
  ports: [{number: 443, name: https, protocol: HTTPS, targetPort: 9443}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: vault, namespace: istio-system}
spec:
  hosts: [vault.example]
  gateways: [more]
  http: [{route: [{destination: {host: vault.example, port: {number: 443}}}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: vault, namespace: istio-system}
spec: {host: vault.example, trafficPolicy: {tls: {mode: MUTUAL, credentialName: client}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: istio-system}
spec:
  hosts: ["*.api.example"]
  resolution: DYNAMIC_DNS
  ports: [{number: 443, name: https, protocol: HTTPS, targetPort: 9443}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api, namespace: istio-system}
spec:
  hosts: ["*.api.example"]
  gateways: [more]
  http: [{route: [{destination: {host: "*.api.example", port: {number: 443}}}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api, namespace: istio-system}
spec: {host: "*.api.example", trafficPolicy: {tls: {mode: SIMPLE, credentialName: outside-authority}}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: shared, namespace: istio-system}
spec:
  hosts: ["*.shared.example"]
  resolution: DNS
  ports: [{number: 443, name: tls, protocol: TLS, targetPort: 9443}]
  endpoints: [{address: www.shared.example}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shared, namespace: istio-system}
spec:
  hosts: ["*.shared.example"]
  gateways: [mesh, more]
  tls:
  - match: [{gateways: [mesh], port: 443, sniHosts: ["*.shared.example"]}]
    route: [{destination: {host: istio-egressgateway.istio-system.svc.cluster.local, port: {number: 443}}}]
  - match: [{gateways: [more], sniHosts: ["*.shared.example"]}]
    route: [{destination: {host: "*.shared.example", port: {number: 443}}}]
"#;

/// The outside: hosts with certificates of one authority, each at an address of its own.
struct World {
    net: Net,
    names: NameServer,
    authority: Authority,
    plain: Backend,
    servers: Vec<Upstream>,
    /// Certificates by name.
    certificates: BTreeMap<String, Vec<u8>>,
}

impl World {
    async fn new() -> Result<World> {
        let net = Net::reserve()?;
        let names = NameServer::start(net.next()?).await?;
        let authority = Authority::new("outside")?;
        let (plain, servers, certificates) = (Backend::default(), Vec::new(), BTreeMap::new());
        let mut world = World { net, names, authority, plain, servers, certificates };
        let news = world.net.next()?;
        world.names.answer("news.example", &[news.into()]);
        world.plain.listen(SocketAddr::new(news.into(), HTTP)).await?;
        world.names.answer("cloud.wiki.example", &["169.254.169.254".parse()?]);
        for name in [
            "a.api.example",
            "b.api.example",
            "bank.example",
            "mail.example",
            "en.wiki.example",
            "de.wiki.example",
            "www.shared.example",
        ] {
            world.serve(name, None).await?;
        }
        let clients = Some(world.authority.certificate());
        world.serve("vault.example", clients).await?;
        Ok(world)
    }

    async fn serve(&mut self, name: &str, clients: Option<String>) -> Result<()> {
        let identity = self.authority.issue(name, &[name.to_owned()])?;
        let at = self.net.next()?;
        self.names.answer(name, &[IpAddr::V4(at)]);
        self.certificates.insert(name.to_owned(), identity.der.clone());
        let wants = Wants { tls: Some(identity), alpn: vec!["http/1.1"], clients, ..Wants::default() };
        self.servers.push(Upstream::listen(SocketAddr::new(at.into(), TLS), wants).await?);
        Ok(())
    }

    /// The sample's files with names of the name server's, and what is beside it.
    fn config(&self) -> Result<TempDir> {
        let folder = tempfile::tempdir()?;
        for file in std::fs::read_dir(workspace().join("deploy/samples/egress/config"))? {
            let file = file?;
            let text = std::fs::read_to_string(file.path())?.replace(".localhost", ".example");
            std::fs::write(folder.path().join(file.file_name()), text)?;
        }
        let me = self.authority.issue("gateway", &["gateway.example".to_owned()])?;
        let authority = self.authority.certificate();
        let secret = |name: &str, data: &[(&str, &str)]| {
            let metadata = serde_json::json!({"name": name, "namespace": "istio-system"});
            let data: serde_json::Map<_, _> = data.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})
        };
        let pair = [("tls.crt", &*me.certificate), ("tls.key", &me.key), ("ca.crt", &authority)];
        std::fs::write(folder.path().join("more.yaml"), MORE)?;
        std::fs::write(folder.path().join("z1.json"), secret("client", &pair).to_string())?;
        // the last of the same name counts
        let outside = secret("outside-authority", &[("ca.crt", &authority)]);
        std::fs::write(folder.path().join("z2.json"), outside.to_string())?;
        Ok(folder)
    }
}

async fn seen(request: &Request) -> Result<(Seen, Option<Vec<u8>>)> {
    let answer = exchange(request).await.map_err(|e| anyhow::anyhow!("{e}"))?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    Ok((serde_json::from_slice(&answer.body).with_context(|| answer.text())?, answer.certificate))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_egress_gateway_serves_its_hosts_and_no_others() -> Result<()> {
    let world = World::new().await?;
    let config = world.config()?;
    let mut start = Start::with(config.path());
    for argument in ["--label", "istio=egressgateway", "--allow-dns-answers", "127.0.0.0/8", "--dns-server"] {
        start = start.arg(argument);
    }
    let gateway = start.arg(&world.names.at().to_string()).start(&world.net).await?;

    // plain HTTP goes on as it is
    let answer = get(gateway.at(8080), "news.example", "/today").await?;
    ensure!(answer.status == 200, "{}: {}", answer.text(), gateway.said());
    let hit = answer.json();
    ensure!(hit["authority"] == "news.example" && hit["path"] == "/today", "{hit}");
    ensure!(
        hit["headers"].as_array().is_some_and(|h| h.contains(&serde_json::json!(["x-sent-by", "way-out"])))
    );

    // the gateway speaks TLS, and shows its certificate where that is wanted
    for (host, client) in [
        ("bank.example", None),
        ("vault.example", Some("gateway")),
        ("a.api.example", None),
        ("b.api.example", None),
    ] {
        let (seen, _) = seen(&Request::to(gateway.at(8080)).host(host)).await.context(host)?;
        ensure!(seen.sni.as_deref() == Some(host), "{seen:?}");
        let shown = seen.client.as_deref();
        ensure!(shown.is_some() == client.is_some(), "{seen:?}");
        ensure!(client.is_none_or(|c| shown.is_some_and(|s| s.contains(c))), "{seen:?}");
    }

    // TLS passes through to who has that name, whichever was asked for
    for (sni, by) in [
        ("mail.example", "mail.example"),
        ("en.wiki.example", "en.wiki.example"),
        ("de.wiki.example", "de.wiki.example"),
        ("a.shared.example", "www.shared.example"),
        ("b.shared.example", "www.shared.example"),
    ] {
        let (seen, certificate) =
            seen(&Request::to(gateway.at(8443)).host(sni).tls(sni)).await.context(sni)?;
        ensure!(seen.sni.as_deref() == Some(sni), "{seen:?}");
        ensure!(certificate.as_ref() == world.certificates.get(by), "{sni} is answered by another than {by}");
        let page = gateway.page(&format!("/explain?method=GET&url=https://{sni}:8443/")).await?;
        ensure!(page["outcome"] == "forward" && page["rule"]["section"] == "tls", "{page}");
    }
    nothing_else(&gateway).await?;

    // what is for sidecars is theirs
    let page = gateway.page("/explain?method=GET&url=http://bank.example/&gateway=mesh").await?;
    ensure!(page["cluster"] == "outbound|80||istio-egressgateway.istio-system.svc.cluster.local", "{page}");
    Ok(())
}

/// Whatever is none of its hosts, and whatever leads to where nobody may go.
async fn nothing_else(gateway: &Gateway) -> Result<()> {
    let answer = get(gateway.at(8080), "other.example", "/").await?;
    ensure!(answer.status == 404, "{}", answer.status);
    for (sni, flag) in [("other.example", "NR"), ("wiki.example", "NR"), ("cloud.wiki.example", "DF")] {
        let request = Request::to(gateway.at(8443)).host(sni).tls(sni);
        ensure!(exchange(&request).await.is_err(), "{sni} was answered");
        let end = Instant::now() + PATIENCE;
        let line = loop {
            let lines = gateway.log.since(0);
            let mut lines = lines.iter().filter_map(|l| serde_json::from_str::<Value>(l).ok());
            if let Some(line) = lines.find(|l| l["requested_server_name"] == sni) {
                break line;
            }
            ensure!(Instant::now() < end, "{sni} is not in the log");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        ensure!(line["response_flags"] == flag, "{line}");
    }
    Ok(())
}
