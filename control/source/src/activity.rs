//! What the watcher has seen since the last load, and when it is time to look.

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind};
use notify::{Event, EventKind};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A file that was written to and not closed is complete after this time.
pub(crate) const SETTLED: Duration = Duration::from_millis(100);
/// Changes that follow each other within this time are one.
const QUIET: Duration = Duration::from_millis(50);
/// The longest that changes are gathered.
const LONGEST: Duration = Duration::from_millis(200);
/// Most paths that are remembered; beyond that, times of modification decide.
const MAX_PATHS: usize = 10_000;

/// Events on their way to a load.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// Files that are being written, and when they last were.
    writing: HashMap<PathBuf, Instant>,
    /// Files that were closed or renamed into place, and so are complete.
    complete: HashSet<PathBuf>,
    /// The first and the last change that is complete.
    ready: Option<(Instant, Instant)>,
}

impl Activity {
    pub(crate) fn event(&mut self, event: &Event, now: Instant) {
        if event.need_rescan() {
            return self.ready(now);
        }
        for path in &event.paths {
            match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Modify(ModifyKind::Name(_)) => {
                    self.complete(path, now);
                }
                EventKind::Modify(ModifyKind::Data(_)) | EventKind::Create(CreateKind::File) => {
                    self.written(path.clone(), now);
                }
                EventKind::Access(_) => {}
                EventKind::Modify(ModifyKind::Metadata(_)) => self.ready(now),
                _ => {
                    self.writing.remove(path);
                    self.ready(now);
                }
            }
        }
    }

    /// Something changed that can be read now.
    pub(crate) fn ready(&mut self, now: Instant) {
        let first = self.ready.map_or(now, |(first, _)| first);
        self.ready = Some((first, now));
    }

    /// A file is being written.
    pub(crate) fn written(&mut self, path: PathBuf, now: Instant) {
        self.complete.remove(&path);
        if self.writing.len() < MAX_PATHS || self.writing.contains_key(&path) {
            self.writing.insert(path, now);
        } else {
            self.ready(now);
        }
    }

    fn complete(&mut self, path: &Path, now: Instant) {
        self.writing.remove(path);
        if self.complete.len() < MAX_PATHS {
            self.complete.insert(path.to_owned());
        }
        self.ready(now);
    }

    pub(crate) fn is_writing(&self, path: &Path) -> bool {
        self.writing.contains_key(path)
    }

    pub(crate) fn is_complete(&self, path: &Path) -> bool {
        self.complete.contains(path)
    }

    /// When to look, if there is anything to look at.
    pub(crate) fn due(&self) -> Option<Instant> {
        let gathered = self.ready.map(|(first, last)| (last + QUIET).min(first + LONGEST));
        let settled = self.writing.values().min().map(|last| *last + SETTLED);
        gathered.into_iter().chain(settled).min()
    }

    /// Counts files as complete that nobody wrote to for [`SETTLED`].
    pub(crate) fn settle(&mut self, now: Instant) {
        let complete = &mut self.complete;
        self.writing.retain(|path, last| {
            let settled = now.duration_since(*last) >= SETTLED;
            if settled && complete.len() < MAX_PATHS {
                complete.insert(path.clone());
            }
            !settled
        });
        self.ready = None;
    }

    /// Forgets what a load has read.
    pub(crate) fn loaded(&mut self) {
        self.complete.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{DataChange, RenameMode};

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn event(kind: EventKind) -> Event {
        Event::new(kind).add_path("/a.yaml".into())
    }

    #[test]
    fn closed_files_are_due_soon_and_written_ones_when_settled() {
        let start = Instant::now();
        let written = event(EventKind::Modify(ModifyKind::Data(DataChange::Any)));
        let closed = event(EventKind::Access(AccessKind::Close(AccessMode::Write)));
        let mut activity = Activity::default();
        assert_eq!(activity.due(), None);
        activity.event(&written, start);
        activity.event(&written, start + ms(60));
        assert_eq!(activity.due(), Some(start + ms(160)));
        assert!(activity.is_writing(Path::new("/a.yaml")));
        activity.event(&closed, start + ms(70));
        assert_eq!(activity.due(), Some(start + ms(120)));
        assert!(activity.is_complete(Path::new("/a.yaml")));
        activity.settle(start + ms(120));
        assert_eq!(activity.due(), None);
    }

    #[test]
    fn a_stream_of_changes_is_not_gathered_for_ever() {
        let start = Instant::now();
        let renamed = event(EventKind::Modify(ModifyKind::Name(RenameMode::To)));
        let mut activity = Activity::default();
        for step in 0..40 {
            activity.event(&renamed, start + ms(step * 40));
        }
        assert_eq!(activity.due(), Some(start + ms(200)));
    }

    #[test]
    fn a_file_that_is_written_to_all_the_time_stays_unread() {
        let start = Instant::now();
        let written = event(EventKind::Modify(ModifyKind::Data(DataChange::Any)));
        let mut activity = Activity::default();
        for step in 0..40 {
            activity.event(&written, start + ms(step * 50));
            activity.settle(start + ms(step * 50 + 20));
        }
        assert!(activity.is_writing(Path::new("/a.yaml")));
        activity.settle(start + ms(39 * 50 + 100));
        assert!(!activity.is_writing(Path::new("/a.yaml")));
    }

    #[test]
    fn reading_is_no_change_and_lost_events_are_one() {
        let now = Instant::now();
        let mut activity = Activity::default();
        activity.event(&event(EventKind::Access(AccessKind::Open(AccessMode::Any))), now);
        assert_eq!(activity.due(), None);
        activity.event(&Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan), now);
        assert!(activity.due().is_some());
    }
}
