//! A workload that keeps every byte of every connection, and understands none.

use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// It answers when nothing has come for so long.
const STILL: Duration = Duration::from_millis(150);
/// After the answer it listens on for so long.
const AFTER: Duration = Duration::from_millis(250);
/// The most that is kept of a connection.
const MOST: usize = 4_000_000;

/// Records raw connections; every one gets [`Recorder::ANSWER`] once the client has fallen silent.
pub struct Recorder {
    state: Arc<Mutex<State>>,
    listener: AbortHandle,
}

#[derive(Default)]
struct State {
    /// One for each connection that brought a byte.
    connections: Vec<Vec<u8>>,
    open: usize,
    most_open: usize,
    /// Connections of before a reset do not count.
    round: usize,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Recorder {
    /// The answer; nothing else in the tests has an `x-recorder`.
    pub const ANSWER: &str =
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Recorder: 1\r\nConnection: close\r\n\r\nOK";

    /// Starts to listen.
    pub async fn start(at: SocketAddr) -> Result<Recorder> {
        let listener = TcpListener::bind(at).await.with_context(|| format!("a recorder at {at}"))?;
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        let task = tokio::spawn(async move {
            // connections end with the listener's task
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(record(stream, shared.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Recorder { state, listener: task.abort_handle() })
    }

    /// Forgets everything.
    pub fn reset(&self) {
        let mut state = lock(&self.state);
        *state = State { round: state.round + 1, ..State::default() };
    }

    /// The bytes of each connection so far.
    pub fn connections(&self) -> Vec<Vec<u8>> {
        lock(&self.state).connections.clone()
    }

    /// The most connections that were open at once.
    pub fn most_open(&self) -> usize {
        lock(&self.state).most_open
    }

    /// Waits until no connection is open any more, but not for long.
    pub async fn settled(&self) {
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if lock(&self.state).open == 0 {
                return;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn record(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let round = lock(&state).round;
    let mut place = None;
    let mut patience = Duration::from_secs(5);
    while let Some(n) = read(&mut stream, patience, &state, round, &mut place).await {
        patience = STILL;
        if n == 0 || n > MOST {
            break;
        }
    }
    if place.is_some() && stream.write_all(Recorder::ANSWER.as_bytes()).await.is_ok() {
        while read(&mut stream, AFTER, &state, round, &mut place).await.is_some_and(|n| n > 0) {}
    }
    let mut state = lock(&state);
    if place.is_some() && state.round == round {
        state.open -= 1;
    }
}

/// Reads and keeps what comes: how much there is by now, 0 at the end, `None` when nothing came.
async fn read(
    stream: &mut TcpStream,
    patience: Duration,
    state: &Mutex<State>,
    round: usize,
    place: &mut Option<usize>,
) -> Option<usize> {
    let mut bytes = [0; 16 << 10];
    let n = tokio::time::timeout(patience, stream.read(&mut bytes)).await.ok()?.unwrap_or(0);
    let mut state = lock(state);
    if n == 0 || state.round != round {
        return Some(0);
    }
    let place = *place.get_or_insert_with(|| {
        state.open += 1;
        state.most_open = state.most_open.max(state.open);
        state.connections.push(Vec::new());
        state.connections.len() - 1
    });
    let record = &mut state.connections[place];
    record.extend_from_slice(&bytes[..n]);
    Some(record.len())
}
