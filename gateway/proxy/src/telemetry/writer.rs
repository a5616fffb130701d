//! One thread that writes the access log, so that no request waits for a disk or a pipe.

use crate::lock::lock;
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// What a worker's lines may take while they wait; what comes beyond is dropped and counted.
const ROOM: usize = 1 << 20;
/// Lines are written at once when a worker has so many bytes of them ...
const BATCH: usize = 64 << 10;
/// ... and else so long after the first of them.
const PAUSE: Duration = Duration::from_millis(50);
/// How long [`LogWriter::flush`] waits for an output that takes nothing.
const FLUSH_TIME: Duration = Duration::from_secs(2);
/// How often it is said that lines are lost.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// How often it is looked whether the log file is still the one of its name.
const ROTATION_CHECK: Duration = Duration::from_secs(1);

/// Nobody has lines.
const IDLE: u8 = 0;
/// Lines wait for the end of the pause.
const WAITING: u8 = 1;
/// Lines are to be written now.
const HURRY: u8 = 2;

/// Writes the lines of all workers to one output. Its thread begins with the first output.
pub(super) struct LogWriter(Arc<Shared>);

struct Shared {
    /// `IDLE`, `WAITING` or `HURRY`.
    state: AtomicU8,
    thread: OnceLock<Thread>,
    stopped: AtomicBool,
    dropped: AtomicU64,
    buffers: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    next_output: Mutex<Option<Output>>,
    flush: Flush,
    /// Somebody says that lines are lost, or did so lately.
    telling: AtomicBool,
    tell: Tell,
}

/// Says why lines are lost.
type Tell = fn(&str);

/// Flushes that were asked for and that are done.
#[derive(Default)]
struct Flush {
    asked: AtomicU64,
    done: Mutex<u64>,
    progress: Condvar,
}

/// A worker's lines on their way to the writer.
pub(super) struct LineBuffer {
    lines: Arc<Mutex<Vec<u8>>>,
    shared: Arc<Shared>,
}

impl LineBuffer {
    /// Hands over one whole line. Never waits: the lock is held by others only while they take
    /// the buffer, and a line that finds no room is dropped and counted.
    pub(super) fn push(&self, line: &[u8]) {
        let mut lines = lock(&self.lines);
        if lines.len() + line.len() > ROOM {
            drop(lines);
            return self.shared.lost(1, "it takes them too slowly, or not at all");
        }
        lines.extend_from_slice(line);
        let state = if lines.len() >= BATCH { HURRY } else { WAITING };
        drop(lines);
        self.shared.raise(state);
    }
}

impl LogWriter {
    pub(super) fn new() -> Self {
        LogWriter::telling(|why| {
            tracing::warn!(
                "lines of the access log are lost, and counted in tidegate_access_log_dropped_total: {why}"
            );
        })
    }

    fn telling(tell: Tell) -> Self {
        LogWriter(Arc::new(Shared {
            state: AtomicU8::new(IDLE),
            thread: OnceLock::new(),
            stopped: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            buffers: Mutex::default(),
            next_output: Mutex::default(),
            flush: Flush::default(),
            telling: AtomicBool::new(false),
            tell,
        }))
    }

    /// A worker's part.
    pub(super) fn buffer(&self) -> LineBuffer {
        // Twice a batch, so that it does not grow in steady state.
        let lines = Arc::new(Mutex::new(Vec::with_capacity(2 * BATCH)));
        lock(&self.0.buffers).push(lines.clone());
        LineBuffer { lines, shared: self.0.clone() }
    }

    /// Writes to this file from now on; what was logged before goes to the old one. Waits for
    /// that as [`LogWriter::flush`] does.
    ///
    /// # Errors
    /// When the file cannot be opened or the thread not be made; the old output stays then.
    pub(super) fn set_output(&self, path: &str) -> io::Result<()> {
        let output = Output::open(path)?;
        if self.0.thread.get().is_none() {
            let shared = self.0.clone();
            let thread = std::thread::Builder::new()
                .name("access-log".into())
                .spawn(move || shared.write_for_ever())?;
            let _ = self.0.thread.set(thread.thread().clone());
        }
        *lock(&self.0.next_output) = Some(output);
        self.flush();
        Ok(())
    }

    /// Lines that found no room or could not be written.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Returns when what was logged before is written, or after two seconds.
    pub(super) fn flush(&self) {
        if self.0.thread.get().is_none() {
            return;
        }
        let flush = &self.0.flush;
        let mine = flush.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.0.wake();
        let done = lock(&flush.done);
        let waited = flush.progress.wait_timeout_while(done, FLUSH_TIME, |done| *done < mine);
        drop(waited);
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Release);
        self.0.wake();
    }
}

impl Shared {
    /// Wakes the writer unless it is awake for as much already: one wake-up a batch, not a line.
    fn raise(&self, state: u8) {
        if self.state.load(Ordering::Relaxed) < state
            && self.state.fetch_max(state, Ordering::AcqRel) < state
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Wakes the writer whatever it does.
    fn wake(&self) {
        self.state.store(HURRY, Ordering::Release);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Counts lines that are lost, and says so once in a while: by a thread of its own, since what takes no lines may
    /// be what takes our messages.
    #[cold]
    fn lost(self: &Arc<Self>, lines: u64, why: &str) {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
        if self.telling.swap(true, Ordering::Relaxed) {
            return;
        }
        let (shared, why) = (self.clone(), why.to_owned());
        let told = std::thread::Builder::new().name("access-log-lost".into()).spawn(move || {
            (shared.tell)(&why);
            std::thread::sleep(TELL_AGAIN);
            shared.telling.store(false, Ordering::Relaxed);
        });
        if told.is_err() {
            self.telling.store(false, Ordering::Relaxed);
        }
    }

    fn write_for_ever(self: &Arc<Self>) {
        let mut output: Option<Output> = None;
        let mut batch = Vec::with_capacity(2 * BATCH);
        loop {
            self.wait();
            let stopped = self.stopped.load(Ordering::Acquire);
            let asked = self.flush.asked.load(Ordering::Acquire);
            // Taken before the lines: what was logged before the switch goes to the old output.
            let mut next = lock(&self.next_output).take();
            if output.is_none() {
                output = next.take();
            }
            let buffers = lock(&self.buffers).clone();
            for buffer in &buffers {
                std::mem::swap(&mut batch, &mut *lock(buffer));
                let none = || Err((lines(&batch), io::ErrorKind::NotConnected.into()));
                let written = output.as_mut().map_or_else(none, |o| o.write(&batch));
                if let Err((lost @ 1.., e)) = written {
                    self.lost(lost, &format!("they cannot be written: {e}"));
                }
                batch.clear();
            }
            if next.is_some() {
                output = next;
            }
            *lock(&self.flush.done) = asked;
            self.flush.progress.notify_all();
            if stopped {
                return;
            }
        }
    }

    /// Until lines have waited long enough. A line that comes after this raises the state again.
    fn wait(&self) {
        while self.state.load(Ordering::Acquire) == IDLE {
            std::thread::park();
        }
        let due = Instant::now() + PAUSE;
        while self.state.load(Ordering::Acquire) < HURRY {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::park_timeout(left);
        }
        self.state.store(IDLE, Ordering::Release);
    }
}

/// Where lines go.
struct Output {
    file: File,
    rotation: Option<Rotation>,
}

/// Finds out that a log file was renamed or removed, so that nobody needs to send a signal.
struct Rotation {
    path: PathBuf,
    identity: (u64, u64),
    checked: Instant,
}

impl Output {
    /// Standard output and error by duplicates: opening their paths fails on sockets.
    fn open(path: &str) -> io::Result<Self> {
        let file = match path {
            "/dev/stdout" => File::from(io::stdout().as_fd().try_clone_to_owned()?),
            "/dev/stderr" => File::from(io::stderr().as_fd().try_clone_to_owned()?),
            path => append(Path::new(path))?,
        };
        let is_file = file.metadata().is_ok_and(|m| m.is_file()) && !path.starts_with("/dev/");
        let rotation = is_file.then(|| Rotation::new(path.into(), &file)).transpose()?;
        Ok(Output { file, rotation })
    }

    /// Writes whole lines.
    ///
    /// # Errors
    /// How many could not be written, and why.
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), (u64, io::Error)> {
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(file) = self.rotation.as_mut().and_then(Rotation::next) {
            self.file = file;
        }
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err((lines(bytes), io::ErrorKind::WriteZero.into())),
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Someone made a pipe or terminal non-blocking that we share.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(PAUSE / 10),
                Err(e) => return Err((lines(bytes), e)),
            }
        }
        Ok(())
    }
}

impl Rotation {
    fn new(path: PathBuf, file: &File) -> io::Result<Self> {
        let identity = identity(&file.metadata()?);
        Ok(Rotation { path, identity, checked: Instant::now() })
    }

    /// A new file where the path no longer leads to the old one; looked for once a second.
    fn next(&mut self) -> Option<File> {
        if self.checked.elapsed() < ROTATION_CHECK {
            return None;
        }
        self.checked = Instant::now();
        if std::fs::metadata(&self.path).is_ok_and(|m| identity(&m) == self.identity) {
            return None;
        }
        let file = append(&self.path).ok()?;
        self.identity = identity(&file.metadata().ok()?);
        Some(file)
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|b| **b == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn read(path: &std::path::Path) -> String {
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Waits until it is said once that lines are lost.
    fn until_told(told: &Mutex<Vec<String>>, why: &str) {
        while lock(told).is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(*lock(told), [why]);
    }

    #[test]
    fn lines_are_seen_within_200_ms() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let writer = LogWriter::new();
        writer.set_output(path.to_str().unwrap()).unwrap();
        let buffer = writer.buffer();
        let mut expected = String::new();
        let mut waits = [0; 5].map(|_| {
            let line = format!("line {}\n", expected.len());
            buffer.push(line.as_bytes());
            expected.push_str(&line);
            let begun = Instant::now();
            while read(&path) != expected {
                assert!(begun.elapsed() < Duration::from_secs(20), "it never came");
                std::thread::sleep(Duration::from_millis(1));
            }
            begun.elapsed()
        });
        waits.sort();
        assert!(waits[2] < Duration::from_millis(200), "{waits:?}");
    }

    #[test]
    fn all_lines_of_all_workers_arrive_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let writer = LogWriter::new();
        writer.set_output(path.to_str().unwrap()).unwrap();
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let buffer = writer.buffer();
                scope.spawn(move || {
                    for i in 0..5000 {
                        buffer.push(format!("worker {worker} line {i}\n").as_bytes());
                    }
                });
            }
        });
        writer.flush();
        let text = read(&path);
        for worker in 0..4 {
            let mine = text.lines().filter(|l| l.starts_with(&format!("worker {worker} ")));
            let expected = (0..5000).map(|i| format!("worker {worker} line {i}"));
            assert!(mine.eq(expected), "in order and whole");
        }
        assert_eq!((text.lines().count(), writer.dropped()), (20_000, 0));
    }

    #[test]
    fn a_stuck_output_drops_and_counts_and_never_blocks() {
        let (mut reader, pipe) = io::pipe().unwrap();
        static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let writer = LogWriter::telling(|why| lock(&TOLD).push(why.to_owned()));
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&pipe));
        writer.set_output(&path).unwrap();
        drop(pipe);
        let buffer = writer.buffer();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        let begun = Instant::now();
        let pushed = 4 * ROOM / line.len();
        for _ in 0..pushed {
            buffer.push(&line);
        }
        assert!(begun.elapsed() < Duration::from_secs(1));
        let dropped = writer.dropped();
        assert!(dropped > 0);
        until_told(&TOLD, "it takes them too slowly, or not at all");
        let kept = (pushed as u64 - dropped) as usize * line.len();
        let mut got = vec![0; kept];
        reader.read_exact(&mut got).unwrap();
        assert!(got.chunks(line.len()).all(|l| l == line), "what was not dropped is whole");
        writer.flush();
        assert_eq!(writer.dropped(), dropped);
    }

    #[test]
    fn the_output_switches_after_what_was_logged_before() {
        let directory = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|n| directory.path().join(n));
        let writer = LogWriter::new();
        let buffer = writer.buffer();
        writer.set_output(a.to_str().unwrap()).unwrap();
        buffer.push(b"first\n");
        writer.set_output(b.to_str().unwrap()).unwrap();
        writer.flush();
        buffer.push(b"second\n");
        assert!(writer.set_output("/nowhere/at/all").is_err());
        writer.flush();
        assert_eq!((read(&a), read(&b)), ("first\n".to_string(), "second\n".to_string()));
    }

    #[test]
    fn a_renamed_file_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let [path, renamed] = ["log", "log.1"].map(|n| directory.path().join(n));
        let writer = LogWriter::new();
        writer.set_output(path.to_str().unwrap()).unwrap();
        let buffer = writer.buffer();
        buffer.push(b"old\n");
        writer.flush();
        std::fs::rename(&path, &renamed).unwrap();
        std::thread::sleep(ROTATION_CHECK);
        buffer.push(b"new\n");
        writer.flush();
        assert_eq!((read(&renamed), read(&path)), ("old\n".to_string(), "new\n".to_string()));
    }

    #[test]
    fn an_output_that_fails_counts_the_lines() {
        static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let writer = LogWriter::telling(|why| lock(&TOLD).push(why.to_owned()));
        writer.set_output("/dev/full").unwrap();
        for n in 1..=3 {
            writer.buffer().push(b"one\ntwo\n");
            writer.flush();
            assert_eq!(writer.dropped(), 2 * n);
        }
        until_told(&TOLD, "they cannot be written: No space left on device (os error 28)");
    }
}
