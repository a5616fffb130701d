//! Which files there are, and whether they are the same as before.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Deepest nesting of folders.
const MAX_DEPTH: usize = 32;
/// Most files in all. More is a mistake, such as the root of a disk.
const MAX_FILES: usize = 50_000;

/// Tells one version of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    pub(crate) inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// As it is now.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// How long ago the content changed; nothing when that is in the future.
    pub(crate) fn age(&self) -> Option<Duration> {
        let (seconds, nanos) = self.modified;
        let since = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + since).ok()
    }
}

/// A file that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its path, below the path that was asked for.
    pub(crate) path: PathBuf,
    /// The file itself, when that is reached by a symlink.
    pub(crate) target: Option<PathBuf>,
    pub(crate) stamp: Stamp,
}

/// What a look at the paths showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// In the order in which they apply: by argument, then by path.
    pub(crate) files: Vec<Found>,
    /// Folders, each with its identity: what has to be watched.
    pub(crate) folders: BTreeMap<PathBuf, (u64, u64)>,
    /// Files and folders that cannot be read, with the reason.
    pub(crate) failed: BTreeMap<PathBuf, String>,
    /// Files that are not read although they look as if they were meant to be, with the reason.
    pub(crate) skipped: BTreeMap<PathBuf, &'static str>,
}

/// Looks at `roots`, each a file or a folder.
pub(crate) fn scan(roots: &[PathBuf]) -> Scan {
    let mut scan = Scan::default();
    for root in roots {
        // The parent shows when a root is replaced or comes back.
        scan.watch(root.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")));
        let mut visited = HashSet::new();
        match fs::metadata(root) {
            Ok(metadata) if metadata.is_dir() => scan.folder(root, 0, &mut visited),
            Ok(metadata) => scan.file(root.clone(), &metadata),
            Err(error) => scan.fail(root, &error.to_string()),
        }
    }
    scan
}

impl Scan {
    fn fail(&mut self, path: &Path, reason: &str) {
        self.failed.insert(path.to_owned(), reason.to_owned());
    }

    fn watch(&mut self, folder: &Path) {
        if let Ok(metadata) = fs::metadata(folder) {
            self.folders.insert(folder.to_owned(), (metadata.dev(), metadata.ino()));
        }
    }

    fn folder(&mut self, folder: &Path, depth: usize, visited: &mut HashSet<(u64, u64)>) {
        let entries = match fs::metadata(folder).and_then(|metadata| Ok((metadata, names(folder)?))) {
            // Symlinks may lead in circles, or twice to the same folder.
            Ok((metadata, _)) if !visited.insert((metadata.dev(), metadata.ino())) => return,
            Ok((metadata, names)) => {
                self.folders.insert(folder.to_owned(), (metadata.dev(), metadata.ino()));
                names
            }
            Err(error) => return self.fail(folder, &error.to_string()),
        };
        if depth > MAX_DEPTH {
            return self.fail(folder, "folders are nested too deeply");
        }
        for path in entries {
            match fs::metadata(&path) {
                _ if is_hidden(&path) => {
                    if is_config(&path) && path.is_file() && !path.is_symlink() {
                        self.skipped.insert(path, "its name begins with a dot");
                    }
                }
                Ok(metadata) if metadata.is_dir() => self.folder(&path, depth + 1, visited),
                Ok(metadata) if metadata.is_file() && is_config(&path) => self.file(path, &metadata),
                Ok(metadata)
                    if metadata.is_file() && is_config(&path.with_extension(in_lower_case(&path))) =>
                {
                    self.skipped.insert(path, "its ending is not in lower case");
                }
                Ok(_) => {}
                // Gone since, or a symlink to nowhere.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {}
                // What a symlink leads to may be a folder of configs.
                Err(error) if is_config(&path) || path.is_symlink() => self.fail(&path, &error.to_string()),
                Err(_) => {}
            }
        }
    }

    fn file(&mut self, path: PathBuf, metadata: &Metadata) {
        if self.files.len() >= MAX_FILES {
            return self.fail(&path, "there are too many files");
        }
        let target = path.is_symlink().then(|| fs::canonicalize(&path).ok()).flatten();
        if let Some(parent) = target.as_deref().and_then(Path::parent) {
            self.watch(parent);
        }
        self.files.push(Found { path, target, stamp: Stamp::of(metadata) });
    }
}

/// The entries of a folder by name.
fn names(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Editors' files, and `..data` and its like, through which Kubernetes swaps the files of a mounted ConfigMap, which are
/// symlinks beside it.
fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn in_lower_case(path: &Path) -> OsString {
    path.extension().map(OsStr::to_ascii_lowercase).unwrap_or_default()
}

fn is_config(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}
