//! By gRPC: one call of `envoy.service.auth.v3.Authorization/Check`.

use super::grant::{Change, Grant, How, OfResponse, header, of_response, one_content_type};
use super::messages::{
    Address, AppendAction, AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse,
    HeaderValueOption, HttpRequest, METHOD, OkHttpResponse, Peer, Request, SocketAddress, Timestamp,
    TlsSession,
};
use super::{Asked, CheckError, PARTIAL, Question, Reply, Said, refusal};
use crate::forward::head::fields;
use prost::Message;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::UNIX_EPOCH;
use tidegate_model::{ExternalAuthorizer, HeaderName, HeaderOp};

/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// The largest number in a `grpc-timeout`.
const LONGEST: u128 = 99_999_999;

/// Head and body of the call.
pub(super) fn write(question: &Question, by: &ExternalAuthorizer, host: &str) -> (Vec<u8>, Vec<u8>) {
    let message = message(question, by.body.is_some_and(|body| body.as_bytes)).encode_to_vec();
    let mut body = Vec::with_capacity(PREFIX + message.len());
    body.push(0);
    // it is bounded by what of a request is kept
    body.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend_from_slice(&message);
    let head = format!(
        "POST {METHOD} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/grpc\r\nte: trailers\r\n\
         user-agent: tidegate/{}\r\ngrpc-timeout: {}m\r\ncontent-length: {}\r\n\r\n",
        env!("CARGO_PKG_VERSION"),
        by.timeout.as_millis().clamp(1, LONGEST),
        body.len()
    );
    (head.into_bytes(), body)
}

fn message(question: &Question, as_bytes: bool) -> CheckRequest {
    let since = question.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    };
    let http = question.request.as_ref().map(|asked| http_request(question, asked, as_bytes));
    let sni = Some(&question.sni).filter(|sni| !sni.is_empty());
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer(question.source)),
            destination: Some(peer(question.destination)),
            request: Some(Request { time: Some(time), http }),
            tls_session: sni.map(|sni| TlsSession { sni: sni.clone() }),
        }),
    }
}

fn peer(address: SocketAddr) -> Peer {
    let socket = SocketAddress {
        address: address.ip().to_canonical().to_string(),
        port_value: Some(address.port().into()),
    };
    Peer { address: Some(Address { socket_address: Some(socket) }) }
}

/// As in Envoy, with a `!` for each byte that is no text, so that it is as long as what came.
fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    text
}

fn http_request(question: &Question, asked: &Asked, as_bytes: bool) -> HttpRequest {
    let scheme = question.scheme.as_str();
    let mut headers: HashMap<String, String> = HashMap::new();
    for (name, values) in asked.headers.iter().filter(|(name, _)| name != PARTIAL) {
        let separator: &[u8] = if name == "cookie" { b"; " } else { b"," };
        headers.insert(name.clone(), text(&values.join(separator)));
    }
    headers.insert(":method".into(), text(&asked.method));
    headers.insert(":path".into(), text(&asked.target));
    headers.insert(":authority".into(), text(&asked.authority));
    headers.insert(":scheme".into(), scheme.into());
    if let Some(length) = asked.content_length {
        headers.insert("content-length".into(), length.to_string());
    }
    let (mut body, mut raw_body) = (String::new(), Vec::new());
    if let Some(part) = &asked.body {
        headers.insert(PARTIAL.into(), part.partial.to_string());
        if as_bytes {
            raw_body.clone_from(&part.content);
        } else {
            body = text(&part.content);
        }
    }
    HttpRequest {
        id: asked.id.clone(),
        method: text(&asked.method),
        headers,
        path: text(&asked.target),
        host: text(&asked.authority),
        scheme: scheme.into(),
        // as in Envoy what came by now, which is nothing where no body is checked
        size: asked.body.as_ref().map_or(0, |body| i64::try_from(body.received).unwrap_or(i64::MAX)),
        protocol: question.protocol.into(),
        body,
        raw_body,
    }
}

/// What the answer says.
pub(super) fn read(reply: &Reply) -> Result<Said, CheckError> {
    if reply.status != 200 {
        return Err(CheckError::Status(reply.status));
    }
    let of_head = reply.fields.iter().map(|(name, value)| (&**name, &**value));
    let mut all = fields(&reply.trailers).chain(of_head);
    match all.find(|(name, _)| name.eq_ignore_ascii_case(b"grpc-status")) {
        Some((_, b"0")) => {}
        Some((_, status)) => return Err(CheckError::Grpc(String::from_utf8_lossy(status).into_owned())),
        None => return Err(CheckError::Malformed("it has no grpc-status")),
    }
    let whole = reply.body.split_first_chunk::<PREFIX>().filter(|([compressed, length @ ..], message)| {
        *compressed == 0 && u32::from_be_bytes(*length) as usize == message.len()
    });
    let (_, message) = whole.ok_or(CheckError::Malformed("it is not one message"))?;
    let said = CheckResponse::decode(message).map_err(|_| CheckError::Malformed("it is no CheckResponse"))?;
    let status = said.status.ok_or(CheckError::Malformed("it has no status"))?;
    match status.code {
        0 => Ok(Said::Pass(granted(said.ok_response.unwrap_or_default())?)),
        _ => refused(&said.denied_response.unwrap_or_default()),
    }
}

/// A header of an option that has one.
fn written(option: &HeaderValueOption) -> Result<Option<(HeaderName, Vec<u8>)>, CheckError> {
    let Some(written) = &option.header else { return Ok(None) };
    let value = if written.raw_value.is_empty() { written.value.as_bytes() } else { &written.raw_value };
    header(&written.key, value).map(Some)
}

/// A header of the request. As in Envoy, it takes the place of the client's unless `append` says other, whatever
/// `append_action` says.
fn of_request(option: &HeaderValueOption) -> Result<Option<Change>, CheckError> {
    let append = option.append.as_ref().is_some_and(|append| append.value);
    Ok(written(option)?.map(|(name, value)| Change { name, value, append }))
}

/// What becomes of the lines that a response has: as `unsaid` where nothing is said.
fn how(option: &HeaderValueOption, unsaid: How) -> Result<How, CheckError> {
    Ok(match (&option.append, AppendAction::try_from(option.append_action)) {
        (Some(append), _) if append.value => How::Append,
        (Some(_), _) => How::Set,
        (None, Ok(AppendAction::AddIfAbsent)) => How::IfAbsent,
        (None, Ok(AppendAction::OverwriteIfExists)) => How::IfPresent,
        (None, Ok(AppendAction::OverwriteIfExistsOrAdd)) => How::Set,
        // the default, which cannot be told from nothing
        (None, Ok(AppendAction::AppendIfExistsOrAdd)) => unsaid,
        (None, Err(_)) => return Err(CheckError::Malformed("an unknown way to add a header")),
    })
}

fn granted(ok: OkHttpResponse) -> Result<Grant, CheckError> {
    let headers = ok.headers.iter().filter_map(|option| of_request(option).transpose());
    let mut response = Vec::new();
    for option in &ok.response_headers_to_add {
        let how = how(option, How::Append)?;
        if let Some((name, value)) = written(option)? {
            response.extend(OfResponse::new(name, &value, how));
        }
    }
    Ok(Grant {
        headers: headers.collect::<Result<_, _>>()?,
        remove: ok.headers_to_remove.iter().map(|name| HeaderName::new(name)).collect(),
        target: None,
        response,
        set_params: ok.query_parameters_to_set.into_iter().map(|p| (p.key, p.value)).collect(),
        remove_params: ok.query_parameters_to_remove,
    })
}

fn refused(denied: &DeniedHttpResponse) -> Result<Said, CheckError> {
    let mut ops: Vec<HeaderOp> = Vec::new();
    for option in &denied.headers {
        let how = how(option, How::Set)?;
        if let Some((name, value)) = written(option)? {
            // further lines of a name stand beside the first, as with several `set-cookie`
            let again = ops.iter().any(|op| *op.name() == name);
            ops.extend(of_response(name, &value, again || how == How::Append));
        }
    }
    let status = denied.status.as_ref().and_then(|status| u16::try_from(status.code).ok()).unwrap_or(403);
    Ok(Said::Refuse(refusal(status, denied.body.as_bytes(), one_content_type(ops))))
}

#[cfg(test)]
mod tests {
    use super::super::messages::{BoolValue, HeaderValue};
    use super::*;

    fn option(value: &str, append: Option<bool>, action: AppendAction) -> HeaderValueOption {
        let header = HeaderValue { key: "Set-Cookie".into(), value: value.into(), raw_value: Vec::new() };
        HeaderValueOption {
            header: Some(header),
            append: append.map(|value| BoolValue { value }),
            append_action: action.into(),
        }
    }

    #[test]
    fn a_refusal_keeps_every_line_of_a_header() {
        let headers = ["a=1", "b=2", "c=3"].map(|v| option(v, None, AppendAction::AppendIfExistsOrAdd));
        let denied = DeniedHttpResponse { headers: headers.into(), ..DeniedHttpResponse::default() };
        let Ok(Said::Refuse(response)) = refused(&denied) else { panic!("no refusal") };
        let kinds: Vec<_> =
            response.response_headers.iter().map(|op| matches!(op, HeaderOp::Append(..))).collect();
        assert_eq!(kinds, [false, true, true]);
    }

    #[test]
    fn text_is_as_long_as_what_came() {
        for (bytes, expected) in [
            (&b"abc"[..], "abc"),
            ("schön".as_bytes(), "schön"),
            (b"\xffhello\xc3", "!hello!"),
            (b"\xe2\x82a\xf0\x9f\x92", "!!a!!!"),
        ] {
            assert_eq!(text(bytes), expected);
        }
    }

    #[test]
    fn headers_are_added_as_their_options_say() {
        use AppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};
        for (append, action, appended, on_response) in [
            (None, AppendIfExistsOrAdd, false, How::Append),
            (None, AddIfAbsent, false, How::IfAbsent),
            (None, OverwriteIfExistsOrAdd, false, How::Set),
            (None, OverwriteIfExists, false, How::IfPresent),
            (Some(true), OverwriteIfExistsOrAdd, true, How::Append),
            (Some(false), AppendIfExistsOrAdd, false, How::Set),
        ] {
            let options = vec![option("a=1", append, action)];
            let ok = OkHttpResponse {
                headers: options.clone(),
                response_headers_to_add: options,
                ..OkHttpResponse::default()
            };
            let grant = granted(ok).unwrap();
            let found = (grant.headers[0].append, grant.response[0].how());
            assert_eq!(found, (appended, on_response), "{append:?} {action:?}");
        }
    }
}
