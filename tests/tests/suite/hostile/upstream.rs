//! What reached a workload, read by rules of its own: no parser of the product is asked.

/// The statuses of the responses in these bytes.
pub(super) fn statuses(bytes: &[u8]) -> Vec<u16> {
    let status = |w: &[u8]| {
        let rest = w.strip_prefix(b"HTTP/1.0 ").or_else(|| w.strip_prefix(b"HTTP/1.1 "))?;
        std::str::from_utf8(rest).ok()?.parse().ok()
    };
    bytes.windows(12).filter_map(status).collect()
}

/// Whether `part` is in `bytes`.
pub(super) fn contains(bytes: &[u8], part: &[u8]) -> bool {
    find(bytes, part).is_some()
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|w| w == part)
}

/// Before and after the first `by`.
fn cut<'a>(bytes: &'a [u8], by: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    find(bytes, by).map(|at| (&bytes[..at], &bytes[at + by.len()..]))
}

/// The lines of a head that have a colon: name in lower case, value as it stands.
fn fields(head: &[u8]) -> Vec<(Vec<u8>, &[u8])> {
    let (mut rest, mut fields) = (cut(head, b"\r\n").map_or(&b""[..], |(_, rest)| rest), Vec::new());
    while !rest.is_empty() {
        let (line, next) = cut(rest, b"\r\n").unwrap_or((rest, b""));
        if let Some((name, value)) = cut(line, b":") {
            fields.push((name.trim_ascii_end().to_ascii_lowercase(), value));
        }
        rest = next;
    }
    fields
}

/// How many whole requests there are, and what is left over.
pub(super) fn complete(bytes: &[u8]) -> (usize, &[u8]) {
    let (mut n, mut rest) = (0, bytes);
    while let Some((head, body)) = cut(rest, b"\r\n\r\n") {
        let fields = fields(head);
        let value = |name: &[u8]| fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.trim_ascii());
        let length =
            value(b"content-length").and_then(|v| std::str::from_utf8(v).ok()?.parse::<usize>().ok());
        let after = if value(b"transfer-encoding").is_some() {
            after_chunks(body)
        } else {
            length.map_or(Some(body), |length| body.get(length..))
        };
        let Some(after) = after else { return (n, rest) };
        n += 1;
        rest = after;
        if value(b"upgrade").is_some() {
            return (n, b"");
        }
    }
    (n, rest)
}

fn after_chunks(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let (line, after) = cut(rest, b"\r\n")?;
        let size = line.split(|b| *b == b';').next()?;
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        if size == 0 {
            let trailers = after.strip_prefix(b"\r\n");
            return trailers.or_else(|| cut(after, b"\r\n\r\n").map(|(_, rest)| rest));
        }
        rest = after.get(size.checked_add(2)?..)?;
    }
}

/// The invariants that these connections break; at most so many requests may have come.
pub(super) fn violations(connections: &[Vec<u8>], most: usize) -> Vec<String> {
    let (mut broken, mut requests) = (Vec::new(), 0);
    for bytes in connections {
        requests += complete(bytes).0.max(1);
        let head = cut(bytes, b"\r\n\r\n").map_or(bytes.as_slice(), |(head, _)| head);
        broken.extend(of_fields(head));
        broken.extend(of_bytes(head));
        let smuggled = [&b"GET /smuggled "[..], b"POST /smuggled "].iter().any(|s| head.starts_with(s));
        if smuggled && most < 2 {
            broken.push("/smuggled as a request");
        }
    }
    if requests > most.max(1) {
        broken.push("too many requests upstream");
    }
    broken.sort_unstable();
    broken.dedup();
    broken.into_iter().map(str::to_owned).collect()
}

fn of_fields(head: &[u8]) -> Vec<&'static str> {
    let fields = fields(head);
    let all = |name: &'static [u8]| fields.iter().filter(move |(n, _)| n == name).map(|(_, v)| *v);
    let lengths = all(b"content-length").count();
    let checks = [
        (lengths > 0 && all(b"transfer-encoding").count() > 0, "Content-Length and Transfer-Encoding"),
        (lengths > 1, "two Content-Length"),
        (all(b"host").count() > 1, "two Host"),
        (all(b"host").count() == 0, "no Host"),
        (all(b"host").any(|v| v.contains(&b',')), "joined Host"),
        (
            all(b"transfer-encoding").any(|v| v.strip_prefix(b" ").unwrap_or(v) != b"chunked"),
            "Transfer-Encoding is not exactly chunked",
        ),
        (all(b"upgrade").any(|v| v.trim_ascii().to_ascii_lowercase().starts_with(b"h2c")), "h2c upstream"),
        (all(b"http2-settings").count() > 0, "HTTP2-Settings upstream"),
    ];
    checks.into_iter().filter(|(broken, _)| *broken).map(|(_, what)| what).collect()
}

fn of_bytes(head: &[u8]) -> Vec<&'static str> {
    let before = |i: usize| i.checked_sub(1).map(|i| head[i]);
    let at = |c: u8| head.iter().enumerate().filter(move |(_, b)| **b == c).map(|(i, _)| i);
    let line = cut(head, b"\r\n").map_or(head, |(line, _)| line);
    let checks = [
        (at(b'\n').any(|i| before(i) != Some(b'\r')), "bare LF"),
        (at(b'\r').any(|i| i + 1 < head.len() && head[i + 1] != b'\n'), "bare CR"),
        (head.contains(&0), "NUL"),
        (contains(head, b"\r\n ") || contains(head, b"\r\n\t"), "a folded line"),
        (!is_request_line(line), "a request line that is none"),
    ];
    checks.into_iter().filter(|(broken, _)| *broken).map(|(_, what)| what).collect()
}

/// A method, a target with a path (or `*`) and our own version.
fn is_request_line(line: &[u8]) -> bool {
    let parts: Vec<_> = line.split(|b| *b == b' ').collect();
    let [method, target, version] = parts.as_slice() else { return false };
    !method.is_empty() && (target.starts_with(b"/") || *target == b"*") && *version == b"HTTP/1.1"
}

/// The headers of the client that went upstream as they came, of those that the proxy owns.
pub(super) fn taken_over(sent: &[u8], connections: &[Vec<u8>]) -> Vec<String> {
    let head = |bytes: &[u8]| cut(bytes, b"\r\n\r\n").map_or(bytes.len(), |(head, _)| head.len());
    let theirs = fields(&sent[..head(sent)]);
    let mut taken = Vec::new();
    for bytes in connections {
        let ours = fields(&bytes[..head(bytes)]);
        for (name, value) in theirs.iter().filter(|(name, _)| name != b"host") {
            if ours.iter().any(|(n, v)| n == name && v.trim_ascii().eq_ignore_ascii_case(value.trim_ascii()))
            {
                taken.push(format!(
                    "{} of the client went upstream as it came",
                    String::from_utf8_lossy(name)
                ));
            }
        }
    }
    taken
}

#[test]
fn the_reader_sees_what_must_not_be() {
    let ok = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    assert_eq!(violations(std::slice::from_ref(&ok), 1), Vec::<String>::new());
    for (bytes, broken) in [
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "Content-Length and",
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\ncontent-length: 0\r\n\r\n", "two Content-Length"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "two Host"),
        ("GET / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n", "Transfer-Encoding is not"),
        ("GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", "bare LF"),
        ("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", "bare CR"),
        ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", "a folded line"),
        ("GET / HTTP/1.1\r\nHost: a\0\r\n\r\n", "NUL"),
        ("GET admin HTTP/1.1\r\nHost: a\r\n\r\n", "a request line"),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", "a request line"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "too many requests"),
        ("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", "/smuggled"),
    ] {
        let said = violations(&[bytes.as_bytes().to_vec()], 1);
        assert!(said.iter().any(|s| s.starts_with(broken)), "{bytes:?}: {said:?}");
    }
    let chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert_eq!(complete(chunked), (1, &b""[..]));
    assert_eq!(complete(&chunked[..chunked.len() - 2]).0, 0);
    assert_eq!(
        taken_over(b"GET / HTTP/1.1\r\nX-A: 1\r\n\r\n", &[b"GET / HTTP/1.1\r\nx-a: 1\r\n\r\n".to_vec()])
            .len(),
        1
    );
    assert_eq!(statuses(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 400 Bad\r\n"), [200, 400]);
}
