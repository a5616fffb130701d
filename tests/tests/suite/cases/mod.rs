//! The case files of `tests/cases`, played against the gateway.
//!
//! Every case of every file is accounted for: it is required, or `pending.yaml` names it with a
//! reason. Pending cases that can be played are played too, and said so when they pass.

mod check;
mod play;
mod schema;
mod validate;
mod world;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_tests::workspace;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Files whose every playable case must pass: `pending.yaml` may not name one of them.
const REQUIRED: [&str; 6] = [
    "01-match.yaml",
    "02-rewrite-redirect.yaml",
    "03-headers.yaml",
    "06-gateway-hosts.yaml",
    "09-delegate.yaml",
    "13-jwt-claim-routing.yaml",
];
/// Cases that run at the same time.
const AT_ONCE: usize = 4;
/// What one case may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// One entry of `pending.yaml`: cases by name, or all of a file that are not played from here.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pending {
    reason: String,
    /// Every case of this file.
    file: Option<String>,
    #[serde(default)]
    cases: Vec<String>,
}

struct Loaded {
    file: String,
    name: String,
    case: Value,
    /// Why it may fail.
    pending: Option<String>,
}

impl Loaded {
    /// Cases seen from a sidecar have no gateway to be played against.
    fn is_playable(&self) -> bool {
        matches!(self.case["vantage"].as_str(), None | Some("gateway" | "any"))
    }

    async fn play(&self) -> Result<(), Vec<String>> {
        if self.case["vantage"].is_null() {
            let case = self.case.clone();
            let played = tokio::task::spawn_blocking(move || validate::play(&case)).await;
            return played.unwrap_or_else(|e| Err(vec![e.to_string()]));
        }
        let played = tokio::time::timeout(PATIENCE, play::play(&self.case)).await;
        played.unwrap_or_else(|_| Err(vec![format!("took more than {PATIENCE:?}")]))
    }
}

fn folder() -> PathBuf {
    workspace().join("tests/cases")
}

fn load() -> Result<Vec<Loaded>> {
    let mut loaded = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(folder())?.collect::<Result<_, _>>()?;
    files.sort_by_key(std::fs::DirEntry::path);
    let pending = std::fs::read_to_string(folder().join("pending.yaml"))?;
    let pending: Vec<Pending> = serde_yaml::from_str(&pending).context("pending.yaml")?;
    for file in files {
        let name = file.file_name().to_string_lossy().into_owned();
        if name == "pending.yaml" || !name.ends_with(".yaml") {
            continue;
        }
        let mut content: Value =
            serde_yaml::from_str(&std::fs::read_to_string(file.path())?).context(name.clone())?;
        for case in content["cases"].as_array_mut().context("no cases")?.drain(..) {
            let case_name = case["name"].as_str().context("a case without name")?.to_owned();
            let entry =
                pending.iter().find(|p| p.file.as_ref() == Some(&name) || p.cases.contains(&case_name));
            let pending = entry.map(|p| p.reason.clone());
            loaded.push(Loaded { file: name.clone(), name: case_name, case, pending });
        }
    }
    let known: BTreeSet<&str> = loaded.iter().flat_map(|l| [l.name.as_str(), l.file.as_str()]).collect();
    let named = pending.iter().flat_map(|p| p.cases.iter().chain(&p.file));
    let unknown: Vec<_> = named.filter(|n| !known.contains(n.as_str())).collect();
    assert!(unknown.is_empty(), "pending.yaml names no case: {unknown:?}");
    let excused = loaded.iter().filter(|l| l.pending.is_some() && l.is_playable());
    let excused: Vec<_> = excused.filter(|l| REQUIRED.contains(&l.file.as_str())).map(|l| &l.name).collect();
    assert!(excused.is_empty(), "pending.yaml excuses required cases: {excused:?}");
    Ok(loaded)
}

struct Played {
    case: Loaded,
    /// What did not hold; `None` for what cannot be played.
    verdict: Option<Result<(), Vec<String>>>,
    took: Duration,
}

/// Plays the cases; the verdicts in their order.
async fn play_all(cases: Vec<Loaded>) -> Vec<Played> {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    for (i, case) in cases.into_iter().enumerate() {
        let slots = slots.clone();
        running.spawn(async move {
            let _slot = slots.acquire_owned().await;
            let begun = Instant::now();
            let verdict = if case.is_playable() { Some(case.play().await) } else { None };
            (i, Played { case, verdict, took: begun.elapsed() })
        });
    }
    let mut done: Vec<_> = running.join_all().await;
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, d)| d).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_passes_or_is_pending() {
    let mut cases = load().expect("the case files");
    let only = std::env::var("TIDEGATE_CASES");
    let verbose = only.is_ok();
    if let Ok(only) = only {
        cases.retain(|c| c.name.contains(&only) || c.file.contains(&only));
        assert!(!cases.is_empty(), "no case is named like TIDEGATE_CASES={only}");
    }
    let (mut passed, mut failed, mut report) = (0, Vec::new(), String::new());
    let mut pending: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let played = play_all(cases).await;
    let slowest =
        played.iter().max_by_key(|p| p.took).map(|p| format!("{} took {:.1?}", p.case.name, p.took));
    for Played { case, verdict, .. } in played {
        let name = format!("{} {}", case.file, case.name);
        match (case.pending, verdict) {
            (None, Some(Ok(()))) => passed += 1,
            (None, Some(Err(why))) => failed.push(format!("{name}: {}", why.join("; "))),
            (None, None) => failed.push(format!("{name}: is neither played nor pending")),
            (Some(reason), Some(Ok(()))) => report += &format!("pending, but passes: {name} ({reason})\n"),
            (Some(reason), verdict) => {
                if let (Some(Err(why)), true) = (verdict, verbose) {
                    report += &format!("pending {name}: {}\n", why.join("; "));
                }
                pending.entry(reason).or_default().push(case.name);
            }
        }
    }
    for (reason, names) in &pending {
        report += &format!("pending, {reason}: {}\n", names.join(", "));
    }
    let waiting: usize = pending.values().map(Vec::len).sum();
    report += &format!(
        "cases: {passed} passed, {} failed, {waiting} pending; {}\n",
        failed.len(),
        slowest.unwrap_or_default()
    );
    crate::say(&report);
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
}
