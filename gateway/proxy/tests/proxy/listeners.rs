use crate::support::*;
use std::net::SocketAddr;
use std::time::Duration;
use tidegate_model::{MeshSettings, Model};
use tidegate_proxy::{Limits, Options, Proxy, Report};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

#[tokio::test]
async fn listeners_open_and_close_while_running() {
    let proxy = start();
    let mut both = Model::default();
    plain(&mut both, key(1));
    let mut one = both.clone();
    plain(&mut both, key(2));
    assert_eq!(proxy.apply(one.clone()).generation, 1);
    let first = address(&proxy, key(1));
    TcpStream::connect(first).await.unwrap();

    let applied = proxy.apply(both.clone());
    assert_eq!((applied.generation, applied.diagnostics.len()), (2, 0));
    let second = address(&proxy, key(2));
    let mut idle = TcpStream::connect(second).await.unwrap();
    assert_eq!(address(&proxy, key(1)), first, "what stays is not opened anew");
    eventually("the connection is accepted", async || {
        metric(&proxy, "tidegate_connections_total").await == 2
    })
    .await;

    proxy.apply(one.clone());
    TcpStream::connect(second).await.expect_err("closed when apply returns");
    TcpStream::connect(first).await.unwrap();
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0, "a connection of a closed listener ends");

    // The same port again, right away.
    one.listeners.remove(&key(1));
    let again = tidegate_model::ListenerKey { port: second.port(), ..key(2) };
    plain(&mut one, again);
    let applied = proxy.apply(one);
    assert!(applied.diagnostics.is_empty(), "{:?}", applied.diagnostics);
    TcpStream::connect(second).await.unwrap();
}

#[tokio::test]
async fn connections_end_when_their_port_speaks_another_protocol() {
    let proxy = start();
    let kinds: [fn(&mut Model); 3] = [
        |model| {
            let table = plain(model, key(1));
            host(model, &table, "*", vec![respond("plain")]);
        },
        |model| {
            secret(model, "s", &["a.x"], &rcgen::PKCS_ECDSA_P256_SHA256);
            tls(model, key(1), &[("a", &["a.x"], &["s"])]);
            host(model, &"a".into(), "a.x", vec![respond("tls")]);
        },
        |model| {
            let cluster = cluster(model, "none", &[]);
            tcp(model, key(1), tcp_route(cluster, None));
        },
    ];
    for (from, to) in [(0, 1), (0, 2), (1, 0)] {
        let with = |kind: usize| {
            let mut model = Model::default();
            kinds[kind](&mut model);
            model
        };
        proxy.apply(with(from));
        let at = address(&proxy, key(1));
        let config = std::sync::Arc::new(crate::tls::client(&["http/1.1"], crate::tls::BOTH));
        let mut kept: Box<dyn Stream> = match from {
            1 => Box::new(crate::tls::connect(at, "a.x", config).await.unwrap()),
            _ => Box::new(TcpStream::connect(at).await.unwrap()),
        };
        const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.x\r\n\r\n";
        kept.write_all(GET).await.unwrap();
        let mut answer = [0; 13];
        kept.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 ");
        proxy.apply(with(to));
        assert_eq!(address(&proxy, key(1)), at);
        // one that was on its way is still answered as before
        let _ = kept.write_all(GET).await;
        let rest = tokio::time::timeout(Duration::from_secs(20), read_to_end(&mut kept)).await;
        let rest = rest.expect("it ends");
        assert!(!rest.contains("HTTP/1.1 404"), "{rest}");
        proxy.apply(Model::default());
    }
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Stream for T {}

#[tokio::test]
async fn a_port_moves_between_addresses_that_overlap() {
    let proxy = start();
    let free: SocketAddr = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let at = |ip: &str| tidegate_model::ListenerKey {
        bind: tidegate_model::Bind::Ip(ip.parse().unwrap()),
        port: free.port(),
    };
    for ip in ["0.0.0.0", "127.0.0.1", "0.0.0.0"] {
        let mut model = Model::default();
        plain(&mut model, at(ip));
        let applied = proxy.apply(model);
        assert!(applied.diagnostics.is_empty(), "{ip}: {:?}", applied.diagnostics);
        TcpStream::connect(free).await.unwrap();
    }
}

#[tokio::test]
async fn a_taken_port_is_named_and_the_rest_goes_live() {
    let proxy = start();
    let status = proxy.status_address();
    let readiness = async || get(status, "/healthz/ready").await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = tidegate_model::ListenerKey { port: other.local_addr().unwrap().port(), ..key(1) };
    let mut model = Model::default();
    plain(&mut model, taken);
    plain(&mut model, key(2));
    let applied = proxy.apply(model.clone());
    assert_eq!(applied.generation, 1);
    TcpStream::connect(address(&proxy, key(2))).await.unwrap();
    let [diagnostic] = applied.diagnostics.as_slice() else { panic!("{:?}", applied.diagnostics) };
    let text = diagnostic.to_string();
    let begins = "error gateway.yaml:3:5 Gateway/test/gateway spec.servers[1].port: cannot listen on ";
    assert!(text.starts_with(begins), "{text}");
    for part in [taken.to_string().as_str(), "Gateway/test/gateway", "Gateway/b/other", "--port"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    proxy.set_ready(true);
    let (code, why) = readiness().await;
    assert!(code == 503 && why.contains("1 of the listeners"), "{why}");

    let said = async || {
        let config = get_json(proxy.admin_address(), "/config").await;
        config["diagnostics"].as_array().unwrap().len()
    };
    let failed = async || metric(&proxy, "tidegate_listeners_failed").await;
    assert_eq!((said().await, failed().await), (1, 1));
    proxy.publish(Report { diagnostics: applied.diagnostics, ..Report::default() });

    // It is tried again, and nothing is said of it any more.
    let wanted = other.local_addr().unwrap();
    drop(other);
    eventually("it is open", async || proxy.addresses().iter().any(|(_, at)| *at == wanted)).await;
    TcpStream::connect(wanted).await.unwrap();
    assert_eq!((said().await, failed().await), (0, 0));
    let applied = proxy.apply(model.clone());
    assert_eq!((applied.generation, applied.diagnostics.len()), (1, 0));
    eventually("all are open", async || readiness().await.0 == 200).await;

    // What cannot be opened later takes nothing from those that are.
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    plain(&mut model, tidegate_model::ListenerKey { port: other.local_addr().unwrap().port(), ..key(1) });
    assert_eq!(proxy.apply(model).diagnostics.len(), 1);
    assert_eq!(readiness().await.0, 200);
}

#[tokio::test]
async fn long_lived_connections_spread_over_the_workers() {
    let proxy = start();
    let mut model = Model::default();
    plain(&mut model, key(1));
    proxy.apply(model);
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(TcpStream::connect(address(&proxy, key(1))).await.unwrap());
    }
    eventually("all are accepted", async || metric(&proxy, "tidegate_connections_active").await == 20).await;
    for worker in 0..2 {
        let n = metric(&proxy, &format!("tidegate_worker_connections{{worker=\"{worker}\"}}")).await;
        assert!((8..=12).contains(&n), "worker {worker} has {n} of 20");
    }
    drop(clients);
    eventually("all are gone", async || metric(&proxy, "tidegate_connections_active").await == 0).await;
}

#[tokio::test]
async fn beyond_the_limit_connections_are_closed_at_once() {
    let limits = Limits { connections: 3, ..options().limits };
    let proxy = Proxy::start(Options { limits, ..options() }).unwrap();
    let mut model = Model::default();
    plain(&mut model, key(1));
    proxy.apply(model);
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(TcpStream::connect(address(&proxy, key(1))).await.unwrap());
    }
    eventually("three are in", async || metric(&proxy, "tidegate_connections_active").await == 3).await;
    let mut fourth = TcpStream::connect(address(&proxy, key(1))).await.unwrap();
    assert_eq!(fourth.read(&mut [0]).await.unwrap_or(0), 0);
    assert_eq!(metric(&proxy, "tidegate_connections_overflow_total").await, 1);
    kept.pop();
    eventually("a place is free", async || metric(&proxy, "tidegate_connections_active").await == 2).await;
    let _fifth = TcpStream::connect(address(&proxy, key(1))).await.unwrap();
    eventually("it is taken", async || metric(&proxy, "tidegate_connections_active").await == 3).await;
}

#[tokio::test]
async fn a_client_has_so_many_connections_by_the_address_that_a_trusted_peer_says() {
    let limits = Limits { client_connections: Some(1), ..options().limits };
    let proxy = Proxy::start(Options { limits, ..options() }).unwrap();
    let mesh = MeshSettings { proxy_protocol: true, ..MeshSettings::default() };
    let mut model = Model { mesh: mesh.into(), ..Model::default() };
    let table = plain(&mut model, key(1));
    host(&mut model, &table, "*", vec![respond("yes")]);
    proxy.apply(model);
    let http = address(&proxy, key(1));
    let get = "GET / HTTP/1.1\r\nHost: a\r\nConnection:";
    let mut clients = Vec::new();
    for (client, served) in [
        ("192.0.2.9", true),
        ("192.0.2.8", true),
        ("192.0.2.9", false),
        ("2001:db8::1", true),
        ("2001:db8::2", false),
    ] {
        let mut stream = TcpStream::connect(http).await.unwrap();
        let version = if client.contains(':') { 6 } else { 4 };
        let head = format!("PROXY TCP{version} {client} {client} 1 443\r\n{get} keep-alive\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.is_ok_and(|n| n == 1), served, "{client}");
        clients.push(stream);
    }
    assert_eq!(metric(&proxy, "tidegate_client_connections_overflow_total").await, 2);
    clients.clear();
    eventually("the connections are gone", async || metric(&proxy, "tidegate_connections_active").await == 0)
        .await;
    let answer =
        exchange(http, format!("PROXY TCP4 192.0.2.9 10.0.0.1 1 443\r\n{get} close\r\n\r\n").as_bytes())
            .await;
    assert!(answer.ends_with("yes"), "what has ended counts no more: {answer}");
}

#[tokio::test]
async fn a_silent_client_is_closed_at_the_head_deadline() {
    let proxy = start();
    let mut model = Model::default();
    plain(&mut model, key(1));
    proxy.apply(model);
    let start = std::time::Instant::now();
    assert_eq!(exchange(address(&proxy, key(1)), b"").await, "");
    let took = start.elapsed();
    assert!(took >= options().limits.head_time && took < Duration::from_secs(30), "{took:?}");
}

#[tokio::test]
async fn much_at_once_buys_a_client_no_time() {
    let proxy = start();
    let mut model = Model::default();
    plain(&mut model, key(1));
    proxy.apply(model);
    let at = address(&proxy, key(1));
    let clients: JoinSet<()> = TURN
        .map(|requests| async move {
            let mut stream = TcpStream::connect(at).await.unwrap();
            let all = "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(requests) + "GET / HTTP/1.1\r\nHost:";
            stream.write_all(all.as_bytes()).await.unwrap();
            let mut answers = String::new();
            let ended = timeout(Duration::from_secs(30), stream.read_to_string(&mut answers)).await;
            ended.unwrap_or_else(|_| panic!("open after {requests} requests")).unwrap();
            let count = |status: &str| answers.matches(&format!("HTTP/1.1 {status} ")).count();
            assert_eq!((count("404"), count("408")), (requests, 1));
        })
        .collect();
    clients.join_all().await;
}
