//! Files that the config names: certificates and keys outside of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

/// The largest file; a bundle of all public authorities has 250 KB.
const MAX_SIZE: u64 = 4 << 20;
/// How often the files are looked at. They are few, and each look reads them whole: what is swapped
/// by a symlink far above, or written in place within a tick of the clock, shows all the same.
const LOOK: Duration = Duration::from_secs(1);

/// For how long they must stay the same.
const SETTLED: Duration = Duration::from_millis(100);

/// Contents of files by their paths, or why one cannot be read.
pub type Contents = BTreeMap<String, Result<Arc<[u8]>, String>>;

/// Files by their paths, which may change at any time.
#[derive(Debug, Default)]
pub struct NamedFiles {
    contents: Contents,
}

impl NamedFiles {
    /// Reads the files of these paths, and no others from now on. It blocks on the disk.
    pub fn load(&mut self, paths: BTreeSet<String>) -> Contents {
        self.contents = read_all(paths);
        self.contents.clone()
    }

    /// Waits until one of them is another than when it was loaded; for ever when there are none. It
    /// may be dropped at any time.
    pub async fn changed(&self) {
        if self.contents.is_empty() {
            return std::future::pending().await;
        }
        let paths: BTreeSet<String> = self.contents.keys().cloned().collect();
        loop {
            tokio::time::sleep(LOOK).await;
            let mut seen = read_all(paths.clone());
            while seen != self.contents {
                // Who writes a certificate writes its key next.
                tokio::time::sleep(SETTLED).await;
                let again = read_all(paths.clone());
                if again == seen {
                    return;
                }
                seen = again;
            }
        }
    }
}

fn read_all(paths: BTreeSet<String>) -> Contents {
    let read = |path: String| {
        let content = read(&path).map(Arc::from).map_err(|e| e.to_string());
        (path, content)
    };
    paths.into_iter().map(read).collect()
}

fn read(path: &str) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(MAX_SIZE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_SIZE {
        return Err(io::Error::other("it is larger than 4 MiB"));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn contents_are_followed_and_failures_said() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("a"), "one").unwrap();
        let mut files = NamedFiles::default();
        let loaded = files.load([path("a"), path("b")].into());
        assert_eq!(loaded[&path("a")], Ok(b"one".as_slice().into()));
        assert!(loaded[&path("b")].as_ref().is_err_and(|e| e.contains("No such file")), "{loaded:?}");
        std::fs::write(path("b"), "two").unwrap();
        tokio::time::timeout(Duration::from_secs(30), files.changed()).await.unwrap();
        assert_eq!(files.load([path("b")].into()), [(path("b"), Ok(b"two".as_slice().into()))].into());
        std::fs::write(path("c"), vec![0; MAX_SIZE as usize + 1]).unwrap();
        assert!(files.load([path("c")].into())[&path("c")].is_err());
    }
}
