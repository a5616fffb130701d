use crate::activity::SETTLED;
use crate::file::{FileState, kept_diagnostic, skipped_diagnostic, unreadable_diagnostic};
use crate::scan::{Found, Scan, scan};
use crate::watch::Watch;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tidegate_api::{Object, Objects, Refused};
use tidegate_model::{Diagnostic, Severity};

/// How often a load starts anew because files changed meanwhile.
const MAX_ROUNDS: usize = 3;

/// What a load found.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// All objects, each once.
    pub objects: Objects,
    /// All that is wrong with the files as they are now, also with those that were not read again.
    pub diagnostics: Vec<Diagnostic>,
    /// Objects that are written but refused for an error; the last good version of one may be among the objects.
    pub refused: Vec<Refused>,
}

/// Files and folders of objects, which may change at any time.
#[derive(Debug)]
pub struct Folder {
    roots: Vec<PathBuf>,
    files: BTreeMap<PathBuf, FileState>,
    /// As it was last loaded.
    scan: Scan,
    objects: Objects,
    watch: Watch,
    loaded: bool,
}

impl Folder {
    /// Files and folders; folders with all that is below them: `.yaml`, `.yml` and `.json`, but nothing hidden.
    ///
    /// Where an object is written more than once, the last in order wins: by argument, then by path.
    pub fn open(paths: Vec<PathBuf>) -> Self {
        Folder {
            roots: paths,
            files: BTreeMap::new(),
            scan: Scan::default(),
            objects: Objects::new(),
            watch: Watch::new(),
            loaded: false,
        }
    }

    /// Takes these objects for what their files held when they were last good, until they are read.
    pub fn remember(&mut self, objects: impl IntoIterator<Item = Arc<Object>>) {
        let mut files: BTreeMap<PathBuf, Vec<Arc<Object>>> = BTreeMap::new();
        for object in objects {
            self.objects.insert(object.clone());
            files.entry(PathBuf::from(&*object.file)).or_default().push(object);
        }
        for (path, mut objects) in files {
            objects.sort_by_key(|object| {
                let at = object.written.at();
                (at.line, at.column)
            });
            self.files.insert(path, FileState::kept(objects));
        }
    }

    /// Reads what changed, and returns all that there is. It blocks on the disk.
    ///
    /// It never fails: what cannot be read is a diagnostic, and what was good before stays.
    pub fn load(&mut self) -> Loaded {
        let mut found = self.look();
        for _ in 0..MAX_ROUNDS {
            self.read(&found);
            let again = self.look();
            let same = again == found;
            found = again;
            if same {
                break;
            }
        }
        self.forget(&found);
        let loaded = self.merge(&found);
        self.scan = found;
        self.loaded = true;
        self.objects = loaded.objects.clone();
        self.watch.activity().loaded();
        loaded
    }

    /// Waits until there is something new to [`load`](Self::load).
    ///
    /// Changes that belong together are one: it waits until files are closed, renamed into place or untouched for
    /// 100 ms, and until there is silence for 50 ms, but no more than 200 ms. It may be dropped at any time.
    pub async fn changed(&mut self) {
        loop {
            self.watch.due().await;
            self.watch.activity().settle(Instant::now());
            let found = self.look();
            if found.failed != self.scan.failed || self.differs(&found) {
                return;
            }
        }
    }

    /// What is there, with all of its folders watched since before the look.
    fn look(&mut self) -> Scan {
        let mut found = scan(&self.roots);
        for _ in 0..MAX_ROUNDS {
            if !self.watch.set(&found.folders) {
                break;
            }
            found = scan(&self.roots);
        }
        found
    }

    /// Whether a file went, or has to be read.
    fn differs(&self, found: &Scan) -> bool {
        let present = paths(found);
        self.scan.files.iter().any(|file| !present.contains(file.path.as_path()))
            || self.unread(found).next().is_some()
    }

    /// Files that have to be read and are complete. Of those that are not, the time is noted at which they will be.
    fn unread<'a>(&'a self, found: &'a Scan) -> impl Iterator<Item = &'a Found> {
        found.files.iter().filter(|file| self.is_new(file)).filter(|file| {
            let unsettled = self.is_unsettled(file);
            let mut activity = self.watch.activity();
            if unsettled && !activity.is_writing(&file.path) {
                activity.written(file.path.clone(), Instant::now());
            }
            !unsettled
        })
    }

    fn is_new(&self, file: &Found) -> bool {
        self.files.get(&file.path).and_then(|state| state.stamp.as_ref()) != Some(&file.stamp)
    }

    /// Whether the file may be half written.
    fn is_unsettled(&self, file: &Found) -> bool {
        let activity = self.watch.activity();
        let either = |is: &dyn Fn(&Path) -> bool| is(&file.path) || file.target.as_deref().is_some_and(is);
        if !self.loaded {
            return false;
        }
        if either(&|path| activity.is_complete(path)) {
            // Its close may be one of before it was emptied to be written again.
            return file.stamp.is_empty() && file.stamp.age().is_some_and(|age| age < SETTLED);
        }
        if either(&|path| activity.is_writing(path)) {
            return true;
        }
        // Another file in its place was put there whole, by a rename or a symlink. Of the same file nothing is known:
        // while it is cut short, its time of modification is still the old one.
        match self.files.get(&file.path).and_then(|state| state.stamp.as_ref()) {
            Some(before) => before.inode == file.stamp.inode,
            None => file.target.is_none() && file.stamp.age().is_some_and(|age| age < SETTLED),
        }
    }

    fn read(&mut self, found: &Scan) {
        let unread: Vec<Found> = self.unread(found).cloned().collect();
        for file in unread {
            self.files.entry(file.path.clone()).or_default().update(&file.path, file.stamp);
        }
    }

    /// Drops files that are gone, but not those of a folder that cannot be read.
    fn forget(&mut self, found: &Scan) {
        let present = paths(found);
        let failed = |path: &Path| path.ancestors().any(|ancestor| found.failed.contains_key(ancestor));
        self.files.retain(|path, _| present.contains(path.as_path()) || failed(path));
    }

    /// Files in the order in which they apply: those that are there, and those that cannot be seen at their place.
    fn in_order(&self) -> Vec<&FileState> {
        let argument = |path: &Path| self.roots.iter().position(|root| path.starts_with(root));
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by_key(|(path, _)| (argument(path), *path));
        files.into_iter().map(|(_, state)| state).collect()
    }

    fn merge(&self, found: &Scan) -> Loaded {
        let mut loaded = Loaded::default();
        for (path, reason) in &found.failed {
            loaded.diagnostics.push(unreadable_diagnostic(&path.to_string_lossy(), reason));
        }
        for (path, reason) in &found.skipped {
            loaded.diagnostics.push(skipped_diagnostic(&path.to_string_lossy(), reason));
        }
        let mut replaced = Vec::new();
        for state in self.in_order() {
            loaded.diagnostics.extend(state.diagnostics.iter().cloned());
            loaded.refused.extend(state.refused.iter().cloned());
            replaced.extend(state.objects.iter().filter_map(|object| loaded.objects.insert(object.clone())));
        }
        for object in replaced {
            if let Some(winner) = loaded.objects.current(&object) {
                loaded.diagnostics.push(duplicate(&object, winner));
            }
        }
        self.keep_moved(&mut loaded);
        loaded
    }

    /// An object that was good in one file and is refused in another stays too.
    fn keep_moved(&self, loaded: &mut Loaded) {
        for refused in &loaded.refused {
            let reference = &refused.reference;
            let Some(before) = self.objects.get(reference).filter(|before| refused.is(before)) else {
                continue;
            };
            if loaded.objects.current(before).is_none() {
                let error = loaded.diagnostics.iter().find(|d| d.object.as_ref() == Some(reference));
                let origin = error.map_or_else(|| before.origin(), |d| d.origin.clone());
                loaded.diagnostics.push(kept_diagnostic(before, origin));
                loaded.objects.insert(before.clone());
            }
        }
    }
}

fn paths(scan: &Scan) -> HashSet<&Path> {
    scan.files.iter().map(|file| file.path.as_path()).collect()
}

fn duplicate(object: &Object, winner: &Object) -> Diagnostic {
    let order = if object.file == winner.file { "" } else { " in path order" };
    let text = format!("is written again at {}, which wins because it is later{order}", winner.origin());
    object.diagnostic(Severity::Warning, "", text, "remove one of the two", "duplicate-object")
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{AccessKind, AccessMode};
    use notify::{Event, EventKind};
    use std::time::Duration;

    fn namespace(name: &str) -> String {
        format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
    }

    /// A folder with one object, loaded, of which no watch tells.
    fn unwatched() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::write(dir.path().join("a.yaml"), namespace("a")).unwrap();
        let mut folder = Folder::open(vec![dir.path().to_owned()]);
        folder.watch = Watch::broken();
        assert_eq!(folder.load().objects.len(), 1);
        (dir, folder)
    }

    #[tokio::test]
    async fn a_file_that_is_being_cut_short_is_not_read_whatever_its_time() {
        let (dir, mut folder) = unwatched();
        let path = dir.path().join("a.yaml");
        // what stat(2) may say of it meanwhile
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
        let cut_short = |text: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        };
        cut_short("");
        assert_eq!(folder.load().objects.len(), 1, "the last good version stays");
        cut_short(&(namespace("b") + "---\n" + &namespace("c")));
        let seen = tokio::time::timeout(Duration::from_secs(20), async {
            while folder.load().objects.len() != 2 {
                folder.changed().await;
            }
        });
        seen.await.expect("it is read once it has settled");
    }

    #[tokio::test]
    async fn an_emptied_file_is_not_taken_for_one_that_was_closed() {
        let (dir, mut folder) = unwatched();
        let path = dir.path().join("a.yaml");
        std::fs::write(&path, "").unwrap();
        // the event of an earlier write that comes late
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        folder.watch.activity().event(&Event::new(closed).add_path(path), Instant::now());
        assert_eq!(folder.load().objects.len(), 1);
    }

    #[tokio::test]
    async fn changes_are_seen_without_watches() {
        let (dir, mut folder) = unwatched();
        std::fs::write(dir.path().join("b.yaml"), namespace("b")).unwrap();
        tokio::time::timeout(Duration::from_secs(20), folder.changed()).await.unwrap();
        assert_eq!(folder.load().objects.len(), 2);
    }
}
