//! An HTTP/2 connection to an upstream, shared by the requests of one worker.

use super::coalesce::{Coalesce, Flusher, coalesce_client};
use super::keepalive::Keepalive;
use super::{LAST, SEND_BUFFER};
use crate::upstream::{InUse, Room, UpstreamConnection};
use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use pingora::protocols::Stream;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tidegate_model::ConnectionLimits;
use tokio::sync::Notify;

/// The most streams on one connection, whatever the peer allows.
const STREAMS: usize = 100;
/// Flow-control window of a stream.
const STREAM_WINDOW: u32 = 64 << 10;
/// Flow-control window of a connection: all of its streams may fill theirs, so that clients who
/// do not read hold up nobody else.
const CONNECTION_WINDOW: u32 = STREAMS as u32 * STREAM_WINDOW;
/// Bytes of a response's header list, less than what a response head of HTTP/1 may have.
const HEADER_LIST: u32 = 56 << 10;

/// Streams that a connection has ids for (RFC 9113 5.1.1): odd ones of 31 bits.
const STREAM_IDS: u32 = 1 << 30;

#[cfg(test)]
thread_local! {
    /// As many as there are for a connection in a test.
    pub(crate) static TESTED_STREAM_IDS: Cell<u32> = const { Cell::new(STREAM_IDS) };
}

fn stream_ids() -> u32 {
    #[cfg(test)]
    return TESTED_STREAM_IDS.get();
    #[cfg(not(test))]
    STREAM_IDS
}

/// A connection that takes many requests at once.
pub(crate) struct Session {
    send: SendRequest<Bytes>,
    local: Option<SocketAddr>,
    remote: Option<SocketAddr>,
    active: Cell<usize>,
    /// Whether a request was sent on it before.
    used: Cell<bool>,
    /// Whether the peer's SETTINGS came, or never will.
    greeted: Cell<bool>,
    greeting: Notify,
    idle_since: Cell<Instant>,
    /// The most streams at a time, whatever the peer allows.
    most: usize,
    /// How many more requests it may carry, and until when it takes them.
    left: Cell<u32>,
    ends: Option<Instant>,
    /// Where requests wait when there is none here.
    room: Rc<Room>,
    /// Counts it among the connections of its cluster.
    _in_use: InUse,
}

/// A place for one request on a session.
pub(crate) struct Place {
    pub(super) send: SendRequest<Bytes>,
    session: Rc<Session>,
    /// Whether the session served a request before.
    pub(crate) reused: bool,
}

impl Session {
    /// Speaks HTTP/2 by prior knowledge, within the cluster's limits for a connection. The connection's own task runs on this worker until all
    /// places and the session are given up, or the peer ends it.
    ///
    /// # Errors
    /// When the preface cannot be written.
    pub(crate) async fn begin(
        connection: Box<UpstreamConnection>,
        limits: &ConnectionLimits,
        room: Rc<Room>,
    ) -> io::Result<Rc<Session>> {
        let remote = connection.remote();
        let UpstreamConnection { stream, local, in_use, .. } = *connection;
        let now = Instant::now();
        let (io, flusher) = coalesce_client(stream);
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(STREAMS)
            .max_header_list_size(HEADER_LIST)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_push(false);
        let (send, mut connection) = builder.handshake(io).await.map_err(super::fields::broken)?;
        let pings = limits.http2_keepalive.and_then(|rule| Some((connection.ping_pong()?, rule)));
        let keepalive = pings.map(|(pings, rule)| Keepalive::new(pings, rule));
        let session = Rc::new(Session {
            send,
            local,
            remote,
            active: Cell::new(0),
            used: Cell::new(false),
            greeted: Cell::new(false),
            greeting: Notify::new(),
            idle_since: Cell::new(now),
            most: limits.max_concurrent_streams.map_or(STREAMS, |most| STREAMS.min(most as usize)),
            left: Cell::new(
                limits.max_requests_per_connection.map_or(stream_ids(), |most| most.min(stream_ids())),
            ),
            ends: limits.max_connection_duration.and_then(|most| now.checked_add(most)),
            room,
            _in_use: in_use,
        });
        tokio::task::spawn_local(drive(connection, flusher, keepalive, Rc::downgrade(&session)));
        Ok(session)
    }

    /// Whether new requests may be sent: it did not end, and the peer did not say that it will.
    pub(crate) fn is_open(&self) -> bool {
        let mut send = self.send.clone();
        !matches!(send.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
    }

    /// Whether it has carried as many requests as it may, or is as old as it may be.
    pub(crate) fn is_spent(&self) -> bool {
        self.left.get() == 0 || self.ends.is_some_and(|ends| Instant::now() >= ends)
    }

    /// Whether the peer takes another request now. Before its SETTINGS say how many, it gets one; so does one that
    /// takes none for now, whose end the others wait for.
    pub(crate) fn has_room(&self) -> bool {
        let most = if self.greeted.get() { self.send.current_max_send_streams().min(self.most) } else { 1 };
        self.active.get() < most.max(1)
    }

    /// Whether the peer's SETTINGS are still to come.
    pub(crate) fn is_new(&self) -> bool {
        !self.greeted.get()
    }

    /// Waits for the peer's SETTINGS, or the end of the connection.
    pub(crate) async fn greeted(&self) {
        let greeting = self.greeting.notified();
        if self.is_new() {
            greeting.await;
        }
    }

    fn greet(&self) {
        self.greeted.set(true);
        self.greeting.notify_waiters();
        self.room.tell_all();
    }

    /// Requests on it.
    pub(crate) fn active(&self) -> usize {
        self.active.get()
    }

    /// How long it has had no request; zero while it has one.
    pub(crate) fn idle_for(&self, now: Instant) -> Duration {
        if self.active.get() > 0 {
            Duration::ZERO
        } else {
            now.saturating_duration_since(self.idle_since.get())
        }
    }

    /// A place.
    pub(crate) fn place(self: &Rc<Self>) -> Place {
        self.active.set(self.active.get() + 1);
        self.left.set(self.left.get().saturating_sub(1));
        Place { send: self.send.clone(), session: self.clone(), reused: self.used.replace(true) }
    }
}

impl Place {
    /// Whether the peer takes WebSockets: waits for its SETTINGS (RFC 8441 3).
    pub(crate) async fn takes_websockets(&self) -> bool {
        self.session.greeted().await;
        self.send.is_extended_connect_protocol_enabled()
    }

    /// Our address towards the endpoint.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        self.session.local
    }

    /// The address that the connection leads to.
    pub(crate) fn remote(&self) -> Option<SocketAddr> {
        self.session.remote
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.session.active.set(self.session.active.get() - 1);
        self.session.idle_since.set(Instant::now());
        self.session.room.tell_one();
    }
}

/// Reads and writes the connection's frames, flushed once after all streams that were ready have
/// written. Ends with the connection, which is closed once nobody can use it any more.
async fn drive(
    connection: Connection<Coalesce<Stream>, Bytes>,
    flusher: Flusher<Stream>,
    mut keepalive: Option<Keepalive>,
    session: Weak<Session>,
) {
    {
        let mut connection = pin!(connection);
        let (mut last, mut greeted) = (None, false);
        poll_fn(|cx| {
            let ended = connection.as_mut().poll(cx).is_ready()
                || matches!(flusher.poll_flush(cx), Poll::Ready(Err(_)))
                || flusher.flooded()
                || keepalive.as_mut().is_some_and(|keepalive| keepalive.poll_gone(cx).is_ready());
            if !greeted && (ended || flusher.greeted()) {
                greeted = true;
                if let Some(session) = session.upgrade() {
                    session.greet();
                }
            }
            if ended {
                return Poll::Ready(());
            }
            if session.strong_count() > 0 {
                return Poll::Pending;
            }
            last.get_or_insert_with(|| Box::pin(tokio::time::sleep(LAST))).as_mut().poll(cx)
        })
        .await;
    }
    // the peer may be gone already
    let _ = tokio::time::timeout(LAST, poll_fn(|cx| flusher.poll_flush(cx))).await;
}
