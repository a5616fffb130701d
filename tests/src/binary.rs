//! The binary under test.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The `tidegate-gateway` binary: `TIDEGATE_GATEWAY`, else built once with the profile of the tests
/// into the target folder that they run from.
pub fn gateway_binary() -> Result<&'static Path> {
    static BINARY: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    let found = BINARY.get_or_init(|| find().map_err(|e| format!("{e:#}")));
    found.as_deref().map_err(|e| anyhow::anyhow!("no gateway to test: {e}"))
}

fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("TIDEGATE_GATEWAY") {
        return PathBuf::from(&path).canonicalize().with_context(|| format!("TIDEGATE_GATEWAY={path:?}"));
    }
    let exe = std::env::current_exe()?;
    let folder = exe.parent().and_then(Path::parent).context("the test binary is in no target folder")?;
    let target = folder.parent().context("the test binary is in no target folder")?;
    let profile = match folder.file_name().and_then(|n| n.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "build",
            "--locked",
            "--workspace",
            "--bin",
            "tidegate-gateway",
            "--profile",
            profile,
            "--target-dir",
        ])
        .arg(target)
        .current_dir(workspace())
        .stdin(Stdio::null())
        .output()?;
    if !built.status.success() {
        bail!("cargo build failed: {}", String::from_utf8_lossy(&built.stderr));
    }
    Ok(folder.join("tidegate-gateway"))
}

/// Runs the binary to its end with the given arguments, such as `--check --config DIR`.
pub fn check<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> Result<Output> {
    Ok(Command::new(gateway_binary()?).args(arguments).stdin(Stdio::null()).output()?)
}
