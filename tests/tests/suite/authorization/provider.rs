//! Providers that decide about requests, by HTTP and by gRPC. What they say is asked for in the header `x-want`.

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

/// What a provider was asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Question {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Question {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Whether a text stands in the body.
    pub(super) fn has(&self, text: &str) -> bool {
        self.body.windows(text.len()).any(|part| part == text.as_bytes())
    }

    /// What the client asks for.
    fn want(&self) -> String {
        if let Some(want) = self.header("x-want") {
            return want.to_owned();
        }
        // of a message: the key, and behind it the tag of the value and its length
        let at = self.body.windows(6).position(|part| part == b"x-want").map(|at| at + 6);
        let value = at.and_then(|at| self.body.get(at + 2..at + 2 + usize::from(*self.body.get(at + 1)?)));
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    }
}

type Asked = Arc<Mutex<Vec<Question>>>;

/// A provider that listens.
pub(super) struct Provider {
    asked: Asked,
    task: AbortHandle,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Provider {
    pub(super) async fn start(at: SocketAddr) -> Result<Provider> {
        let listener = TcpListener::bind(at).await?;
        let asked = Asked::default();
        let log = asked.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let log = log.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(request, log.clone()));
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // a client that goes away is no news here
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Provider { asked, task: task.abort_handle() })
    }

    /// What it was asked since the last time.
    pub(super) fn asked(&self) -> Vec<Question> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn answer(request: Request<Incoming>, asked: Asked) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
    let grpc = head.uri.path() == "/envoy.service.auth.v3.Authorization/Check";
    let path = head.uri.path_and_query().map(|p| p.to_string()).unwrap_or_default();
    let question = Question { method: head.method.to_string(), path, headers: head.headers, body };
    let want = question.want();
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(question);
    if want == "silence" {
        std::future::pending::<()>().await;
    }
    Ok(if grpc { by_grpc(&want) } else { by_http(&want) })
}

fn by_http(want: &str) -> Response<Body> {
    let (status, body) = match want {
        "deny" => (401, "go away".to_owned()),
        "redirect" => (302, String::new()),
        "error" => (503, String::new()),
        "large" => (401, "x".repeat(2 << 20)),
        "success" => (204, String::new()),
        _ => (200, "welcome".to_owned()),
    };
    let token = want.strip_prefix("token ").map(|token| ("authorization", format!("Bearer {token}")));
    let answer = Response::builder()
        .status(status)
        .header("x-user", "bob")
        .header("x-groups", "a")
        .header("x-groups", "b")
        .header("x-other", "no")
        .header("x-seen", "yes")
        .header("x-envoy-auth-headers-to-remove", "x-there, X-Secret")
        .header("set-cookie", "session=1")
        .header("location", "http://login.example/")
        .header("www-authenticate", "Basic");
    let answer = token.into_iter().fold(answer, |answer, (name, value)| answer.header(name, value));
    answer.body(Full::new(Bytes::from(body)).boxed()).unwrap_or_default()
}

/// A field of a message: of bytes.
fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
    let mut length = content.len();
    let mut field = vec![number << 3 | 2];
    while length > 127 {
        field.push(u8::try_from(length & 127).unwrap_or_default() | 128);
        length >>= 7;
    }
    field.push(u8::try_from(length).unwrap_or_default());
    field.extend_from_slice(content);
    field
}

/// A field of a message: a number below 16,384.
fn number(field: u8, value: u16) -> Vec<u8> {
    let [high, low] = (value << 1).to_be_bytes();
    vec![field << 3, low >> 1 | 128, high]
}

/// `HeaderValueOption`.
fn header(name: &str, value: &str, append: Option<bool>, action: u16) -> Vec<u8> {
    let pair = [bytes(1, name.as_bytes()), bytes(2, value.as_bytes())].concat();
    let append = append.map_or(Vec::new(), |append| bytes(2, &number(1, append.into())));
    [bytes(1, &pair), append, number(3, action)].concat()
}

fn by_grpc(want: &str) -> Response<Body> {
    let (code, response) = match want {
        "deny" | "success" => {
            let status = bytes(1, &number(1, if want == "deny" { 401 } else { 204 }));
            let headers = [
                bytes(2, &header("www-authenticate", "Basic", None, 0)),
                bytes(2, &header("set-cookie", "a=1", None, 0)),
                bytes(2, &header("set-cookie", "b=2", None, 0)),
            ];
            (7, bytes(2, &[status, headers.concat(), bytes(3, b"go away")].concat()))
        }
        "plain" => (16, Vec::new()),
        "allow" => {
            let ok = [
                bytes(2, &header("x-user", "bob", None, 0)),
                bytes(2, &header("x-groups", "b", Some(true), 0)),
                // only `append` counts for a request, so no client can keep these its own
                bytes(2, &header("x-there", "theirs", None, 1)),
                bytes(2, &header("x-nowhere", "new", None, 3)),
                bytes(2, &header("x-absent", "not", Some(true), 0)),
                bytes(2, &header("host", "evil.example", None, 0)),
                bytes(5, b"x-secret"),
                bytes(6, &header("x-seen", "yes", None, 0)),
                bytes(6, &header("x-seen", "twice", None, 0)),
                bytes(6, &header("x-seen", "not", None, 1)),
                bytes(6, &header("x-nowhere", "not", None, 3)),
                bytes(7, &[bytes(1, b"user"), bytes(2, b"b&b")].concat()),
                bytes(8, b"secret"),
            ];
            (0, bytes(3, &ok.concat()))
        }
        "elsewhere" => (0, bytes(3, &bytes(2, &header(":path", "/checked/x/../else%77here?new=1", None, 0)))),
        "never" => (0, bytes(3, &bytes(2, &header(":path", "/checked/%6eever", None, 0)))),
        "another-method" => (0, bytes(3, &bytes(2, &header(":method", "PUT", None, 0)))),
        "bad-path" => (0, bytes(3, &bytes(2, &header(":path", "evil", None, 0)))),
        "broken-header" => (0, bytes(3, &bytes(2, &header("x-a", "1\r\nx-b: 2", None, 0)))),
        _ => (0, Vec::new()),
    };
    let message = [bytes(1, &number(1, code)), response].concat();
    let length = u32::try_from(message.len()).unwrap_or_default().to_be_bytes();
    let framed = [&[0], &length[..], &message].concat();
    let framed = if want == "no-message" { vec![1, 2, 3] } else { framed };
    let grpc_status = if want == "error" { "14" } else { "0" };
    let trailers = async move {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static(grpc_status));
        Some(Ok(trailers))
    };
    let body = Full::new(Bytes::from(framed)).with_trailers(trailers).boxed();
    let answer = Response::builder().status(StatusCode::OK).header("content-type", "application/grpc");
    answer.body(body).unwrap_or_default()
}
