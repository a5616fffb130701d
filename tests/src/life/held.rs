//! What is held open: a WebSocket, and a stream of HTTP/2 that flows both ways as those of gRPC do.

use super::HOST;
use crate::websocket;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::{RecvStream, SendStream};
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

/// Both, open.
pub(super) struct Held {
    socket: TcpStream,
    send: SendStream<Bytes>,
    receive: RecvStream,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Held {
    /// Opens both, and uses each once.
    pub(super) async fn open(to: SocketAddr) -> Result<Held> {
        let socket = in_time(websocket(to, HOST)).await.context("a WebSocket")?;
        let (send, receive, connection) = in_time(stream(to)).await.context("a stream")?;
        let mut held = Held { socket, send, receive, connection };
        held.check().await?;
        Ok(held)
    }

    /// Sends some bytes over each and waits until they are back.
    pub(super) async fn check(&mut self) -> Result<()> {
        in_time(async {
            self.socket.write_all(b"still there").await?;
            let mut back = [0; 11];
            self.socket.read_exact(&mut back).await?;
            ensure!(&back == b"still there", "{back:?} came back");
            Ok(())
        })
        .await
        .context("the WebSocket")?;
        in_time(async {
            self.send.send_data(Bytes::from_static(b"message"), false)?;
            let mut back = Vec::new();
            while back.len() < 7 {
                let data = self.receive.data().await.context("the stream has ended")??;
                self.receive.flow_control().release_capacity(data.len())?;
                back.extend_from_slice(&data);
            }
            ensure!(back == b"message", "{back:?} came back");
            Ok(())
        })
        .await
        .context("the stream")
    }

    /// Ends both as their clients do, and waits for the ends of the others.
    pub(super) async fn close(mut self) -> Result<()> {
        in_time(async {
            self.send.send_data(Bytes::new(), true)?;
            while let Some(data) = self.receive.data().await {
                ensure!(data?.is_empty(), "there is more in the stream");
            }
            let trailers = self.receive.trailers().await?.context("the stream ends without trailers")?;
            ensure!(trailers.get("grpc-status").is_some_and(|status| status == "0"), "{trailers:?}");
            drop((self.send, self.receive));
            // GOAWAY has been said, so the connection ends with its last stream
            self.connection.await??;
            self.socket.shutdown().await?;
            Ok(())
        })
        .await
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(PATIENCE, work).await.context("it takes too long")?
}

type Stream = (SendStream<Bytes>, RecvStream, JoinHandle<Result<(), h2::Error>>);

async fn stream(to: SocketAddr) -> Result<Stream> {
    let (mut client, connection) = h2::client::handshake(TcpStream::connect(to).await?).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!("http://{HOST}/stream/echo"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut send) = client.send_request(request, false)?;
    send.send_data(Bytes::new(), false)?;
    let response = response.await?;
    ensure!(response.status() == 200, "{response:?}");
    Ok((send, response.into_body(), connection))
}

/// Serves streams: sends back what comes, and says that all is well at the end.
pub(super) async fn streams(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.spawn(async move {
            let Ok(mut connection) = h2::server::handshake(socket).await else { return };
            let mut streams = JoinSet::new();
            while let Some(Ok((request, respond))) = connection.accept().await {
                // who does not take the answer is gone
                streams.spawn(async move { drop(echo(request.into_body(), respond).await) });
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn echo(mut body: RecvStream, mut respond: h2::server::SendResponse<Bytes>) -> Result<()> {
    let response = http::Response::builder().header("content-type", "application/grpc").body(())?;
    let mut send = respond.send_response(response, false)?;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        send.send_data(data, false)?;
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    Ok(send.send_trailers(trailers)?)
}
