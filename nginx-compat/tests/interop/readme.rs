//! The examples of the README: nginx takes its own, and so does the gateway.

use crate::nginx::Config;
use crate::origin::{Echo, Origin};
use crate::site::{HOST, Objects, RULES};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use tidegate_tests::{Net, Request, check, exchange};

const README: &str = include_str!("../../README.md");

/// The blocks of code in this language.
fn blocks(language: &str) -> Vec<&'static str> {
    let blocks = README.split("```").skip(1).step_by(2);
    blocks.filter_map(|b| b.strip_prefix(language)?.strip_prefix('\n')).collect()
}

#[tokio::test]
async fn the_examples_are_taken() -> Result<()> {
    let mut config = Config::new(&Net::reserve()?)?;
    let [block] = blocks("nginx")[..] else { anyhow::bail!("not one example of nginx") };
    config.http(block);
    config.check().context("nginx refuses its example")?;

    let folder = tempfile::tempdir()?;
    let objects = blocks("yaml");
    ensure!(objects.len() == 2, "{} examples of objects", objects.len());
    let mut gateway = Objects::default();
    gateway.gateway("edge", 8080, "HTTP", "*", "");
    let all = [&objects.join("---\n"), gateway.text()].concat();
    std::fs::write(folder.path().join("examples.yaml"), all)?;
    let checked = check(["--check".as_ref(), "--config".as_ref(), folder.path().as_os_str()])?;
    let said = String::from_utf8_lossy(&[checked.stderr, checked.stdout].concat()).into_owned();
    ensure!(checked.status.success() && said.contains(" 0 warnings"), "{said}");
    Ok(())
}

/// Behind the documented nginx, a gateway that believes it lets no client say who it is.
#[tokio::test]
async fn nobody_forges_who_asks_behind_the_example() -> Result<()> {
    let net = Net::reserve()?;
    let origin = Origin::start(&net).await?;
    let [block] = blocks("nginx")[..] else { anyhow::bail!("not one example of nginx") };
    let mut config = Config::new(&net)?;
    let other = config.server("", "return 204;");
    let (front, gateway) = (SocketAddr::new(other.ip(), 9000), SocketAddr::new(net.gateway().into(), 8080));
    let block = block.replace("127.0.0.1:8000", &front.to_string());
    config.http(&block.replace("127.0.0.1:8080", &gateway.to_string()));
    let _nginx = config.start().await?;
    let mut objects = Objects::default();
    objects.trusted_proxies(1);
    objects.gateway("edge", 8080, "HTTP", "*", "");
    objects.routes("shop", HOST, "edge", RULES);
    objects.upstream("origin.example", origin.at, "HTTP");
    objects.upstream("nowhere.example", SocketAddr::new(net.next()?.into(), 1), "HTTP");
    let (_gateway, _folder) = objects.start(&net).await?;

    let claims = [
        ("x-real-ip", Some("127.0.0.1")),
        ("forwarded", None),
        ("x-forwarded-host", Some(HOST)),
        ("x-forwarded-port", Some("9000")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-client-cert", None),
        ("x-envoy-external-address", Some("127.0.0.1")),
    ];
    let forged = claims.iter().fold(Request::to(front).host(HOST).path("/echo"), |request, (name, _)| {
        request.header(name, "forged.example")
    });
    let answer = exchange(&forged.header("x-forwarded-for", "192.0.2.66")).await?;
    let echo = Echo::of(&answer.body).with_context(|| format!("no echo: {}", answer.status))?;
    for (name, value) in claims {
        ensure!(echo.header(name) == value, "{name}: {:?}", echo.headers);
    }
    let chain = echo.header("x-forwarded-for");
    ensure!(chain == Some("192.0.2.66, 127.0.0.1,127.0.0.1"), "{chain:?}");
    Ok(())
}
