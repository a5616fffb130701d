//! What was good last serves where the source is missing or broken.

use crate::reload::{ROUTES, Site};
use crate::stop::with_tls;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use tidegate_tests::{Connection, Gateway, Net, Request, Start, get};

const PATIENCE: Duration = Duration::from_secs(60);

fn service(name: &str, text: &str) -> String {
    let object = ROUTES.replace("name: routes", &format!("name: {name}"));
    let object = object.replace("hosts: [\"*\"]", &format!("hosts: [{name}.example]"));
    format!("{object}  - directResponse: {{status: 200, body: {{string: {text}}}}}\n")
}

/// The status that a host answers, and its text.
async fn asked(gateway: &Gateway, host: &str) -> Result<(u16, String)> {
    let answer = get(gateway.at(8080), &format!("{host}.example"), "/").await?;
    Ok((answer.status, answer.text()))
}

fn ok(text: &str) -> (u16, String) {
    (200, text.to_owned())
}

/// Waits until an answer with this text is in what is kept.
async fn kept(state: &Path, text: &str) -> Result<()> {
    let patience = Instant::now() + PATIENCE;
    let text = format!("\"string\":\"{text}\"");
    while !fs::read_to_string(state.join("last-good.jsonl")).is_ok_and(|kept| kept.contains(&text)) {
        ensure!(Instant::now() < patience, "{text} is not kept");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_start_without_source_serves_what_was_good_last() -> Result<()> {
    let (net, site, folder) = (Net::reserve()?, Site::new()?, tempfile::tempdir()?);
    site.write("gateway.yaml", &with_tls()?)?;
    site.write("routes.yaml", &service("a", "one"))?;
    let state = folder.path().join("state");
    // as systemd names it
    let start = Start::with(site.path()).variable("STATE_DIRECTORY", &state);
    let gateway = start.start(&net).await?;
    assert_eq!(asked(&gateway, "a").await?, ok("one"));
    site.replace("routes.yaml", &service("a", "two"))?;
    kept(&state, "two").await?;
    gateway.signal("KILL")?;
    drop(gateway);
    let away = folder.path().join("away");
    fs::rename(site.path(), &away)?;
    let begun = Instant::now();
    let gateway = start.start(&net).await?;
    assert_eq!(asked(&gateway, "a").await?, ok("two"));
    let took = begun.elapsed();
    crate::say(&format!("state: served {} ms after the start, without source\n", took.as_millis()));
    ensure!(took < Duration::from_secs(20), "{took:?}");
    // the private key is of what was kept
    Connection::open(&Request::to(gateway.at(8443)).tls("a.example")).await.context("TLS")?;
    let page = gateway.page("/config").await?;
    let restored = page["restored"].as_u64();
    ensure!(restored == Some(3), "{page}");
    let codes: Vec<_> = page["diagnostics"].as_array().into_iter().flatten().map(|d| &d["code"]).collect();
    ensure!(codes.iter().any(|code| **code == "restored"), "{page}");
    let metrics = get(gateway.status(), "localhost", "/stats/prometheus").await?.text();
    ensure!(metrics.contains("\ntidegate_config_restored_objects 3\n"), "{metrics}");
    // the source takes over as soon as it is there, and what it does not have any more is gone
    fs::remove_file(away.join("routes.yaml"))?;
    fs::write(away.join("more.yaml"), service("b", "three"))?;
    fs::rename(&away, site.path())?;
    let patience = Instant::now() + PATIENCE;
    while asked(&gateway, "b").await? != ok("three") {
        ensure!(Instant::now() < patience, "the source does not take over: {}", gateway.said());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(asked(&gateway, "a").await?.0, 404);
    while gateway.page("/config").await?["restored"] != 0 {
        ensure!(Instant::now() < patience, "something of before is left: {}", gateway.said());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test]
async fn object_by_object_what_is_broken_at_the_start_is_as_it_was() -> Result<()> {
    let (net, site, state) = (Net::reserve()?, Site::new()?, tempfile::tempdir()?);
    for name in ["parses", "valid", "gone", "fine"] {
        site.write(&format!("{name}.yaml"), &service(name, "one"))?;
    }
    let start = Start::with(site.path()).arg("--state-dir").arg(&state.path().display().to_string());
    let mut gateway = start.start(&net).await?;
    kept(state.path(), "one").await?;
    gateway.terminate()?;
    gateway.wait(PATIENCE).await?;
    site.write("parses.yaml", "spec: {hosts: [\n\t- nonsense")?;
    // an object that is read and refused
    site.write("valid.yaml", &service("valid", "two").replace("status: 200", "status: 9999"))?;
    fs::remove_file(site.path().join("gone.yaml"))?;
    site.write("fine.yaml", &service("fine", "two"))?;
    let gateway = start.start(&net).await?;
    for (name, expected) in [("parses", ok("one")), ("valid", ok("one")), ("fine", ok("two"))] {
        assert_eq!(asked(&gateway, name).await?, expected, "{name}");
    }
    assert_eq!(asked(&gateway, "gone").await?.0, 404, "what was deleted stays deleted");
    assert_eq!(gateway.page("/config").await?["restored"], 2);
    Ok(())
}

#[tokio::test]
async fn an_upgrade_takes_what_was_good_last_along() -> Result<()> {
    let (net, site) = (Net::reserve()?, Site::new()?);
    site.write("routes.yaml", &service("a", "one"))?;
    let mut gateway = Start::with(site.path()).start(&net).await?;
    let mark = gateway.messages.count();
    site.write("routes.yaml", "spec: {hosts: [\n\t- nonsense")?;
    let complaint = gateway.messages.find(mark, PATIENCE, |line| line.contains("routes.yaml")).await;
    complaint.context("nothing was said about the broken file")?;
    gateway.upgrade().await?;
    assert_eq!(asked(&gateway, "a").await?, ok("one"));
    Ok(())
}

#[tokio::test]
async fn what_was_kept_and_is_broken_is_said_and_costs_nothing() -> Result<()> {
    let (net, site, state) = (Net::reserve()?, Site::new()?, tempfile::tempdir()?);
    site.write("routes.yaml", &service("a", "one"))?;
    fs::write(state.path().join("last-good.jsonl"), "{}\n")?;
    let start = Start::with(site.path()).arg("--state-dir").arg(&state.path().display().to_string());
    let gateway = start.start(&net).await?;
    assert_eq!(asked(&gateway, "a").await?, ok("one"));
    let page = gateway.page("/config").await?.to_string();
    ensure!(page.contains("the last good objects are not known"), "{page}");
    kept(state.path(), "one").await
}
