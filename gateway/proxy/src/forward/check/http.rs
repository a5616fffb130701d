//! By HTTP: a request like the one that is checked; a 200 lets it pass.

use super::grant::{Change, Grant, How, OfResponse, header, of_response, one_content_type};
use super::{CheckError, PARTIAL, Question, Reply, Said, refusal};
use crate::forward::edits::line;
use tidegate_model::{HeaderName, HttpCheck, TextPattern};

/// Sent whatever is said, as in Envoy.
const ALWAYS: &str = "authorization";
/// What of a refusal the client gets whatever is said, as in Envoy.
const REFUSAL: [&str; 2] = ["www-authenticate", "location"];
/// What a server says about itself and the connection, not about the request.
const OF_SERVER: [&str; 3] = ["date", "server", "content-length"];

/// In which header an answer names those that go off the request, between commas.
const REMOVES: &str = "x-envoy-auth-headers-to-remove";

/// Head and body of the request to the provider.
pub(super) fn write(question: &Question, http: &HttpCheck) -> (Vec<u8>, Vec<u8>) {
    let mut head = Vec::new();
    let Some(asked) = &question.request else { return (head, Vec::new()) };
    head.extend_from_slice(&asked.method);
    head.push(b' ');
    head.extend_from_slice(http.path_prefix.as_bytes());
    head.extend_from_slice(if asked.target.starts_with(b"/") { b"" } else { b"/" });
    head.extend_from_slice(&asked.target);
    head.extend_from_slice(b" HTTP/1.1\r\n");
    line(&mut head, b"host", &asked.authority);
    let body = asked.body.as_ref().map_or(&[][..], |body| &body.content);
    line(&mut head, b"content-length", itoa::Buffer::new().format(body.len()).as_bytes());
    let added = |name: &str| asked.added.iter().any(|(n, _)| n.as_str() == name);
    for (name, values) in &asked.headers {
        let wanted = name == ALWAYS || is_one_of(&http.request_headers, name);
        if wanted && !added(name) && name != PARTIAL && name != "expect" {
            values.iter().for_each(|value| line(&mut head, name.as_bytes(), value));
        }
    }
    for (name, value) in &asked.added {
        line(&mut head, name.as_str().as_bytes(), value);
    }
    if let Some(body) = &asked.body {
        line(&mut head, PARTIAL.as_bytes(), if body.partial { b"true" } else { b"false" });
    }
    head.extend_from_slice(b"\r\n");
    (head, body.to_vec())
}

/// What the answer says. One of 500 and above is none.
pub(super) fn read(reply: &Reply, http: &HttpCheck) -> Result<Said, CheckError> {
    if reply.status >= 500 {
        return Err(CheckError::Status(reply.status));
    }
    let mut grant = Grant::default();
    let mut refused = Vec::new();
    for (name, value) in &reply.fields {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let (written, value) = header(&name, value)?;
        if reply.status != 200 {
            let all = http.downstream_on_deny.is_empty() && !OF_SERVER.contains(&&*name);
            if all || REFUSAL.contains(&&*name) || is_one_of(&http.downstream_on_deny, &name) {
                refused.extend(of_response(written, &value, true));
            }
            continue;
        }
        if name == REMOVES {
            let names = value.split(|b| *b == b',').filter_map(|name| std::str::from_utf8(name).ok());
            let names = names.map(str::trim).filter(|name| !name.is_empty());
            grant.remove.extend(names.map(HeaderName::new));
            continue;
        }
        if is_one_of(&http.downstream_on_allow, &name) {
            grant.response.extend(OfResponse::new(written.clone(), &value, How::Append));
        }
        if is_one_of(&http.upstream_on_allow, &name) {
            // as in Envoy, the last of several lines is the one that counts
            grant.headers.push(Change { name: written, value, append: false });
        }
    }
    match reply.status {
        200 => Ok(Said::Pass(grant)),
        status => Ok(Said::Refuse(refusal(status, &reply.body, one_content_type(refused)))),
    }
}

/// Whether a name in lower case is one of these.
fn is_one_of(patterns: &[TextPattern], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern {
        TextPattern::Any => true,
        TextPattern::Exact(text) => **text == *name,
        TextPattern::Prefix(text) => name.starts_with(&**text),
        TextPattern::Suffix(text) => name.ends_with(&**text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_headers_that_go() {
        let http = HttpCheck {
            path_prefix: "".into(),
            request_headers: vec![],
            additional_headers: vec![],
            upstream_on_allow: vec![TextPattern::Any],
            downstream_on_allow: vec![],
            downstream_on_deny: vec![],
        };
        let line = (Box::from(&b"X-Envoy-Auth-Headers-To-Remove"[..]), Box::from(&b"X-A, x-b,,"[..]));
        let reply = Reply { status: 200, fields: vec![line], ..Reply::default() };
        let Ok(Said::Pass(grant)) = read(&reply, &http) else { panic!("it does not pass") };
        let removed: Vec<_> = grant.remove.iter().map(HeaderName::as_str).collect();
        assert_eq!((removed, grant.headers.len()), (vec!["x-a", "x-b"], 0));
    }
}
