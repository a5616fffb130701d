//! What the control group of the process may have.

use std::fs;
use std::path::Path;

/// Bytes of memory, if they are limited.
pub(super) fn memory_limit() -> Option<u64> {
    within(Path::new("/sys/fs/cgroup"), &fs::read_to_string("/proc/self/cgroup").ok()?)
}

/// The smallest limit of the groups that the process is in, in the form of `/proc/self/cgroup`. In a container their
/// paths may be those outside of it; then its own group is the root.
fn within(root: &Path, groups: &str) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        // version 2 has one hierarchy without a name, version 1 one for each controller
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|c| c == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let own = root.join(path.trim_start_matches('/'));
        let groups = own.ancestors().take_while(|group| group.starts_with(&root));
        groups.filter_map(|group| limit(&fs::read_to_string(group.join(file)).ok()?)).min()
    });
    limits.min()
}

/// What a file says: `max` or a number that stands for none are no limit.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("memory.max", "300\n");
        write("pods/memory.max", "100\n");
        write("pods/a/memory.max", "200\n");
        write("free/memory.max", "max\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/docker/x/memory.limit_in_bytes", "50\n");
        for (groups, expected) in [
            ("0::/pods/a\n", Some(100)),
            ("0::/free\n", Some(300)),
            ("0::/\n", Some(300)),
            ("0::/../elsewhere\n", Some(300)),
            ("5:cpu,cpuacct:/pods\n4:memory:/docker/x\n", Some(50)),
            ("4:memory:/outside/of/it\n", None),
            ("4:cpu:/pods\n", None),
            ("nonsense", None),
        ] {
            assert_eq!(within(root.path(), groups), expected, "{groups}");
        }
    }
}
