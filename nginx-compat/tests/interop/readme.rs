//! The examples of the README: nginx takes its own, and so does the gateway.

use crate::nginx::Config;
use anyhow::{Context, Result, ensure};
use tidegate_tests::{Net, check};

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
    std::fs::write(folder.path().join("examples.yaml"), objects.join("---\n"))?;
    let checked = check(["--check".as_ref(), "--config".as_ref(), folder.path().as_os_str()])?;
    let said = String::from_utf8_lossy(&[checked.stderr, checked.stdout].concat()).into_owned();
    ensure!(checked.status.success() && said.contains(" 0 warnings"), "{said}");
    Ok(())
}
