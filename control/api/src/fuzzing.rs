//! What the fuzz target calls: it panics where the reader breaks a promise.

use crate::read;

/// Most diagnostics about one file.
const DIAGNOSTICS: usize = 1000;

/// Files: whatever they hold they are read, and what is said about them has its place in them.
pub fn yaml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let reading = read("fuzz.yaml", text);
    let lines = text.split(['\n', '\r']).count();
    let inside = |line: u32| (1..=lines + 1).contains(&(line as usize));
    assert!(reading.diagnostics.len() <= DIAGNOSTICS, "{} diagnostics", reading.diagnostics.len());
    for d in &reading.diagnostics {
        assert!(inside(d.origin.line) && d.origin.column > 0, "{}:{}", d.origin.line, d.origin.column);
        assert!(!d.text.is_empty() && !d.code.is_empty(), "{d:?}");
    }
    for object in &reading.objects {
        assert!(inside(object.origin().line), "{:?}", object.origin());
        assert!(!object.reference.name.is_empty(), "an object without a name");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn the_seeds_of_the_fuzz_target_break_no_promise() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../gateway/proxy/fuzz/seeds/yaml");
        let mut count = 0;
        for seed in std::fs::read_dir(seeds).unwrap() {
            super::yaml(&std::fs::read(seed.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "no seeds");
    }
}
