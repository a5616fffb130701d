//! A request of HTTP/2 in the form of an HTTP/1 head, so that one guard and one life serve both.

use super::client::Tunnel;
use crate::forward::buffers::Work;
use crate::forward::websocket;
use crate::h1::field::Known;
use crate::h1::head::{Refused, Span};
use crate::h1::lines::METHOD;
use h2::ext::Protocol;
use http::Method;
use http::header::{CONTENT_LENGTH, COOKIE, HOST, SEC_WEBSOCKET_KEY};
use http::request::Parts;

/// What a request is held to.
#[derive(Clone, Copy)]
pub(super) struct LowerLimits {
    /// Header fields.
    pub(super) fields: usize,
    /// Bytes of the path and query.
    pub(super) target: usize,
}

/// Writes the head to `w.buf`, which is empty, and takes it into `w.request`. Cookie crumbs are joined
/// (RFC 9113 8.2.3); a body without Content-Length becomes chunked; an extended CONNECT for
/// WebSocket (RFC 8441) becomes the upgrade that it stands for, with a key.
///
/// # Errors
/// With the status to answer.
pub(super) fn lower(
    parts: &Parts,
    end: bool,
    limits: LowerLimits,
    w: &mut Work,
) -> Result<Option<Tunnel>, Refused> {
    if parts.headers.len() > limits.fields {
        return Err(Refused { status: 431, reason: "too_many_fields" });
    }
    let bad = |reason| Err(Refused { status: 400, reason });
    if parts.uri.scheme_str().is_some_and(|s| !matches!(s, "http" | "https")) {
        return bad("scheme");
    }
    let target = parts.uri.path_and_query().map_or("", |p| p.as_str()).as_bytes();
    if target.len() > limits.target {
        return Err(Refused { status: 414, reason: "target_too_long" });
    }
    let tunnel = extended_connect(parts)?;
    let method = if tunnel.is_some() { "GET" } else { parts.method.as_str() };
    request_line(method.as_bytes(), target, w)?;
    fields(parts, w)?;
    if let Some(Tunnel { keyed }) = tunnel {
        field(w, b"connection", b"upgrade")?;
        field(w, b"upgrade", b"websocket")?;
        if !keyed {
            field(w, b"sec-websocket-key", websocket::key().as_bytes())?;
        }
    } else if !end && w.request.content_length().is_none() {
        field(w, b"transfer-encoding", b"chunked")?;
    }
    w.append([b"\r\n"]);
    let Work { request, buf, end, .. } = w;
    request.len = *end;
    request.finish_request(buf)?;
    Ok(tunnel)
}

/// What a CONNECT asks for when it has a `:protocol`; one without is refused with its method.
fn extended_connect(parts: &Parts) -> Result<Option<Tunnel>, Refused> {
    if parts.method != Method::CONNECT {
        return Ok(None);
    }
    let Some(protocol) = parts.extensions.get::<Protocol>() else { return Ok(None) };
    if protocol.as_str() != "websocket" {
        return Err(Refused { status: 501, reason: "connect_protocol" });
    }
    let bad = |reason| Err(Refused { status: 400, reason });
    if parts.headers.contains_key(CONTENT_LENGTH) {
        return bad("content_length_in_connect");
    }
    let mut keys = parts.headers.get_all(SEC_WEBSOCKET_KEY).iter();
    match (keys.next(), keys.next()) {
        (None, _) => Ok(Some(Tunnel { keyed: false })),
        (Some(key), None) if websocket::is_key(key.as_bytes()) => Ok(Some(Tunnel { keyed: true })),
        _ => bad("websocket_key"),
    }
}

fn request_line(method: &[u8], target: &[u8], w: &mut Work) -> Result<(), Refused> {
    if method.len() > METHOD {
        return Err(Refused { status: 400, reason: "method" });
    }
    w.append([method, b" ", target, b" HTTP/1.1\r\n"]);
    let Work { request, buf, end, .. } = w;
    request.http11 = true;
    request.method = Span::new(0..method.len());
    request.target = Span::new(method.len() + 1..method.len() + 1 + target.len());
    request.fields_at = *end;
    request.take_target(buf)?;
    // what looks like an absolute target cannot come in :path
    if request.origin_form { Ok(()) } else { Err(Refused { status: 400, reason: "target_form" }) }
}

/// All fields, of which the authority becomes the host, and the crumbs of a cookie its last.
fn fields(parts: &Parts, w: &mut Work) -> Result<(), Refused> {
    let bad = |reason| Err(Refused { status: 400, reason });
    let authority = parts.uri.authority().map(|a| a.as_str().as_bytes());
    if let Some(authority) = authority {
        field(w, b"host", authority)?;
    }
    let (mut hosts, mut crumbs) = (0, 0);
    for (name, value) in &parts.headers {
        let value = value.as_bytes();
        if matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t']) {
            return bad("space_around_value");
        }
        if *name == COOKIE {
            crumbs += 1;
        } else if *name != HOST {
            end_to_end(name.as_str().as_bytes(), value, w)?;
        } else if hosts > 0 {
            return bad("two_hosts");
        } else {
            hosts += 1;
            match authority {
                None => field(w, b"host", value)?,
                Some(authority) if authority.eq_ignore_ascii_case(value) => {}
                Some(_) => return bad("host_differs_from_authority"),
            }
        }
    }
    if crumbs == 0 { Ok(()) } else { cookie(parts, w) }
}

/// The crumbs of a cookie, as one field.
fn cookie(parts: &Parts, w: &mut Work) -> Result<(), Refused> {
    let line = w.end;
    w.append([b"cookie: "]);
    let value = w.end;
    for (i, crumb) in parts.headers.get_all(COOKIE).iter().enumerate() {
        w.append([if i == 0 { &b""[..] } else { b"; " }, crumb.as_bytes()]);
    }
    let end = w.end;
    w.append([b"\r\n"]);
    let Work { request, buf, .. } = w;
    request.take_field(buf, Span::new(line..line + b"cookie".len()), Span::new(value..end))
}

/// A field that says nothing about how the message is delimited and connected.
fn end_to_end(name: &[u8], value: &[u8], w: &mut Work) -> Result<(), Refused> {
    field(w, name, value)?;
    match w.request.fields.last().map(|f| f.known) {
        Some(Known::Connection | Known::HopByHop | Known::TransferEncoding | Known::Upgrade) => {
            Err(Refused { status: 400, reason: "field_of_another_protocol" })
        }
        _ => Ok(()),
    }
}

/// Writes a field line, and takes it as one that was read.
fn field(w: &mut Work, name: &[u8], value: &[u8]) -> Result<(), Refused> {
    let (line, at) = (w.end, w.end + name.len() + 2);
    let end = at + value.len();
    w.append([name, b": ", value, b"\r\n"]);
    let Work { request, buf, .. } = w;
    request.take_field(buf, Span::new(line..line + name.len()), Span::new(at..end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use proptest::prelude::*;

    const LIMITS: LowerLimits = LowerLimits { fields: 8, target: 64 };

    fn lowered(request: http::request::Builder, end: bool) -> Result<String, u16> {
        let mut w = Work::take();
        let parts = request.body(()).unwrap().into_parts().0;
        lower(&parts, end, LIMITS, &mut w).map_err(|r| r.status)?;
        Ok(String::from_utf8(w.buf[..w.end].to_vec()).unwrap())
    }

    #[test]
    fn a_stream_reads_like_an_http1_request() {
        let request = Request::post("https://a.b:8/x?y=z")
            .header("cookie", "a=1")
            .header("te", "trailers")
            .header("cookie", "b=2");
        let expected = "POST /x?y=z HTTP/1.1\r\nhost: a.b:8\r\nte: trailers\r\ncookie: a=1; b=2\r\n";
        assert_eq!(lowered(request, false).unwrap(), format!("{expected}transfer-encoding: chunked\r\n\r\n"));
        let request = Request::get("/").header("host", "a.b").header("content-length", "0");
        assert_eq!(
            lowered(request, true).unwrap(),
            "GET / HTTP/1.1\r\nhost: a.b\r\ncontent-length: 0\r\n\r\n"
        );
        let request = Request::get("http://a.b/").header("x_request_id", "1").header("x_b3_traceid", "2");
        assert!(lowered(request, true).is_ok(), "what only `_` tells from other names is taken off later");
    }

    fn connect(protocol: &'static str) -> http::request::Builder {
        Request::connect("https://a.b/chat").extension(Protocol::from_static(protocol))
    }

    #[test]
    fn an_extended_connect_reads_like_an_upgrade() {
        let expected = "GET /chat HTTP/1.1\r\nhost: a.b\r\n";
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\n";
        let text = lowered(connect("websocket"), false).unwrap();
        let key = text.strip_prefix(&format!("{expected}{upgrade}sec-websocket-key: ")).unwrap();
        assert!(websocket::is_key(key.trim_ascii().as_bytes()), "{text}");
        let own = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let request = connect("websocket").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(lowered(request, false).unwrap(), format!("{expected}{own}{upgrade}\r\n"));
    }

    #[test]
    fn what_is_refused() {
        let get = |uri: &str| Request::get(uri);
        for (status, request) in [
            (400, get("/")),
            (400, get("http://a.b/").method("M".repeat(METHOD + 1).as_str())),
            (400, get("http://a.b/").header("host", "c.d")),
            (400, get("/").header("host", "a").header("host", "a")),
            (400, get("http://u@a.b/")),
            (400, get("ftp://a.b/")),
            (400, get("http://a.b/").header("connection", "close")),
            (400, get("http://a.b/").header("upgrade", "h2c")),
            (400, get("http://a.b/").header("x_forwarded_for", "127.0.0.1")),
            (400, get("http://a.b/").header("x", "y ")),
            (400, get("http://a.b/").header("cookie", "a=1").header("cookie", " b=2")),
            (400, get("http://a.b/").header("content-length", "+1")),
            (400, get("http://a.b/").header("content-length", "1").header("content-length", "1")),
            (400, connect("websocket").header("content-length", "1")),
            (400, connect("websocket").header("sec-websocket-key", "short")),
            (501, connect("connect-udp")),
            (405, Request::connect("http://a.b/")),
            (414, get(&format!("http://a.b/{}", "x".repeat(64)))),
            (431, (0..9).fold(get("http://a.b/"), |r, i| r.header(format!("x-{i}"), "y"))),
        ] {
            assert_eq!(lowered(request, true), Err(status));
        }
    }

    proptest! {
        #[test]
        fn it_parses_to_the_same_head(
            path in "/[a-z0-9/%.]{0,20}(\\?[a-z=&]{0,10})?",
            fields in prop::collection::vec(("x-[a-z]{1,8}", "[!-~]([ -~]{0,10}[!-~])?"), 0..6),
            end: bool,
        ) {
            let request = fields.iter().fold(Request::get(format!("http://a.b{path}")), |r, (n, v)| r.header(n, v));
            let parts = request.body(()).unwrap().into_parts().0;
            let mut w = Work::take();
            lower(&parts, end, LIMITS, &mut w).unwrap();
            let mut parsed = crate::h1::head::Head::default();
            let limits = crate::h1::head::HeadLimits { bytes: 4096, fields: 100, target: 1000 };
            prop_assert_eq!(parsed.parse_request(&w.buf[..w.end], limits), Ok(true));
            prop_assert_eq!(format!("{parsed:?}"), format!("{:?}", w.request));
        }
    }
}
