//! The command line: exit codes, diagnostics as text, what keeps the gateway from becoming ready.

use anyhow::{Context, Result};
use std::process::Output;
use std::time::Duration;
use tidegate_tests::{Net, Start, check, get, workspace};

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&[out.stdout.as_slice(), &out.stderr].concat()).into_owned()
}

#[test]
fn exit_codes() -> Result<()> {
    let folder = |name: &str| workspace().join("tests").join(name).display().to_string();
    let (good, broken) = (folder("good"), folder("broken/038-weight-is-a-word.yaml"));
    for (arguments, code) in [
        (vec!["--version"], 0),
        (vec!["--check", "--config", &good], 0),
        (vec!["--check", "--config", &broken], 1),
        (vec!["--check", "--config", &good, &broken], 1),
        (vec!["--check", "--config", "/nowhere/at/all"], 1),
        (vec!["--check", "--config", &good, "--port", "80"], 2),
        (vec!["--nonsense"], 2),
        (vec!["--config"], 2),
        (vec!["explain", "GET", "--config", &good], 2),
        (vec!["explain", "GET", "http://good.example:8080/", "--config", &good], 0),
    ] {
        let out = check(&arguments)?;
        assert_eq!(out.status.code(), Some(code), "{arguments:?}: {}", said(&out));
    }
    Ok(())
}

#[test]
fn diagnostics_as_text() -> Result<()> {
    let file = workspace().join("tests/broken/038-weight-is-a-word.yaml");
    let out = check(["--check".as_ref(), "--config".as_ref(), file.as_os_str()])?;
    let said = said(&out);
    let line = said.lines().find(|l| l.starts_with("error ")).context("no error")?;
    let place = format!("{}:12:", file.display());
    assert!(line.contains(&place), "no {place} in {line}");
    let object = " VirtualService/default/broken-038 spec.http[0].route[0].weight: ";
    assert!(line.contains(object) && line.contains("; "), "no {object} in {line}");
    Ok(())
}

#[tokio::test]
async fn a_policy_that_cannot_be_enforced_keeps_it_from_becoming_ready() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let policy = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
                  metadata: {name: tokens, namespace: istio-system}\nspec: {jwtRules: [{issuer: i, jwks: none}]}\n";
    std::fs::write(folder.path().join("policy.yaml"), policy)?;
    let start = Start::with(workspace().join("tests/good")).config(folder.path()).arg("--echo");
    let net = Net::reserve()?;
    let mut gateway = start.spawn(&net)?;
    let complaint = gateway
        .messages
        .find(0, Duration::from_secs(10), |l| {
            l.contains("not ready: RequestAuthentication/istio-system/tokens")
        })
        .await;
    complaint.context("nothing was said about the policy")?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!gateway.is_ready().await && gateway.ended().is_none(), "{}", gateway.said());
    let net = Net::reserve()?;
    let gateway = start.arg("--allow-unenforced").start(&net).await?;
    assert_eq!(get(gateway.at(8080), "good.example", "/").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn the_last_of_two_objects_wins() -> Result<()> {
    let (net, folder) = (Net::reserve()?, tempfile::tempdir()?);
    let routes = |says: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: good}}\nspec:\n  \
             hosts: [good.example]\n  gateways: [good]\n  http:\n  \
             - directResponse: {{status: 200, body: {{string: {says}}}}}\n"
        )
    };
    std::fs::write(folder.path().join("b.yaml"), routes("b"))?;
    std::fs::write(folder.path().join("a.yml"), routes("a"))?;
    std::fs::write(folder.path().join("c.txt"), routes("c"))?;
    let gateway = Start::with(workspace().join("tests/good")).config(folder.path()).start(&net).await?;
    assert_eq!(get(gateway.at(8080), "good.example", "/").await?.text(), "b");
    Ok(())
}
