//! HTTP/2: `h2` driven by us, its flushes coalesced. Downstream here, upstream in `session` and
//! `exchange`.

mod client;
mod coalesce;
mod exchange;
mod fields;
mod frames;
mod lower;
mod session;

pub(crate) use self::exchange::{Broken, Exchange};
pub(crate) use self::session::{Place, Session};

use self::client::Client;
use self::coalesce::{Coalesce, Flusher, coalesce};
use self::lower::{LowerLimits, lower};
use crate::connection::Connection;
use crate::forward::buffers::Work;
use crate::forward::deadline::Deadline;
use crate::forward::error::Kind;
use crate::forward::record::{Protocol, Site};
use crate::forward::request;
use crate::worker::Worker;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Bytes that wait for the window of one stream.
const SEND_BUFFER: usize = 64 << 10;
/// How long the last bytes may take to leave, and a client to let go.
const LAST: Duration = Duration::from_secs(5);
/// How long a client may take to read the last bytes while it shows that it does.
const LAST_READ: Duration = Duration::from_secs(30);

type ServerConnection = h2::server::Connection<Coalesce<Stream>, Bytes>;
type NextStream = Option<Result<(Request<RecvStream>, SendResponse<Bytes>), h2::Error>>;

/// Serves streams on a connection until it ends. `shutdown` turning true sends GOAWAY.
pub(crate) async fn serve(
    stream: Stream,
    connection: Rc<Connection>,
    worker: Rc<Worker>,
    mut shutdown: ShutdownWatch,
) {
    let (io, flusher) = coalesce(stream);
    let Some(h2) = handshake(io, &flusher, &worker).await else { return };
    let mut streams = Streams {
        h2,
        idle: Deadline::new(worker.limits.keep_alive_idle),
        block: Deadline::new(worker.limits.head_time),
        block_since: None,
        head_time: worker.limits.head_time,
        open: Rc::new(()),
        leaving: false,
    };
    let mut stop = pin!(shutdown.wait_for(|stop| *stop));
    let mut stopping = false;
    while let Some(Ok((request, respond))) = poll_fn(|cx| {
        if !stopping && stop.as_mut().poll(cx).is_ready() {
            stopping = true;
            streams.leave();
        }
        streams.poll_next(&flusher, cx)
    })
    .await
    {
        let (connection, worker, open) = (connection.clone(), worker.clone(), streams.open.clone());
        tokio::task::spawn_local(async move {
            one(request, respond, &connection, &worker).await;
            drop(open);
        });
    }
    drop(streams);
    flusher.end(LAST, LAST_READ).await;
}

async fn handshake(
    io: Coalesce<Stream>,
    flusher: &Flusher<Stream>,
    worker: &Worker,
) -> Option<ServerConnection> {
    let limits = &worker.limits;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(limits.h2_header_list)
        .max_send_buffer_size(SEND_BUFFER);
    let mut shake = Box::pin(builder.handshake(io));
    let shaken = poll_fn(|cx| {
        let result = shake.as_mut().poll(cx);
        match flusher.poll_flush(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ => result.map(Result::ok),
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
    head_time: Duration,
    /// Shared by the tasks of the open streams.
    open: Rc<()>,
    /// GOAWAY was sent.
    leaving: bool,
}

impl Streams {
    /// The next stream; in between, the connection's frames are read and written, and flushed
    /// once after all streams that were ready have written.
    fn poll_next(&mut self, flusher: &Flusher<Stream>, cx: &mut Context<'_>) -> Poll<NextStream> {
        if let Poll::Ready(next) = self.h2.poll_accept(cx) {
            return Poll::Ready(next);
        }
        if let Poll::Ready(Err(_)) = flusher.poll_flush(cx) {
            return Poll::Ready(None);
        }
        if self.poll_block(flusher, cx).is_ready() {
            return Poll::Ready(None);
        }
        if Rc::strong_count(&self.open) > 1 {
            self.idle.touch();
        }
        while self.idle.poll(cx).is_ready() {
            if Rc::strong_count(&self.open) > 1 {
                self.idle.touch();
            } else if self.leaving {
                return Poll::Ready(None);
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
                self.block.start(since, self.head_time);
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

/// Serves one stream.
async fn one(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    connection: &Connection,
    worker: &Worker,
) {
    let site = Site { worker, connection, protocol: Protocol::Http2 };
    let limits = LowerLimits { fields: worker.limits.h2_fields, target: worker.limits.target_bytes };
    let (parts, body) = request.into_parts();
    let mut w = Work::take();
    let lowered = lower(&parts, body.is_end_stream(), limits, &mut w);
    drop(parts);
    let mut client = Client::new(respond, body, Deadline::new(worker.limits.request_idle));
    match lowered {
        // a body where none was announced must not be found out after the request was passed on
        Ok(()) if w.request.content_length() == Some(0) && !client.ends(&mut w).await => {}
        Ok(()) => request::serve(&mut client, &mut w, site).await,
        Err(refused) => {
            w.request.reset();
            request::refuse(&mut client, &mut w, site, Kind::BadRequest(refused.status, refused.reason))
                .await;
        }
    }
    w.give_back();
}
