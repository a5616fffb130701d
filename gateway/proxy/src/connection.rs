//! One downstream connection, from accept to its HTTP codec, or to where its bytes go.

use crate::l4::{self, Began, Target};
use crate::listener::proxy_protocol::{self, InvalidHeader, Proxied};
use crate::listener::{Accepted, Http, Rewound, Slot, TooMany, canonical, sniff};
use crate::resting::Rest;
use crate::snapshot::LastSnapshot;
use crate::telemetry::{Flag, Flags, NoHeaders, Record};
use crate::tls::{self, HandshakeError, Reason, Terminator};
use crate::worker::Worker;
use crate::{h1, h2};
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::tls::TlsStream;
use pingora::protocols::{ALPN, Ssl, Stream};
use pingora::server::ShutdownWatch;
use rustls::AlertDescription;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidegate_engine::{ConnectionDecision, ConnectionView, Refusal};
use tidegate_model::{ListenerKey, TableName};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) use tls::TlsFacts;

/// What is known about a downstream connection once it is accepted (and its TLS is done).
pub(crate) struct Connection {
    /// Its number in this process.
    pub(crate) id: u64,
    /// The listener that took it.
    pub(crate) listener: ListenerKey,
    /// Our address.
    pub(crate) local: SocketAddr,
    /// The peer's address, as a trusted PROXY header says where there is one.
    pub(crate) peer: SocketAddr,
    /// The address at the other end of the socket, where that is another one.
    pub(crate) proxy: Option<Box<SocketAddr>>,
    /// TLS facts, when TLS ends here.
    pub(crate) tls: Option<TlsFacts>,
    /// The name that a client asked for whose TLS does not end here.
    pub(crate) passed_sni: Option<Arc<str>>,
    /// What its requests go by once the listener is gone.
    pub(crate) last: LastSnapshot,
    /// How many requests have come on it.
    pub(crate) requests: Cell<u32>,
    /// Whether something is in hand on it.
    pub(crate) rest: Rest,
    /// When it was accepted.
    pub(crate) began: Began,
}

impl Connection {
    /// The address at the other end of the socket.
    pub(crate) fn direct(&self) -> SocketAddr {
        self.proxy.as_deref().copied().unwrap_or(self.peer)
    }

    /// Counts a request, and says whether it may carry no other.
    pub(crate) fn is_last(&self, worker: &Worker) -> bool {
        let requests = self.requests.get().saturating_add(1);
        self.requests.set(requests);
        requests >= worker.limits.connection_requests.unwrap_or(u32::MAX)
    }

    /// The name that the client asked for by TLS; empty for none.
    pub(crate) fn sni(&self) -> &str {
        let terminated = self.tls.as_ref().and_then(|t| t.sni.as_deref());
        terminated.or(self.passed_sni.as_deref()).unwrap_or_default()
    }

    /// What is known of it where there is no request.
    pub(crate) fn record(&self) -> Record<'_> {
        Record {
            start: self.began.at,
            duration: self.began.instant.elapsed(),
            upstream_service_time: None,
            protocol: "",
            method: b"",
            path: b"",
            authority: b"",
            upstream_authority: b"",
            request_duration: None,
            attempts: 0,
            transport_failure: "",
            tls: self.tls.as_ref(),
            connection_id: self.id,
            status: 0,
            flags: Flags::default(),
            details: "",
            bytes_received: 0,
            bytes_sent: 0,
            forwarded_for: b"",
            user_agent: b"",
            request_id: b"",
            route: None,
            cluster: None,
            cluster_name: "",
            workload: None,
            upstream_host: None,
            upstream_local: None,
            downstream_local: self.local,
            downstream_remote: self.peer,
            downstream_direct: self.direct(),
            sni: self.sni(),
            grpc: false,
            traced: None,
            headers: &NoHeaders,
        }
    }
}

/// The next connection's number.
fn next_id() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// A connection ready for what it carries.
struct Opened {
    stream: Stream,
    carries: Carries,
    tls: Option<TlsFacts>,
    passed_sni: Option<Arc<str>>,
}

/// What a connection carries.
enum Carries {
    Http(Http),
    Tcp(Box<Target>),
}

/// Why a connection ends before its first request.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Tls(#[from] HandshakeError),
    #[error("{0}")]
    Proxied(#[from] proxy_protocol::InvalidHeader),
    #[error("its client has as many as it may have")]
    TooMany(TooMany),
    #[error("refused: {0}")]
    Refused(String),
    #[error("no request came")]
    Silent,
}

/// Serves an accepted connection until it ends.
pub(crate) fn serve(accepted: Accepted<TcpStream>, worker: Rc<Worker>) -> impl Future<Output = ()> {
    // Boxed, so that what handshakes need is freed before the connection lives on idle.
    let opening = Box::pin(begin(accepted, worker.clone()));
    async move {
        let Some(Ready { slot, shutdown, connection, stream, carries }) = opening.await else { return };
        match carries {
            Carries::Http(Http::One) => h1::serve(stream, connection, worker, shutdown).await,
            // Boxed, since HTTP/1 connections should not be as large as the others.
            Carries::Http(Http::Two) => Box::pin(h2::serve(stream, connection, worker, shutdown)).await,
            Carries::Tcp(to) => Box::pin(l4::serve(stream, *to, &connection, &worker, shutdown)).await,
        }
        drop(slot);
    }
}

/// A connection that is open, with all that serving it needs.
struct Ready {
    slot: Slot,
    shutdown: ShutdownWatch,
    connection: Rc<Connection>,
    stream: Stream,
    carries: Carries,
}

/// Opens a connection, or says why it was closed.
async fn begin(accepted: Accepted<TcpStream>, worker: Rc<Worker>) -> Option<Ready> {
    let Accepted { stream, peer, listener, shutdown, last, mut slot } = accepted;
    let local = canonical(stream.local_addr().ok()?);
    let began = Began::now();
    let mut connection = Connection {
        id: next_id(),
        listener,
        local,
        peer,
        proxy: None,
        tls: None,
        passed_sni: None,
        last,
        requests: Cell::new(0),
        rest: Rest::default(),
        began,
    };
    let opened = open(stream.into(), &mut connection, &mut slot, &worker, &shutdown).await;
    let e = match opened {
        Ok(Opened { stream, carries, tls, passed_sni }) => {
            let shutdown = tls.as_ref().map_or(shutdown, |tls| tls.shutdown.clone());
            (connection.tls, connection.passed_sni) = (tls, passed_sni);
            let connection = Rc::new(connection);
            if let Carries::Tcp(to) = &carries
                && let Err((flag, details)) = l4::authorize(to, &connection, &worker).await
            {
                l4::refused(flag, details, &connection, &worker);
                return None;
            }
            return Some(Ready { slot, shutdown, connection, stream, carries });
        }
        Err(e) => e,
    };
    tracing::debug!(%listener, %peer, "connection closed: {e}");
    if let OpenError::Tls(e) = &e
        && let Some(reason) = e.reason()
    {
        slot.spread().handshake_failed(reason);
    }
    if let Some((flag, details)) = told(e) {
        l4::refused(flag, details, &connection, &worker);
    }
    None
}

/// The flag and the details of its line in the log, where a connection that was not opened has one.
fn told(e: OpenError) -> Option<(Option<Flag>, String)> {
    let (flag, details) = match e {
        OpenError::Tls(HandshakeError::Refused(why)) | OpenError::Refused(why) => {
            (Some(Flag::NoRoute), format!("filter_chain_not_found{{{why}}}"))
        }
        OpenError::Tls(e) => {
            let flag = match e.reason()? {
                Reason::Closed => Some(Flag::DownstreamTermination),
                Reason::Timeout | Reason::NoCertificate => None,
                _ => Some(Flag::DownstreamProtocolError),
            };
            (flag, format!("tls_handshake_failed{{{e}}}"))
        }
        OpenError::Proxied(e @ InvalidHeader::Malformed(_)) => {
            (Some(Flag::DownstreamProtocolError), format!("proxy_protocol{{{e}}}"))
        }
        OpenError::Io(_) | OpenError::Proxied(_) | OpenError::TooMany(_) | OpenError::Silent => return None,
    };
    Some((flag, details))
}

/// What a decision asks for, without the snapshot from which it came.
enum Next {
    Http,
    Https(Termination),
    TlsToTcp(Termination, Target),
    Tcp(Target),
    Refuse(String, AlertDescription),
}

/// By what TLS is terminated.
struct Termination {
    table: TableName,
    terminator: Option<Arc<Terminator>>,
}

/// Decides by the live snapshot, or the last that had the listener.
fn decide(connection: &Connection, worker: &Worker, view: &ConnectionView<'_>) -> Next {
    let snapshot = worker.pin(&connection.last);
    let listener = snapshot.table.listener(&connection.listener);
    let decision = match listener {
        Some(listener) => listener.decide(view, fastrand::u64(..)),
        None => ConnectionDecision::Refuse(Refusal::NoListener),
    };
    let termination = |table: &TableName| Termination {
        table: table.clone(),
        terminator: snapshot.tls.get(table).and_then(|server| server.terminator.clone()),
    };
    match decision {
        ConnectionDecision::Http(_) => Next::Http,
        ConnectionDecision::Https(server) => Next::Https(termination(&server.table)),
        ConnectionDecision::TlsToTcp(server, to) => {
            Next::TlsToTcp(termination(&server.table), Target::new(&to, &snapshot))
        }
        ConnectionDecision::Tcp(to) => Next::Tcp(Target::new(&to, &snapshot)),
        ConnectionDecision::Refuse(why) => {
            let alert = match why {
                Refusal::NoServer => AlertDescription::UnrecognisedName,
                Refusal::Protocol(..) => AlertDescription::NoApplicationProtocol,
                _ => AlertDescription::HandshakeFailure,
            };
            Next::Refuse(why.to_string(), alert)
        }
    }
}

async fn open(
    mut stream: L4Stream,
    connection: &mut Connection,
    slot: &mut Slot,
    worker: &Worker,
    shutdown: &ShutdownWatch,
) -> Result<Opened, OpenError> {
    let snapshot = worker.pin(&connection.last);
    let is_tls = snapshot.table.listener(&connection.listener).is_some_and(|l| l.is_tls());
    let is_proxied = snapshot.mesh.proxy_protocol;
    drop(snapshot);
    if is_proxied && worker.proxy_protocol_from.iter().any(|net| net.contains(&connection.peer.ip())) {
        proxied(&mut stream, connection, worker).await?;
    }
    slot.belongs_to(connection.peer.ip()).map_err(OpenError::TooMany)?;
    if is_tls {
        return open_tls(stream, connection, worker, shutdown).await;
    }
    let carries = match decide(connection, worker, &ConnectionView::default()) {
        Next::Tcp(target) => Carries::Tcp(Box::new(target)),
        Next::Http => {
            let time = worker.limits.head_time;
            let (http, read) = sniff(&mut stream, time, shutdown).await?.ok_or(OpenError::Silent)?;
            stream.rewind(&read);
            Carries::Http(http)
        }
        Next::Refuse(why, _) => return Err(OpenError::Refused(why)),
        // The listener became a TLS one between two looks.
        Next::Https(_) | Next::TlsToTcp(..) => {
            return Err(OpenError::Refused("the listener has just changed".into()));
        }
    };
    Ok(Opened { stream: Box::new(stream), carries, tls: None, passed_sni: None })
}

/// Reads the PROXY header that a trusted peer sends first: the addresses are those that it says.
async fn proxied(
    stream: &mut L4Stream,
    connection: &mut Connection,
    worker: &Worker,
) -> Result<(), OpenError> {
    let time = worker.limits.handshake_time;
    let read = timeout(time, proxy_protocol::read(stream)).await.map_err(|_| OpenError::Silent)?;
    let (proxied, rest) = read?;
    stream.rewind(&rest);
    if let Proxied::Client { source, destination } = proxied {
        connection.proxy = Some(Box::new(connection.peer));
        (connection.peer, connection.local) = (canonical(source), canonical(destination));
    }
    Ok(())
}

async fn open_tls(
    stream: L4Stream,
    connection: &mut Connection,
    worker: &Worker,
    shutdown: &ShutdownWatch,
) -> Result<Opened, OpenError> {
    let handshake = timeout(worker.limits.handshake_time, shake_hands(stream, connection, worker));
    let (mut stream, facts, target) = match handshake.await.unwrap_or(Err(HandshakeError::Timeout))? {
        Shaken::Passed(stream, passed_sni, target) => {
            let carries = Carries::Tcp(Box::new(target));
            return Ok(Opened { stream, carries, tls: None, passed_sni });
        }
        Shaken::Terminated(stream, facts, target) => (stream, facts, target),
    };
    let (stream, carries): (Stream, Carries) = match (target, stream.selected_alpn_proto()) {
        (Some(target), _) => (stream, Carries::Tcp(Box::new(target))),
        (None, Some(ALPN::H2)) => (stream, Carries::Http(Http::Two)),
        (None, Some(_)) => (stream, Carries::Http(Http::One)),
        (None, None) => {
            let time = worker.limits.head_time;
            let (http, read) = sniff(&mut stream, time, shutdown).await?.ok_or(OpenError::Silent)?;
            (Box::new(Rewound::new(read, *stream)), Carries::Http(http))
        }
    };
    Ok(Opened { stream, carries, tls: Some(facts), passed_sni: None })
}

/// A connection whose ClientHello was read, and answered where TLS ends here.
enum Shaken {
    Passed(Box<L4Stream>, Option<Arc<str>>, Target),
    Terminated(Box<TlsStream<L4Stream>>, TlsFacts, Option<Target>),
}

async fn shake_hands(
    mut stream: L4Stream,
    connection: &mut Connection,
    worker: &Worker,
) -> Result<Shaken, HandshakeError> {
    let hello = tls::client_hello(&mut stream).await?;
    // for the log, should TLS not come about
    connection.passed_sni = hello.sni.clone();
    let view = ConnectionView { sni: hello.sni.as_deref(), protocols: &hello.protocols };
    let (termination, target) = match decide(connection, worker, &view) {
        Next::Tcp(target) => return Ok(Shaken::Passed(Box::new(stream), hello.sni, target)),
        Next::Https(termination) => (termination, None),
        Next::TlsToTcp(termination, target) => (termination, Some(target)),
        Next::Refuse(why, alert) => {
            tls::refuse(&mut stream, alert).await?;
            return Err(HandshakeError::Refused(why));
        }
        Next::Http => {
            tls::refuse(&mut stream, AlertDescription::HandshakeFailure).await?;
            return Err(HandshakeError::Refused("the listener has just changed".into()));
        }
    };
    let Termination { table, terminator } = termination;
    let (stream, facts) = tls::terminate(stream, terminator, table, hello.sni).await?;
    Ok(Shaken::Terminated(Box::new(stream), facts, target))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, F: Future>(_: fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_stays_small() {
        // It lives as long as the connection, idle or not; handshakes and HTTP/2 are boxed.
        let bytes = size(serve);
        assert!(bytes <= 2152, "{bytes} bytes");
    }
}
