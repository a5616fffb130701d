//! What a process writes, line by line, while it runs.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The lines that a process has written so far; a thread reads them as they come.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Starts to collect the lines of a stream.
    pub fn of(stream: impl Read + Send + 'static) -> Self {
        let lines = Lines::default();
        let kept = lines.clone();
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(stream.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                kept.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                line.clear();
            }
        });
        lines
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The lines from the given one on.
    pub fn since(&self, mark: usize) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.get(mark..).unwrap_or_default().to_vec()
    }

    /// The last lines as one text, for messages.
    pub fn tail(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines[lines.len().saturating_sub(6)..].join(" | ")
    }

    /// Waits until no line has come for the given time, and says how many there are then.
    pub async fn settled(&self, still: Duration) -> usize {
        let (mut seen, mut since) = (self.count(), Instant::now());
        while since.elapsed() < still {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let now = self.count();
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
        seen
    }

    /// Waits until a line from `mark` on satisfies `wanted`; `None` when none came in time.
    pub async fn find(
        &self,
        mark: usize,
        patience: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let end = Instant::now() + patience;
        loop {
            if let Some(line) = self.since(mark).into_iter().find(|l| wanted(l)) {
                return Some(line);
            }
            if Instant::now() > end {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
