//! One downstream connection, from accept to its HTTP codec.

use crate::listener::{Accepted, Http, Rewound, canonical, sniff};
use crate::snapshot::LastSnapshot;
use crate::tls::{self, HandshakeError};
use crate::worker::Worker;
use crate::{h1, h2};
use pingora::protocols::l4::stream::Stream as L4Stream;
use pingora::protocols::{ALPN, Ssl, Stream};
use pingora::server::ShutdownWatch;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tidegate_engine::ListenerRoute;
use tidegate_model::{ListenerKey, TableName};
use tokio::net::TcpStream;

/// What is known about a downstream connection once it is accepted (and its TLS is done).
pub(crate) struct Connection {
    /// The listener that took it.
    pub(crate) listener: ListenerKey,
    /// Our address.
    pub(crate) local: SocketAddr,
    /// The peer's address.
    pub(crate) peer: SocketAddr,
    /// TLS facts, when it is TLS.
    pub(crate) tls: Option<TlsFacts>,
    /// What its requests go by once the listener is gone.
    pub(crate) last: LastSnapshot,
}

/// What the handshake said.
#[derive(Debug)]
pub(crate) struct TlsFacts {
    /// The name the client asked for, lower case.
    pub(crate) sni: Option<Arc<str>>,
    /// The route table of the server that the SNI chose.
    pub(crate) table: TableName,
    /// `TLSv1.2` or `TLSv1.3`.
    pub(crate) version: &'static str,
}

/// A connection ready for its codec.
struct Opened {
    stream: Stream,
    http: Http,
    tls: Option<TlsFacts>,
}

/// Why a connection ends before its first request.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Tls(#[from] HandshakeError),
    #[error("the listener is gone")]
    ListenerGone,
    #[error("no request came")]
    Silent,
}

/// Serves an accepted connection until it ends.
pub(crate) async fn serve(accepted: Accepted<TcpStream>, worker: Rc<Worker>) {
    let Accepted { stream, peer, listener, shutdown, last, slot } = accepted;
    // Boxed, so that what handshakes need is freed before the connection lives on idle.
    let opened = Box::pin(async {
        let local = canonical(stream.local_addr()?);
        open(stream.into(), &listener, &last, &worker, &shutdown).await.map(|opened| (opened, local))
    });
    let (Opened { stream, http, tls }, local) = match opened.await {
        Ok(opened) => opened,
        Err(e) => {
            // Connecting and leaving is what TCP health checks do.
            if matches!(&e, OpenError::Tls(e) if !matches!(e, HandshakeError::Silent)) {
                slot.spread().handshake_failed();
            }
            tracing::debug!(%listener, %peer, "connection closed: {e}");
            return;
        }
    };
    let connection = Rc::new(Connection { listener, local, peer, tls, last });
    match http {
        Http::One => h1::serve(stream, connection, worker, shutdown).await,
        // Boxed, since HTTP/1 connections should not be as large as HTTP/2 ones.
        Http::Two => Box::pin(h2::serve(stream, connection, worker, shutdown)).await,
    }
    drop(slot);
}

async fn open(
    mut stream: L4Stream,
    listener: &ListenerKey,
    last: &LastSnapshot,
    worker: &Worker,
    shutdown: &ShutdownWatch,
) -> Result<Opened, OpenError> {
    let is_tls = match worker.pin(last).table.listener_routes(listener) {
        ListenerRoute::Http(_) => false,
        ListenerRoute::Tls => true,
        ListenerRoute::None => return Err(OpenError::ListenerGone),
    };
    let time = worker.limits.head_time;
    if !is_tls {
        let (http, read) = sniff(&mut stream, time, shutdown).await?.ok_or(OpenError::Silent)?;
        stream.rewind(&read);
        return Ok(Opened { stream: Box::new(stream), http, tls: None });
    }
    let (mut stream, facts) = tls::handshake(stream, listener, last, worker).await?;
    let (stream, http): (Stream, Http) = match stream.selected_alpn_proto() {
        Some(ALPN::H2) => (Box::new(stream), Http::Two),
        Some(_) => (Box::new(stream), Http::One),
        None => {
            let (http, read) = sniff(&mut stream, time, shutdown).await?.ok_or(OpenError::Silent)?;
            (Box::new(Rewound::new(read, stream)), http)
        }
    };
    Ok(Opened { stream, http, tls: Some(facts) })
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
        assert!(bytes <= 2304, "{bytes} bytes");
    }
}
