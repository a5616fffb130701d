//! The objects that were accepted last: from before the process began, and for the next one.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tidegate_api::{Object, Objects};
use tidegate_model::{Diagnostic, Origin, Severity};
use tidegate_source::{Kept, StateFolder};

/// Between two writes.
const PAUSE: Duration = Duration::from_secs(1);
/// Files that are named in diagnostics; a folder that is missing may have thousands.
const NAMED: usize = 100;

/// What is known from before, and where it is kept.
pub(crate) struct LastGood {
    /// What the process began with, as far as it is still what counts.
    restored: Vec<Arc<Object>>,
    /// How many of them counted when it was last asked.
    used: usize,
    /// Where they are from.
    from: String,
    /// What is wrong with what was kept.
    problem: Option<Diagnostic>,
    keeper: Option<Keeper>,
}

impl LastGood {
    /// What the process before this one had, else what is in the folder. Accepted objects are kept there from now on.
    ///
    /// # Errors
    /// When the thread that writes cannot be made.
    pub(crate) fn open(folder: Option<PathBuf>, inherited: Option<Kept>) -> io::Result<LastGood> {
        let folder = folder.map(StateFolder::new);
        let (mut from, mut problem) = ("the process before this one".to_owned(), None);
        let kept = match (inherited, &folder) {
            (Some(kept), _) => kept,
            (None, None) => Kept::default(),
            (None, Some(folder)) => {
                from = folder.file().display().to_string();
                folder.load().unwrap_or_else(|error| {
                    let text = format!("the last good objects are not known: {}", error.1);
                    problem = Some(said(&from, text, "nothing has to be done: it is written anew"));
                    Kept::default()
                })
            }
        };
        if kept.refused > 0 {
            let text =
                format!("{} of the objects that {from} had are none that this version takes", kept.refused);
            problem = Some(said("", text, "nothing has to be done where their files are there"));
        }
        if let Some(written) = kept.written {
            from = format!("{from} ({})", humantime::format_rfc3339_seconds(written));
        }
        let keeper = folder.map(Keeper::start).transpose()?;
        Ok(LastGood { restored: kept.objects, used: 0, from, problem, keeper })
    }

    /// What the process began with.
    pub(crate) fn objects(&self) -> impl Iterator<Item = Arc<Object>> {
        self.restored.iter().cloned()
    }

    /// How many of the objects that count are those that the process began with, and what there is to say of it.
    pub(crate) fn in_use(&mut self, counting: &Objects) -> (usize, Vec<Diagnostic>) {
        self.restored.retain(|object| counting.current(object).is_some_and(|now| Arc::ptr_eq(now, object)));
        let mut files: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for object in &self.restored {
            *files.entry(&object.file).or_default() += 1;
        }
        let more = files.len().saturating_sub(NAMED);
        let mut diagnostics: Vec<_> = self.problem.iter().cloned().collect();
        diagnostics.extend(files.into_iter().take(NAMED).map(|(file, n)| {
            let text = format!("{n} of its objects serve as {} had them", self.from);
            said(file, text, "make it readable, and correct its errors")
        }));
        if more > 0 {
            let text = format!("objects of {more} other files serve as {} had them", self.from);
            diagnostics.push(said("", text, "make them readable, and correct their errors"));
        }
        let now = self.restored.len();
        let before = std::mem::replace(&mut self.used, now);
        if now > 0 && now != before {
            tracing::warn!(
                "{now} objects serve as {} had them: their source is missing or broken",
                self.from
            );
        } else if now == 0 && before > 0 {
            tracing::info!("all objects are those of the config, and none those that {} had", self.from);
        }
        (now, diagnostics)
    }

    /// Keeps these objects for the next process.
    pub(crate) fn keep(&self, objects: &Objects) {
        if let Some(keeper) = &self.keeper {
            keeper.keep(objects.clone());
        }
    }

    /// Whether what is to be kept could be written, where something is; it changes as things go.
    pub(crate) fn is_kept(&self) -> Option<Arc<AtomicBool>> {
        self.keeper.as_ref().map(|keeper| keeper.shared.kept.clone())
    }

    /// Leaves what is kept to another process.
    pub(crate) fn leave(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.shared.lock().next = None;
        }
        self.keeper = None;
    }
}

fn said(file: &str, text: String, advice: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Warning,
        origin: Origin { file: file.into(), line: 0, column: 0 },
        object: None,
        field: String::new(),
        text,
        advice: advice.to_owned(),
        code: "restored",
    }
}

/// A thread that writes what counts now, and never more often than once a second; the last before its end too.
struct Keeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    slot: Mutex<Slot>,
    changed: Condvar,
    /// False while nothing can be written.
    kept: Arc<AtomicBool>,
}

#[derive(Default)]
struct Slot {
    next: Option<Objects>,
    end: bool,
}

impl Keeper {
    fn start(folder: StateFolder) -> io::Result<Keeper> {
        let shared = Arc::<Shared>::default();
        shared.kept.store(true, Ordering::Relaxed);
        let theirs = shared.clone();
        let thread = std::thread::Builder::new().name("tidegate-state".into()).spawn(move || {
            let (mut written, mut failing) = (None, false);
            while let Some(objects) = theirs.next() {
                if written.as_ref() == Some(&objects) {
                    continue;
                }
                let saved = folder.save(&objects);
                theirs.kept.store(saved.is_ok(), Ordering::Relaxed);
                match saved {
                    Ok(()) => (written, failing) = (Some(objects), false),
                    Err(error) => {
                        if !std::mem::replace(&mut failing, true) {
                            tracing::error!("the last good objects are not kept, trying again: {error}");
                        }
                        theirs.again(objects);
                    }
                }
                theirs.pause();
            }
        })?;
        Ok(Keeper { shared, thread: Some(thread) })
    }

    fn keep(&self, objects: Objects) {
        self.shared.lock().next = Some(objects);
        self.shared.changed.notify_one();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.lock().end = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // what it has to say of its end it has said
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to write; `None` is the end.
    fn next(&self) -> Option<Objects> {
        let idle = |slot: &mut Slot| slot.next.is_none() && !slot.end;
        self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner).next.take()
    }

    /// What could not be written is to be, unless there is something newer, or it is the end.
    fn again(&self, objects: Objects) {
        let mut slot = self.lock();
        if !slot.end {
            slot.next.get_or_insert(objects);
        }
    }

    /// Lets time pass, unless it is the end.
    fn pause(&self) {
        drop(self.changed.wait_timeout_while(self.lock(), PAUSE, |slot| !slot.end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(names: &[&str]) -> Objects {
        let text: String = names
            .iter()
            .map(|name| format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n"))
            .collect();
        tidegate_api::read("a.yaml", &text).objects.into_iter().collect()
    }

    #[test]
    fn a_storm_of_changes_is_few_writes_and_its_end_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("state");
        let last_good = LastGood::open(Some(folder.clone()), None).unwrap();
        for i in 0..500 {
            last_good.keep(&objects(&[&format!("team-{i}")]));
        }
        drop(last_good);
        let again = LastGood::open(Some(folder), None).unwrap();
        let names: Vec<_> = again.objects().map(|object| object.reference.name.to_string()).collect();
        assert_eq!(names, ["team-499"]);
    }

    #[test]
    fn what_cannot_be_written_is_tried_again_until_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("state");
        std::fs::write(&folder, "in the way").unwrap();
        let last_good = LastGood::open(Some(folder.clone()), None).unwrap();
        last_good.keep(&objects(&["late"]));
        let kept = last_good.is_kept().unwrap();
        let until = |is: bool| {
            while kept.load(Ordering::Relaxed) != is {
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        until(false);
        std::fs::remove_file(&folder).unwrap();
        until(true);
        assert!(folder.join("last-good.jsonl").exists());
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::write(&folder, "in the way").unwrap();
        last_good.keep(&objects(&["never"]));
        drop(last_good);
        assert!(folder.is_file(), "it ends all the same");
    }

    #[test]
    fn what_is_left_to_another_process_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut last_good = LastGood::open(Some(dir.path().to_owned()), None).unwrap();
        last_good.leave();
        last_good.keep(&objects(&["late"]));
        drop(last_good);
        assert_eq!(LastGood::open(Some(dir.path().to_owned()), None).unwrap().restored.len(), 0);
    }

    #[test]
    fn what_is_in_use_is_said_by_file_until_it_is_replaced() {
        let kept = Kept { objects: objects(&["a", "b"]).iter().cloned().collect(), ..Kept::default() };
        let mut last_good = LastGood::open(None, Some(kept)).unwrap();
        let mut counting: Objects = Objects::new();
        last_good.objects().for_each(|object| _ = counting.insert(object));
        let (n, said) = last_good.in_use(&counting);
        assert_eq!((n, said.len(), said[0].code, &*said[0].origin.file), (2, 1, "restored", "a.yaml"));
        assert!(said[0].text.starts_with("2 of its objects serve as the process before"), "{}", said[0]);
        for object in objects(&["b"]).iter() {
            counting.insert(object.clone());
        }
        assert_eq!(last_good.in_use(&counting).0, 1);
        assert_eq!(last_good.in_use(&Objects::new()), (0, Vec::new()));
        // what comes back by itself is another
        assert_eq!(last_good.in_use(&objects(&["a"])).0, 0);
    }

    #[test]
    fn a_broken_file_is_said_and_ignored() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("last-good.jsonl"), "nonsense").unwrap();
        let mut last_good = LastGood::open(Some(dir.path().to_owned()), None).unwrap();
        let (n, said) = last_good.in_use(&objects(&["a"]));
        assert_eq!((n, said.len()), (0, 1));
        assert!(said[0].text.contains("cut short"), "{}", said[0]);
    }
}
