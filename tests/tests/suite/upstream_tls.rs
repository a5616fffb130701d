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

/// The Secret `pair`: a certificate of the gateway's, and who signs those of upstreams.
fn pair(me: &Identity, authority: &Authority) -> Result<String> {
    let authority = authority.certificate();
    secret("pair", &[("tls.crt", &me.certificate), ("tls.key", &me.key), ("ca.crt", &authority)])
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
const NOT_B: Outcome = Err("not valid for name \"b.example\"");
const ANYTHING: Outcome = Ok(|_| true);
const ASKS_FOR_A: Outcome = Ok(|seen| seen.sni.as_deref() == Some("a.example"));
const QUANTUM: Outcome = Ok(|seen| seen.group.as_deref() == Some("X25519MLKEM768"));
const HTTP1: Outcome =
    Ok(|seen| seen.alpn.as_deref() == Some("http/1.1") && seen.http.as_deref() == Some("HTTP/1.1"));
const HTTP2: Outcome =
    Ok(|seen| seen.alpn.as_deref() == Some("h2") && seen.http.as_deref() == Some("HTTP/2"));
const UPGRADE: &str = "mode: SIMPLE}, connectionPool: {http: {h2UpgradePolicy: UPGRADE}";

/// Settings towards an upstream that is `a.example`, by a service of this name for requests for this host. `ONE` and
/// `TWO` stand for the files of the authorities, of which it has its certificate from the first.
const POLICIES: [(&str, &str, &str, Outcome); 21] = [
    ("system", "a.example", "mode: SIMPLE", ASKS_FOR_A),
    ("port", "A.example:8080", "mode: SIMPLE", ASKS_FOR_A),
    ("http1", "a.example", "mode: SIMPLE", HTTP1),
    ("http2", "a.example", UPGRADE, HTTP2),
    ("group", "a.example", "mode: SIMPLE", QUANTUM),
    ("host", "b.example", "mode: SIMPLE", NOT_B),
    ("address", "192.0.2.1:80", "mode: SIMPLE", Err("not valid for name")),
    ("file", "a.example", "mode: SIMPLE, caCertificates: ONE", ASKS_FOR_A),
    ("wrong", "a.example", "mode: SIMPLE, caCertificates: TWO", NOT_TRUSTED),
    ("sni", "b.example", "mode: SIMPLE, sni: a.example", ASKS_FOR_A),
    ("othersni", "a.example", "mode: SIMPLE, sni: b.example", NOT_B),
    ("san", "a.example", "mode: SIMPLE, sni: b.example, subjectAltNames: [x, a.example]", ANYTHING),
    ("nosan", "a.example", "mode: SIMPLE, subjectAltNames: [x]", Err("it is for none of the names x")),
    ("skip", "b.example", "mode: SIMPLE, caCertificates: TWO, insecureSkipVerify: true", ANYTHING),
    ("wrongsan", "a.example", "mode: SIMPLE, caCertificates: TWO, subjectAltNames: [a.example]", NOT_TRUSTED),
    ("secret", "a.example", "mode: SIMPLE, credentialName: one", ASKS_FOR_A),
    ("wrongsecret", "a.example", "mode: SIMPLE, credentialName: two", NOT_TRUSTED),
    ("nosecret", "a.example", "mode: SIMPLE, credentialName: none", Err("istio-system/none is not there")),
    ("nofile", "a.example", "mode: SIMPLE, caCertificates: /nowhere/ca", Err("/nowhere/ca")),
    ("nopair", "a.example", "mode: MUTUAL, credentialName: one", Err("client certificate istio-system/one")),
    ("mesh", "a.example", "mode: ISTIO_MUTUAL", Err("")),
];

/// Sends a request that must fail, of which the log must say why.
async fn refused(gateway: &Gateway, service: &str, host: &str, why: &str, flag: &str) -> Result<()> {
    let mark = gateway.log.count();
    let answer = exchange(&request(gateway, service, host)).await.map_err(failed)?;
    ensure!(answer.status == 503, "{service}: {} {}", answer.status, answer.text());
    let line = gateway.log.find(mark, PATIENCE, |l| l.contains(&format!("/{service}/"))).await;
    let line: serde_json::Value = serde_json::from_str(&line.context("no line")?)?;
    let reason = line["upstream_transport_failure_reason"].as_str().unwrap_or_default();
    ensure!(reason.contains(why) && line["response_flags"] == flag, "{service}: {line}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_is_who_the_policy_says_or_gets_nothing() -> Result<()> {
    let stage = Stage::new()?;
    let (at, _upstream) = stage.simple().await?;
    let policy = |settings: &str| {
        let settings = settings.replace("ONE", &stage.file("one.pem")).replace("TWO", &stage.file("two.pem"));
        format!("tls: {{{settings}}}")
    };
    let services = POLICIES.map(|(name, _, settings, _)| Service::new(name, at, policy(settings)));
    for (name, authority) in [("one-cacert", &stage.authority), ("two", &stage.other)] {
        stage.site.write(&format!("{name}.yaml"), &secret(name, &[("ca.crt", &authority.certificate())])?)?;
    }
    stage.site.write("routes.yaml", &config(&services))?;
    let gateway = stage.start().await?;
    for (name, host, _, expected) in POLICIES {
        match expected {
            Ok(as_expected) => {
                let seen = ask(&gateway, name, host).await.context(name)?;
                ensure!(as_expected(&seen), "{name}: {seen:?}");
            }
            Err("") => refused(&gateway, name, host, "", "NC").await?,
            Err(why) => refused(&gateway, name, host, why, "UF").await?,
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
    stage.site.write("pair.yaml", &pair(&me, &stage.authority)?)?;
    let files = format!(
        "tls: {{mode: MUTUAL, clientCertificate: {}, privateKey: {}}}",
        stage.file("me.pem"),
        stage.file("me.key")
    );
    let simple = "tls: {mode: SIMPLE}";
    let mut named = Service::new("named", h1, "tls: {mode: SIMPLE, sni: b.example}");
    named.more = ", subjectAltNames: [a.example]".into();
    let client = "connectionPool: {http: {useClientProtocol: true}}";
    let soon = "connectionPool: {tcp: {connectTimeout: 300ms}}";
    let services = [
        Service::new("pair", mutual, "tls: {mode: MUTUAL, credentialName: pair}"),
        Service::new("files", mutual, files),
        Service::new("h2", h2, simple).speaking("HTTP2"),
        Service::new("h1", h1, simple),
        named,
        Service::new("client", h1, format!("{simple}, {client}")),
        Service::new("h1asked", h2, simple),
        Service::new("notls", plain, simple),
        Service::new("nocert", mutual, simple),
        Service::new("silent", silent.local_addr()?, format!("{simple}, {soon}")),
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
    for (service, why, flag) in [
        ("h1asked", "TLS_error", "UF"),
        ("notls", "TLS_error", "UF"),
        ("silent", "connect timeout", "UF"),
        ("nocert", "TLS_error: received fatal alert: CertificateRequired", "UC"),
    ] {
        refused(&gateway, service, "a.example", why, flag).await?;
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
async fn another_secret_costs_no_request() -> Result<()> {
    let stage = Stage::new()?;
    let wants = Wants {
        tls: Some(stage.identity("a.example")?),
        clients: Some(stage.authority.certificate()),
        ..Wants::default()
    };
    let (at, upstream) = stage.upstream(wants).await?;
    let pair = |name: &str| pair(&stage.authority.issue(name, &[name.to_owned()])?, &stage.authority);
    let service = Service::new("it", at, "tls: {mode: MUTUAL, credentialName: pair}");
    stage.site.write("pair.yaml", &pair("first")?)?;
    stage.site.write("routes.yaml", &config(&[service]))?;
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
    // connections are kept, and used again; by which request depends on what else its worker has
    until("a connection that is used again", || async {
        let before = upstream.connections();
        anyhow::Ok(ask(gateway, "it", "a.example").await?.connection <= before)
    })
    .await?;
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
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_trusted_before_gets_nothing_any_more() -> Result<()> {
    let stage = Stage::new()?;
    let (at, _upstream) = stage.simple().await?;
    let policy = |name: &str| {
        let file = format!("tls: {{mode: SIMPLE, caCertificates: {}, sni: {name}}}", stage.file("ca.pem"));
        let secret = format!("tls: {{mode: SIMPLE, credentialName: ca, sni: {name}}}");
        let http2 = Service::new("secret", at, secret).speaking("HTTP2");
        config(&[Service::new("file", at, file), http2])
    };
    let trust = |authority: &Authority| {
        stage.site.write("ca.pem", &authority.certificate())?;
        stage.site.write("ca.yaml", &secret("ca", &[("ca.crt", &authority.certificate())])?)
    };
    trust(&stage.authority)?;
    stage.site.write("routes.yaml", &policy("a.example"))?;
    let gateway = stage.start().await?;
    let mut clients = Vec::new();
    for service in ["file", "secret"] {
        let request = request(&gateway, service, "x.example");
        clients.push((Connection::open(&request).await.map_err(failed)?, request));
    }
    // each has a connection that is kept, and those of before must not be used any more once one gets another answer
    let mut becomes = async |status: u16| {
        for (kept, request) in &mut clients {
            until("another answer", || async {
                anyhow::Ok(exchange(request).await.map_err(failed)?.status == status)
            })
            .await?;
            for _ in 0..10 {
                let got = kept.send(request).await.map_err(failed)?.status;
                ensure!(got == status, "{got} over a connection that is kept");
            }
        }
        anyhow::Ok(())
    };
    becomes(200).await?;
    trust(&stage.other)?;
    becomes(503).await?;
    trust(&stage.authority)?;
    becomes(200).await?;
    stage.site.write("routes.yaml", &policy("b.example"))?;
    becomes(503).await?;
    stage.site.write("routes.yaml", &policy("a.example"))?;
    becomes(200).await?;
    // what is gone is not replaced by anything
    std::fs::remove_file(stage.site.path().join("ca.yaml"))?;
    std::fs::remove_file(stage.site.path().join("ca.pem"))?;
    becomes(503).await
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

const MESH: &str = "---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data:
  mesh: |
    defaultProviders: {tracing: [spans]}
    defaultConfig: {tracing: {sampling: 100}}
    extensionProviders:
    - {name: spans, opentelemetry: {service: spans.example, port: 443, http: {path: /v1/traces}}}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_and_spans_go_by_tls_too() -> Result<()> {
    let stage = Stage::new()?;
    let (at, upstream) = stage.simple().await?;
    let simple = "tls: {mode: SIMPLE}";
    let services = [
        Service::new("it", at, simple),
        Service::new("copy", at, simple),
        Service::new("spans", at, "tls: {mode: SIMPLE, sni: a.example}"),
    ];
    let rule = "  - {match: [{uri: {prefix: /both/}}], route: [{destination: {host: it.example}}], mirror: {host: \
                copy.example}}\n";
    let mut text = format!("{ROUTES}{rule}");
    services.iter().for_each(|service| text += &service.objects());
    stage.site.write("routes.yaml", &(text + MESH))?;
    let gateway = stage.start().await?;
    seen(&exchange(&request(&gateway, "both", "a.example")).await.map_err(failed)?)?;
    let upstream = &upstream;
    let came = |path: &'static str, times: usize| async move {
        let of_path = |seen: &&Seen| seen.path.as_deref() == Some(path);
        let all = upstream.requests();
        anyhow::Ok(
            all.iter().filter(of_path).filter(|s| s.sni.as_deref() == Some("a.example")).count() >= times,
        )
    };
    until("a request and its copy", || came("/both/", 2)).await?;
    until("spans", || came("/v1/traces", 1)).await
}
