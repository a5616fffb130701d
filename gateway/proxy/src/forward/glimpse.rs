//! What the log says of what was refused before it was a request: as much of it as can be told.

use super::head::field;
use crate::h1::field::is_token;
use crate::h1::lines::METHOD;
use crate::telemetry::Record;
use http::header::{HOST, USER_AGENT};
use http::request::Parts;

/// How much is kept of each part; nobody is to fill the log with what costs nothing.
const MOST: usize = 256;

/// The parts of a request that was refused, empty where they are not known.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Glimpse {
    method: Vec<u8>,
    path: Vec<u8>,
    authority: Vec<u8>,
    user_agent: Vec<u8>,
}

impl Glimpse {
    /// Of an HTTP/1 head, or of what came of it.
    pub(crate) fn of_head(head: &[u8]) -> Box<Self> {
        let mut lines = head.trim_ascii_start().split(|c| *c == b'\n').map(<[u8]>::trim_ascii_end);
        let mut words = lines.next().unwrap_or_default().split(|c| *c == b' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next());
        let mut glimpse = Box::<Glimpse>::default();
        let Some(target) = target.filter(|_| method.len() <= METHOD && is_token(method)) else {
            return glimpse;
        };
        (glimpse.method, glimpse.path) = (kept(method), kept(target));
        for line in lines.take_while(|line| !line.is_empty()) {
            let Some((name, value)) = field(line) else { continue };
            let part = match name {
                _ if name.eq_ignore_ascii_case(b"host") => &mut glimpse.authority,
                _ if name.eq_ignore_ascii_case(b"user-agent") => &mut glimpse.user_agent,
                _ => continue,
            };
            if part.is_empty() {
                *part = kept(value);
            }
        }
        glimpse
    }

    /// Of a request of HTTP/2.
    pub(crate) fn of_parts(parts: &Parts) -> Box<Self> {
        let field = |name| parts.headers.get(name).map_or(&b""[..], |value| value.as_bytes());
        let authority = parts.uri.authority().map_or(field(HOST), |a| a.as_str().as_bytes());
        Box::new(Glimpse {
            method: kept(parts.method.as_str().as_bytes()),
            path: kept(parts.uri.path_and_query().map_or("", |p| p.as_str()).as_bytes()),
            authority: kept(authority),
            user_agent: kept(field(USER_AGENT)),
        })
    }

    /// Whether an answer has no body.
    pub(crate) fn is_head(&self) -> bool {
        self.method == b"HEAD"
    }

    /// Tells it to who logs.
    pub(super) fn tell<'a>(&'a self, record: &mut Record<'a>) {
        (record.method, record.path) = (&self.method, &self.path);
        (record.authority, record.user_agent) = (&self.authority, &self.user_agent);
    }
}

fn kept(part: &[u8]) -> Vec<u8> {
    part[..part.len().min(MOST)].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_is_told_as_came() {
        let long = format!("GET /{} HTTP/1.1", "x".repeat(9000));
        let cut = format!("/{}", "x".repeat(MOST - 1));
        for (head, [method, path, authority, user_agent]) in [
            (
                "GET /a?b HTTP/1.1\r\nHost: a.b\r\nuser-agent:c d \r\n\r\nHost: x",
                ["GET", "/a?b", "a.b", "c d"],
            ),
            ("\r\nHEAD /a HTTP/1.1\r\nHost: a\r\nHost: b\r\nUser-", ["HEAD", "/a", "a", ""]),
            ("GET /a\nHost: a", ["GET", "/a", "a", ""]),
            ("CONNECT a.b:80 HTTP/1.1\r\n", ["CONNECT", "a.b:80", "", ""]),
            (&long, ["GET", &cut, "", ""]),
            ("GET", ["", "", "", ""]),
            ("\x16\x03 /a\r\nHost: a", ["", "", "", ""]),
            ("", ["", "", "", ""]),
        ] {
            let parts = [method, path, authority, user_agent].map(|part| part.as_bytes().to_vec());
            let [method, path, authority, user_agent] = parts;
            let expected = Glimpse { method, path, authority, user_agent };
            assert_eq!(*Glimpse::of_head(head.as_bytes()), expected, "{head}");
        }
        let request = http::Request::put("http://a.b/c?d").header("user-agent", "e").body(()).unwrap();
        let parts = ["PUT", "/c?d", "a.b", "e"].map(|part| part.as_bytes().to_vec());
        let [method, path, authority, user_agent] = parts;
        assert_eq!(
            *Glimpse::of_parts(&request.into_parts().0),
            Glimpse { method, path, authority, user_agent }
        );
    }
}
