//! What the fuzz targets call: each function panics where a parser breaks a promise.

use crate::auth::{KeySet, Token};
use crate::forward::path::canonicalize;
use crate::h1::body::{BodyScan, Malformed};
use crate::h1::head::{Framing, Head, HeadLimits, Refused};
use tidegate_model::PathNormalization;

/// The usual limits, scaled down so that fuzzing reaches them.
const LIMITS: HeadLimits = HeadLimits { bytes: 4 << 10, fields: 20, target: 1 << 10 };
/// In how many pieces long inputs are fed.
const PIECES: usize = 128;

/// What a head parser says, and what of it decides where the message ends.
type Verdict = Result<Option<(usize, Framing, bool)>, Refused>;

/// Request heads: the same verdict however the bytes arrive.
pub fn request_head(bytes: &[u8]) {
    check_splits(bytes, |part| {
        let mut head = Head::default();
        let whole = head.parse_request(part, LIMITS)?;
        if whole {
            check_spans(&head, part);
            assert!(head.has_host() || !head.http11, "HTTP/1.1 without Host");
        }
        Ok(whole.then(|| (head.len, head.request_framing(), head.persistent())))
    });
}

/// Response heads: the same verdict however the bytes arrive.
pub fn response_head(bytes: &[u8]) {
    check_splits(bytes, |part| {
        let mut head = Head::default();
        let whole = head.parse_response(part)?;
        if whole {
            check_spans(&head, part);
            assert!((100..=599).contains(&head.status), "status {}", head.status);
        }
        Ok(whole.then(|| (head.len, head.response_framing(false), head.persistent())))
    });
}

/// Feeds more and more of the bytes, as a connection does, and stops at the first verdict.
fn check_splits(bytes: &[u8], parse: impl Fn(&[u8]) -> Verdict) {
    let whole = parse(bytes);
    let step = bytes.len().div_ceil(PIECES).max(1);
    for end in (1..bytes.len()).step_by(step) {
        let early = parse(&bytes[..end]);
        if early != Ok(None) {
            assert_eq!(early, whole, "after {end} bytes, and after all");
            return;
        }
    }
}

/// Every line is what it says, and stays so when it is copied.
fn check_spans(head: &Head, bytes: &[u8]) {
    assert!(bytes[..head.len].ends_with(b"\r\n\r\n"), "a head ends with an empty line");
    let mut copy = Vec::new();
    head.copy_fields(bytes, &mut copy, |_| true);
    assert_eq!(copy, &bytes[head.fields_at..head.len - 2], "copied fields");
    for f in &head.fields {
        let (name, value) = (f.name.of_buffer(bytes), f.value.of_buffer(bytes));
        assert!(!name.is_empty() && !name.contains(&b':') && !name.contains(&b' '), "name {name:?}");
        assert!(!value.iter().any(|c| matches!(c, b'\r' | b'\n' | 0)), "value {value:?}");
    }
}

/// Tokens and key sets: whatever they are, they are read and tried, and what is signed is what was read.
pub fn token(bytes: &[u8]) {
    if let (Ok(token), Ok((keys, unusable))) = (Token::parse(bytes), KeySet::parse(KEYS.as_bytes())) {
        assert!(unusable.is_empty(), "the key is one: {unusable:?}");
        let _ = keys.verify(&token);
        assert!(bytes.starts_with(token.signed) && bytes[token.signed.len()] == b'.');
    }
    let _ = KeySet::parse(bytes);
}

/// A key to try with: the base point of P-256.
const KEYS: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256",
    "x": "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY", "y": "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}]}"#;

/// Chunked bodies: the same bytes passed on however they arrive, and canonical afterwards.
pub fn body(bytes: &[u8]) {
    let whole = passed(bytes, bytes.len().max(1), true);
    let step = bytes.len().div_ceil(PIECES).max(1);
    for piece in [step, 2 * step + 1] {
        assert_eq!(passed(bytes, piece, true), whole, "in pieces of {piece}");
    }
    for cut in (1..bytes.len()).step_by(step) {
        let mut scan = BodyScan::new(Framing::Chunked);
        let halves = feed(&mut scan, &bytes[..cut], true).and_then(|(a, mut text)| {
            feed(&mut scan, &bytes[cut..], true).map(|(b, t)| {
                (a + b, {
                    text.extend(t);
                    text
                })
            })
        });
        assert_eq!(halves.map(|(used, text)| (used, ended(&scan, text), scan.done())), whole, "cut at {cut}");
    }
    let content = passed(bytes, bytes.len().max(1), false);
    assert_eq!(content, passed(bytes, step, false), "content");
    if let Ok((_, text, true)) = whole {
        let again = passed(&text, text.len(), true);
        assert_eq!(again, Ok((text.len(), text.clone(), true)), "what is passed on is canonical");
        assert_eq!(content.map(|c| c.1), passed(&text, text.len(), false).map(|c| c.1), "content of it");
    }
}

/// How much belongs to the body, what is passed on of it, and whether it has ended.
fn passed(bytes: &[u8], piece: usize, framing: bool) -> Result<(usize, Vec<u8>, bool), Malformed> {
    let mut scan = BodyScan::new(Framing::Chunked);
    let (mut all, mut text) = (0, Vec::new());
    for part in bytes.chunks(piece) {
        let (used, kept) = feed(&mut scan, part, framing)?;
        all += used;
        text.extend(kept);
    }
    if framing {
        text = ended(&scan, text);
    }
    Ok((all, text, scan.done()))
}

fn feed(scan: &mut BodyScan, part: &[u8], framing: bool) -> Result<(usize, Vec<u8>), Malformed> {
    let mut part = part.to_vec();
    let (used, kept) = if framing { scan.scan(&mut part)? } else { scan.decode(&mut part)? };
    assert!(kept <= used && used <= part.len(), "{kept} of {used} bytes");
    part.truncate(kept);
    Ok((used, part))
}

fn ended(scan: &BodyScan, mut text: Vec<u8>) -> Vec<u8> {
    scan.tail().into_iter().for_each(|part| text.extend_from_slice(part));
    text
}

/// Paths that a request line can hold: what normalisation promises holds.
pub fn path(bytes: &[u8]) {
    if bytes.first() != Some(&b'/') || !bytes.iter().all(|c| matches!(c, 0x21..=0x7e) && !b"?#".contains(c)) {
        return;
    }
    use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None};
    for mode in [None, Base, MergeSlashes, DecodeAndMergeSlashes] {
        let mut out = Vec::new();
        if canonicalize(mode, bytes, &mut out).is_err() || mode == None {
            assert!(out.is_empty() || mode != None, "without normalisation nothing changes");
            continue;
        }
        let path = if out.is_empty() { bytes } else { &out };
        let shown = String::from_utf8_lossy(path);
        assert!(path.starts_with(b"/"), "{shown}");
        assert!(!path.split(|c| *c == b'/').any(|s| s == b"." || s == b".."), "a dot segment in {shown}");
        assert!(!path.contains(&b'\\'), "a backslash in {shown}");
        assert!(mode == Base || !path.windows(2).any(|w| w == b"//"), "two slashes in {shown}");
    }
}

/// ClientHellos: the same verdict however the bytes arrive, and only names that DNS can have.
pub fn client_hello(bytes: &[u8]) {
    use crate::tls::client_hello::HelloReader;
    let whole = HelloReader::default().read(bytes);
    let step = bytes.len().div_ceil(PIECES).max(1);
    let mut reader = HelloReader::default();
    for end in (1..bytes.len()).step_by(step) {
        let early = reader.read(&bytes[..end]);
        if early != Ok(None) {
            assert_eq!(early, whole, "after {end} bytes, and after all");
            break;
        }
    }
    if let Ok(Some(hello)) = whole {
        let name = hello.sni.unwrap_or_default();
        assert!(!name.bytes().any(|b| b.is_ascii_uppercase() || b.is_ascii_control()), "{name:?}");
        assert!(hello.protocols.iter().all(|p| !p.is_empty() && p.len() < 256));
    }
}

/// PROXY headers: the same verdict however the bytes arrive, and bounded.
pub fn proxy_header(bytes: &[u8]) {
    use crate::listener::proxy_protocol::parse;
    let verdict = |part: &[u8]| parse(part).map_err(|e| e.to_string());
    let whole = verdict(bytes);
    let step = bytes.len().div_ceil(PIECES).max(1);
    for end in (1..bytes.len()).step_by(step) {
        let early = verdict(&bytes[..end]);
        if early != Ok(None) {
            assert_eq!(early, whole, "after {end} bytes, and after all");
            break;
        }
    }
    match whole {
        Ok(Some((_, length))) => assert!(length <= bytes.len(), "{length} of {}", bytes.len()),
        Ok(None) => assert!(bytes.len() < 8 << 10, "it asks for more after {}", bytes.len()),
        Err(_) => {}
    }
}

/// Requests of HTTP/2: what is accepted reads the same as HTTP/1. For the form see the module of that name there.
pub fn h2_request(bytes: &[u8]) {
    crate::h2::fuzzing::request(bytes);
}

/// Seeds for each target, made from one raw request: the target's name, and its input.
#[cfg(test)]
fn seeds(request: &[u8]) -> [(&'static str, Vec<u8>); 8] {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let after = |part: &[u8]| {
        let at = request.windows(part.len()).position(|w| w == part);
        at.map_or(request, |at| &request[at + part.len()..])
    };
    let target = request.split(|c| *c == b' ').nth(1).unwrap_or_default();
    let method = request.split(|c| *c == b' ').next().unwrap_or_default();
    let fields: Vec<u8> = after(b"\r\n").iter().copied().filter(|c| *c != b'\r').collect();
    let fields = fields.split(|c| *c == b'\n').take_while(|line| !line.is_empty());
    let fields = fields.filter(|line| !line.starts_with(b"Host")).map(|f| f.to_ascii_lowercase());
    let fields = fields.collect::<Vec<_>>().join(&b'\n');
    // A record of one handshake message that ends with the request: a hello where it is one.
    let record = |body: &[u8]| [&[22, 3, 1][..], &(body.len() as u16).to_be_bytes(), body].concat();
    let hello = &request[..request.len().min(1 << 10)];
    let hello = [&[1, 0][..], &(hello.len() as u16).to_be_bytes(), hello].concat();
    [
        ("request_head", request.to_vec()),
        ("response_head", [b"HTTP/1.1 200 OK\r\n", after(b"\r\n")].concat()),
        ("body", after(b"\r\n\r\n").to_vec()),
        ("path", target.to_vec()),
        ("client_hello", record(&hello)),
        ("proxy_header", [b"PROXY ", request].concat()),
        ("h2_request", [b"\x01", method, b"\nhttps\na.example\n", target, b"\n\n", &fields].concat()),
        ("token", [part(br#"{"alg":"ES256"}"#), part(request), part(target)].join(".").into_bytes()),
    ]
}

/// Runs a target by its name.
#[cfg(test)]
fn run(target: &str, bytes: &[u8]) {
    match target {
        "request_head" => request_head(bytes),
        "response_head" => response_head(bytes),
        "body" => body(bytes),
        "path" => path(bytes),
        "client_hello" => client_hello(bytes),
        "proxy_header" => proxy_header(bytes),
        "token" => token(bytes),
        "h2_request" => h2_request(bytes),
        other => panic!("no fuzz target {other}"),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use std::path::Path;

    /// The longest seed for the fuzzer: longer ones only slow it down.
    const LONGEST: usize = 8 << 10;

    /// Name and bytes of every request in the corpus of the black-box tests.
    fn hostile() -> Vec<(String, Vec<u8>)> {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/hostile/http1.jsonl");
        let corpus = std::fs::read_to_string(corpus).unwrap();
        let case = |line: &str| {
            let case: serde_json::Value = serde_json::from_str(line).unwrap();
            let request = STANDARD.decode(case["bytes_b64"].as_str().unwrap()).unwrap();
            (case["name"].as_str().unwrap().to_string(), request)
        };
        corpus.lines().map(case).collect()
    }

    #[test]
    fn the_hostile_corpus_breaks_no_promise_however_it_is_split() {
        let hostile = hostile();
        assert!(hostile.len() >= 256, "only {} cases", hostile.len());
        for (_, request) in hostile {
            for (target, seed) in super::seeds(&request) {
                super::run(target, &seed[..seed.len().min(2 * LONGEST)]);
            }
        }
    }

    #[test]
    fn the_seeds_of_the_fuzz_targets_break_no_promise() {
        for target in super::seeds(b"").map(|(target, _)| target) {
            let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
            let files = std::fs::read_dir(&seeds).unwrap_or_else(|e| panic!("{}: {e}", seeds.display()));
            let mut count = 0;
            for file in files {
                super::run(target, &std::fs::read(file.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 0, "no seeds for {target}");
        }
    }

    #[test]
    #[ignore = "writes the corpus of the fuzz targets"]
    fn seed_corpus() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, request) in hostile() {
            for (target, seed) in super::seeds(&request) {
                if seed.len() <= LONGEST {
                    std::fs::create_dir_all(corpus.join(target)).unwrap();
                    std::fs::write(corpus.join(target).join(&name), seed).unwrap();
                }
            }
        }
    }
}
