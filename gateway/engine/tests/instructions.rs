//! One route or ten thousand: a lookup costs the same, counted in instructions.

#![cfg(unix)]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test says what it expects by failing")]

use std::path::{Path, PathBuf};
use std::process::Command;

const SIZES: [usize; 3] = [1, 100, 10_000];
const SHAPES: [&str; 4] = ["prefixes", "hosts", "headers", "paths"];
/// Runs with so many lookups each; their difference leaves out what building the table costs.
const LOOKUPS: [usize; 2] = [1_000, 21_000];

#[test]
fn a_lookup_costs_the_same_with_one_route_and_with_ten_thousand() {
    let example = build_example();
    println!("instructions per lookup\n{:10} {:>8} {:>8} {:>8}   max/min", "shape", 1, 100, 10_000);
    let mut too_far_apart = Vec::new();
    for shape in SHAPES {
        let costs = SIZES.map(|routes| {
            let [few, many] = LOOKUPS.map(|lookups| instructions(&example, shape, routes, lookups));
            (many - few) as f64 / (LOOKUPS[1] - LOOKUPS[0]) as f64
        });
        let ratio =
            costs.iter().copied().fold(0.0, f64::max) / costs.iter().copied().fold(f64::MAX, f64::min);
        println!("{shape:10} {:8.0} {:8.0} {:8.0}   {ratio:.2}", costs[0], costs[1], costs[2]);
        if ratio > 2.0 {
            too_far_apart.push(shape);
        }
    }
    assert!(too_far_apart.is_empty(), "more than 2x apart: {too_far_apart:?}");
}

/// Builds `examples/lookups.rs` optimised, beside what this test was built with.
fn build_example() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().to_owned();
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "--package", "tidegate-engine", "--example", "lookups"])
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status()
        .expect("cargo should run");
    assert!(status.success(), "the example does not build");
    target.join("release/examples/lookups")
}

fn instructions(example: &Path, shape: &str, routes: usize, lookups: usize) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(example)
        .args([shape, &routes.to_string(), &lookups.to_string()])
        .output()
        .expect("valgrind is needed to count instructions: apt-get install valgrind");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shape} with {routes} routes failed:\n{text}");
    let collected = text.lines().find_map(|line| line.split_once("Collected : "));
    let (_, count) = collected.unwrap_or_else(|| panic!("callgrind counted nothing:\n{text}"));
    count.trim().parse().expect("a number of instructions")
}
