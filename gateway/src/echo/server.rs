use super::Workload;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

/// Connections in all that are answered at once; more wait in the backlog.
const CONNECTIONS: usize = 4096;
/// Connections that wait at one listener.
const BACKLOG: u32 = 1024;
/// Streams at once on one HTTP/2 connection.
const STREAMS: u32 = 256;

/// Where listeners run, and what they share.
pub(super) struct Runtime {
    handle: Handle,
    connections: Arc<Semaphore>,
}

/// A listener that plays one port of a workload. Dropping it closes the socket; connections that it has
/// accepted go on.
pub(super) struct Listener {
    /// Where it listens.
    pub(super) address: SocketAddr,
    workload: Arc<ArcSwap<Workload>>,
    task: AbortHandle,
}

impl Runtime {
    pub(super) fn new(handle: Handle) -> Self {
        Runtime { handle, connections: Arc::new(Semaphore::new(CONNECTIONS)) }
    }

    /// Listens on `port` of `ip`, or on another port where that one cannot be had (taken, or privileged).
    pub(super) fn listen(
        &self,
        ip: Ipv4Addr,
        port: Option<u16>,
        workload: Arc<Workload>,
    ) -> io::Result<Listener> {
        let wanted = port.map(|port| SocketAddr::from((ip, port)));
        // other systems than Linux have 127.0.0.1 alone
        let any = [SocketAddr::from((ip, 0)), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        let _inside = self.handle.enter();
        let mut bound = Err(io::ErrorKind::AddrNotAvailable.into());
        for address in wanted.into_iter().chain(any) {
            bound = bind(address);
            if bound.is_ok() {
                break;
            }
        }
        let listener = bound?;
        let address = listener.local_addr()?;
        let workload = Arc::new(ArcSwap::new(workload));
        let task = self.handle.spawn(accept(listener, workload.clone(), self.connections.clone()));
        Ok(Listener { address, workload, task: task.abort_handle() })
    }
}

impl Listener {
    /// What it says from now on.
    pub(super) fn play(&self, workload: Arc<Workload>) {
        self.workload.store(workload);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // connections of a process before this one may still be ending
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, workload: Arc<ArcSwap<Workload>>, connections: Arc<Semaphore>) {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http2().max_concurrent_streams(STREAMS);
    while let Ok(permit) = connections.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // out of descriptors: the same again at once would spin
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // answers are small: nothing to gain by waiting
        let _ = stream.set_nodelay(true);
        let (server, workload) = (server.clone(), workload.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, workload.load_full()));
            // the client went away: nobody is left to be told
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
            drop(permit);
        });
    }
}

/// What a workload says about the request that it got.
#[derive(Serialize)]
struct Answer<'a> {
    service: &'a str,
    namespace: &'a str,
    workload: &'a str,
    subset: &'a str,
    labels: &'a BTreeMap<String, String>,
    port: u16,
    method: &'a str,
    path: &'a str,
    authority: &'a str,
    version: &'static str,
    headers: Vec<[String; 2]>,
    body_bytes: u64,
}

async fn answer(
    request: Request<Incoming>,
    workload: Arc<Workload>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, mut body) = request.into_parts();
    let mut body_bytes = 0;
    while let Some(frame) = body.frame().await {
        body_bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let host = head.headers.get(header::HOST).map(text);
    let authority = head.uri.authority().map(|a| a.as_str()).or(host.as_deref()).unwrap_or_default();
    let answer = Answer {
        service: workload.service_of(authority),
        namespace: &workload.namespace,
        workload: &workload.name,
        subset: &workload.subset,
        labels: &workload.labels,
        port: workload.port,
        method: head.method.as_str(),
        path: head.uri.path_and_query().map_or("*", |path| path.as_str()),
        authority,
        version: if head.version == http::Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
        headers: head.headers.iter().map(|(name, value)| [name.to_string(), text(value)]).collect(),
        body_bytes,
    };
    let mut json = serde_json::to_vec(&answer).unwrap_or_default();
    json.push(b'\n');
    let mut response = Response::new(Full::new(json.into()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}
