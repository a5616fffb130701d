//! The crate edges that keep the data flowing one way, read from `cargo metadata`.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use tidegate_tests::workspace;

/// Each room of the product, and the rooms that it may see.
const ROOMS: [(&str, &[&str]); 8] = [
    ("model", &[]),
    ("api", &["model"]),
    ("source", &["api", "model"]),
    ("translate", &["api", "model"]),
    ("engine", &["model"]),
    ("proxy", &["engine", "model"]),
    ("gateway", &["api", "source", "translate", "engine", "proxy", "model"]),
    ("nginx-compat", &["api", "model"]),
];

/// Crates with input, output or a runtime: none of them is anywhere below a pure room.
const IMPURE: [&str; 9] =
    ["tokio", "pingora", "pingora-core", "hyper", "h2", "rustls", "mio", "socket2", "hickory-resolver"];

struct Graph {
    /// Package id to name.
    names: BTreeMap<String, String>,
    /// Package id to the ids of what it links (not what only its tests link).
    links: BTreeMap<String, Vec<String>>,
}

impl Graph {
    fn read() -> Result<Graph> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let out = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--locked"])
            .current_dir(workspace())
            .output()?;
        ensure!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
        let metadata: Value = serde_json::from_slice(&out.stdout)?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let packages = metadata["packages"].as_array().context("packages")?;
        let nodes = metadata["resolve"]["nodes"].as_array().context("nodes")?;
        let linked =
            |d: &&Value| d["dep_kinds"].as_array().is_some_and(|k| k.iter().any(|k| k["kind"].is_null()));
        let links = |n: &Value| {
            n["deps"].as_array().into_iter().flatten().filter(linked).map(|d| text(&d["pkg"])).collect()
        };
        Ok(Graph {
            names: packages.iter().map(|p| (text(&p["id"]), text(&p["name"]))).collect(),
            links: nodes.iter().map(|n| (text(&n["id"]), links(n))).collect(),
        })
    }

    fn id(&self, name: &str) -> Result<&str> {
        let found = self.names.iter().find(|(_, n)| *n == name);
        found.map(|(id, _)| id.as_str()).with_context(|| format!("no crate {name}"))
    }

    fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.names.get(id).map_or(id, String::as_str)
    }

    fn direct(&self, name: &str) -> Result<BTreeSet<&str>> {
        let links = self.links.get(self.id(name)?).context("no node")?;
        Ok(links.iter().map(|id| self.name(id)).collect())
    }

    fn below(&self, name: &str) -> Result<BTreeSet<&str>> {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![self.id(name)?]);
        while let Some(id) = todo.pop() {
            for next in self.links.get(id).into_iter().flatten() {
                if seen.insert(self.name(next)) {
                    todo.push(next);
                }
            }
        }
        Ok(seen)
    }
}

#[test]
fn rooms_see_only_what_they_may() -> Result<()> {
    let graph = Graph::read()?;
    for (room, allowed) in ROOMS {
        let direct = graph.direct(&format!("tidegate-{room}"))?;
        let rooms = direct.iter().filter_map(|name| name.strip_prefix("tidegate-"));
        let strays: Vec<_> = rooms.filter(|r| !allowed.contains(r)).collect();
        assert!(strays.is_empty(), "tidegate-{room} must not depend on {strays:?}");
    }
    Ok(())
}

#[test]
fn pure_rooms_link_no_runtime() -> Result<()> {
    let graph = Graph::read()?;
    for room in ["tidegate-model", "tidegate-api", "tidegate-engine"] {
        let below = graph.below(room)?;
        let strays: Vec<_> = IMPURE.iter().filter(|c| below.contains(*c)).collect();
        assert!(strays.is_empty(), "{room} links {strays:?}");
    }
    // translate reads certificates with rustls, and does nothing with a socket
    let below = graph.below("tidegate-translate")?;
    let strays: Vec<_> = IMPURE.iter().filter(|c| **c != "rustls" && below.contains(*c)).collect();
    assert!(strays.is_empty(), "tidegate-translate links {strays:?}");
    Ok(())
}

#[test]
fn the_harness_links_no_room() -> Result<()> {
    let graph = Graph::read()?;
    let below = graph.below("tidegate-tests")?;
    let rooms: Vec<_> = below.iter().filter(|n| n.starts_with("tidegate-")).collect();
    assert!(rooms.is_empty(), "the black-box harness sees {rooms:?}");
    Ok(())
}
