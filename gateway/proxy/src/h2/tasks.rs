//! The tasks that serve streams. One that is done waits for another stream, so that a stream
//! costs neither a task nor a timer of its own.

use super::abuse::Ends;
use super::client::Client;
use super::lower::{LowerLimits, lower};
use super::memory::give_back_map;
use crate::connection::Connection;
use crate::forward::buffers::Work;
use crate::forward::deadline::Deadline;
use crate::forward::error::Kind;
use crate::forward::glimpse::Glimpse;
use crate::forward::record::{Protocol, Site};
use crate::forward::request;
use crate::worker::Worker;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

/// How many tasks of a worker wait for streams.
const KEPT: usize = 256;

/// A stream whose request has come.
pub(super) struct Stream {
    pub(super) request: Request<RecvStream>,
    pub(super) respond: SendResponse<Bytes>,
    pub(super) connection: Rc<Connection>,
    /// Shared by the streams of the connection that are open.
    pub(super) open: Rc<Ends>,
}

/// Those of a worker's tasks that wait for a stream.
#[derive(Default)]
pub(crate) struct Tasks(RefCell<Vec<Rc<Seat>>>);

/// Where a task finds its next stream.
#[derive(Default)]
struct Seat {
    next: RefCell<Option<Stream>>,
    waker: Cell<Option<Waker>>,
}

impl Tasks {
    /// Has the stream served by a task of the worker that waits, or else by a new one.
    pub(super) fn serve(&self, stream: Stream, worker: &Rc<Worker>) {
        let waiting = self.0.borrow_mut().pop();
        let is_new = waiting.is_none();
        let seat = waiting.unwrap_or_default();
        seat.next.replace(Some(stream));
        if is_new {
            let worker = worker.clone();
            tokio::task::spawn_local(async move {
                // cut, a stream is reset when its handles are dropped
                worker.cut.unless(pin!(run(&worker, seat))).await;
            });
        } else {
            seat.waker.take().inspect(Waker::wake_by_ref);
        }
    }

    /// Lets a task wait; false when enough do.
    fn wait(&self, seat: &Rc<Seat>) -> bool {
        let mut waiting = self.0.borrow_mut();
        let room = waiting.len() < KEPT;
        if room {
            waiting.push(seat.clone());
        }
        room
    }
}

impl Seat {
    /// Waits for a stream.
    async fn filled(&self) {
        poll_fn(|cx| {
            if self.next.borrow().is_some() {
                return Poll::Ready(());
            }
            self.waker.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// A task: serves one stream after the other.
async fn run(worker: &Rc<Worker>, seat: Rc<Seat>) {
    let mut deadline = Deadline::new(worker.limits.request_idle).paced(worker.rates.clone());
    loop {
        seat.filled().await;
        one(&seat, worker, &mut deadline).await;
        if !worker.streams.wait(&seat) {
            return;
        }
    }
}

/// Serves the stream that waits.
async fn one(seat: &Seat, worker: &Rc<Worker>, deadline: &mut Deadline) {
    let Some(Stream { request, respond, connection, open }) = seat.next.take() else { return };
    let began = Instant::now();
    deadline.start(began, worker.limits.request_idle);
    let site = Site { worker, connection: &connection, protocol: Protocol::Http2 };
    let limits = LowerLimits { fields: worker.limits.h2_fields, target: worker.limits.target_bytes };
    let (parts, body) = request.into_parts();
    let mut w = Work::take();
    let uploaded = body.is_end_stream();
    let lowered = lower(&parts, uploaded, limits, &mut w);
    let glimpse = lowered.err().map(|_| Glimpse::of_parts(&parts));
    give_back_map(parts.headers);
    let tunnel = lowered.ok().flatten();
    let mut client = Client::new(respond, body, uploaded, deadline, &open, tunnel);
    // a body where none was announced must not be found out after the request was passed on
    let empty = lowered.is_ok() && w.request.content_length() == Some(0);
    let ended = if empty { client.ends().await } else { Ok(()) };
    let head = open.heads.take(w.request.len);
    match lowered {
        Ok(_) if head.is_none() => {
            let kind = Kind::BadRequest(431, "connection_header_memory");
            request::refuse(&mut client, &mut w, site, kind, None, began).await;
        }
        Ok(_) => match ended {
            Ok(()) => {
                request::serve(&mut client, &mut w, site, began).await;
            }
            Err(kind) => request::refuse(&mut client, &mut w, site, kind, None, began).await,
        },
        Err(refused) => {
            w.request.reset();
            let kind = Kind::BadRequest(refused.status, refused.reason);
            request::refuse(&mut client, &mut w, site, kind, glimpse, began).await;
        }
    }
    drop(head);
    w.give_back();
    open.count(client.given_up().then(|| began.elapsed()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, F: Future>(_: fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_stream_is_small() {
        // There may be a hundred on a connection, all of which wait.
        let (task, work) = (size(run), size_of::<Work>());
        assert!(task <= 3328 && work <= 832, "{task} and {work} bytes");
    }
}
