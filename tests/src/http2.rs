//! HTTP/2 on top of `h2`.

use crate::client::Io;
use crate::{Answer, Failure, Host, Request};
use bytes::Bytes;
use h2::client::SendRequest;
use http::HeaderMap;
use tokio::task::JoinHandle;

/// One HTTP/2 connection.
pub(crate) struct Client {
    send: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Client {
    pub(crate) async fn open(io: Box<dyn Io>) -> Result<Self, Failure> {
        let (send, connection) = h2::client::handshake(io).await.map_err(closed)?;
        Ok(Client { send, connection: tokio::spawn(connection) })
    }

    pub(crate) async fn exchange(&mut self, request: &Request) -> Result<Answer, Failure> {
        let head = head(request)?;
        let mut send = self.send.clone().ready().await.map_err(closed)?;
        let (response, mut stream) = send.send_request(head, request.body.is_none()).map_err(closed)?;
        if let Some(body) = &request.body {
            stream.send_data(Bytes::copy_from_slice(body), true).map_err(closed)?;
        }
        let response = response.await.map_err(closed)?;
        let mut answer =
            Answer { status: response.status().as_u16(), version: "HTTP/2".into(), ..Answer::default() };
        append(&mut answer.headers, response.headers());
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            let data = data.map_err(closed)?;
            body.flow_control().release_capacity(data.len()).map_err(closed)?;
            answer.body.extend_from_slice(&data);
        }
        if let Some(trailers) = body.trailers().await.map_err(closed)? {
            append(&mut answer.headers, &trailers);
        }
        Ok(answer)
    }
}

fn head(request: &Request) -> Result<http::Request<()>, Failure> {
    let scheme = if request.tls.is_some() { "https" } else { "http" };
    let Host::Named(host) = &request.host else {
        return Err(Failure::Closed("this client sends no HTTP/2 request without authority".into()));
    };
    let mut builder = http::Request::builder()
        .method(request.method.as_str())
        .version(http::Version::HTTP_2)
        .uri(format!("{scheme}://{host}{}", request.path));
    for (name, value) in &request.headers {
        builder = builder.header(name.as_str(), value.as_str());
    }
    builder.body(()).map_err(|e| Failure::Closed(format!("cannot send: {e}")))
}

fn append(headers: &mut Vec<(String, String)>, more: &HeaderMap) {
    let text = |v: &http::HeaderValue| v.as_bytes().iter().map(|b| char::from(*b)).collect();
    headers.extend(more.iter().map(|(k, v)| (k.as_str().to_owned(), text(v))));
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn closed(e: h2::Error) -> Failure {
    match e.reason() {
        Some(h2::Reason::NO_ERROR) if e.is_go_away() && e.is_remote() => Failure::Goodbye,
        _ => Failure::Closed(e.to_string()),
    }
}
