//! One request and its response on an HTTP/2 connection to an upstream. Both heads are in the
//! form of HTTP/1 on this side, so that one guard and one life serve both protocols.

use super::fields::{broken, fields, poll_send, raise_fields, write_fields};
use super::memory::{copied, give_back_map};
use super::session::Place;
use crate::forward::buffers::Bulk;
use crate::forward::head::lines;
use crate::forward::websocket;
use crate::h1::field::{Known, known};
use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::header::SEC_WEBSOCKET_ACCEPT;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Why there is no response, or no more of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The upstream refused this request without looking at it.
    Refused,
    /// The connection takes no more requests, and nothing of this one was looked at.
    Leaving,
    /// The upstream reset the stream.
    Reset,
    /// The connection ended.
    Closed,
    /// The upstream broke the protocol.
    Malformed,
    /// The request cannot be said in HTTP/2.
    Unsendable,
}

impl From<h2::Error> for Broken {
    fn from(e: h2::Error) -> Self {
        match e.reason() {
            // h2 reports GOAWAY only to streams beyond the last one that the peer looked at
            Some(_) if e.is_go_away() && e.is_remote() => Broken::Leaving,
            Some(Reason::REFUSED_STREAM) if e.is_remote() => Broken::Refused,
            Some(_) if e.is_remote() => Broken::Reset,
            Some(_) if e.is_library() => Broken::Malformed,
            _ => Broken::Closed,
        }
    }
}

/// A request on a session. Dropping it before its end resets the stream.
pub(crate) struct Exchange {
    place: Place,
    response: Result<ResponseFuture, Broken>,
    send: Option<SendStream<Bytes>>,
    body: Option<RecvStream>,
    /// What of a DATA frame did not fit yet.
    rest: Bytes,
    /// The response has ended.
    received: bool,
    /// END_STREAM was sent.
    sent: bool,
    trailers: Vec<u8>,
    /// For a WebSocket: what answers the key of the HTTP/1 head.
    accept: Option<String>,
}

impl Exchange {
    pub(crate) fn new(place: Place) -> Self {
        Exchange {
            place,
            response: Err(Broken::Closed),
            send: None,
            body: None,
            rest: Bytes::new(),
            received: false,
            sent: false,
            trailers: Vec::new(),
            accept: None,
        }
    }

    /// Where it goes.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Sends a head that we wrote; `end` when no body follows. An upgrade to WebSocket becomes
    /// an extended CONNECT (RFC 8441), whose stream stays open.
    ///
    /// # Errors
    /// When it cannot be sent: [`Exchange::poll_head`] says why.
    pub(crate) fn open(&mut self, head: &[u8], scheme: &str, end: bool) -> io::Result<()> {
        let opened =
            raise_request(head, scheme, end).ok_or(Broken::Unsendable).and_then(|(request, accept)| {
                let end = end && accept.is_none();
                self.accept = accept;
                self.place.send.send_request(request, end).map_err(|_| Broken::Leaving)
            });
        let end = end && self.accept.is_none();
        match opened {
            Ok((response, send)) => {
                self.response = Ok(response);
                self.send = Some(send);
                self.sent = end;
                Ok(())
            }
            Err(why) => {
                self.response = Err(why);
                Err(io::ErrorKind::ConnectionRefused.into())
            }
        }
    }

    /// Sends content, as much as the windows take; `last` when nothing follows.
    pub(crate) fn poll_send(
        &mut self,
        content: &mut &[u8],
        last: bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(send) = &mut self.send else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        poll_send(send, content, last, &mut self.sent, cx)
    }

    /// Sends a piece, as much as the windows take; `last` when nothing follows.
    pub(crate) fn poll_send_piece(
        &mut self,
        piece: &mut Bulk,
        last: bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut content = piece.bytes();
        let all = content.len();
        let written = self.poll_send(&mut content, last, cx);
        let taken = all - content.len();
        piece.advance(taken);
        written
    }

    /// Ends a request, where its end was not sent yet; a WebSocket has only begun.
    pub(crate) fn finish(&mut self, trailers: Option<&[u8]>) -> io::Result<()> {
        if self.accept.is_some() { Ok(()) } else { self.end_with(trailers) }
    }

    /// Ends our side.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.end_with(None)
    }

    fn end_with(&mut self, trailers: Option<&[u8]>) -> io::Result<()> {
        let Some(send) = self.send.as_mut().filter(|_| !self.sent) else { return Ok(()) };
        self.sent = true;
        match trailers {
            Some(t) => send.send_trailers(fields(t)),
            None => send.send_data(Bytes::new(), true),
        }
        .map_err(broken)
    }

    /// Appends the next head, interim or final, in the form of HTTP/1.
    pub(crate) fn poll_head(
        &mut self,
        into: &mut Option<Bulk>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let response = match &mut self.response {
            Ok(response) => response,
            Err(why) => return Poll::Ready(Err(*why)),
        };
        if let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
            let (parts, ()) = interim?.into_parts();
            let into = into.get_or_insert_with(Bulk::take);
            return Poll::Ready(lower_response(parts.status, &parts.headers, None, into));
        }
        let (parts, body) = ready!(Pin::new(response).poll(cx))?.into_parts();
        self.received = body.is_end_stream();
        self.body = Some(body);
        let accept = self.accept.take_if(|_| parts.status.is_success());
        if self.accept.take().is_some() {
            // refused: nothing follows from our side, and the peer need not hear that
            let _ = self.end();
        }
        let into = into.get_or_insert_with(Bulk::take);
        let lowered = lower_response(parts.status, &parts.headers, accept.as_deref(), into);
        give_back_map(parts.headers);
        Poll::Ready(lowered)
    }

    /// The next content; may be empty at the end.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bulk, Broken>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Err(Broken::Closed)) };
        let mut bulk = Bulk::with_headroom();
        while bulk.room() > 0 && !self.received {
            if self.rest.is_empty() {
                match body.poll_data(cx) {
                    Poll::Ready(Some(data)) => self.rest = data?,
                    Poll::Ready(None) => {
                        let trailers = match body.poll_trailers(cx) {
                            Poll::Ready(trailers) => trailers?,
                            Poll::Pending if bulk.is_empty() => return Poll::Pending,
                            Poll::Pending => break,
                        };
                        if let Some(trailers) = trailers {
                            write_fields(&trailers, &mut self.trailers);
                        }
                        self.received = true;
                        break;
                    }
                    Poll::Pending if bulk.is_empty() => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            let content = self.rest.split_to(self.rest.len().min(bulk.room()));
            bulk.push(&content);
            // what is read is bounded by this one piece, so its place in the window is free again
            let _ = body.flow_control().release_capacity(content.len());
            self.received = self.rest.is_empty() && body.is_end_stream();
        }
        Poll::Ready(Ok(bulk))
    }

    /// Whether the response has ended.
    pub(crate) fn ended(&self) -> bool {
        self.received
    }

    /// Ready when the upstream has reset the stream.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.send {
            Some(send) if !self.sent => send.poll_reset(cx).map(|_| ()),
            _ => Poll::Pending,
        }
    }

    /// Keeps the stream for a moment: with its handles goes what was not sent yet.
    pub(crate) fn linger(&mut self) {
        super::fields::linger(self.send.take());
    }

    /// Resets the stream.
    pub(crate) fn cut(&mut self) {
        if let Some(send) = &mut self.send {
            send.send_reset(Reason::CANCEL);
        }
    }

    /// The response's trailer lines, once it has ended.
    pub(crate) fn trailers(&self) -> Option<&[u8]> {
        Some(self.trailers.as_slice()).filter(|t| !t.is_empty())
    }
}

/// A head that we wrote, for HTTP/2; all values are slices of one copy. For an upgrade to
/// WebSocket, which is a GET without a body, also what answers its key.
fn raise_request(head: &[u8], scheme: &str, end: bool) -> Option<(Request<()>, Option<String>)> {
    let shared = copied(head);
    let line = shared.split(|c| *c == b'\r').next()?;
    let mut words = line.split(|c| *c == b' ');
    let (method, target) = (words.next()?, words.next()?);
    let host = lines(&shared).find(|(name, _)| known(name) == Known::Host)?.1;
    let mut uri = http::uri::Parts::default();
    uri.scheme = Scheme::try_from(scheme).ok();
    uri.authority = Authority::from_maybe_shared(shared.slice_ref(host)).ok();
    uri.path_and_query = Some(PathAndQuery::from_maybe_shared(shared.slice_ref(target)).ok()?);
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method).ok()?;
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = raise_fields(&shared, |name| {
        !matches!(
            known(name.as_str().as_bytes()),
            Known::Host
                | Known::Connection
                | Known::TransferEncoding
                | Known::HopByHop
                | Known::Upgrade
                | Known::WebSocketKey
        )
    })
    .ok()?;
    // only an upgrade to WebSocket is passed on
    if !lines(&shared).any(|(name, _)| known(name) == Known::Upgrade) {
        return Some((request, None));
    }
    let mut keys = lines(&shared).filter(|(name, _)| known(name) == Known::WebSocketKey);
    let (Some((_, key)), None) = (keys.next(), keys.next()) else { return None };
    if !end || *request.method() != Method::GET || !websocket::is_key(key) {
        return None;
    }
    *request.method_mut() = Method::CONNECT;
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    Some((request, Some(websocket::accept(key))))
}

/// Bytes that the lines of a head have at most which are no fields of the response.
const HEAD_LINES: usize = 256;

/// Writes a head of HTTP/2 as one of HTTP/1, without framing; that of a WebSocket that was
/// accepted as a 101.
fn lower_response(
    status: StatusCode,
    headers: &HeaderMap,
    accept: Option<&str>,
    into: &mut Bulk,
) -> Result<(), Broken> {
    let status = if accept.is_some() { StatusCode::SWITCHING_PROTOCOLS } else { status };
    let length: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if HEAD_LINES + length > into.room() {
        return Err(Broken::Malformed);
    }
    let mut write = |parts: &[&[u8]]| parts.iter().for_each(|part| into.push(part));
    let reason = status.canonical_reason().unwrap_or_default();
    write(&[b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason.as_bytes(), b"\r\n"]);
    if let Some(accept) = accept {
        write(&[b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: "]);
        write(&[accept.as_bytes(), b"\r\n"]);
    }
    for (name, value) in headers {
        if accept.is_none() || *name != SEC_WEBSOCKET_ACCEPT {
            write(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
    }
    write(&[b"\r\n"]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_said_in_http2() {
        let head =
            b"POST /a?b=c HTTP/1.1\r\nHost: x.y:8\r\nX-A: 1\r\nx-a: 2\r\ntransfer-encoding: chunked\r\n\
            connection: te\r\nte: trailers\r\nContent-Length: 3\r\n\r\nabc";
        let (request, accept) = raise_request(head, "https", false).unwrap();
        assert_eq!(accept, None);
        assert_eq!(
            (request.method(), request.uri().to_string().as_str()),
            (&Method::POST, "https://x.y:8/a?b=c")
        );
        let said: Vec<_> =
            request.headers().iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect();
        assert_eq!(said, ["x-a=1", "x-a=2", "te=trailers", "content-length=3"]);
        let (star, _) = raise_request(b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", "http", true).unwrap();
        assert_eq!(star.uri().path(), "*");
    }

    #[test]
    fn what_http2_cannot_say_is_not_sent() {
        for head in [
            "GET /<a> HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: \r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
        ] {
            assert!(raise_request(head.as_bytes(), "http", true).is_none(), "{head}");
        }
    }

    #[test]
    fn responses_read_like_http1() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", "0".parse().unwrap());
        let mut bulk = Bulk::take();
        lower_response(StatusCode::OK, &headers, None, &mut bulk).unwrap();
        assert_eq!(bulk.bytes(), b"HTTP/1.1 200 OK\r\ngrpc-status: 0\r\n\r\n");
        headers.insert("x", "y".repeat(70_000).parse().unwrap());
        assert_eq!(lower_response(StatusCode::OK, &headers, None, &mut bulk), Err(Broken::Malformed));
    }
}
