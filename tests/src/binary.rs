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

/// The `tidegate-gateway` binary of the release profile: what is measured.
/// `TIDEGATE_RELEASE_GATEWAY`, else built once into the target folder that the tests run from.
pub fn release_gateway_binary() -> Result<&'static Path> {
    static BINARY: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    let found = BINARY.get_or_init(|| {
        given("TIDEGATE_RELEASE_GATEWAY").unwrap_or_else(|| build("release")).map_err(|e| format!("{e:#}"))
    });
    found.as_deref().map_err(|e| anyhow::anyhow!("no gateway to measure: {e}"))
}

fn find() -> Result<PathBuf> {
    if let Some(path) = given("TIDEGATE_GATEWAY") {
        return path;
    }
    let folder = profile_folder()?;
    build(folder.file_name().and_then(|n| n.to_str()).unwrap_or("debug"))
}

/// The path in a variable of the environment.
fn given(variable: &str) -> Option<Result<PathBuf>> {
    let path = std::env::var_os(variable)?;
    Some(PathBuf::from(&path).canonicalize().with_context(|| format!("{variable}={path:?}")))
}

/// Where the running binary's profile is built, such as `target/debug`.
fn profile_folder() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let folder = exe.parent().context("the binary is in no target folder")?;
    // test binaries are one deeper than others
    let folder = if folder.ends_with("deps") { folder.parent() } else { Some(folder) };
    Ok(folder.context("the binary is in no target folder")?.to_owned())
}

/// Builds the binary in the profile that this folder is named after.
fn build(folder: &str) -> Result<PathBuf> {
    let target = profile_folder()?.parent().context("the binary is in no target folder")?.to_owned();
    // for debugging as the tests are built, otherwise as it is shipped: each finds what is built already
    let (profile, packages) = match folder {
        "debug" => ("dev", "--workspace"),
        other => (other, "--package=tidegate-gateway"),
    };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // what a test is told of its own package would have dependencies built again that look at it
    let own =
        |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_"].iter().any(|p| name.starts_with(p));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(own)) {
        cargo.env_remove(name);
    }
    let built = cargo
        .args(["build", "--locked", packages, "--bin", "tidegate-gateway", "--profile", profile])
        .arg("--target-dir")
        .arg(&target)
        .current_dir(workspace())
        .stdin(Stdio::null())
        .output()?;
    if !built.status.success() {
        bail!("cargo build failed: {}", String::from_utf8_lossy(&built.stderr));
    }
    Ok(target.join(folder).join("tidegate-gateway"))
}

/// Runs the binary to its end with the given arguments, such as `--check --config DIR`.
pub fn check<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> Result<Output> {
    Ok(Command::new(gateway_binary()?).args(arguments).stdin(Stdio::null()).output()?)
}
