//! HTTP/2: `h2` driven by us, its flushes coalesced. Downstream here, upstream in `session` and
//! `exchange`.

mod abuse;
mod blocks;
mod budget;
mod client;
mod coalesce;
mod exchange;
mod fields;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod keepalive;
mod lower;
mod memory;
mod refused;
mod sent;
mod session;
mod tasks;

pub(crate) use self::exchange::{Broken, Exchange};
#[cfg(test)]
pub(crate) use self::session::TESTED_STREAM_IDS;
pub(crate) use self::session::{Place, Session};
pub(crate) use self::tasks::Tasks;

use self::abuse::Ends;
use self::coalesce::{Coalesce, Flusher, coalesce};
use crate::connection::Connection;
use crate::forward::deadline::Deadline;
use crate::resting::Seat;
use crate::worker::Worker;
use bytes::Bytes;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Bytes that wait for the window of one stream.
const SEND_BUFFER: usize = 64 << 10;
/// How many streams of a connection we may have to reset for what the client does wrong.
const RESET_BY_US: usize = 250;
/// How many streams may be reset before we look at them.
const RESET_UNSEEN: usize = 100;
/// How long the last bytes may take to leave, and a client to let go.
const LAST: Duration = Duration::from_secs(5);
/// How long a client may take to read the last bytes while it shows that it does.
const LAST_READ: Duration = Duration::from_secs(30);
/// The same for one that did what it may not.
const REFUSED: Duration = Duration::from_millis(500);

type ServerConnection = h2::server::Connection<Coalesce<Stream>, Bytes>;

/// Serves streams on a connection until it ends. `shutdown` turning true sends GOAWAY.
pub(crate) async fn serve(
    stream: Stream,
    connection: Rc<Connection>,
    worker: Rc<Worker>,
    mut shutdown: ShutdownWatch,
) {
    let (io, flusher) = coalesce(stream);
    let Some(h2) = handshake(io, &flusher, &connection, &worker).await else { return };
    let mut streams = Streams {
        h2,
        idle: Deadline::new(worker.limits.keep_alive_idle),
        block: Deadline::new(worker.limits.head_time),
        block_since: None,
        connection,
        open: Rc::default(),
        seat: None,
        worker,
        leaving: false,
        refused: false,
    };
    let mut stop = pin!(shutdown.wait_for(|stop| *stop));
    let mut stopping = false;
    poll_fn(|cx| {
        if !stopping && stop.as_mut().poll(cx).is_ready() {
            stopping = true;
            streams.leave();
        }
        streams.poll(&flusher, cx)
    })
    .await;
    let refused = streams.refused;
    drop(streams);
    flusher.end(LAST, if refused { REFUSED } else { LAST_READ }).await;
}

async fn handshake(
    io: Coalesce<Stream>,
    flusher: &Flusher<Stream>,
    connection: &Connection,
    worker: &Worker,
) -> Option<ServerConnection> {
    let limits = &worker.limits;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(limits.h2_header_list)
        .max_send_buffer_size(SEND_BUFFER)
        .max_local_error_reset_streams(Some(RESET_BY_US))
        .max_pending_accept_reset_streams(RESET_UNSEEN)
        .enable_connect_protocol();
    let mut shake = Box::pin(builder.handshake(io));
    let shaken = poll_fn(|cx| {
        let result = shake.as_mut().poll(cx);
        match flusher.poll_flush(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ => result.map(|h2| h2.inspect_err(|e| refused::preface(e, connection, worker)).ok()),
        }
    });
    tokio::time::timeout(limits.head_time, shaken).await.ok()?
}

/// The streams of one connection.
struct Streams {
    h2: ServerConnection,
    idle: Deadline,
    /// For the header block that is open.
    block: Deadline,
    block_since: Option<Instant>,
    connection: Rc<Connection>,
    worker: Rc<Worker>,
    /// Shared by the open streams.
    open: Rc<Ends>,
    /// Where it is found to be idle.
    seat: Option<Seat>,
    /// GOAWAY was sent.
    leaving: bool,
    /// GOAWAY was sent because of what the client does.
    refused: bool,
}

impl Streams {
    /// Passes streams on as they come; after that the connection's frames are written, flushed
    /// once after all streams that were ready have written. Ready when the connection is done.
    fn poll(&mut self, flusher: &Flusher<Stream>, cx: &mut Context<'_>) -> Poll<()> {
        while let Poll::Ready(next) = self.h2.poll_accept(cx) {
            let (request, respond) = match next {
                Some(Ok(next)) => next,
                Some(Err(e)) => {
                    self.ended_by(&e);
                    return Poll::Ready(());
                }
                None => return Poll::Ready(()),
            };
            self.accepted(respond.stream_id().as_u32(), flusher);
            if self.connection.is_last(&self.worker) {
                self.leave();
            }
            let (connection, open) = (self.connection.clone(), self.open.clone());
            let stream = tasks::Stream { request, respond, connection, open };
            self.worker.streams.serve(stream, &self.worker);
        }
        // what ends it, it is told
        if self.refuses(flusher) && self.h2.poll_accept(cx).is_ready() {
            return Poll::Ready(());
        }
        if let Poll::Ready(Err(_)) = flusher.poll_flush(cx) {
            return Poll::Ready(());
        }
        if self.poll_block(flusher, cx).is_ready() {
            self.endless_block();
            return Poll::Ready(());
        }
        let busy = Rc::strong_count(&self.open) > 1;
        if busy {
            self.idle.touch();
        }
        self.connection.rest.set((!busy).then(|| self.idle.since()));
        self.seat.get_or_insert_with(|| Seat::take(&self.worker, &self.connection, cx.waker()));
        if self.connection.rest.is_over() && !busy && !self.leaving {
            self.leave();
            cx.waker().wake_by_ref();
        }
        while self.idle.poll(cx).is_ready() {
            if Rc::strong_count(&self.open) > 1 {
                self.idle.touch();
            } else if self.leaving {
                return Poll::Ready(());
            } else {
                self.leave();
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    /// Ready when a header block was open for too long.
    fn poll_block(&mut self, flusher: &Flusher<Stream>, cx: &mut Context<'_>) -> Poll<()> {
        let since = flusher.open_since();
        if since != self.block_since {
            self.block_since = since;
            if let Some(since) = since {
                self.block.start(since, self.worker.limits.head_time);
            }
        }
        if self.block_since.is_some() { self.block.poll(cx).map(|_| ()) } else { Poll::Pending }
    }

    /// Tells the client to open no more streams; the connection ends after those that are open,
    /// and in any case when nothing is open and the client does not let go.
    fn leave(&mut self) {
        if !self.leaving {
            self.leaving = true;
            self.h2.graceful_shutdown();
            self.idle.start(Instant::now(), LAST);
        }
    }
}
