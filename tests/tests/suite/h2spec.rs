//! h2spec, the conformance tests of HTTP/2, in cleartext and over TLS.

use crate::reload::forward_to;
use crate::stop::with_tls;
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tidegate_tests::{Backend, Net, Start, workspace};

/// How many tests h2spec has, so that none is left out.
const TESTS: usize = 145;
/// How long it waits for one answer, in seconds.
const PATIENCE: &str = "20";

/// Builds it, of the versions in `tests/files/h2spec`.
fn h2spec() -> Result<PathBuf> {
    let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("h2spec");
    let out = Command::new("go")
        .args(["build", "-buildvcs=false", "-mod=readonly", "-o"])
        .arg(&binary)
        .arg("github.com/summerwind/h2spec/cmd/h2spec")
        .current_dir(workspace().join("tests/files/h2spec"))
        .env("GOTOOLCHAIN", "local")
        .stdin(Stdio::null())
        .output()
        .context("go cannot be started; run: sudo apt-get install -y golang-go")?;
    ensure!(out.status.success(), "h2spec does not build: {}", String::from_utf8_lossy(&out.stderr));
    Ok(binary)
}

fn run(h2spec: &Path, at: SocketAddr, tls: bool) -> Result<String> {
    let (host, port) = (at.ip().to_string(), at.port().to_string());
    let mut command = Command::new(h2spec);
    command.args(["-h", &host, "-p", &port, "-o", PATIENCE]).stdin(Stdio::null());
    if tls {
        command.args(["-t", "-k"]);
    }
    let out = command.output().context("h2spec cannot be started")?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2spec_passes_whole() -> Result<()> {
    let h2spec = tokio::task::spawn_blocking(h2spec).await??;
    let (net, folder, backend) = (Net::reserve()?, tempfile::tempdir()?, Backend::default());
    let workload = SocketAddr::new(net.next()?.into(), 8080);
    backend.listen(workload).await?;
    std::fs::write(folder.path().join("site.yaml"), with_tls()?)?;
    std::fs::write(folder.path().join("routes.yaml"), forward_to(&[workload]))?;
    let mut gateway = Start::with(folder.path()).access_log("off").start(&net).await?;
    let passed = format!("{TESTS} tests, {TESTS} passed, 0 skipped, 0 failed");
    for (port, tls) in [(8080, false), (8443, true)] {
        let (h2spec, at) = (h2spec.clone(), gateway.at(port));
        let said = tokio::task::spawn_blocking(move || run(&h2spec, at, tls)).await??;
        ensure!(said.contains(&passed), "TLS {tls}: {said}");
    }
    ensure!(gateway.ended().is_none(), "the gateway ended: {}", gateway.said());
    Ok(())
}
