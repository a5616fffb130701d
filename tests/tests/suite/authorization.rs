//! AuthorizationPolicies: what they let through, for requests and for connections, and what providers decide.

mod provider;
mod providers;

use crate::reload::{Site, forward_to};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tidegate_tests::{
    Authority, Backend, Connection, Gateway, Net, Request, Start, TokenSigner, Version, check, exchange, get,
    objects,
};

/// How soon a line must be there.
const SOON: Duration = Duration::from_secs(10);

/// Policies of the gateway, by name and spec.
fn policies(list: &[(&str, &str)]) -> String {
    let one = |(name, spec): &(&str, &str)| {
        let dry_run = if name.starts_with("dry") { ", annotations: {istio.io/dry-run: 'true'}" } else { "" };
        format!(
            "\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: {name}, namespace: istio-system{dry_run}}}\nspec: {spec}\n"
        )
    };
    list.iter().map(one).collect()
}

/// A gateway with a workload behind it.
struct World {
    backend: Backend,
    site: Site,
    gateway: Gateway,
    _net: Net,
}

impl World {
    async fn start(more: &str, policies: &str) -> Result<World> {
        let (net, backend, site) = (Net::reserve()?, Backend::default(), Site::new()?);
        let workload = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
        backend.listen(workload).await?;
        site.write("site.yaml", &(forward_to(&[workload]) + more))?;
        site.write("policies.yaml", policies)?;
        let gateway = Start::with(site.path()).start(&net).await?;
        Ok(World { backend, site, gateway, _net: net })
    }

    async fn policies(&self, policies: &str) -> Result<()> {
        let generation = self.gateway.generation().await?;
        self.site.replace("policies.yaml", policies)?;
        self.gateway.wait_for_generation_after(generation).await?;
        Ok(())
    }

    fn request(&self, path: &str) -> Request {
        Request::to(self.gateway.at(8080)).host("www.example.com").path(path)
    }

    async fn metric(&self, result: &str) -> Result<u64> {
        let text = get(self.gateway.status(), "localhost", "/stats/prometheus").await?.text();
        let name = format!("tidegate_authorization_total{{result=\"{result}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name)).context("no such metric")?;
        Ok(line.parse()?)
    }
}

const DENIED: &str = "RBAC: access denied";

#[tokio::test]
async fn policies_decide_about_requests() -> Result<()> {
    let signer = TokenSigner::new()?;
    let tokens = format!(
        "\n---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tokens, namespace: \
         istio-system}}\nspec: {{jwtRules: [{{issuer: here, jwks: '{}'}}]}}\n",
        signer.key_set()?
    );
    let world = World::start(
        &tokens,
        &policies(&[
            (
                "allow",
                "{rules: [{to: [{operation: {paths: [/public/*, '/files/{*}/read'], methods: [GET, HEAD, OPTIONS]}}]}, \
                 {from: [{source: {requestPrincipals: [here/me]}}]}, \
                 {from: [{source: {ipBlocks: [127.0.0.0/8]}}], to: [{operation: {paths: [/local]}}]}, \
                 {when: [{key: 'request.headers[x-tenant]', values: [acme]}]}]}",
            ),
            (
                "deny",
                "{action: DENY, rules: [{to: [{operation: {paths: [/public/secret, '*.key']}}]}, \
                 {to: [{operation: {hosts: [admin.example.com]}}]}, \
                 {when: [{key: 'request.headers[x-bad]', values: ['evil*']}]}, \
                 {from: [{source: {notRemoteIpBlocks: [127.0.0.0/8]}}]}, \
                 {when: [{key: 'request.headers[:authority]', values: [hidden.example.com]}]}]}",
            ),
            ("audit", "{action: AUDIT, rules: [{to: [{operation: {methods: [HEAD]}}]}]}"),
            ("dry", "{action: DENY, rules: [{to: [{operation: {paths: [/public/new]}}]}]}"),
        ]),
    )
    .await?;
    let token = signer.sign(json!({"iss": "here", "sub": "me"}).as_object().context("claims")?, false)?;
    let bearer = format!("Bearer {token}");
    let get = |path: &str| world.request(path);
    let deny = |rule: &str| format!("ns[istio-system]-policy[deny]-rule[{rule}]");
    for (request, by) in [
        (get("/public/a"), None),
        (get("/public/a").version(Version::Http2), None),
        (get("/public/a").method("POST"), Some("none".to_owned())),
        (get("/files/1/read"), None),
        (get("/files/1/2/read"), Some("none".to_owned())),
        (get("/private"), Some("none".to_owned())),
        (get("/private").header("authorization", &bearer), None),
        (get("/local"), None),
        (get("/any").header("x-tenant", "acme"), None),
        (get("/any").header("x-tenant", "acme").header("x-tenant", "other"), Some("none".to_owned())),
        (get("/public/secret"), Some(deny("0"))),
        (get("/public/secret").version(Version::Http2), Some(deny("0"))),
        (get("/public/%73ecret"), Some(deny("0"))),
        (get("/public/x/../secret?q"), Some(deny("0"))),
        (get("/public/server.key"), Some(deny("0"))),
        (get("/public/a").host("ADMIN.example.com"), Some(deny("1"))),
        (get("/public/a").host("admin.example.com:8080"), Some(deny("1"))),
        (get("/public/a").host("Hidden.Example.com.:8080"), Some(deny("4"))),
        (get("/public/a").header("x-bad", "evil1"), Some(deny("2"))),
        (get("/public/a").header("x_bad", "evil1"), Some(deny("2"))),
        (get("/any").header("x-tenant", "acme").header("x_tenant", "other"), Some("none".to_owned())),
        (get("/public/a").header("x-bad", "fine").header("x-bad", "evil2"), Some(deny("2"))),
        (get("/public/new"), None),
        (get("/public/a").method("HEAD"), None),
        // a preflight is a request like any other for policies
        (
            get("/private")
                .method("OPTIONS")
                .header("origin", "http://a")
                .header("access-control-request-method", "GET"),
            Some("none".to_owned()),
        ),
    ] {
        let hits = world.backend.hits().len();
        let mark = world.gateway.log.since(0).len();
        let answer = exchange(&request).await?;
        let about = format!("{} {} {:?}", request.method, request.path, request.headers);
        let passed = world.backend.hits().len() - hits;
        match by {
            None => ensure!((answer.status, passed) == (200, 1), "{about}: {} {passed}", answer.status),
            Some(by) => {
                ensure!((answer.status, passed) == (403, 0), "{about}: {} {passed}", answer.status);
                ensure!(answer.text() == DENIED, "{about}: {}", answer.text());
                let details = format!("rbac_access_denied_matched_policy[{by}]");
                let line = world.gateway.log.find(mark, SOON, |line| line.contains(&details)).await;
                let line: Value =
                    serde_json::from_str(&line.with_context(|| format!("{about}: no {details}"))?)?;
                ensure!(
                    (&line["response_code"], &line["response_flags"]) == (&json!(403), &json!("-")),
                    "{line}"
                );
            }
        }
    }
    // of a call, the status is that of gRPC
    let call =
        get("/private").method("POST").version(Version::Http2).header("content-type", "application/grpc");
    let answer = exchange(&call).await?;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("7")), "{:?}", answer.headers);
    assert_eq!(world.metric("audited").await?, 1);
    assert_eq!(world.metric("dry_run_denied").await?, 1);
    assert_eq!((world.metric("denied").await?, world.metric("allowed").await?), (18, 8));
    explained(&world).await
}

/// Who decided is said by the page that explains, too.
async fn explained(world: &World) -> Result<()> {
    let page = |url: &str| {
        let query = format!("/explain?url=http://www.example.com:8080{url}&client=127.0.0.1");
        async move { world.gateway.page(&query).await }
    };
    let denied = page("/public/secret").await?;
    assert_eq!((&denied["outcome"], &denied["status"]), (&json!("deny"), &json!(403)), "{denied}");
    assert_eq!(denied["rule"]["kind"], "AuthorizationPolicy", "{denied}");
    assert_eq!(denied["rule"]["name"], "deny", "{denied}");
    let none = page("/private").await?;
    assert_eq!(none["reason"], "rbac_access_denied_matched_policy[none]", "{none}");
    let asked = none["policies"].as_array().context("no policies")?;
    let lost = asked.iter().find(|p| p["rule"]["name"] == "allow").context("not asked")?;
    ensure!(lost["lost_by"].as_str().is_some_and(|why| why.contains("path is none of /public/*")), "{lost}");
    let passes = page("/public/a").await?;
    assert_eq!(passes["outcome"], "forward", "{passes}");
    Ok(())
}

/// No policy is about the TLS of the mesh: this comes as far as the workload, which speaks none.
async fn mesh_tls_passes(gateway: &Gateway, workload: SocketAddr) -> Result<()> {
    let mark = gateway.log.since(0).len();
    let mut mesh = Request::to(gateway.at(9443)).tls("outbound_.9000_._.bytes.example");
    mesh.tls.as_mut().context("no TLS")?.alpn = vec!["istio"];
    ensure!(Connection::open(&mesh).await.is_err(), "the workload speaks TLS");
    let line = gateway.log.find(mark, SOON, |l| l.contains("outbound_.9000_._.bytes.example")).await;
    let line: Value = serde_json::from_str(&line.context("not logged")?)?;
    ensure!(line["upstream_host"] == json!(workload.to_string()), "{line}");
    Ok(())
}

#[tokio::test]
async fn policies_decide_about_connections() -> Result<()> {
    let (net, backend, site) = (Net::reserve()?, Backend::default(), Site::new()?);
    let workload = SocketAddr::new(IpAddr::V4(net.next()?), 9000);
    backend.listen(workload).await?;
    let routes = format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: bytes}}\nspec:\n  selector: \
         {{istio: ingressgateway}}\n  servers: [{{port: {{number: 9000, name: tcp, protocol: TCP}}, hosts: ['*']}}, {{port: \
         {{number: 9443, name: tls, protocol: TLS}}, hosts: ['*.example'], tls: {{mode: AUTO_PASSTHROUGH}}}}]\n\
         ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: bytes}}\nspec:\n  hosts: \
         ['*']\n  gateways: [bytes]\n  tcp: [{{route: [{{destination: {{host: bytes.example, port: {{number: 9000}}}}}}]}}]\n\
         ---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: bytes}}\nspec:\n  hosts: \
         [bytes.example]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{{number: 9000, name: tcp, protocol: TCP}}]\n  endpoints: \
         [{{address: {}, labels: \
         {{security.istio.io/tlsMode: istio}}}}]\n",
        workload.ip()
    );
    site.write("routes.yaml", &routes)?;
    let gateway = Start::with(site.path()).start(&net).await?;
    for (policy, passes) in [
        ("{action: DENY, rules: [{from: [{source: {ipBlocks: [127.0.0.0/8]}}]}]}", false),
        ("{action: DENY, rules: [{from: [{source: {ipBlocks: [192.0.2.0/24]}}]}]}", true),
        ("{action: DENY, rules: [{to: [{operation: {ports: ['9000']}}]}]}", false),
        // what requests have is not asked of a connection
        ("{action: DENY, rules: [{to: [{operation: {paths: [/a], ports: ['1']}}]}]}", true),
        ("{action: DENY, rules: [{to: [{operation: {paths: [/a]}}]}]}", false),
        ("{rules: [{to: [{operation: {paths: ['*']}}]}]}", false),
        ("{rules: [{to: [{operation: {ports: ['9000']}}]}]}", true),
        ("{rules: []}", false),
    ] {
        let generation = gateway.generation().await?;
        site.replace("policies.yaml", &policies(&[("p", policy)]))?;
        gateway.wait_for_generation_after(generation).await?;
        let (hits, mark) = (backend.hits().len(), gateway.log.since(0).len());
        let mut connection = Connection::open(&Request::to(gateway.at(9000))).await?;
        let echoed = connection.echo(b"\x01hello").await;
        ensure!(echoed.is_ok() == passes, "{policy}: {echoed:?}");
        ensure!((backend.hits().len() > hits) == passes, "{policy}");
        if !passes {
            let line =
                gateway.log.find(mark, SOON, |l| l.contains("rbac_access_denied_matched_policy")).await;
            ensure!(line.is_some(), "{policy}: {}", gateway.log.tail());
        }
        mesh_tls_passes(&gateway, workload).await.context(policy)?;
    }
    // a provider is asked about a connection by gRPC
    let at = SocketAddr::new(IpAddr::V4(net.next()?), 8081);
    let provider = provider::Provider::start(at).await?;
    let generation = gateway.generation().await?;
    let custom = policies(&[("p", "{action: CUSTOM, provider: {name: me}, rules: [{}]}")]);
    let mesh = providers::mesh("envoyExtAuthzGrpc", "timeout: 5s");
    site.replace("policies.yaml", &(custom + &providers::entry(at, "GRPC") + &mesh))?;
    gateway.wait_for_generation_after(generation).await?;
    let request = Request::to(gateway.at(9000));
    assert_eq!(Connection::open(&request).await?.echo(b"\x01hello").await?, b"\x01hello");
    assert_eq!(provider.asked().len(), 1);
    drop(provider);
    let mark = gateway.log.since(0).len();
    let unasked = Connection::open(&request).await?.echo(b"\x01hello").await;
    let line = gateway.log.find(mark, SOON, |line| line.contains("ext_authz_error")).await;
    ensure!(unasked.is_err() && line.is_some_and(|line| line.contains("UAEX")), "{}", gateway.log.tail());
    Ok(())
}

#[tokio::test]
async fn ip_blocks_are_about_who_sends_the_packets() -> Result<()> {
    let mesh = "\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: \
                \"defaultConfig: {gatewayTopology: {proxyProtocol: {}}}\"\n";
    let world = World::start(mesh, "").await?;
    let told = "PROXY TCP4 203.0.113.9 192.0.2.1 5555 80\r\nGET /a HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
    for (source, expected) in [
        ("ipBlocks: [127.0.0.0/8]", 403),
        ("ipBlocks: [203.0.113.9]", 200),
        ("remoteIpBlocks: [127.0.0.0/8]", 200),
        ("remoteIpBlocks: [203.0.113.9]", 403),
    ] {
        let deny = format!("{{action: DENY, rules: [{{from: [{{source: {{{source}}}}}]}}]}}");
        world.policies(&policies(&[("p", &deny)])).await?;
        let mut connection = Connection::open(&world.request("/a")).await?;
        let status = connection.send_raw(told.as_bytes(), "GET", false).await?.status;
        ensure!(status == expected, "{source}: {status}");
    }
    Ok(())
}

#[tokio::test]
async fn identities_are_those_of_clients_certificates() -> Result<()> {
    let authority = Authority::new("identities")?;
    let server = authority.issue("edge", &["a.example".into()])?;
    let ca = authority.certificate().trim_end().replace('\n', "\n    ");
    let secret = format!("{}  ca.crt: |\n    {ca}\n", objects::secret("edge", &server));
    let routes = "\n---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: tls, namespace: istio-system}\n\
                  spec:\n  selector: {istio: ingressgateway}\n  servers: [{port: {number: 8443, name: tls, protocol: HTTPS}, \
                  hosts: [a.example], tls: {mode: OPTIONAL_MUTUAL, credentialName: edge}}]\n---\n\
                  apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: tls, namespace: istio-system}\n\
                  spec: {hosts: [a.example], gateways: [tls], http: [{directResponse: {status: 200}}]}\n---\n";
    let world = World::start(&(routes.to_owned() + &secret), "").await?;
    let workload = authority.issue("workload", &["spiffe://cluster.local/ns/a/sa/b".into()])?;
    let person = authority.issue("person", &["person.example".into()])?;
    // by the workload, by the person, without a certificate
    for (action, source, expected) in [
        ("DENY", "principals: [cluster.local/ns/a/sa/b]", [403, 200, 200]),
        ("DENY", "namespaces: [a]", [403, 200, 200]),
        ("DENY", "serviceAccounts: [a/b]", [403, 200, 200]),
        ("DENY", "trustDomains: [cluster.local]", [403, 200, 200]),
        ("DENY", "notPrincipals: ['*']", [200, 200, 403]),
        ("ALLOW", "principals: [cluster.local/ns/a/sa/b]", [200, 403, 403]),
        ("ALLOW", "principals: ['*']", [200, 200, 403]),
        ("ALLOW", "notNamespaces: [a]", [403, 200, 200]),
    ] {
        let spec = format!("{{action: {action}, rules: [{{from: [{{source: {{{source}}}}}]}}]}}");
        world.policies(&policies(&[("p", &spec)])).await?;
        for (identity, expected) in [Some(&workload), Some(&person), None].into_iter().zip(expected) {
            let mut request = Request::to(world.gateway.at(8443)).host("a.example").tls("a.example");
            request.tls.as_mut().context("no TLS")?.identity = identity.cloned();
            let status = exchange(&request).await?.status;
            ensure!(
                status == expected,
                "{action} {source}: {status}, not {expected}; {}",
                world.gateway.said()
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_broken_policy_keeps_its_last_version_or_denies() -> Result<()> {
    let good = policies(&[("p", "{action: DENY, rules: [{to: [{operation: {paths: [/secret]}}]}]}")]);
    let broken = good.replace("paths:", "pathes:");
    let world = World::start("", &broken).await?;
    for (policy, open, secret) in [
        (None, 403, 403),
        (Some(&good), 200, 403),
        (Some(&broken), 200, 403),
        (Some(&String::new()), 200, 200),
    ] {
        match policy {
            Some(policy) if *policy == broken => {
                world.site.replace("policies.yaml", policy)?;
                let kept = |line: &str| line.contains("its last good version keeps serving");
                ensure!(
                    world.gateway.messages.find(0, SOON, kept).await.is_some(),
                    "{}",
                    world.gateway.said()
                );
            }
            Some(policy) => world.policies(policy).await?,
            None => {}
        }
        for (path, expected) in [("/open", open), ("/secret", secret)] {
            let status = exchange(&world.request(path)).await?.status;
            ensure!(status == expected, "{path} {policy:?}: {status}; {}", world.gateway.said());
        }
    }
    let said =
        world.gateway.messages.find(0, SOON, |l| l.contains("every request to this gateway is denied")).await;
    ensure!(said.is_some(), "{}", world.gateway.said());
    Ok(())
}

/// Istio's own policies: with `TIDEGATE_ISTIO_POLICIES=DIR` (`pilot/pkg/security/authz/builder/testdata` of its
/// sources), each is read without an error but for the providers that they name.
#[test]
fn istios_own_policies_load() -> Result<()> {
    let Some(folder) = std::env::var_os("TIDEGATE_ISTIO_POLICIES").map(PathBuf::from) else {
        crate::say(
            "not run: authorization::istios_own_policies_load; set TIDEGATE_ISTIO_POLICIES to \
             pilot/pkg/security/authz/builder/testdata of Istio's sources\n",
        );
        return Ok(());
    };
    let mut read = 0;
    for kind in ["http", "tcp"] {
        for file in std::fs::read_dir(folder.join(kind))? {
            let file = file?.path();
            if !file.to_string_lossy().ends_with("-in.yaml") {
                continue;
            }
            let arguments = ["--check", "-o", "json", "--namespace", "foo", "--label", "app=httpbin"];
            let arguments = arguments.iter().chain(&["--label", "version=v1", "--config"]).map(AsRef::as_ref);
            let out = check(arguments.chain([file.as_os_str()]))?;
            let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
            let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let errors = lines.filter(|d| d["severity"] == "error" && d["field"] != "spec.provider.name");
            ensure!(errors.count() == 0, "{}: {said}", file.display());
            ensure!(!said.contains("does not select this gateway"), "{}: {said}", file.display());
            read += 1;
        }
    }
    ensure!(read > 20, "only {read} files");
    Ok(())
}
