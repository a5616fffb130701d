use super::*;
use proptest::prelude::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 60 << 10, fields: 100, target: 8 << 10 };

fn request(text: &[u8]) -> Result<Option<Head>, Refused> {
    let mut head = Head::default();
    head.parse_request(text, LIMITS).map(|whole| whole.then_some(head))
}

/// The verdict on a head fed in two parts.
fn split(text: &[u8], cut: usize) -> Result<bool, Refused> {
    let mut head = Head::default();
    if cut > 0 && head.parse_request(&text[..cut], LIMITS)? {
        return Ok(true);
    }
    head.parse_request(text, LIMITS)
}

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n")
}

#[test]
fn accepted_heads() {
    for text in [
        "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "FOO /%zz?a=\"{|}\" HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET http://A.example?x HTTP/1.1\r\nHost: a.EXAMPLE\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tChUnKeD \r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0000005\r\n\r\n",
        &get("X: caf\u{e9}\r\nX:\r\nX_y: 1\r\nX-Role: a\r\nX-Role: b\r\n"),
        &get("Expect: 100-Continue\r\nTE: trailers\r\nConnection: te, close,\r\n"),
    ] {
        assert!(matches!(request(text.as_bytes()), Ok(Some(_))), "{text:?}: {:?}", request(text.as_bytes()));
    }
}

#[test]
fn refused_fields() {
    for (status, fields) in [
        (400, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        (400, "Content-Length: 5\r\nContent-Length: 5\r\n"),
        (400, "Content-Length: 5, 5\r\n"),
        (400, "Content-Length:\r\n"),
        (400, "Content-Length: +5\r\n"),
        (400, "Content-Length: 18446744073709551616\r\n"),
        (501, "Transfer-Encoding: gzip, chunked\r\n"),
        (501, "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        (501, "Transfer-Encoding: ,chunked\r\n"),
        (501, "Transfer-Encoding: \"chunked\"\r\n"),
        (400, "Transfer-Encoding: \x0bchunked\r\n"),
        (400, "Transfer-Encoding : chunked\r\n"),
        (400, "X: a\r\n b\r\n"),
        (400, "X: a\nY: b\r\n"),
        (400, "X: a\0b\r\n"),
        (400, "X: a\x01b\r\n"),
        (400, "X: a\x7fb\r\n"),
        (400, "X: \rY: b\r\n"),
        (400, "X Y: b\r\n"),
        (400, ": b\r\n"),
        (400, ":authority: b\r\n"),
        (400, "foo\r\n"),
        (400, "Host: a.example\r\n"),
        (400, "Connection: \"close\"\r\n"),
        (400, "Connection: Host\r\n"),
        (400, "Connection: a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q\r\n"),
        (400, "Transfer-Encoding: chunked\r\nConnection: transfer-encoding\r\n"),
        (417, "Expect: 200-ok\r\n"),
    ] {
        let text = get(fields);
        assert_eq!(request(text.as_bytes()).err().map(|r| r.status), Some(status), "{fields:?}");
    }
}

#[test]
fn refused_request_lines_and_hosts() {
    let host = "Host: a.example\r\n\r\n";
    for (status, line) in [
        (400, "GET  / HTTP/1.1\r\n"),
        (400, "GET\t/\tHTTP/1.1\r\n"),
        (400, "GET / HTTP/1.1 \r\n"),
        (400, "GET / HTTP/1.1\n"),
        (400, "GET / HTTP/2.0\r\n"),
        (400, "GET / HTTP/1.9\r\n"),
        (400, "GET / http/1.1\r\n"),
        (400, "GET /\r\n"),
        (400, "GET HTTP/1.1\r\n"),
        (400, " GET / HTTP/1.1\r\n"),
        (400, "\nGET / HTTP/1.1\r\n"),
        (400, "\r\n\r\nGET / HTTP/1.1\r\n"),
        (400, "G(ET / HTTP/1.1\r\n"),
        (400, "GET /a b HTTP/1.1\r\n"),
        (400, "GET /a\0b HTTP/1.1\r\n"),
        (400, "GET /caf\u{e9} HTTP/1.1\r\n"),
        (400, "GET #/a HTTP/1.1\r\n"),
        (400, "GET /a#b\0 HTTP/1.1\r\n"),
        (400, "GET admin HTTP/1.1\r\n"),
        (400, "GET ?x HTTP/1.1\r\n"),
        (400, "GET a.example:80 HTTP/1.1\r\n"),
        (400, "GET * HTTP/1.1\r\n"),
        (400, "GET ftp://a.example/ HTTP/1.1\r\n"),
        (400, "GET http:/a.example/ HTTP/1.1\r\n"),
        (400, "GET http://u@a.example/ HTTP/1.1\r\n"),
        (400, "GET http:// HTTP/1.1\r\n"),
        (405, "CONNECT a.example:443 HTTP/1.1\r\n"),
        (405, "CONNECT / HTTP/1.1\r\n"),
    ] {
        let text = format!("{line}{host}");
        assert_eq!(request(text.as_bytes()).err().map(|r| r.status), Some(status), "{line:?}");
    }
    for text in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        assert!(request(text.as_bytes()).is_err(), "{text:?}");
    }
}

#[test]
fn connection_options_are_limited_over_all_lines() {
    let line = |n: usize| format!("Connection: {}\r\n", vec!["a"; n].join(","));
    for (lines, fine) in [(vec![16], true), (vec![17], false), (vec![8, 8], true), (vec![8, 9], false)] {
        let fields: String = lines.iter().map(|n| line(*n)).collect();
        let head = request(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes());
        assert_eq!(head.is_ok(), fine, "{lines:?}");
    }
}

#[test]
fn an_absolute_target_outranks_host() {
    for (target, ignored) in [
        ("http://a.example/", false),
        ("http://A.example/", false),
        ("http://b.example/", true),
        ("http://a.example:80/", true),
    ] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let head = request(text.as_bytes()).unwrap().unwrap();
        assert_eq!(head.host_ignored, ignored, "{target}");
        let authority = target.trim_start_matches("http://").trim_end_matches('/');
        assert_eq!(head.authority.of_buffer(text.as_bytes()), authority.as_bytes());
    }
    for host in ["Host: a/b\r\n", "Host: b\r\nHost: b\r\n", ""] {
        assert!(request(format!("GET http://b/ HTTP/1.1\r\n{host}\r\n").as_bytes()).is_err(), "{host}");
    }
}

#[test]
fn a_fragment_goes_no_further() {
    for (method, target, path, query) in [
        ("GET", "/a#b", "/a", None),
        ("GET", "/#/../admin", "/", None),
        ("GET", "/a?b=c#d?e", "/a", Some("b=c")),
        ("GET", "http://a#b", "", None),
        ("GET", "http://a/?#", "/", Some("")),
        ("OPTIONS", "*#b", "*", None),
    ] {
        let text = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = request(text.as_bytes()).unwrap().unwrap();
        let text = |span: Span| std::str::from_utf8(span.of_buffer(text.as_bytes())).unwrap();
        assert_eq!((text(head.path), head.query.map(text)), (path, query), "{target}");
        assert!(!head.origin_form, "{target}: the request line is written anew");
        assert_eq!(text(head.target), target.split('#').next().unwrap());
    }
}

#[test]
fn limits() {
    let target = |n| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(n));
    assert!(request(target((8 << 10) - 1).as_bytes()).is_ok());
    assert_eq!(request(target(8 << 10).as_bytes()).unwrap_err().status, 414);
    assert_eq!(request(target(1 << 20).as_bytes()).unwrap_err().status, 414);
    let fields = |n| get(&"x: y\r\n".repeat(n));
    assert!(request(fields(99).as_bytes()).is_ok());
    assert_eq!(request(fields(100).as_bytes()).unwrap_err().status, 431);
    assert_eq!(request(fields(300).as_bytes()).unwrap_err().status, 431);
    assert_eq!(request(get(&format!("x: {}\r\n", "y".repeat(60 << 10))).as_bytes()).unwrap_err().status, 431);
    assert_eq!(request("A".repeat(33).as_bytes()).unwrap_err().status, 400);
    assert_eq!(request(&[b'x'; 70 << 10]).unwrap_err().status, 400);
}

#[test]
fn the_first_thing_wrong_decides() {
    for (status, line) in [
        (400, format!("GET\x0b{}", "a".repeat(40))),
        (400, format!("GET /\x7f{}", "a".repeat(9 << 10))),
        (414, format!("GET /{}\x7f", "a".repeat(9 << 10))),
        (400, format!("{}(", "G".repeat(40))),
    ] {
        for cut in [0, 4, 5, 6, 33, 34, 41, line.len()] {
            let said = split(line.as_bytes(), cut.min(line.len()));
            assert_eq!(said, split(line.as_bytes(), 0), "{} cut at {cut}", &line[..6]);
            assert_eq!(said.unwrap_err().status, status, "{}", &line[..6]);
        }
    }
}

#[test]
fn what_a_head_says() {
    let text = b"POST http://a.example:80?q=1 HTTP/1.1\r\nHost: A.example:80\r\nContent-Length: 7\r\n\
        Connection: Upgrade, X-Secret\r\nx-secret: 1\r\nUpgrade: websocket\r\nTE: trailers\r\n\r\n";
    let head = request(text).unwrap().unwrap();
    assert_eq!(head.len, text.len());
    assert_eq!(head.method.of_buffer(text), b"POST");
    assert_eq!(head.path.of_buffer(text), b"");
    assert_eq!(head.query.unwrap().of_buffer(text), b"q=1");
    assert_eq!(head.authority.of_buffer(text), b"a.example:80");
    assert_eq!(head.request_framing(), Framing::Length(7));
    assert!(head.upgrade && head.te_trailers && head.persistent() && !head.origin_form);
    let mut kept = Vec::new();
    head.copy_fields(text, &mut kept, |f| f.known != Known::Nominated);
    assert!(!kept.windows(8).any(|w| w == b"x-secret"));
    assert!(kept.ends_with(b"Upgrade: websocket\r\nTE: trailers\r\n"));
    for (fields, upgrade) in [
        ("Upgrade: websocket\r\n", false),
        ("Connection: upgrade\r\nUpgrade: h2c\r\n", false),
        ("Connection: upgrade\r\nUpgrade: h2c, websocket\r\n", false),
        ("Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n", false),
        ("Connection: upgrade\r\nUpgrade: WebSocket\r\n", true),
    ] {
        assert_eq!(request(get(fields).as_bytes()).unwrap().unwrap().upgrade, upgrade, "{fields:?}");
    }
}

#[test]
fn responses_are_held_to_the_same_rules() {
    let parse = |t: &str| {
        let mut h = Head::default();
        h.parse_response(t.as_bytes()).map(|whole| (whole, h.response_framing(false), h.persistent()))
    };
    for (text, framing, persistent) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Framing::Length(3), true),
        ("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", Framing::Chunked, true),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", Framing::UntilClose, false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", Framing::None, false),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", Framing::None, true),
    ] {
        assert_eq!(parse(text), Ok((true, framing, persistent)), "{text:?}");
    }
    for text in [
        "HTTP/1.1 200 OK\nContent-Length: 3\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        "HTTP/1.1 099 x\r\n\r\n",
        "HTTP/1.1 700 x\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
    ] {
        assert!(parse(text).is_err(), "{text:?}");
    }
}

/// Text that is nearly a request head.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("GET / HTTP/1.1\r\n".to_string()),
        Just("Host: a\r\n".to_string()),
        Just("\r\n".to_string()),
        Just("\n".to_string()),
        Just("Content-Length: 5\r\n".to_string()),
        Just("Transfer-Encoding: chunked\r\n".to_string()),
        Just("Connection: close, x\r\n".to_string()),
        Just(" ".to_string()),
        Just("x:".to_string()),
        "[\\x00-\\x7f]{0,3}",
    ];
    prop::collection::vec(piece, 0..8).prop_map(|p| {
        let mut text =
            if p.len() % 3 == 0 { String::new() } else { "GET / HTTP/1.1\r\nHost: a\r\n".to_string() };
        text.extend(p);
        text.into_bytes()
    })
}

proptest! {
    #[test]
    fn the_same_verdict_however_the_bytes_are_split(text in nearly(), cut in 0usize..200) {
        let cut = cut.min(text.len());
        prop_assert_eq!(split(&text, 0), split(&text, cut), "{}", text.escape_ascii());
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut head = Head::default();
        let _ = head.parse_request(&bytes, LIMITS);
        let mut text = b"HTTP/1.1 200 OK\r\n".to_vec();
        text.extend(bytes);
        let _ = head.parse_response(&text);
    }
}
