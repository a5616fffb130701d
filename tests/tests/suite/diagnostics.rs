//! `tests/broken`: one defect a file, said with its file, line, field, and what to do about it.
//!
//! The first line of each file is `# expect: SEVERITY LINE FIELD`; `-` is no field.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tidegate_tests::{Net, Start, check, get, workspace};

struct Broken {
    path: PathBuf,
    severity: String,
    line: u64,
    field: String,
}

fn folder(name: &str) -> PathBuf {
    workspace().join("tests").join(name)
}

fn load() -> Result<Vec<Broken>> {
    let mut broken = Vec::new();
    for entry in std::fs::read_dir(folder("broken"))? {
        let path = entry?.path();
        let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
        let first = text.lines().next().and_then(|l| l.strip_prefix("# expect: "));
        let mut words = first.with_context(|| format!("{}: no '# expect:'", path.display()))?.splitn(3, ' ');
        let mut word = || words.next().map(str::to_owned).context("# expect: SEVERITY LINE FIELD");
        broken.push(Broken { severity: word()?, line: word()?.parse()?, field: word()?, path });
    }
    broken.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(broken)
}

/// The diagnostics of `--check`, wherever they are printed, and its exit code.
fn diagnose(paths: &[&Path]) -> Result<(Option<i32>, Vec<Value>)> {
    let fixed = ["--check", "-o", "json", "--config"].map(AsRef::as_ref);
    let out = check(fixed.into_iter().chain(paths.iter().map(|p| p.as_os_str())))?;
    let said = [out.stdout, out.stderr].concat();
    let lines = String::from_utf8_lossy(&said).into_owned();
    let diagnostics = lines.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    Ok((out.status.code(), diagnostics.filter(|d| d["severity"].is_string()).collect()))
}

impl Broken {
    fn is_said_by(&self, diagnostic: &Value) -> bool {
        let filled = |key: &str| diagnostic[key].as_str().is_some_and(|t| !t.is_empty());
        let field = diagnostic["field"].as_str().unwrap_or_default();
        diagnostic["severity"] == *self.severity
            && diagnostic["line"] == self.line
            && field == if self.field == "-" { "" } else { &self.field }
            && diagnostic["file"]
                .as_str()
                .is_some_and(|f| self.path.ends_with(f) || f.ends_with(&self.name()))
            && diagnostic["column"].as_u64().is_some_and(|c| c > 0)
            && ["text", "advice", "code"].into_iter().all(filled)
    }

    fn name(&self) -> String {
        self.path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned())
    }

    /// What is wrong with what is said about this file; `None` when all is as expected.
    fn complaint(&self) -> Result<Option<String>> {
        let (code, said) = diagnose(&[&self.path, &folder("good")])?;
        let wanted = if self.severity == "error" { 1 } else { 0 };
        if code != Some(wanted) {
            return Ok(Some(format!("{}: exit {code:?}, want {wanted}: {said:?}", self.name())));
        }
        if said.iter().any(|d| self.is_said_by(d)) {
            return Ok(None);
        }
        let wanted = format!("{} {} {}", self.severity, self.line, self.field);
        let brief = |d: &Value| {
            format!("{} {} {} {}; {}", d["severity"], d["line"], d["field"], d["text"], d["advice"])
                .replace('"', "")
        };
        let said: Vec<String> = said.iter().map(brief).collect();
        Ok(Some(format!("{}: want {wanted}, said: {}", self.name(), said.join(" | "))))
    }
}

#[test]
fn good_objects_alone_are_good() -> Result<()> {
    let (code, said) = diagnose(&[&folder("good")])?;
    let bad: Vec<_> = said.iter().filter(|d| d["severity"] != "note").collect();
    assert!(code == Some(0) && bad.is_empty(), "exit {code:?}: {bad:?}");
    Ok(())
}

#[test]
fn every_defect_is_said_where_it_stands() -> Result<()> {
    let broken = load()?;
    ensure!(broken.len() >= 100, "only {} broken files", broken.len());
    let mut complaints = Vec::new();
    for file in &broken {
        complaints.extend(file.complaint()?);
    }
    let n = complaints.len();
    assert!(complaints.is_empty(), "{n} of {} files:\n{}", broken.len(), complaints.join("\n"));
    Ok(())
}

#[tokio::test]
async fn good_objects_are_served_beside_all_broken_ones() -> Result<()> {
    let net = Net::reserve()?;
    let gateway = Start::with(folder("broken")).config(folder("good")).arg("--echo").start(&net).await?;
    let answer = get(gateway.at(8080), "good.example", "/anything").await?;
    assert_eq!((answer.status, &answer.json()["workload"]), (200, &"good".into()), "{}", answer.text());
    let config = gateway.page("/config").await?;
    let said = config["diagnostics"].as_array().context("diagnostics")?;
    for file in load()? {
        let named = said.iter().any(|d| d["file"].as_str().is_some_and(|f| f.ends_with(&file.name())));
        assert!(named, "nothing is said about {}", file.name());
    }
    Ok(())
}
