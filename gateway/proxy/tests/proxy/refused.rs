//! What is refused before it is a request has a line in the access log, and is counted.

use crate::support::*;
use bytes::Bytes;
use http::Request;
use serde_json::Value;
use std::net::SocketAddr;
use tempfile::TempDir;
use tidegate_model::{AccessLog, AccessLogFormat, Model};
use tidegate_proxy::{Options, Proxy};
use tokio::net::TcpStream;

/// A data plane whose access log is read.
struct Logged {
    proxy: Proxy,
    folder: TempDir,
}

impl Logged {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log").to_str().unwrap().into();
        let log = AccessLog { file, format: AccessLogFormat::DefaultJson, filter: None };
        let proxy = Proxy::start(Options { access_log: Some(log), ..options() }).unwrap();
        Logged { proxy, folder }
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        text.split_inclusive('\n')
            .filter(|l| l.ends_with('\n'))
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    }

    /// The lines of the log, once there are so many.
    async fn logged(&self, many: usize) -> Vec<Value> {
        eventually("all is logged", async || self.lines().len() >= many).await;
        let lines = self.lines();
        assert_eq!(lines.len(), many, "{lines:?}");
        lines
    }
}

async fn two(at: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let (send, connection) = h2::client::handshake(TcpStream::connect(at).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    send.ready().await.unwrap()
}

#[tokio::test]
async fn header_lists_that_are_too_large_are_requests_of_http2() {
    let logged = Logged::start();
    let mut model = Model::default();
    plain(&mut model, key(1));
    logged.proxy.apply(model);
    let mut client = two(address(&logged.proxy, key(1))).await;
    // with a body the stream is reset behind the answer
    for (bytes, end) in [(33_000, true), (33_000, false), (70_000, true)] {
        let request = Request::get("http://a.b/").header("x", "x".repeat(bytes)).body(()).unwrap();
        let (answer, _body) = client.send_request(request, end).unwrap();
        assert_eq!(answer.await.unwrap().status(), 431, "{bytes} bytes");
    }
    for line in logged.logged(3).await {
        for (key, value) in [
            ("response_code", 431.into()),
            ("protocol", "HTTP/2".into()),
            ("response_flags", "DPE".into()),
            ("response_code_details", Value::from("header_list_too_large")),
        ] {
            assert_eq!(line[key], value, "{line}");
        }
    }
    let text = get(logged.proxy.status_address(), "/stats/prometheus").await.1;
    let counted = text.lines().find(|l| l.starts_with("istio_requests_total{")).unwrap();
    assert!(counted.contains("response_code=\"431\"") && counted.ends_with(" 3"), "{counted}");
    assert!(!text.contains("tidegate_http2_refused_total{"), "{text}");
    let most = Request::get("http://a.b/").header("x", "x".repeat(140_000)).body(()).unwrap();
    client.send_request(most, true).unwrap().0.await.unwrap_err();
    let lines = logged.logged(4).await;
    assert_eq!(lines[3]["response_code_details"], "http2.enhance_your_calm", "{lines:?}");
}
