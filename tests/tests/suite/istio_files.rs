//! Files in the shapes that Istio's users have: several documents, no namespaces, Deployments beside
//! routes, VirtualServices for the mesh alone. Ours are in `tests/files`; with
//! `TIDEGATE_ISTIO_SAMPLES=DIR` (the `samples` folder of an Istio release) Istio's own are served too.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tidegate_tests::{Net, Start, check, get, workspace};

/// A set of files that belong together, and what they must answer.
struct Set<'a> {
    files: Vec<PathBuf>,
    port: u16,
    service: &'a str,
    paths: &'a [&'a str],
}

async fn serves(set: &Set<'_>) -> Result<()> {
    let net = Net::reserve()?;
    let mut start = Start::with(&set.files[0]).arg("--echo");
    for file in &set.files[1..] {
        start = start.config(file);
    }
    if set.port < 1024 {
        start = start.port(set.port, 10000 + set.port);
    }
    let gateway = start.start(&net).await?;
    for path in set.paths {
        let answer = get(gateway.at(set.port), "shop.example", path).await?;
        let said = answer.json();
        ensure!(answer.status == 200 && said["service"] == set.service, "{path}: {} {said}", answer.status);
        ensure!(said["path"] == *path, "{path} arrived as {}", said["path"]);
    }
    Ok(())
}

fn explain(config: &Path, arguments: &[&str]) -> Result<Value> {
    let out = check(["explain"].iter().chain(arguments).map(AsRef::as_ref).chain([
        "-o".as_ref(),
        "json".as_ref(),
        "--config".as_ref(),
        config.as_os_str(),
    ]))?;
    ensure!(out.status.success(), "explain: {} {}", out.status, String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).context("explain said no JSON")
}

#[tokio::test]
async fn a_library_of_four_files() -> Result<()> {
    let folder = workspace().join("tests/files/library");
    let paths = ["/desk", "/static/a.css", "/login", "/logout", "/api/v1/books/1?full=yes"];
    serves(&Set { files: vec![folder], port: 8080, service: "desk", paths: &paths }).await
}

#[tokio::test]
async fn a_service_whose_port_is_not_the_containers() -> Result<()> {
    let folder = workspace().join("tests/files/inspector");
    let files = vec![folder.join("inspector.yaml"), folder.join("gateway.yaml")];
    serves(&Set { files, port: 80, service: "inspector", paths: &["/", "/status/200", "/headers"] }).await
}

#[test]
fn routes_of_the_mesh_are_said_to_be_so() -> Result<()> {
    let folder = workspace().join("tests/files/library");
    let out =
        check(["--check".as_ref(), "-o".as_ref(), "json".as_ref(), "--config".as_ref(), folder.as_os_str()])?;
    let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "refused: {said}");
    for name in ["opinions", "shelf"] {
        let lines = said.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let mut mine = lines.filter(|d| d["kind"] == "VirtualService" && d["name"] == name);
        assert!(mine.any(|d| d["text"].as_str().is_some_and(|t| t.contains("mesh"))), "{name}: {said}");
    }
    Ok(())
}

#[test]
fn explain_answers_for_the_mesh() -> Result<()> {
    let folder = workspace().join("tests/files/library");
    let url = "http://opinions:9080/opinions/1";
    let jason = explain(&folder, &["GET", url, "-H", "end-user: jason", "--gateway", "mesh"])?;
    assert_eq!(jason["outcome"], "forward", "{jason}");
    assert_eq!(jason["rule"]["name"], "opinions", "{jason}");
    assert_eq!(jason["rule"]["index"], 0, "{jason}");
    assert!(jason["cluster"].to_string().contains("v2"), "{jason}");
    let all = explain(&folder, &["GET", url, "--gateway", "mesh"])?;
    assert_eq!(all["rule"]["index"], 1, "{all}");
    let text = all.to_string();
    assert!(text.contains("90") && text.contains("v1") && text.contains("v3"), "the weights: {all}");
    Ok(())
}

#[tokio::test]
async fn istios_own_files() -> Result<()> {
    let Some(samples) = std::env::var_os("TIDEGATE_ISTIO_SAMPLES").map(PathBuf::from) else {
        crate::say(
            "not run: istio_files::istios_own_files; set TIDEGATE_ISTIO_SAMPLES to the samples folder of an Istio release\n",
        );
        return Ok(());
    };
    let book = |file: &str| samples.join("bookinfo").join(file);
    let page = ["/productpage", "/static/a.css", "/login", "/logout", "/api/v1/products"];
    let mesh_routes = ["all-v1", "reviews-90-10", "reviews-test-v2", "reviews-50-v3", "reviews-jason-v2-v3"];
    for routes in mesh_routes {
        let files = [
            "platform/kube/bookinfo.yaml",
            "networking/bookinfo-gateway.yaml",
            "networking/destination-rule-all.yaml",
            &format!("networking/virtual-service-{routes}.yaml"),
        ];
        let files = files.map(book).to_vec();
        // Istio's file of that name speaks of productpage in the mesh too
        serves(&Set { files, port: 8080, service: "productpage", paths: &page }).await.context(routes)?;
    }
    let tool = |file: &str| samples.join("httpbin").join(file);
    let files = vec![tool("httpbin.yaml"), tool("httpbin-gateway.yaml")];
    serves(&Set { files, port: 80, service: "httpbin", paths: &["/", "/status/200"] })
        .await
        .context("httpbin")
}
