//! Clients and servers of another ecosystem, in a Python environment made for the tests.

use crate::{Lines, workspace};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A script of `tests/files/python` that runs until it is dropped.
pub struct Python {
    child: Child,
    said: Lines,
    errors: Lines,
}

impl Python {
    /// Starts a script that serves, and returns once it says so.
    ///
    /// # Errors
    /// When there is no environment, or the script ends instead.
    pub async fn serve(folder: &Path, script: &str, arguments: &[&str]) -> Result<Python> {
        let mut command = command(folder, script)?;
        let mut child =
            command.arg("serve").args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let said = Lines::of(child.stdout.take().context("no stdout")?);
        let errors = Lines::of(child.stderr.take().context("no stderr")?);
        let mut server = Python { child, said, errors };
        let patience = Instant::now() + Duration::from_secs(20);
        while !server.said.since(0).iter().any(|l| l == "serving") {
            let ended = server.child.try_wait()?;
            if ended.is_some() || Instant::now() > patience {
                bail!("{script} does not serve ({ended:?}): {}", server.errors.since(0).join("\n"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(server)
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // it may have ended already
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a script that calls, to its end.
///
/// # Errors
/// With what it says, when it does not end well.
pub async fn call(folder: &Path, script: &str, arguments: &[&str]) -> Result<()> {
    let mut command = command(folder, script)?;
    command.arg("call").args(arguments);
    let out = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

fn command(folder: &Path, script: &str) -> Result<Command> {
    let mut command = Command::new(interpreter(folder)?);
    command.arg(workspace().join("tests/files/python").join(script)).stdin(Stdio::null());
    Ok(command)
}

/// The interpreter of the environment, which is made in `folder` when it is not there.
fn interpreter(folder: &Path) -> Result<&'static Path> {
    static FOUND: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| make(folder).map_err(|e| format!("{e:#}")));
    found.as_deref().map_err(|e| {
        anyhow::anyhow!(
            "no Python environment for the tests: {e}; run: sudo apt-get install -y python3-venv, and let pip reach its registry"
        )
    })
}

fn make(folder: &Path) -> Result<PathBuf> {
    let wanted = workspace().join("tests/files/python/requirements.txt");
    let home = folder.join("python");
    let (interpreter, made) = (home.join("bin/python"), home.join("made-from.txt"));
    let requirements = std::fs::read_to_string(&wanted)?;
    if std::fs::read_to_string(&made).is_ok_and(|from| from == requirements) {
        return Ok(interpreter);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))?;
    run(Command::new(&interpreter).args(["-m", "pip", "install", "--quiet", "-r"]).arg(&wanted))?;
    std::fs::write(made, requirements)?;
    Ok(interpreter)
}

fn run(command: &mut Command) -> Result<()> {
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let said = [out.stdout, out.stderr].concat();
    ensure!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
    Ok(())
}
