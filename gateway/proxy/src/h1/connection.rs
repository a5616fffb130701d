use super::client::Client;
use super::head::{HeadLimits, Refused};
use crate::connection::Connection;
use crate::forward::buffers::{Bulk, Work};
use crate::forward::deadline::Deadline;
use crate::forward::error::{Kind, LINGER, LINGER_IN_ALL};
use crate::forward::record::{Protocol, Site};
use crate::forward::request;
use crate::listener::LAST_CALL;
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

/// Serves requests on a connection until it ends. `shutdown` turning true ends it after the
/// request in flight, or after one that comes soon; the answer says so.
pub(crate) fn serve(
    stream: Stream,
    connection: Rc<Connection>,
    worker: Rc<Worker>,
    shutdown: ShutdownWatch,
) -> impl Future<Output = ()> {
    let deadline = Deadline::new(worker.limits.head_time);
    let mut client = Client::new(stream, deadline, shutdown.clone());
    let mut stop = Stop { shutdown, wake: None, called: false };
    // Captured rather than moved in: a future keeps room for what it moves.
    async move {
        let ended = {
            let site = Site { worker: &worker, connection: &connection, protocol: Protocol::Http1 };
            worker.cut.unless(pin!(requests(&mut client, &mut stop, site))).await
        };
        if !ended {
            client.cut();
        }
        if !client.aborted {
            close(&mut client).await;
        }
    }
}

/// Serves requests until no other may follow.
async fn requests(client: &mut Client, stop: &mut Stop, site: Site<'_>) {
    let mut work = None;
    loop {
        let mut w = match read_head(client, &mut work, stop, site).await {
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
        client.closing = stop.stopping(site);
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
        client.deadline.start(ended, site.worker.limits.keep_alive_idle);
    }
}

/// Whether the listener goes or the process stops. An idle connection is woken for it; asking takes
/// no lock.
struct Stop {
    shutdown: ShutdownWatch,
    wake: Option<Pin<Box<dyn Future<Output = ()>>>>,
    called: bool,
}

impl Stop {
    fn stopping(&self, site: Site<'_>) -> bool {
        site.worker.draining.load(Ordering::Relaxed) || self.shutdown.has_changed().unwrap_or(true)
    }

    /// True once: when an idle connection is to hear its last call. A request that comes then is
    /// served, since nothing but an answer can tell an HTTP/1 client that no other may follow
    /// (RFC 9112 9.6). The task's waker is left with the watch once.
    fn calls(&mut self, site: Site<'_>, cx: &mut Context<'_>) -> bool {
        let now = match &self.wake {
            None => {
                let mut shutdown = self.shutdown.clone();
                let mut wake: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
                    let _ = shutdown.wait_for(|stop| *stop).await;
                });
                let now = wake.as_mut().poll(cx).is_ready();
                self.wake = Some(wake);
                now
            }
            Some(_) => self.stopping(site),
        };
        now && !std::mem::replace(&mut self.called, true)
    }
}

/// Reads until a whole head is there. `None` when the connection ended between requests.
async fn read_head(
    client: &mut Client,
    work: &mut Option<Box<Work>>,
    stop: &mut Stop,
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
            // an idle connection holds no buffers
            if read.is_pending() && w.pos == w.end {
                w.give_back()
            } else {
                *work = Some(w)
            }
            match read {
                Poll::Ready(n) => Poll::Ready(Ok(n.unwrap_or(0))),
                Poll::Pending => {
                    if work.is_none() && stop.calls(site, cx) {
                        client.deadline.start(Instant::now(), LAST_CALL);
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
    let to_head = w.buf[w.pos..w.end].trim_ascii_start().starts_with(b"HEAD ");
    request::refuse(client, &mut w, site, kind, to_head).await;
    w.give_back();
}

/// Ends the connection so that the client gets to read the answer: what it still sends is read
/// for a while, because unread bytes would make the system reset the connection.
async fn close(client: &mut Client) {
    let drain = async {
        if client.stream.shutdown().await.is_err() {
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
