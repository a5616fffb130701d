//! Writes the seed corpus of every target, made from the hostile requests of the black-box tests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::path::Path;

/// Longer requests only slow the fuzzer down.
const LONGEST: usize = 8 << 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let hostile = std::fs::read_to_string(here.join("../../../tests/hostile/http1.jsonl"))?;
    for line in hostile.lines() {
        let case: serde_json::Value = serde_json::from_str(line)?;
        let name = case["name"].as_str().ok_or("a case without name")?;
        let request = STANDARD.decode(case["bytes_b64"].as_str().ok_or("a case without bytes")?)?;
        for (target, seed) in tidegate_proxy::fuzzing::seeds(&request) {
            if seed.len() <= LONGEST {
                let folder = here.join("corpus").join(target);
                std::fs::create_dir_all(&folder)?;
                std::fs::write(folder.join(name), seed)?;
            }
        }
    }
    Ok(())
}
