//! TLS and the PROXY protocol towards upstreams, as the upstreams see them.

use crate::reload::{ROUTES, Site};
use anyhow::{Context, Result, ensure};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidegate_tests::{
    Answer, Authority, Connection, Failure, Gateway, Identity, Net, Request, Seen, Start, Upstream, Version,
    Wants, exchange,
};

const PORT: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(30);

fn failed(e: Failure) -> anyhow::Error {
    anyhow::anyhow!("{e}")
}

/// A service with one endpoint, a policy towards it, and a rule that sends its own path to it.
struct Service {
    name: String,
    at: SocketAddr,
    /// The protocol of its port.
    protocol: &'static str,
    /// Of its ServiceEntry.
    more: String,
    /// Of its DestinationRule.
    policy: String,
}

impl Service {
    fn new(name: &str, at: SocketAddr, policy: impl Into<String>) -> Self {
        Service { name: name.into(), at, protocol: "HTTP", more: String::new(), policy: policy.into() }
    }

    fn speaking(mut self, protocol: &'static str) -> Self {
        self.protocol = protocol;
        self
    }

    fn route(&self) -> String {
        let name = &self.name;
        format!(
            "  - {{match: [{{uri: {{prefix: /{name}/}}}}], retries: {{attempts: 0}}, route: [{{destination: {{host: \
             {name}.example}}}}]}}\n"
        )
    }

    fn objects(&self) -> String {
        let Service { name, at, protocol, more, policy } = self;
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\nspec: {{hosts: \
             [{name}.example], location: MESH_EXTERNAL, resolution: STATIC, ports: [{{number: 443, name: it, \
             protocol: {protocol}}}], endpoints: [{{address: {}, ports: {{it: {}}}}}]{more}}}\n---\napiVersion: \
             networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\nspec: {{host: \
             {name}.example, trafficPolicy: {{{policy}}}}}\n",
            at.ip(),
            at.port()
        )
    }
}

fn config(services: &[Service]) -> String {
    let mut text = ROUTES.to_owned();
    services.iter().for_each(|service| text += &service.route());
    services.iter().for_each(|service| text += &service.objects());
    text
}

fn secret(name: &str, data: &[(&str, &str)]) -> Result<String> {
    let mut text = format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: istio-system}}\nstringData:\n"
    );
    for (key, value) in data {
        text += &format!("  {key}: {}\n", serde_json::to_string(value)?);
    }
    Ok(text)
}

fn request(gateway: &Gateway, service: &str, host: &str) -> Request {
    Request::to(gateway.at(PORT)).host(host).path(&format!("/{service}/"))
}

/// What the upstream saw of the connection that this answer came by.
fn seen(answer: &Answer) -> Result<Seen> {
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    serde_json::from_slice(&answer.body).with_context(|| answer.text())
}

async fn ask(gateway: &Gateway, service: &str, host: &str) -> Result<Seen> {
    seen(&exchange(&request(gateway, service, host)).await.map_err(failed)?)
}

/// Two authorities, and upstreams with certificates of the first.
struct Stage {
    net: Net,
    site: Site,
    authority: Authority,
    other: Authority,
}

impl Stage {
    fn new() -> Result<Stage> {
        let stage = Stage {
            net: Net::reserve()?,
            site: Site::new()?,
            authority: Authority::new("one")?,
            other: Authority::new("two")?,
        };
        stage.site.write("one.pem", &stage.authority.certificate())?;
        stage.site.write("two.pem", &stage.other.certificate())?;
        Ok(stage)
    }

    /// The path of a file of the config's folder.
    fn file(&self, name: &str) -> String {
        self.site.path().join(name).display().to_string()
    }

    fn identity(&self, name: &str) -> Result<Identity> {
        self.authority.issue(name, &[name.to_owned()])
    }

    fn address(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::new(IpAddr::V4(self.net.next()?), 8443))
    }

    async fn upstream(&self, wants: Wants) -> Result<(SocketAddr, Upstream)> {
        let at = self.address()?;
        Ok((at, Upstream::listen(at, wants).await?))
    }

    /// One that wants TLS, as `a.example`.
    async fn simple(&self) -> Result<(SocketAddr, Upstream)> {
        let tls = Some(self.identity("a.example")?);
        self.upstream(Wants { tls, alpn: vec!["h2", "http/1.1"], ..Wants::default() }).await
    }

    /// A gateway that serves the folder; the system trusts the first authority.
    async fn start(&self) -> Result<Gateway> {
        let roots = format!("SSL_CERT_FILE={}", self.file("one.pem"));
        let start = Start::with(self.site.path()).under(["env", &roots]).access_log("json");
        start.start(&self.net).await
    }
}

/// What comes of a request to a service: something that must be seen, or the reason why nothing can be.
type Outcome = Result<fn(&Seen) -> bool, &'static str>;

const NOT_TRUSTED: Outcome = Err("TLS_error: invalid peer certificate: UnknownIssuer");

/// Policies, and the host of requests, towards an upstream that is `a.example`.
fn policies(stage: &Stage) -> Vec<(&'static str, &'static str, String, Outcome)> {
    let (one, two) = (stage.file("one.pem"), stage.file("two.pem"));
    let is_a: Outcome = Ok(|seen| seen.sni.as_deref() == Some("a.example"));
    let tls = |settings: &str| format!("tls: {{{settings}}}");
    let [plain, quantum]: [Outcome; 2] = [
        Ok(|seen| seen.alpn.as_deref() == Some("http/1.1") && seen.http.as_deref() == Some("HTTP/1.1")),
        Ok(|seen| seen.group.as_deref() == Some("X25519MLKEM768")),
    ];
    let h2: Outcome = Ok(|seen| seen.alpn.as_deref() == Some("h2") && seen.http.as_deref() == Some("HTTP/2"));
    let pool = "connectionPool: {http: {h2UpgradePolicy: UPGRADE}}";
    vec![
        ("system", "a.example", tls("mode: SIMPLE"), is_a),
        ("port", "A.example:8080", tls("mode: SIMPLE"), is_a),
        ("http1", "a.example", tls("mode: SIMPLE"), plain),
        ("group", "a.example", tls("mode: SIMPLE"), quantum),
        ("http2", "a.example", format!("{}, {pool}", tls("mode: SIMPLE")), h2),
        ("host", "b.example", tls("mode: SIMPLE"), Err("not valid for name \"b.example\"")),
        ("nohost", "b_:80", tls("mode: SIMPLE"), Err("TLS_error")),
        ("file", "a.example", tls(&format!("mode: SIMPLE, caCertificates: {one}")), is_a),
        ("wrong", "a.example", tls(&format!("mode: SIMPLE, caCertificates: {two}")), NOT_TRUSTED),
        ("sni", "b.example", tls("mode: SIMPLE, sni: a.example"), is_a),
        (
            "othersni",
            "a.example",
            tls("mode: SIMPLE, sni: b.example"),
            Err("not valid for name \"b.example\""),
        ),
        (
            "san",
            "a.example",
            tls("mode: SIMPLE, sni: b.example, subjectAltNames: [x, a.example]"),
            Ok(|_| true),
        ),
        ("nosan", "a.example", tls("mode: SIMPLE, subjectAltNames: [x]"), Err("it is for none of the names x")),
        (
            "skip",
            "b.example",
            tls(&format!("mode: SIMPLE, caCertificates: {two}, insecureSkipVerify: true")),
            Ok(|_| true),
        ),
        (
            "wrongsan",
            "a.example",
            tls(&format!("mode: SIMPLE, caCertificates: {two}, subjectAltNames: [a.example]")),
            NOT_TRUSTED,
        ),
        ("secret", "a.example", tls("mode: SIMPLE, credentialName: one"), is_a),
        ("wrongsecret", "a.example", tls("mode: SIMPLE, credentialName: two"), NOT_TRUSTED),
        (
            "nosecret",
            "a.example",
            tls("mode: SIMPLE, credentialName: nowhere"),
            Err("authorities of servers istio-system/nowhere is not there"),
        ),
        ("nofile", "a.example", tls("mode: SIMPLE, caCertificates: /nowhere/ca.pem"), Err("/nowhere/ca.pem")),
        (
            "nopair",
            "a.example",
            tls("mode: MUTUAL, credentialName: one"),
            Err("client certificate istio-system/one"),
        ),
        ("mesh", "a.example", tls("mode: ISTIO_MUTUAL"), Err("")),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_is_who_the_policy_says_or_gets_nothing() -> Result<()> {
    let stage = Stage::new()?;
    let (at, _upstream) = stage.simple().await?;
    let policies = policies(&stage);
    let services: Vec<_> =
        policies.iter().map(|(name, _, policy, _)| Service::new(name, at, policy)).collect();
    let secrets = [("one-cacert", &stage.authority), ("two", &stage.other)];
    for (name, authority) in secrets {
        stage.site.write(&format!("{name}.yaml"), &secret(name, &[("ca.crt", &authority.certificate())])?)?;
    }
    stage.site.write("routes.yaml", &config(&services))?;
    let gateway = stage.start().await?;
    for (name, host, _, expected) in &policies {
        let mark = gateway.log.count();
        let answer = exchange(&request(&gateway, name, host)).await.map_err(failed)?;
        match expected {
            Ok(as_expected) => {
                let seen = seen(&answer).context(*name)?;
                ensure!(as_expected(&seen), "{name}: {seen:?}");
            }
            Err(why) => {
                ensure!(answer.status == 503, "{name}: {} {}", answer.status, answer.text());
                let line = gateway.log.find(mark, PATIENCE, |l| l.contains(&format!("/{name}/"))).await;
                let line: serde_json::Value = serde_json::from_str(&line.context("no line")?)?;
                let reason = line["upstream_transport_failure_reason"].as_str().unwrap_or_default();
                ensure!(reason.contains(why), "{name}: {line}");
                let flag = if why.is_empty() { "NC" } else { "UF" };
                ensure!(line["response_flags"] == flag, "{name}: {line}");
            }
        }
    }
    let page = gateway.page(&format!("/explain?url=http://b.example:{PORT}/sni/")).await?;
    ensure!(page["tls"]["server_name"] == "a.example", "{page}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_the_gateway_and_protocols_of_the_upstream() -> Result<()> {
    let stage = Stage::new()?;
    let me = stage.other.issue("gateway", &["gateway".into()])?;
    let tls = Some(stage.identity("a.example")?);
    let wants = Wants { tls: tls.clone(), clients: Some(stage.other.certificate()), ..Wants::default() };
    let (mutual, _mutual) = stage.upstream(wants).await?;
    let only = |alpn| Wants { tls: tls.clone(), alpn: vec![alpn], ..Wants::default() };
    let (h1, _h1) = stage.upstream(only("http/1.1")).await?;
    let (h2, _h2) = stage.upstream(only("h2")).await?;
    let (plain, _plain) = stage.upstream(Wants::default()).await?;
    let silent = tokio::net::TcpListener::bind(stage.address()?).await?;
    stage.site.write("me.pem", &me.certificate)?;
    stage.site.write("me.key", &me.key)?;
    let pair = [("tls.crt", &*me.certificate), ("tls.key", &me.key)];
    let authority = stage.authority.certificate();
    stage.site.write("pair.yaml", &secret("pair", &[pair[0], pair[1], ("ca.crt", &authority)])?)?;
    let files = format!(
        "tls: {{mode: MUTUAL, clientCertificate: {}, privateKey: {}}}",
        stage.file("me.pem"),
        stage.file("me.key")
    );
    let simple = "tls: {mode: SIMPLE}";
    let names = "tls: {mode: SIMPLE, sni: b.example}";
    let mut named = Service::new("named", h1, names);
    named.more = ", subjectAltNames: [a.example]".into();
    let client = "connectionPool: {http: {useClientProtocol: true}}";
    let services = [
        Service::new("pair", mutual, "tls: {mode: MUTUAL, credentialName: pair}"),
        Service::new("files", mutual, files),
        Service::new("h2", h2, simple).speaking("HTTP2"),
        Service::new("h1", h1, simple),
        named,
        Service::new("client", h1, format!("{simple}, {client}")),
        Service::new("h1asked", h2, simple),
        Service::new("notls", plain, simple),
        Service::new(
            "silent",
            silent.local_addr()?,
            format!("{simple}, connectionPool: {{tcp: {{connectTimeout: 300ms}}}}"),
        ),
    ];
    stage.site.write("routes.yaml", &config(&services))?;
    let gateway = stage.start().await?;
    for service in ["pair", "files"] {
        let seen = ask(&gateway, service, "a.example").await.context(service)?;
        ensure!(seen.client.as_deref().is_some_and(|c| c.contains("CN=gateway")), "{seen:?}");
    }
    for (service, http) in
        [("h2", "HTTP/2"), ("h1", "HTTP/1.1"), ("named", "HTTP/1.1"), ("client", "HTTP/1.1")]
    {
        let seen = ask(&gateway, service, "a.example").await.context(service)?;
        ensure!(seen.http.as_deref() == Some(http) && seen.client.is_none(), "{service}: {seen:?}");
    }
    for (service, why) in [("h1asked", "TLS_error"), ("notls", "TLS_error"), ("silent", "connect timeout")] {
        let mark = gateway.log.count();
        let answer = exchange(&request(&gateway, service, "a.example")).await.map_err(failed)?;
        ensure!(answer.status == 503, "{service}: {}", answer.status);
        let line = gateway.log.find(mark, PATIENCE, |l| l.contains(&format!("/{service}/"))).await;
        let line = line.context("no line")?;
        ensure!(line.contains(why) && line.contains("\"UF\""), "{service}: {line}");
    }
    // what a client of HTTP/2 asks for is spoken to the upstream too, and its name is the one that it says
    let mut over_h2 = request(&gateway, "h2", "a.example");
    over_h2.version = Version::Http2;
    ensure!(seen(&exchange(&over_h2).await.map_err(failed)?)?.sni.as_deref() == Some("a.example"));
    Ok(())
}

/// Waits until what is asked for holds.
async fn until<F: Future<Output = Result<bool>>>(what: &str, holds: impl Fn() -> F) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !holds().await? {
        ensure!(Instant::now() < end, "{what} never comes about");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_secret_or_policy_costs_no_request_and_leaves_no_connection() -> Result<()> {
    let stage = Stage::new()?;
    let wants = Wants {
        tls: Some(stage.identity("a.example")?),
        clients: Some(stage.authority.certificate()),
        ..Wants::default()
    };
    let (at, upstream) = stage.upstream(wants).await?;
    let pair = |name: &str| {
        let me = stage.authority.issue(name, &[name.to_owned()])?;
        let authority = stage.authority.certificate();
        secret("pair", &[("tls.crt", &me.certificate), ("tls.key", &me.key), ("ca.crt", &authority)])
    };
    let policy = |more: &str| {
        let service = Service::new("it", at, format!("tls: {{mode: MUTUAL, credentialName: pair{more}}}"));
        config(&[service])
    };
    stage.site.write("pair.yaml", &pair("first")?)?;
    stage.site.write("routes.yaml", &policy(""))?;
    let gateway = stage.start().await?;
    let gateway = &gateway;
    let request = request(gateway, "it", "a.example");
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = {
        let (request, stop, sent) = (request.clone(), stop.clone(), sent.clone());
        tokio::spawn(async move {
            let mut connection = Connection::open(&request).await.map_err(failed)?;
            while !stop.load(Ordering::Relaxed) {
                seen(&connection.send(&request).await.map_err(failed)?)?;
                sent.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        })
    };
    let client = async || anyhow::Ok(ask(gateway, "it", "a.example").await?.client.unwrap_or_default());
    ensure!(client().await?.contains("CN=first"));
    // a connection is kept, and used again
    let before = upstream.connections();
    ensure!(ask(gateway, "it", "a.example").await?.connection <= before);
    for name in ["second", "third"] {
        stage.site.write("pair.yaml", &pair(name)?)?;
        until(name, || async { anyhow::Ok(client().await?.contains(name)) }).await?;
    }
    // one that does not load changes nothing
    let generation = gateway.generation().await?;
    let fourth = pair("fourth")?;
    let broken = fourth.lines().map(|line| if line.contains("tls.key") { "  tls.key: none" } else { line });
    stage.site.write("pair.yaml", &broken.collect::<Vec<_>>().join("\n"))?;
    gateway.wait_for_generation_after(generation).await?;
    ensure!(client().await?.contains("CN=third"));
    stop.store(true, Ordering::Relaxed);
    load.await??;
    ensure!(sent.load(Ordering::Relaxed) > 0);
    // an upstream that is somebody else now gets nothing over connections from before
    let mut kept = Connection::open(&request).await.map_err(failed)?;
    seen(&kept.send(&request).await.map_err(failed)?)?;
    stage.site.write("routes.yaml", &policy(", subjectAltNames: [b.example]"))?;
    until("503", || async { anyhow::Ok(exchange(&request).await.map_err(failed)?.status == 503) }).await?;
    for _ in 0..20 {
        ensure!(kept.send(&request).await.map_err(failed)?.status == 503);
    }
    // a Secret that is gone is not replaced by anything
    stage.site.write("routes.yaml", &policy(""))?;
    until("200", || async { anyhow::Ok(exchange(&request).await.map_err(failed)?.status == 200) }).await?;
    std::fs::remove_file(stage.site.path().join("pair.yaml"))?;
    until("503", || async { anyhow::Ok(exchange(&request).await.map_err(failed)?.status == 503) }).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_resumed_and_tcp_gets_tls() -> Result<()> {
    let stage = Stage::new()?;
    let (at, _upstream) = stage.simple().await?;
    let tls = Some(stage.authority.issue("bytes", &["bytes.example".into()])?);
    let (bytes, _bytes) = stage.upstream(Wants { tls: tls.clone(), bytes: true, ..Wants::default() }).await?;
    let (other, _other) = stage.upstream(Wants { tls, bytes: true, ..Wants::default() }).await?;
    let once = "connectionPool: {http: {maxRequestsPerConnection: 1}}";
    let services = [
        Service::new("once", at, format!("tls: {{mode: SIMPLE}}, {once}")),
        Service::new("bytes", bytes, "tls: {mode: SIMPLE}").speaking("TCP"),
        Service::new("other", other, "tls: {mode: SIMPLE, sni: wrong.example}").speaking("TCP"),
    ];
    let mut text = config(&services[..1]) + &services[1].objects() + &services[2].objects();
    for (port, name) in [(9001, "bytes"), (9002, "other")] {
        text += &format!(
            "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec: {{selector: \
             {{istio: ingressgateway}}, servers: [{{port: {{number: {port}, name: tcp, protocol: TCP}}, hosts: \
             ['*']}}]}}\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: \
             {name}}}\nspec: {{hosts: ['*'], gateways: [{name}], tcp: [{{route: [{{destination: {{host: \
             {name}.example}}}}]}}]}}\n"
        );
    }
    stage.site.write("routes.yaml", &text)?;
    let gateway = stage.start().await?;
    let first = ask(&gateway, "once", "a.example").await?;
    let second = ask(&gateway, "once", "a.example").await?;
    ensure!(!first.resumed && second.resumed && second.connection > first.connection, "{first:?} {second:?}");
    let mut connection = Connection::open(&Request::to(gateway.at(9001))).await.map_err(failed)?;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.extend(connection.read(1).await.map_err(failed)?);
    }
    let seen: Seen = serde_json::from_slice(&line)?;
    ensure!(seen.sni.as_deref() == Some("bytes.example") && seen.alpn.is_none(), "{seen:?}");
    ensure!(connection.echo(b"over TLS").await.map_err(failed)? == b"over TLS");
    let mark = gateway.log.count();
    let mut refused = Connection::open(&Request::to(gateway.at(9002))).await.map_err(failed)?;
    ensure!(refused.read(1).await.is_err(), "no byte goes on");
    let line = gateway.log.find(mark, PATIENCE, |l| l.contains("other.example")).await.context("no line")?;
    ensure!(line.contains("not valid for name") && line.contains("\"UF\""), "{line}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_client_is_told_of_by_the_proxy_protocol() -> Result<()> {
    let stage = Stage::new()?;
    let (plain, _plain) = stage.upstream(Wants { proxy_header: true, ..Wants::default() }).await?;
    let tls = Some(stage.identity("a.example")?);
    let wants = Wants { tls, alpn: vec!["h2"], proxy_header: true, ..Wants::default() };
    let (secure, _secure) = stage.upstream(wants).await?;
    let proxied = |version: &str| format!("proxyProtocol: {{version: {version}}}");
    let services = [
        Service::new("one", plain, proxied("V1")),
        Service::new("two", plain, proxied("V2")),
        Service::new("h2c", plain, proxied("V2")).speaking("HTTP2"),
        Service::new("h2", secure, format!("{}, tls: {{mode: SIMPLE}}", proxied("V1"))).speaking("HTTP2"),
    ];
    stage.site.write("routes.yaml", &config(&services))?;
    let gateway = stage.start().await?;
    for (service, version) in [("one", "V1"), ("two", "V2"), ("h2c", "V2"), ("h2", "V1")] {
        let from = stage.net.next()?;
        let mut request = request(&gateway, service, "a.example");
        request.from = Some(IpAddr::V4(from));
        let mut clients = Vec::new();
        for _ in 0..2 {
            clients.push(Connection::open(&request).await.map_err(failed)?);
        }
        let mut saw = Vec::new();
        for i in [0, 1, 0, 1] {
            let seen = seen(&clients[i].send(&request).await.map_err(failed)?).context(service)?;
            let said = seen.proxied.clone().unwrap_or_default();
            let rest = said.strip_prefix(&format!("{version} {from}:"));
            ensure!(
                rest.is_some_and(|r| r.ends_with(&format!(" {}", gateway.at(PORT)))),
                "{service}: {seen:?}"
            );
            saw.push(seen);
        }
        // of each client its own, and again the same
        ensure!(saw[0] == saw[2] && saw[1] == saw[3] && saw[0].proxied != saw[1].proxied, "{saw:?}");
    }
    Ok(())
}
