//! Files change while requests flow.

use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tidegate_tests::{Backend, Behaviour, Connection, Gateway, Net, Request, Start, exchange, get};

/// A folder of config with a Gateway on port 8080 in it.
pub(crate) struct Site(TempDir);

const GATEWAY: &str = r#"apiVersion: networking.istio.io/v1
kind: Gateway
metadata:
  name: site
spec:
  selector:
    istio: ingressgateway
  servers:
  - port: {number: 8080, name: http, protocol: HTTP}
    hosts: ["*"]
"#;

/// The head of a VirtualService that holds every host of the Gateway.
pub(crate) const ROUTES: &str = r#"apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: routes
spec:
  hosts: ["*"]
  gateways: [site]
  http:
"#;

impl Site {
    pub(crate) fn new() -> Result<Self> {
        let site = Site(tempfile::tempdir()?);
        site.write("gateway.yaml", GATEWAY)?;
        Ok(site)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file in place.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(std::fs::write(self.path().join(name), text)?)
    }

    /// Writes a file beside, and renames it into place.
    pub(crate) fn replace(&self, name: &str, text: &str) -> Result<()> {
        let beside = self.path().join(format!(".{name}.new"));
        std::fs::write(&beside, text)?;
        Ok(std::fs::rename(beside, self.path().join(name))?)
    }
}

/// A VirtualService that answers everything with this text.
fn saying(text: &str) -> String {
    format!("{ROUTES}  - directResponse: {{status: 200, body: {{string: {text}}}}}\n")
}

/// A VirtualService that forwards everything to these workloads.
pub(crate) fn forward_to(workloads: &[SocketAddr]) -> String {
    let mut text = format!("{ROUTES}  - route: [{{destination: {{host: workloads.example}}}}]\n");
    text +=
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: workloads}\nspec:\n";
    text += "  hosts: [workloads.example]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n";
    text += "  ports: [{number: 80, name: http, protocol: HTTP}]\n  endpoints:\n";
    for at in workloads {
        let _ = writeln!(text, "  - {{address: {}, ports: {{http: {}}}}}", at.ip(), at.port());
    }
    text
}

async fn said(gateway: &Gateway) -> Result<String> {
    Ok(get(gateway.at(8080), "a.example", "/").await?.text())
}

#[tokio::test]
async fn edits_renames_and_removals_go_live() -> Result<()> {
    let (net, site) = (Net::reserve()?, Site::new()?);
    site.write("routes.yaml", &saying("one"))?;
    let gateway = Start::with(site.path()).start(&net).await?;
    assert_eq!(said(&gateway).await?, "one");
    let mut generation = gateway.generation().await?;
    site.write("routes.yaml", &saying("two"))?;
    generation = gateway.wait_for_generation_after(generation).await?;
    assert_eq!(said(&gateway).await?, "two");
    site.replace("routes.yaml", &saying("three"))?;
    generation = gateway.wait_for_generation_after(generation).await?;
    assert_eq!(said(&gateway).await?, "three");
    std::fs::remove_file(site.path().join("routes.yaml"))?;
    generation = gateway.wait_for_generation_after(generation).await?;
    assert_eq!(get(gateway.at(8080), "a.example", "/").await?.status, 404);
    std::fs::create_dir(site.path().join("new"))?;
    site.write("new/routes.yaml", &saying("four"))?;
    gateway.wait_for_generation_after(generation).await?;
    assert_eq!(said(&gateway).await?, "four");
    Ok(())
}

#[tokio::test]
async fn a_swapped_symlink_is_one_change() -> Result<()> {
    use std::os::unix::fs::symlink;
    let (net, folder) = (Net::reserve()?, tempfile::tempdir()?);
    let at = |name: &str| folder.path().join(name);
    for (version, text) in [("..1", "one"), ("..2", "two")] {
        std::fs::create_dir(at(version))?;
        std::fs::write(at(version).join("gateway.yaml"), GATEWAY)?;
        std::fs::write(at(version).join("routes.yaml"), saying(text))?;
    }
    symlink("..1", at("..data"))?;
    for file in ["gateway.yaml", "routes.yaml"] {
        symlink(Path::new("..data").join(file), at(file))?;
    }
    let gateway = Start::with(folder.path()).start(&net).await?;
    assert_eq!(said(&gateway).await?, "one");
    let before = gateway.generation().await?;
    symlink("..2", at("..data_tmp"))?;
    std::fs::rename(at("..data_tmp"), at("..data"))?;
    gateway.wait_for_generation_after(before).await?;
    assert_eq!(said(&gateway).await?, "two");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(gateway.generation().await?, before + 1, "a swap is one change");
    Ok(())
}

#[tokio::test]
async fn a_broken_edit_keeps_the_last_good_version() -> Result<()> {
    let (net, site) = (Net::reserve()?, Site::new()?);
    site.write("routes.yaml", &saying("one"))?;
    let gateway = Start::with(site.path()).start(&net).await?;
    let generation = gateway.generation().await?;
    let mark = gateway.messages.count();
    site.write("routes.yaml", "spec: {hosts: [\n\t- nonsense")?;
    let complaint = gateway.messages.find(mark, Duration::from_secs(30), |l| l.contains("routes.yaml")).await;
    complaint.context("nothing was said about the broken file")?;
    assert_eq!(said(&gateway).await?, "one");
    site.write("routes.yaml", &saying("two"))?;
    gateway.wait_for_generation_after(generation).await?;
    let patience = Instant::now() + Duration::from_secs(30);
    while said(&gateway).await? != "two" {
        ensure!(Instant::now() < patience, "the mended file is not served");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_request_in_flight_keeps_its_route() -> Result<()> {
    let (net, backend, site) = (Net::reserve()?, Backend::default(), Site::new()?);
    let workload = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
    backend.listen(workload).await?;
    let slow = Behaviour { delay: Some("1s".into()), ..Behaviour::default() };
    backend.begin(&slow, &BTreeMap::new());
    site.write("routes.yaml", &forward_to(&[workload]))?;
    let gateway = Start::with(site.path()).start(&net).await?;
    let generation = gateway.generation().await?;
    let request = Request::to(gateway.at(8080));
    let in_flight = tokio::spawn(async move { exchange(&request).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    site.write("routes.yaml", &saying("after"))?;
    gateway.wait_for_generation_after(generation).await?;
    assert_eq!(said(&gateway).await?, "after");
    let answer = in_flight.await??;
    assert_eq!((answer.status, Backend::id_of(&answer.headers)), (200, Some(1)));
    Ok(())
}

#[tokio::test]
async fn no_request_fails_while_the_config_changes() -> Result<()> {
    const CHANGES: usize = 15;
    let (net, backend, site) = (Net::reserve()?, Backend::default(), Site::new()?);
    let mut workloads = Vec::new();
    for _ in 0..2 {
        let at = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
        backend.listen(at).await?;
        workloads.push(at);
    }
    site.write("routes.yaml", &forward_to(&workloads))?;
    let gateway = Start::with(site.path()).start(&net).await?;
    let (to, stop) = (gateway.at(8080), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..4).map(|i| tokio::spawn(load(to, i % 2 == 0, stop.clone()))).collect();
    let mut generation = gateway.generation().await?;
    for i in 0..CHANGES {
        let text = match i % 3 {
            0 => saying("direct"),
            1 => forward_to(&workloads[..1]),
            _ => forward_to(&workloads),
        };
        site.replace("routes.yaml", &text)?;
        generation = gateway.wait_for_generation_after(generation).await?;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let answered = client.await??;
        assert!(answered > CHANGES, "only {answered} requests saw {CHANGES} changes");
    }
    Ok(())
}

#[tokio::test]
async fn a_listener_without_a_descriptor_to_accept_with_gets_one_later() -> Result<()> {
    let (net, site) = (Net::reserve()?, Site::new()?);
    site.write("routes.yaml", &saying("one"))?;
    let gateway = Start::with(site.path()).arg("--concurrency").arg("1").start(&net).await?;
    // one for the socket that listens, and none for the worker's own
    limit_descriptors(&gateway, lowest_free_descriptor(&gateway).await? + 1)?;
    let mark = gateway.messages.count();
    let port = "  - port: {number: 8081, name: more, protocol: HTTP}\n    hosts: ['*']\n";
    site.replace("gateway.yaml", &(GATEWAY.to_owned() + port))?;
    let complaint = |l: &str| l.contains("cannot accept, trying again");
    let complaint = gateway.messages.find(mark, Duration::from_secs(20), complaint).await;
    complaint.with_context(|| format!("nothing is said about it: {:?}", gateway.messages.since(mark)))?;
    limit_descriptors(&gateway, 1024)?;
    assert_eq!(get(gateway.at(8081), "a.example", "/").await?.text(), "one");
    Ok(())
}

/// The number that the process's next file or socket gets, once it opens and closes nothing.
async fn lowest_free_descriptor(gateway: &Gateway) -> Result<usize> {
    let folder = format!("/proc/{}/fd", gateway.id());
    let open = || -> Result<BTreeSet<usize>> {
        let names = std::fs::read_dir(&folder)?.map(|entry| entry.map(|e| e.file_name()));
        names.map(|name| Ok(name?.to_string_lossy().parse()?)).collect()
    };
    let (mut seen, mut still) = (open()?, 0);
    while still < 20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = open()?;
        still = if now == seen { still + 1 } else { 0 };
        seen = now;
    }
    (0..).find(|n| !seen.contains(n)).context("no number is left")
}

/// Lets the process open descriptors below this number only.
fn limit_descriptors(gateway: &Gateway, limit: usize) -> Result<()> {
    let (id, limit) = (gateway.id().to_string(), format!("--nofile={limit}:"));
    let set = std::process::Command::new("prlimit").args(["--pid", &id, &limit]).status()?;
    ensure!(set.success(), "prlimit ended with {set}");
    Ok(())
}

/// Sends requests until told to stop; fails at the first that is not answered with 200.
async fn load(to: SocketAddr, keep: bool, stop: Arc<AtomicBool>) -> Result<usize> {
    let request = Request::to(to);
    let mut connection = Connection::open(&request).await?;
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        if !keep {
            connection = Connection::open(&request).await?;
        }
        let answer = connection.send(&request).await.with_context(|| format!("request {answered}"))?;
        ensure!(answer.status == 200, "request {answered} got {}: {}", answer.status, answer.text());
        answered += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(answered)
}
