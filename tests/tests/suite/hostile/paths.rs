//! Paths that try to get past a policy, in each of Istio's modes of normalisation. The gateway has the policies of all
//! rows, each for a host of its own; and no path gets to a workload that its policy denies as it is read there.

use super::{LANES, Lane, start_lanes, talk, upstream};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_tests::{Net, Start, workspace};
use tokio::task::JoinSet;

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Allow,
    Deny,
    Reject,
}

#[derive(Deserialize, PartialEq)]
struct Policy {
    action: String,
    paths: Vec<String>,
}

impl Policy {
    fn denies(&self, path: &str) -> bool {
        let path = path.split('?').next().unwrap_or_default();
        self.paths.iter().any(|pattern| covers(pattern, path)) == (self.action == "DENY")
    }
}

#[derive(Deserialize)]
struct Row {
    raw_path: String,
    mode: String,
    policy: Policy,
    expected: Expected,
    strict: bool,
    acceptable: Vec<Expected>,
    canonical_forwarded: Option<String>,
    canonical_seen_by_policy: Option<String>,
    hardened_profile: String,
}

/// Istio's patterns of paths, and its template `{*}`: one segment.
fn covers(pattern: &str, path: &str) -> bool {
    if let Some((before, after)) = pattern.split_once("{*}") {
        let segment = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
        return segment.is_some_and(|s| !s.is_empty() && !s.contains('/'));
    }
    match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
        (Some(prefix), _) => path.starts_with(prefix),
        (_, Some(suffix)) => path.ends_with(suffix),
        _ => path == pattern,
    }
}

/// What became of a path: what was forwarded of it, or how it was refused.
#[derive(Debug)]
enum Played {
    Forwarded(String),
    Denied,
    Rejected,
}

/// What that means for a row; `None` for another path than the canonical one, and for one that is denied as the
/// workload reads it.
fn outcome(row: &Row, played: &Played) -> Option<Expected> {
    let path = match played {
        Played::Denied => return Some(Expected::Deny),
        Played::Rejected => return Some(Expected::Reject),
        Played::Forwarded(path) => path,
    };
    let canonical = row.canonical_forwarded.as_ref().or(row.canonical_seen_by_policy.as_ref());
    let is_canonical = canonical.is_none_or(|canonical| canonical == path);
    (is_canonical && !row.policy.denies(path)).then_some(Expected::Allow)
}

/// A path and which policy it is held against.
type Attempt = (String, usize);

async fn play(lane: &Lane, (path, policy): &Attempt) -> Result<Played> {
    lane.workload.reset();
    let request = format!("GET {path} HTTP/1.1\r\nHost: p{policy}.example\r\nConnection: close\r\n\r\n");
    let (answer, _) = talk(lane, request.as_bytes(), false).await?;
    let reached = lane.workload.connections();
    let statuses = upstream::statuses(&answer);
    let Some(request) = reached.first() else {
        return match statuses[..] {
            [400] => Ok(Played::Rejected),
            [403] => Ok(Played::Denied),
            _ => bail!("{path}: {statuses:?}"),
        };
    };
    ensure!(statuses == [200], "{path}: {statuses:?}");
    let line = request.split(|b| *b == b'\r').next().unwrap_or_default();
    let target = std::str::from_utf8(line)?.split(' ').nth(1).context("no target")?;
    Ok(Played::Forwarded(target.to_owned()))
}

/// What becomes of each attempt in the mode that is set.
async fn play_all(
    attempts: BTreeSet<Attempt>,
    lanes: &Arc<Mutex<Vec<Lane>>>,
) -> Result<HashMap<Attempt, Played>> {
    let left = Arc::new(Mutex::new(Vec::from_iter(attempts)));
    let mut tasks = JoinSet::new();
    for _ in 0..LANES {
        let (lanes, left) = (lanes.clone(), left.clone());
        tasks.spawn(async move {
            let lane = lanes.lock().unwrap_or_else(PoisonError::into_inner).pop().context("no lane")?;
            let mut done = Vec::new();
            loop {
                let next = left.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some(attempt) = next else { break };
                let played = play(&lane, &attempt).await?;
                done.push((attempt, played));
            }
            lanes.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
            Ok::<_, anyhow::Error>(done)
        });
    }
    let done = tasks.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(done.into_iter().flatten().collect())
}

/// The policies, each for its host; those that allow let every other host be.
fn authorization(policies: &[&Policy]) -> String {
    let one = |(i, policy): (usize, &&Policy)| {
        let paths = serde_json::to_string(&policy.paths).unwrap_or_default();
        let others = match policy.action.as_str() {
            "ALLOW" => format!(", {{to: [{{operation: {{notHosts: [p{i}.example]}}}}]}}"),
            _ => String::new(),
        };
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{i}, namespace: \
             istio-system}}\nspec:\n  action: {}\n  rules: [{{to: [{{operation: {{hosts: [p{i}.example], paths: \
             {paths}}}}}]}}{others}]\n",
            policy.action
        )
    };
    policies.iter().enumerate().map(one).collect()
}

fn mesh_config(mode: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
         data:\n  mesh: |\n    pathNormalization: {{normalization: {mode}}}\n"
    )
}

fn rows() -> Result<Vec<Row>> {
    let corpus = std::fs::read_to_string(workspace().join("tests/hostile/paths.jsonl"))?;
    let rows: Vec<Row> = corpus.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(rows.len() >= 704, "the corpus lost rows: {}", rows.len());
    Ok(rows)
}

/// The policies of all rows, each once.
fn policies(rows: &[Row]) -> Vec<&Policy> {
    let mut policies: Vec<&Policy> = Vec::new();
    for row in rows {
        if !policies.contains(&&row.policy) {
            policies.push(&row.policy);
        }
    }
    policies
}

fn attempt(row: &Row, policies: &[&Policy]) -> Attempt {
    let policy = policies.iter().position(|policy| **policy == row.policy).unwrap_or_default();
    (row.raw_path.clone(), policy)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_are_canonical_where_policies_and_workloads_see_them() -> Result<()> {
    let rows = rows()?;
    let policies = policies(&rows);
    let (net, folder) = (Net::reserve()?, tempfile::tempdir()?);
    std::fs::write(folder.path().join("policies.yaml"), authorization(&policies))?;
    let start = Start::with(folder.path()).access_log("off");
    let (lanes, gateway) = start_lanes(&net, folder.path(), LANES, start).await?;
    let lanes = Arc::new(Mutex::new(lanes));
    let modes: BTreeSet<&str> = rows.iter().map(|row| &*row.mode).collect();
    ensure!(modes.len() == 4, "{modes:?}");
    let mut score = Score::default();
    // the default comes last, so that each is a change
    for mode in modes.into_iter().rev() {
        let before = gateway.generation().await?;
        std::fs::write(folder.path().join("mesh.yaml"), mesh_config(mode))?;
        gateway.wait_for_generation_after(before).await?;
        let of_mode = || rows.iter().filter(|row| row.mode == mode);
        let played = play_all(of_mode().map(|row| attempt(row, &policies)).collect(), &lanes).await?;
        of_mode().try_for_each(|row| {
            score.count(row, played.get(&attempt(row, &policies)).context("a path was not played")?);
            Ok::<_, anyhow::Error>(())
        })?;
    }
    score.report()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_paths_are_those_that_everyone_reads_alike() -> Result<()> {
    let rows = rows()?;
    let policies = policies(&rows);
    let (net, folder) = (Net::reserve()?, tempfile::tempdir()?);
    std::fs::write(folder.path().join("policies.yaml"), authorization(&policies))?;
    let start = Start::with(folder.path()).access_log("off").arg("--strict-paths");
    let (lanes, _gateway) = start_lanes(&net, folder.path(), LANES, start).await?;
    let lanes = Arc::new(Mutex::new(lanes));
    let by_default = || rows.iter().filter(|row| row.mode == "BASE");
    let played = play_all(by_default().map(|row| attempt(row, &policies)).collect(), &lanes).await?;
    for row in by_default() {
        let played = played.get(&attempt(row, &policies)).context("a path was not played")?;
        let is_expected = match (&*row.hardened_profile, played) {
            ("allow", Played::Forwarded(path)) => !row.policy.denies(path),
            ("deny", Played::Denied) => true,
            (profile, Played::Rejected) => profile.starts_with("reject"),
            _ => false,
        };
        ensure!(is_expected, "{}: wants {}, got {played:?}", row.raw_path, row.hardened_profile);
    }
    Ok(())
}

#[derive(Default)]
struct Score {
    strict: (usize, usize),
    target: (usize, usize),
    below: usize,
    misses: String,
}

impl Score {
    fn count(&mut self, row: &Row, played: &Played) {
        let outcome = outcome(row, played);
        let hit = outcome == Some(row.expected);
        let (hits, all) = if row.strict { &mut self.strict } else { &mut self.target };
        *hits += usize::from(hit);
        *all += 1;
        if !hit {
            let acceptable = !row.strict && outcome.is_some_and(|o| row.acceptable.contains(&o));
            self.below += usize::from(!acceptable);
            let Row { raw_path, mode, expected, strict, .. } = row;
            let _ = writeln!(
                self.misses,
                "hostile path {raw_path} {mode}: strict {strict}, acceptable {acceptable}: want {expected:?}, \
                 got {outcome:?} {played:?}"
            );
        }
    }

    fn report(self) -> Result<()> {
        let Score { strict, target, below, misses } = self;
        crate::say(&format!(
            "{misses}hostile paths: strict {}/{}, below the floor {below}, target {}/{}\n",
            strict.0, strict.1, target.0, target.1
        ));
        ensure!(strict.0 == strict.1, "strict rows missed");
        ensure!(below == 0, "outcomes below the floor");
        ensure!(target.0 * 100 >= target.1 * 95, "less than 95 % of the target");
        Ok(())
    }
}

#[test]
fn patterns_cover_what_istio_says() {
    for (pattern, path, expected) in [
        ("/admin*", "/administrator", true),
        ("/admin*", "/x/admin", false),
        ("*/secret", "/a/secret", true),
        ("*/secret", "/a/secret/b", false),
        ("/admin", "/admin", true),
        ("/admin", "/admin/", false),
        ("/users/{*}/admin", "/users/a/admin", true),
        ("/users/{*}/admin", "/users/a/b/admin", false),
        ("/users/{*}/admin", "/users//admin", false),
    ] {
        assert_eq!(covers(pattern, path), expected, "{pattern} {path}");
    }
}
