//! An open loop: requests are due at a fixed rate, whatever becomes of those before them, and the latency of each counts
//! from when it was due. So a proxy that stalls pays for all that should have been sent meanwhile (coordinated omission).

use super::{Shape, client_config, connect, handshake, http1};
use crate::client::Io;
use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use rustls::ClientConfig;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

/// The longest latency that is told from longer ones.
const LONGEST: Duration = Duration::from_secs(60);

/// Latencies of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latencies {
    /// Half of the requests took no longer.
    pub median: Duration,
    /// 99 % of them.
    pub p99: Duration,
    /// 99.9 % of them.
    pub p999: Duration,
    /// All of them.
    pub most: Duration,
}

/// What is due, by a schedule.
struct Schedule {
    begin: Instant,
    interval: Duration,
    requests: u32,
    /// Requests that somebody has taken.
    taken: Cell<u32>,
}

impl Schedule {
    fn due(&self, request: u32) -> Instant {
        self.begin + self.interval * request
    }

    /// When the next request is due; `None` after the last.
    fn take(&self) -> Option<Instant> {
        let request = self.taken.get();
        self.taken.set(request + 1);
        (request < self.requests).then(|| self.due(request))
    }
}

/// Sends requests at `rate` a second for a time over so many connections of HTTP/1.1, which each have sent one before. One
/// that is due goes out over the first connection that is free.
///
/// # Errors
/// At the first request that fails or is answered with another status than 200.
pub async fn run_at(
    to: SocketAddr,
    shape: Shape,
    connections: usize,
    rate: f64,
    time: Duration,
) -> Result<Latencies> {
    ensure!(rate > 0.0, "the rate must be more than nothing");
    let request = Rc::new(http1::Request::new(shape));
    let tls = client_config(shape)?;
    let mut streams = Vec::new();
    for _ in 0..connections {
        streams.push(opened(to, shape, &request, tls.clone()).await?);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "requests of some seconds")]
    let requests = (rate * time.as_secs_f64()) as u32;
    let begin = Instant::now() + Duration::from_millis(10);
    let interval = Duration::from_secs_f64(1.0 / rate);
    let schedule = Rc::new(Schedule { begin, interval, requests, taken: Cell::default() });
    let due = pace(&schedule, connections);
    let histogram = Histogram::new_with_max(u64::try_from(LONGEST.as_nanos())?, 3)?;
    let histogram = Rc::new(RefCell::new(histogram));
    let set = LocalSet::new();
    set.run_until(async {
        let mut tasks = JoinSet::new();
        for stream in streams {
            let (schedule, due, histogram) = (schedule.clone(), due.clone(), histogram.clone());
            tasks.spawn_local(connection(stream, request.clone(), schedule, due, histogram));
        }
        while let Some(done) = tasks.join_next().await {
            done?.with_context(|| format!("{} to {to}", shape.name()))?;
        }
        anyhow::Ok(())
    })
    .await?;
    let histogram = histogram.borrow();
    let at = |quantile| Duration::from_nanos(histogram.value_at_quantile(quantile));
    Ok(Latencies {
        median: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
        most: Duration::from_nanos(histogram.max()),
    })
}

/// A connection that has answered once.
async fn opened(
    to: SocketAddr,
    shape: Shape,
    request: &http1::Request,
    tls: Arc<ClientConfig>,
) -> Result<Box<dyn Io>> {
    let mut stream: Box<dyn Io> = match shape.is_tls() {
        true => Box::new(handshake(to, tls).await?),
        false => Box::new(connect(to).await?),
    };
    http1::exchange(&mut stream, request, &mut vec![0; 16 << 10]).await?;
    Ok(stream)
}

/// Gives a permit for each request once it is due, and then for every connection, to end. By a thread of its own: timers
/// of the runtime are a millisecond coarse.
fn pace(schedule: &Schedule, connections: usize) -> Arc<Semaphore> {
    let due = Arc::new(Semaphore::new(0));
    let (permits, requests) = (due.clone(), schedule.requests);
    let (begin, interval) = (schedule.begin, schedule.interval);
    std::thread::spawn(move || {
        for request in 0..requests {
            let wait = (begin + interval * request).saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
            permits.add_permits(1);
        }
        permits.add_permits(connections);
    });
    due
}

async fn connection(
    mut stream: Box<dyn Io>,
    request: Rc<http1::Request>,
    schedule: Rc<Schedule>,
    due: Arc<Semaphore>,
    histogram: Rc<RefCell<Histogram<u64>>>,
) -> Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        due.acquire().await?.forget();
        let Some(since) = schedule.take() else { return Ok(()) };
        http1::exchange(&mut stream, &request, &mut buffer).await?;
        let took = u64::try_from(since.elapsed().as_nanos())?;
        histogram.borrow_mut().saturating_record(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers one connection at once, but for a pause before one of the answers.
    async fn serve(listener: TcpListener, stalled: usize, pause: Duration) -> Result<()> {
        let (mut stream, _) = listener.accept().await?;
        let mut buffer = vec![0; 4 << 10];
        let answer = [&b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n"[..], &[b'x'; 1024]].concat();
        for n in 0.. {
            if stream.read(&mut buffer).await? == 0 {
                return Ok(());
            }
            if n == stalled {
                tokio::time::sleep(pause).await;
            }
            stream.write_all(&answer).await?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn requests_that_a_stall_delays_count_from_when_they_were_due() {
        let pause = Duration::from_millis(400);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, 20, pause));
        let found = run_at(to, Shape::Get, 1, 100.0, Duration::from_secs(1)).await.unwrap();
        server.await.unwrap().unwrap();
        // of a hundred requests forty were due in the pause; a closed loop would see one of them
        assert!(found.most >= pause, "{found:?}");
        assert!(found.p99 >= pause * 9 / 10, "{found:?}");
    }
}
