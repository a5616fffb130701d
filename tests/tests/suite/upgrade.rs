//! A new process takes the place of the one that serves, or fails to.

use crate::reload::{ROUTES, Site};
use anyhow::{Context, Result, ensure};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};
use tidegate_tests::life::{self, Plan};
use tidegate_tests::{Gateway, Net, Start, gateway_binary, get, is_running};

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
    let start = Start::with(site.path()).binary(&program).arg("--upgrade-timeout").arg("500ms");
    let gateway = start.start(&net).await?;
    let silent = programs.path().join("silent");
    std::fs::write(&silent, "#!/bin/sh\nexec sleep 600\n")?;
    std::fs::set_permissions(&silent, PermissionsExt::from_mode(0o755))?;
    std::fs::rename(silent, program)?;
    fails(&gateway, "did not serve in time").await
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
    // what comes about several states is told apart by its first line, what only says how it is has no other
    let heard = || -> Result<String> {
        loop {
            let mut bytes = [0; 4096];
            let n = manager.recv(&mut bytes).context("the service manager hears nothing")?;
            let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
            if !text.starts_with("STATUS=") {
                return Ok(text);
            }
        }
    };
    let mut gateway = Start::with(site.path()).variable("NOTIFY_SOCKET", &path).start(&net).await?;
    let ready = heard()?;
    ensure!(ready.starts_with("READY=1\nSTATUS=config 1: "), "{ready:?}");
    let old = gateway.upgrade().await?;
    let begins = heard()?;
    ensure!(begins.starts_with("RELOADING=1"), "{begins:?}");
    let passed = heard()?;
    ensure!(passed.starts_with(&format!("READY=1\nMAINPID={}\n", gateway.id())), "{passed:?}");
    ended(old).await?;
    gateway.terminate()?;
    let patience = Instant::now() + PATIENCE;
    loop {
        let text = heard()?;
        if text.starts_with("STOPPING=1") {
            break;
        }
        ensure!(text.starts_with("READY=1\nSTATUS=config "), "{text:?}");
        ensure!(Instant::now() < patience, "it never stops");
    }
    gateway.wait(PATIENCE).await?;
    Ok(())
}
