//! What callgrind counted, read from its own format without compression.

use anyhow::{Context, Result};
use std::collections::BTreeMap;

/// The counts of one dump: since the start or the dump before.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    instructions: u64,
    /// Instructions of each function without those it calls.
    own: BTreeMap<String, u64>,
    /// Allocations by the function that asked for them.
    allocations: BTreeMap<String, u64>,
    /// System calls by the C library's function.
    system_calls: BTreeMap<String, u64>,
}

/// What one request costs: the difference of two runs, so that connections and background work cancel out.
#[derive(Clone, Debug)]
pub struct Counts {
    /// User instructions.
    pub instructions: f64,
    /// Allocations and reallocations.
    pub allocations: f64,
    /// Instructions of each function without those it calls, the most first.
    pub functions: Vec<(String, f64)>,
    /// Who allocates, the most first.
    pub allocating: Vec<(String, f64)>,
    /// System calls by the C library's function, the most first.
    pub system_calls: Vec<(String, f64)>,
}

/// Calls in which threads wait for something to do (the standard library waits on futexes by `syscall`): how many
/// there are depends on how busy the machine is. And reading a clock, which is no system call outside of valgrind.
const NOT_COUNTED: [&str; 4] = ["clock_gettime", "clock_nanosleep", "epoll_wait", "syscall"];

impl Counts {
    /// System calls but for those in which threads wait for something to do, and for reading the clock.
    pub fn working_calls(&self) -> f64 {
        let works = |name: &str| !NOT_COUNTED.iter().any(|w| name.starts_with(w));
        self.system_calls.iter().filter(|(name, _)| works(name)).map(|(_, n)| n).sum()
    }
}

impl Profile {
    /// Reads a dump that was written with `--compress-strings=no --compress-pos=no
    /// --collect-systime=yes`.
    ///
    /// # Errors
    /// When a line is not as callgrind writes it.
    pub fn parse(text: &str) -> Result<Profile> {
        let mut profile = Profile::default();
        let (mut function, mut callee, mut is_call) = (String::new(), "", false);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                name.clone_into(&mut function);
            } else if let Some(name) = line.strip_prefix("cfn=") {
                callee = name;
            } else if let Some(calls) = line.strip_prefix("calls=") {
                let calls = calls
                    .split(' ')
                    .next()
                    .and_then(|n| n.parse::<u64>().ok())
                    .context("calls= without number")?;
                if is_allocation(&function, callee) {
                    *profile.allocations.entry(function.clone()).or_default() += calls;
                }
                is_call = true;
            } else if line.starts_with(|c: char| c.is_ascii_digit()) {
                // the line after calls= is what was called
                if !std::mem::take(&mut is_call) {
                    // the position, instructions, system calls; what is zero may be left out at the end
                    let mut costs = line.split(' ').skip(1).map(str::parse::<u64>);
                    let cost = costs.next().transpose()?.with_context(|| format!("no cost in {line:?}"))?;
                    profile.instructions += cost;
                    *profile.own.entry(function.clone()).or_default() += cost;
                    if let Some(calls) = costs.next().transpose()?.filter(|n| *n > 0) {
                        *profile.system_calls.entry(function.clone()).or_default() += calls;
                    }
                }
            }
        }
        Ok(profile)
    }

    /// The cost of a request, when `self` counted so many more of them than `fewer`.
    pub fn since(&self, fewer: &Profile, requests: u64) -> Counts {
        let each = |more: u64, fewer: u64| (more as f64 - fewer as f64) / requests as f64;
        let table = |more: &BTreeMap<String, u64>, fewer: &BTreeMap<String, u64>| {
            let mut rows: Vec<_> = more
                .iter()
                .map(|(name, n)| (name.clone(), each(*n, fewer.get(name).copied().unwrap_or(0))))
                .collect();
            rows.sort_by(|a, b| b.1.total_cmp(&a.1));
            rows
        };
        let allocating = table(&self.allocations, &fewer.allocations);
        Counts {
            instructions: each(self.instructions, fewer.instructions),
            allocations: each(self.allocations.values().sum(), fewer.allocations.values().sum()),
            functions: table(&self.own, &fewer.own),
            system_calls: table(&self.system_calls, &fewer.system_calls),
            allocating,
        }
    }
}

/// Whether this call leaves a program's own code for the allocator: mimalloc's, or the C library's for C code.
fn is_allocation(caller: &str, callee: &str) -> bool {
    let asks =
        ["malloc", "zalloc", "calloc", "realloc", "malloc_aligned", "zalloc_aligned", "realloc_aligned"];
    let inside = ["mi_", "_mi_", "malloc", "calloc", "realloc"];
    asks.contains(&callee.strip_prefix("mi_").unwrap_or(callee))
        && !inside.iter().any(|i| caller.starts_with(i))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_and_allocations_are_read() {
        let dump = |calls: u32, cost: u32| {
            format!(
                "version: 1\nevents: Ir sysCount sysTime\nfl=a.rs\nfn=serve\n10 {cost}\ncfi=b.c\ncfn=mi_malloc\ncalls={calls} 5\n\
                 11 90\nfi=c.rs\n12 5\n\nfn=mi_malloc\n5 70\ncfn=_mi_page_malloc\ncalls={calls} 9\n5 20\n\nfn=recv\n7 2 {calls} 900\n\nfn=epoll_wait\n7 1 {calls}\n"
            )
        };
        let (fewer, more) =
            (Profile::parse(&dump(10, 100)).unwrap(), Profile::parse(&dump(30, 300)).unwrap());
        assert_eq!(fewer.instructions, 178);
        let counts = more.since(&fewer, 10);
        assert_eq!((counts.instructions, counts.allocations), (20.0, 2.0));
        assert_eq!(counts.functions[0], ("serve".to_owned(), 20.0));
        assert_eq!((counts.system_calls.len(), counts.working_calls()), (2, 2.0));
        assert_eq!(counts.allocating, [("serve".to_owned(), 2.0)]);
        assert!(Profile::parse("fn=a\n10\n").is_err());
    }
}
