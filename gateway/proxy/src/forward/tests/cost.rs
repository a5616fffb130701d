use super::super::testing::{change, connection, model, worker};
use super::{GET, OK, set};
use crate::limits::Limits;
use crate::{h1, h2};
use tidegate_model::{ConnectionLimits, HeaderName, HeaderOp, LoadBalancer};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// How often the thread of a connection allocates while it serves `n` requests.
fn allocations_of(n: usize) -> usize {
    use std::io::{Read, Write};
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let downstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (up, down) = (upstream.local_addr().unwrap(), downstream.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut stream = upstream.accept().unwrap().0;
        while stream.read(&mut [0; 4096]).unwrap() > 0 {
            stream.write_all(OK.as_bytes()).unwrap();
        }
    });
    let client = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(down).unwrap();
        for _ in 0..n {
            stream.write_all(GET.as_bytes()).unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"ok") {
                let mut buf = [0; 4096];
                let n = stream.read(&mut buf).unwrap();
                seen.extend_from_slice(&buf[..n]);
            }
        }
    });
    let accepted = downstream.accept().unwrap().0;
    accepted.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut model = model(up);
    change(&mut model, "*", |f| {
        f.destinations[0].request_headers = vec![set("x-a", "b"), HeaderOp::Remove(HeaderName::new("x-c"))];
        f.destinations[0].response_headers = vec![set("x-d", "e")];
    });
    // everything that is counted of an upstream
    super::outlier::detection(|_| {})(&mut model);
    let cluster = std::sync::Arc::make_mut(model.clusters.values_mut().next().unwrap());
    cluster.load_balancer = LoadBalancer::LeastRequest;
    cluster.limits = ConnectionLimits {
        max_connections: Some(10),
        max_pending_requests: Some(10),
        max_requests: Some(10),
        max_requests_per_connection: Some(1_000_000),
        max_connection_duration: Some(std::time::Duration::from_secs(3600)),
        ..ConnectionLimits::default()
    };
    let allocations = runtime.block_on(async {
        let worker = worker(&model, Limits::default());
        let stream = pingora::protocols::l4::stream::Stream::from(TcpStream::from_std(accepted).unwrap());
        let (_shutdown, watch) = watch::channel(false);
        let before = crate::allocations::count();
        h1::serve(Box::new(stream), connection(), worker, watch).await;
        crate::allocations::count() - before
    });
    client.join().unwrap();
    allocations
}

#[test]
fn a_request_of_http1_allocates_nothing() {
    allocations_of(20); // fills the thread's stores
    let (few, many) = (allocations_of(20), allocations_of(220));
    assert!(many < few + 10, "{few} for 20 requests, {many} for 220");
}

#[test]
fn a_connection_is_small() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let worker = worker(&model("127.0.0.1:1".parse().unwrap()), Limits::default());
        let (_shutdown, watch) = watch::channel(false);
        let stream = || Box::new(tokio::io::duplex(1).0);
        let one = h1::serve(stream(), connection(), worker.clone(), watch.clone());
        let one = std::mem::size_of_val(&one);
        assert!(one < 3 << 10, "an HTTP/1 connection takes {one} bytes");
        let two = h2::serve(stream(), connection(), worker, watch);
        let two = std::mem::size_of_val(&two);
        assert!(two < 4 << 10, "an HTTP/2 connection takes {two} bytes");
    });
}
