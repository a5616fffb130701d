//! A new process takes the place of the one that serves, or fails to.

use crate::reload::{ROUTES, Site};
use anyhow::{Context, Result, ensure};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};
use tidegate_tests::life::{self, Plan};
use tidegate_tests::{Gateway, Net, Start, gateway_binary, get, is_running};
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(60);

fn answers(text: &str) -> String {
    format!("{ROUTES}  - directResponse: {{status: 200, body: {{string: {text}}}}}\n")
}

#[tokio::test]
async fn no_upgrade_costs_a_request() -> Result<()> {
    let figures = life::run(Plan::Upgrades(3)).await?;
    crate::say(&format!("life: {figures}"));
    ensure!(figures.answered > 30, "hardly any load: {figures}");
    Ok(())
}

#[tokio::test]
async fn no_rolling_restart_costs_a_request() -> Result<()> {
    let figures = life::run(Plan::Restarts(2)).await?;
    crate::say(&format!("life: {figures}"));
    ensure!(figures.answered > 10, "hardly any load: {figures}");
    Ok(())
}

#[tokio::test]
async fn an_upgrade_that_fails_leaves_everything_as_it_was() -> Result<()> {
    let (net, site, programs) = (Net::reserve()?, Site::new()?, tempfile::tempdir()?);
    site.write("routes.yaml", &answers("one"))?;
    let program = programs.path().join("gateway");
    let leads_to = |to: &Path| {
        let beside = programs.path().join("new");
        symlink(to, &beside)?;
        std::fs::rename(beside, &program)
    };
    leads_to(gateway_binary()?)?;
    let mut gateway = Start::with(site.path()).binary(&program).start(&net).await?;
    for (program, why) in [
        (Path::new("/bin/false"), "the new process ended before it served with exit status: 1"),
        (Path::new("/nowhere"), "cannot be started: No such file or directory"),
    ] {
        leads_to(program)?;
        fails(&gateway, why).await?;
    }
    leads_to(gateway_binary()?)?;
    // a policy that is not enforced keeps the new process from being ready
    let policy = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
                  metadata: {name: p, namespace: istio-system}\nspec: {jwtRules: [{issuer: i, jwks: no JSON}]}\n";
    site.replace("policy.yaml", policy)?;
    fails(&gateway, "the new process refuses: with the config as it is").await?;
    std::fs::remove_file(site.path().join("policy.yaml"))?;
    let old = gateway.upgrade().await?;
    ended(old).await?;
    assert_eq!(get(gateway.at(8080), "a.example", "/").await?.text(), "one");
    Ok(())
}

#[tokio::test]
async fn a_new_process_that_says_nothing_is_not_waited_for() -> Result<()> {
    let (net, site, programs) = (Net::reserve()?, Site::new()?, tempfile::tempdir()?);
    site.write("routes.yaml", &answers("one"))?;
    let program = programs.path().join("gateway");
    symlink(gateway_binary()?, &program)?;
    let start = Start::with(site.path()).binary(&program);
    let gateway = start.clone().arg("--upgrade-timeout").arg("500ms").start(&net).await?;
    let other = Net::reserve()?;
    let mut stopped = start.start(&other).await?;
    let (silent, started) = (programs.path().join("silent"), programs.path().join("started"));
    std::fs::write(&silent, format!("#!/bin/sh\necho $$ >{}\nexec sleep 600\n", started.display()))?;
    std::fs::set_permissions(&silent, PermissionsExt::from_mode(0o755))?;
    std::fs::rename(silent, program)?;
    fails(&gateway, "did not serve in time").await?;
    // it may have been ended before it wrote anything
    let _ = std::fs::remove_file(&started);
    // one at a time, and none any more once the process is to end
    stopped.signal("USR2")?;
    let patience = Instant::now() + PATIENCE;
    let number = loop {
        match std::fs::read_to_string(&started) {
            Ok(number) if number.ends_with('\n') => break number.trim().parse()?,
            _ => ensure!(Instant::now() < patience, "no new process starts: {}", stopped.said()),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    stopped.signal("USR2")?;
    let second = stopped.messages.find(0, PATIENCE, |line| line.contains("an upgrade is under way")).await;
    second.context("nothing is said of a second upgrade")?;
    assert_eq!(get(stopped.at(8080), "a.example", "/").await?.text(), "one");
    stopped.terminate()?;
    assert_eq!(stopped.wait(PATIENCE).await?.code(), Some(0));
    ensure!(!is_running(number), "the new process is left behind");
    Ok(())
}

/// Has an upgrade fail for this reason, with a gateway that goes on.
async fn fails(gateway: &Gateway, why: &str) -> Result<()> {
    let mark = gateway.messages.count();
    gateway.signal("USR2")?;
    let line = gateway.messages.find(mark, PATIENCE, |line| line.contains("no upgrade")).await;
    let line = line.with_context(|| format!("nothing is said: {}", gateway.said()))?;
    ensure!(line.contains(why), "{line:?} instead of {why:?}");
    assert_eq!(get(gateway.at(8080), "a.example", "/").await?.text(), "one", "{why}");
    Ok(())
}

async fn ended(process: u32) -> Result<()> {
    let patience = Instant::now() + PATIENCE;
    while is_running(process) {
        ensure!(Instant::now() < patience, "the old process does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

#[tokio::test]
async fn the_service_manager_is_told() -> Result<()> {
    let (net, site, folder) = (Net::reserve()?, Site::new()?, tempfile::tempdir()?);
    site.write("routes.yaml", &answers("one"))?;
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(PATIENCE))?;
    // the next that begins like this; how often it says how it is does not matter
    let hears = |beginning: &str| -> Result<()> {
        let mut bytes = [0; 4096];
        loop {
            let n = manager.recv(&mut bytes).with_context(|| format!("nothing begins with {beginning:?}"))?;
            if bytes[..n].starts_with(beginning.as_bytes()) {
                return Ok(());
            }
        }
    };
    // it is not up before its ports are
    let other = TcpListener::bind((net.gateway(), 8080)).await?;
    let start = Start::with(site.path()).variable("NOTIFY_SOCKET", &path);
    let mut gateway = start.variable("WATCHDOG_USEC", "9000000").spawn(&net)?;
    hears("STATUS=not ready: 1 of the listeners could not be opened yet")?;
    assert_eq!(gateway.readiness().await, Some(503));
    drop(other);
    hears("READY=1\nSTATUS=config 1: ")?;
    assert_eq!(gateway.readiness().await, Some(200));
    hears("WATCHDOG=1")?;
    let old = gateway.upgrade().await?;
    hears("RELOADING=1\n")?;
    hears(&format!("READY=1\nMAINPID={}\n", gateway.id()))?;
    ended(old).await?;
    hears("READY=1\nSTATUS=config ")?;
    // and that it is alive, as it did before
    hears("WATCHDOG=1")?;
    gateway.terminate()?;
    hears("STOPPING=1\n")?;
    gateway.wait(PATIENCE).await?;
    Ok(())
}
