//! The systemd unit: understood by systemd, with a binary that is there, and closed as far as it should be.

use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::{Command, Stdio};
use tidegate_tests::{gateway_binary, workspace};

/// What `systemd-analyze security` may say at most, in tenths.
const EXPOSURE: &str = "--threshold=20";

/// What it says of the unit.
fn analyze(arguments: &[&str], unit: &Path) -> Result<String> {
    let out = Command::new("systemd-analyze")
        .args(arguments)
        .arg(unit)
        .stdin(Stdio::null())
        .output()
        .context("systemd-analyze cannot be started; run: sudo apt-get install -y systemd")?;
    let said = [out.stdout, out.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    ensure!(out.status.success(), "{arguments:?}: {said}");
    Ok(said)
}

#[test]
fn the_unit_is_one_and_is_closed() -> Result<()> {
    let text = std::fs::read_to_string(workspace().join("deploy/systemd/tidegate.service"))?;
    let installed = "/usr/local/bin/tidegate-gateway";
    ensure!(text.contains(&format!("ExecStart={installed} ")), "{text}");
    let folder = tempfile::tempdir()?;
    let unit = folder.path().join("tidegate.service");
    std::fs::write(&unit, text.replace(installed, &gateway_binary()?.display().to_string()))?;
    let said = analyze(&["verify", "--man=no"], &unit)?;
    // of other units it may say what it likes
    ensure!(!said.contains("tidegate.service:"), "{said}");
    analyze(&["security", "--offline=true", "--no-pager", EXPOSURE], &unit)?;
    Ok(())
}
