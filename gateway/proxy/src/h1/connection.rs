use super::client::Client;
use super::head::{HeadLimits, Refused};
use crate::connection::Connection;
use crate::forward::buffers::{Bulk, Work};
use crate::forward::deadline::Deadline;
use crate::forward::error::{Kind, LINGER, LINGER_IN_ALL};
use crate::forward::glimpse::Glimpse;
use crate::forward::record::{Protocol, Site};
use crate::forward::request;
use crate::listener::LAST_CALL;
use crate::resting::Seat;
use crate::worker::Worker;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::AsyncWriteExt;
use tokio::task::coop::unconstrained;

/// Serves requests on a connection until it ends. `shutdown` turning true ends it after the
/// request in flight, or after one that comes soon; the answer says so.
pub(crate) fn serve(
    stream: Stream,
    connection: Rc<Connection>,
    worker: Rc<Worker>,
    shutdown: ShutdownWatch,
) -> impl Future<Output = ()> {
    let deadline = Deadline::new(worker.limits.head_time).paced(worker.rates.clone());
    let mut client = Client::new(stream, deadline, shutdown);
    let mut idle = Idle::default();
    // Captured rather than moved in: a future keeps room for what it moves.
    async move {
        let ended = {
            let site = Site { worker: &worker, connection: &connection, protocol: Protocol::Http1 };
            worker.cut.unless(pin!(requests(&mut client, &mut idle, site))).await
        };
        if !ended {
            client.cut();
        }
        if !client.aborted {
            close(&mut client, connection.rest.is_over()).await;
        }
    }
}

/// Serves requests until no other may follow.
async fn requests(client: &mut Client, idle: &mut Idle, site: Site<'_>) {
    let mut work = None;
    loop {
        let mut w = match read_head(client, &mut work, idle, site).await {
            Ok(Some(w)) => w,
            Ok(None) => {
                if let Some(w) = work.take() {
                    w.give_back();
                }
                return;
            }
            Err(kind) => {
                return refuse(client, work.take().unwrap_or_else(Work::take), site, kind).await;
            }
        };
        site.connection.rest.set(None);
        client.closing = is_stopping(client, site) || site.connection.is_last(site.worker);
        let ended = request::serve(client, &mut w, site, Instant::now()).await;
        if !client.goes_on() {
            return w.give_back();
        }
        w.consume(client.next);
        w.clear();
        if w.pos == w.end {
            w.give_back();
        } else {
            work = Some(w);
        }
        site.connection.rest.set(Some(ended));
        client.deadline.start(ended, site.worker.limits.keep_alive_idle);
    }
}

/// Whether the listener goes or the process stops; asking takes no lock.
fn is_stopping(client: &Client, site: Site<'_>) -> bool {
    site.worker.draining.load(Ordering::Relaxed) || client.shutdown.has_changed().unwrap_or(true)
}

/// What an idle connection is woken for.
#[derive(Default)]
struct Idle(Option<Box<Woken>>);

struct Woken {
    _stop: Pin<Box<dyn Future<Output = ()>>>,
    _seat: Seat,
    /// It has heard its last call.
    called: bool,
}

impl Woken {
    /// The task's waker is left with the watch and with the worker, once.
    fn new(client: &Client, site: Site<'_>, cx: &mut Context<'_>) -> Box<Self> {
        let mut shutdown = client.shutdown.clone();
        // the watch takes the waker even where the task's turn is over
        let mut stop: Pin<Box<dyn Future<Output = ()>>> = Box::pin(unconstrained(async move {
            let _ = shutdown.wait_for(|stop| *stop).await;
        }));
        // whether it is ready is asked in another way
        let _ = stop.as_mut().poll(cx);
        let seat = Seat::take(site.worker, site.connection, cx.waker());
        Box::new(Woken { _stop: stop, _seat: seat, called: false })
    }
}

impl Idle {
    /// Whether the connection is to make room for others. As with every end of one, a request may be on its way; its
    /// client sees that it was not answered, and may send it again (RFC 9112 9.3.1). Where the listener goes, the
    /// connection hears its last call: a request that comes then is served, since nothing but an answer can tell an
    /// HTTP/1 client that no other may follow (RFC 9112 9.6).
    fn ends(&mut self, client: &mut Client, site: Site<'_>, cx: &mut Context<'_>) -> bool {
        let woken = self.0.get_or_insert_with(|| Woken::new(client, site, cx));
        if is_stopping(client, site) && !std::mem::replace(&mut woken.called, true) {
            client.deadline.start(Instant::now(), LAST_CALL);
        }
        site.connection.rest.is_over()
    }
}

/// Reads until a whole head is there. `None` when the connection ended between requests.
async fn read_head(
    client: &mut Client,
    work: &mut Option<Box<Work>>,
    idle: &mut Idle,
    site: Site<'_>,
) -> Result<Option<Box<Work>>, Kind> {
    let limits = &site.worker.limits;
    let head =
        HeadLimits { bytes: limits.head_bytes, fields: limits.head_fields, target: limits.target_bytes };
    let mut begun = false;
    loop {
        if let Some(mut w) = work.take() {
            if w.end > w.pos {
                let Work { buf, pos, end, request, .. } = &mut *w;
                match request.parse_request(&buf[*pos..*end], head) {
                    Ok(true) => return Ok(Some(w)),
                    Ok(false) if !begun => {
                        begun = true;
                        client.deadline.start(Instant::now(), limits.head_time);
                    }
                    Ok(false) => {}
                    Err(_) if !is_http1(&buf[*pos..*end]) => {
                        request.reset();
                        *work = Some(w);
                        return Err(Kind::NotHttp);
                    }
                    Err(Refused { status, reason }) => {
                        request.reset();
                        *work = Some(w);
                        return Err(Kind::BadRequest(status, reason));
                    }
                }
            }
            *work = Some(w);
        }
        let n = poll_fn(|cx| {
            let mut w = work.take().unwrap_or_else(Work::take);
            w.make_room();
            let read = w.poll_read(&mut client.stream, cx);
            *work = if read.is_pending() { w.rest() } else { Some(w) };
            match read {
                Poll::Ready(n) => Poll::Ready(Ok(n.unwrap_or(0))),
                Poll::Pending => {
                    if work.is_none() && idle.ends(client, site, cx) {
                        return Poll::Ready(Ok(0));
                    }
                    client.deadline.poll(cx).map(Err)
                }
            }
        })
        .await;
        match n {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(_) if work.is_some() => return Err(Kind::HeadTimeout),
            Err(_) => return Ok(None),
        }
    }
}

/// Whether an answer of HTTP/1 would be understood where these bytes are no request of it: not by an HTTP/2
/// client whose preface is broken, nor by one whose first line names another protocol.
fn is_http1(read: &[u8]) -> bool {
    let Some(end) = memchr::memmem::find(read, b"\r\n") else { return true };
    let mut words = read[..end].splitn(3, |c| *c == b' ');
    let (method, version) = (words.next(), words.nth(1).and_then(|rest| rest.rsplit(|c| *c == b' ').next()));
    version.is_none_or(|v| v.starts_with(b"HTTP/") && !(method == Some(b"PRI") && v == b"HTTP/2.0"))
}

/// Answers what is not a request; the connection ends.
async fn refuse(client: &mut Client, mut w: Box<Work>, site: Site<'_>, kind: Kind) {
    client.give_up();
    let refused = Some(Glimpse::of_head(&w.buf[w.pos..w.end]));
    // a head that is late came in the time for it, and others as they were read
    let began = if kind == Kind::HeadTimeout { client.deadline.since() } else { Instant::now() };
    request::refuse(client, &mut w, site, kind, refused, began).await;
    w.give_back();
}

/// Ends the connection so that the client gets to read the answer: what it still sends is read
/// for a while, because unread bytes would make the system reset the connection. Not where others need its place `now`:
/// an answer that it has had for long was read.
async fn close(client: &mut Client, now: bool) {
    let drain = async {
        if client.stream.shutdown().await.is_err() || now {
            return;
        }
        loop {
            let read = poll_fn(|cx| Bulk::poll_read(&mut client.stream, cx, usize::MAX));
            match tokio::time::timeout(LINGER, read).await {
                Ok(Ok(bulk)) if !bulk.is_empty() => {}
                _ => return,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER_IN_ALL, drain).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_another_protocol_is_not_http() {
        for (read, http1) in [
            ("GET / HTTP/1.1\r\n", true),
            ("GET /\r\n", true),
            ("GET /a b HTTP/1.1\r\n", true),
            ("GET / HTTP/9.9\r\nx", true),
            ("INVALID CONNECTION PREFACE", true),
            ("INVALID CONNECTION PREFACE\r\n", false),
            ("PRI * HTTP/2.0\r\n\r\nXX", false),
            ("OPTIONS rtsp://a/ RTSP/1.0\r\n", false),
        ] {
            assert_eq!(is_http1(read.as_bytes()), http1, "{read:?}");
        }
    }
}
