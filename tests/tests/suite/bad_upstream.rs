//! Workloads that break HTTP: the client gets an answer of the gateway's or a cut-off one, never
//! what was smuggled, and the next client is served cleanly on another connection.

use anyhow::{Context, Result, ensure};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tidegate_tests::{Net, Start};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What the first client must see.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    /// The gateway's own answer.
    Status(u16),
    /// The beginning of the response, then the end of the connection.
    Cut,
    /// A whole response with this status and body, and not a byte more.
    Whole(u16, &'static str),
}

use Seen::{Cut, Status, Whole};

const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";

/// What the workload writes on its first connection, in one write, and what the first client sees.
/// The connection stays open, but see [`misbehave`].
const BAD: &[(&str, &str, Seen)] = &[
    (
        "length-and-chunked",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Status(502),
    ),
    ("two-lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", Status(502)),
    (
        "two-lengths-differ",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        Status(502),
    ),
    ("length-list", "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello", Status(502)),
    ("length-negative", "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello", Status(502)),
    ("length-plus", "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", Status(502)),
    ("length-hex", "HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello", Status(502)),
    ("length-empty", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello", Status(502)),
    ("length-overflow", "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551621\r\n\r\nhello", Status(502)),
    (
        "chunked-chunked",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        Status(502),
    ),
    (
        "chunked-twice",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Status(502),
    ),
    ("gzip-chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Status(502)),
    ("identity", "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello", Status(502)),
    (
        "chunked-with-vertical-tab",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        Status(502),
    ),
    ("chunked-in-http10", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Status(502)),
    (
        "length-nominated",
        "HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\nhello",
        Status(502),
    ),
    ("all-bare-lf", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", Status(502)),
    ("one-bare-lf", "HTTP/1.1 200 OK\r\nX: a\nContent-Length: 5\r\n\r\nhello", Status(502)),
    ("bare-lf-end", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello", Status(502)),
    ("bare-cr", "HTTP/1.1 200 OK\r\nX: a\rY: b\r\nContent-Length: 5\r\n\r\nhello", Status(502)),
    ("folded-line", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\nhello", Status(502)),
    ("nul-in-value", "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 5\r\n\r\nhello", Status(502)),
    ("control-in-value", "HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 5\r\n\r\nhello", Status(502)),
    ("space-before-colon", "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello", Status(502)),
    ("space-in-name", "HTTP/1.1 200 OK\r\nContent Length: 5\r\n\r\nhello", Status(502)),
    ("no-colon", "HTTP/1.1 200 OK\r\nhello\r\n\r\n", Status(502)),
    ("no-name", "HTTP/1.1 200 OK\r\n: x\r\n\r\n", Status(502)),
    ("version-2", "HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", Status(502)),
    ("version-1.9", "HTTP/1.9 200 OK\r\nContent-Length: 5\r\n\r\nhello", Status(502)),
    ("version-lower-case", "http/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Status(502)),
    ("http-0.9", "<html>hello</html>\r\n\r\n", Status(502)),
    ("icy", "ICY 200 OK\r\n\r\nhello", Status(502)),
    ("ssh", "SSH-2.0-OpenSSH_9.2\r\n", Status(502)),
    ("status-099", "HTTP/1.1 099 No\r\nContent-Length: 5\r\n\r\nhello", Status(502)),
    ("status-600", "HTTP/1.1 600 No\r\nContent-Length: 5\r\n\r\nhello", Status(502)),
    ("status-letters", "HTTP/1.1 2OO OK\r\nContent-Length: 5\r\n\r\nhello", Status(502)),
    ("status-short", "HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello", Status(502)),
    ("status-long", "HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello", Status(502)),
    ("empty-line-first", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Status(502)),
    (
        "switching-unasked",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        Status(502),
    ),
    (
        "chunk-size-letters",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n",
        Status(502),
    ),
    (
        "chunk-size-space",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n",
        Status(502),
    ),
    (
        "chunk-size-negative",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
        Status(502),
    ),
    (
        "chunk-size-overflow",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
        Status(502),
    ),
    (
        "chunk-too-long",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n",
        Status(502),
    ),
    ("chunk-bare-lf", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n", Status(502)),
    (
        "chunk-extension-bare-lf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a\nhello\r\n0\r\n\r\n",
        Status(502),
    ),
    (
        "trailer-no-colon",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nfoo\r\n\r\n",
        Status(502),
    ),
    ("closed-silently", "!", Status(503)),
    ("closed-in-head", "HTTP/1.1 200 OK\r\nContent-Le!", Status(503)),
    ("closed-in-body", "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello!", Cut),
    ("closed-in-chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nhello!", Cut),
    ("closed-before-last-chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n!", Cut),
    (
        "more-after-body",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled",
        Whole(200, "ok"),
    ),
    (
        "more-after-last-chunk",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\nsmuggled",
        Whole(200, "2\r\nok\r\n0\r\n\r\n"),
    ),
    ("body-with-204", "HTTP/1.1 204 No Content\r\nContent-Length: 8\r\n\r\nsmuggled", Whole(204, "")),
    ("body-with-304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 8\r\n\r\nsmuggled", Whole(304, "")),
    (
        "more-while-idle",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok~HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled",
        Whole(200, "ok"),
    ),
];

/// Those of [`BAD`], and the long ones.
fn cases() -> Vec<(&'static str, String, Seen)> {
    let mut cases: Vec<_> = BAD.iter().map(|(name, text, seen)| (*name, (*text).to_owned(), *seen)).collect();
    let head = |fields: String| format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 5\r\n\r\nhello");
    cases.push(("one-long-field", head(format!("X: {}\r\n", "x".repeat(100 << 10))), Status(502)));
    cases.push(("many-long-fields", head(format!("X: {}\r\n", "x".repeat(1000)).repeat(90)), Status(502)));
    cases.push(("many-fields", head("X: y\r\n".repeat(200)), Status(502)));
    cases.push(("endless-reason", format!("HTTP/1.1 200 {}", "x".repeat(100 << 10)), Status(502)));
    cases.push(("many-interim", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(100), Status(502)));
    cases
}

/// Answers the first connection badly and keeps it, and the others well.
struct Workload {
    at: SocketAddr,
    /// The first connection was used again.
    reused: Arc<AtomicBool>,
}

impl Workload {
    async fn start(at: SocketAddr, bad: String, tasks: &mut JoinSet<()>) -> Result<Workload> {
        let listener = TcpListener::bind(at).await.with_context(|| format!("a workload at {at}"))?;
        let reused = Arc::new(AtomicBool::new(false));
        let flag = reused.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            let mut first = Some((bad, flag));
            while let Ok((stream, _)) = listener.accept().await {
                match first.take() {
                    Some((bad, flag)) => connections.spawn(misbehave(stream, bad, flag)),
                    None => connections.spawn(behave(stream)),
                };
            }
        });
        Ok(Workload { at, reused })
    }
}

/// Reads a request without a body.
async fn request(stream: &mut TcpStream) -> bool {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut text).await.unwrap_or(0) == 0 {
            return false;
        }
    }
    true
}

async fn behave(mut stream: TcpStream) {
    while request(&mut stream).await && stream.write_all(FINE.as_bytes()).await.is_ok() {}
}

/// `!` at the end closes the connection; what follows a `~` comes a moment later.
async fn misbehave(mut stream: TcpStream, bad: String, reused: Arc<AtomicBool>) {
    if !request(&mut stream).await {
        return;
    }
    let (text, closes) = bad.strip_suffix('!').map_or((bad.as_str(), false), |text| (text, true));
    let (now, later) = text.split_once('~').unwrap_or((text, ""));
    // the gateway may hang up before it has taken all
    let _ = stream.write_all(now.as_bytes()).await;
    if !later.is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let _ = stream.write_all(later.as_bytes()).await;
    }
    if !closes && request(&mut stream).await {
        reused.store(true, Ordering::Relaxed);
    }
}

/// All that a client gets for a GET of this path.
async fn ask(gateway: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(gateway).await?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut got = Vec::new();
    let end = async { while stream.read_buf(&mut got).await.is_ok_and(|n| n > 0) {} };
    let ended = tokio::time::timeout(Duration::from_secs(15), end).await;
    let text = String::from_utf8_lossy(&got).into_owned();
    ensure!(ended.is_ok(), "the connection does not end after {text:?}");
    Ok(text)
}

/// What the client saw, without interim responses.
fn check(mut got: &str, seen: Seen) -> Result<()> {
    while got.starts_with("HTTP/1.1 1") {
        got = got.split_once("\r\n\r\n").context("an interim response without end")?.1;
    }
    let (head, body) = got.split_once("\r\n\r\n").with_context(|| format!("no response: {got:?}"))?;
    let status: u16 = head.get(9..12).unwrap_or_default().parse().with_context(|| format!("{got:?}"))?;
    let right = match seen {
        Status(expected) => status == expected && !body.contains("hello"),
        Whole(expected, text) => status == expected && body == text,
        Cut => status == 200 && body.contains("hello") && !body.ends_with("0\r\n\r\n") && body.len() < 50,
    };
    ensure!(right && !got.contains("smuggled"), "want {seen:?}, got {got:?}");
    Ok(())
}

async fn play(gateway: SocketAddr, workload: Workload, index: usize, seen: Seen) -> Result<()> {
    let path = format!("/{index}/");
    check(&ask(gateway, &path).await?, seen).context("the first client")?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    check(&ask(gateway, &path).await?, Whole(200, "fine")).context("the next client")?;
    ensure!(!workload.reused.load(Ordering::Relaxed), "the broken connection was used again");
    Ok(())
}

/// One Gateway; the rule for `/N/` sends to the Nth workload.
fn config(workloads: &[Workload]) -> String {
    let mut rules = String::new();
    let mut entries = String::new();
    for (i, w) in workloads.iter().enumerate() {
        let _ = writeln!(
            rules,
            "  - {{match: [{{uri: {{prefix: /{i}/}}}}], retries: {{attempts: 0}}, route: [{{destination: {{host: w{i}.example}}}}]}}"
        );
        let _ = writeln!(
            entries,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: w{i}}}\nspec:\n  \
             hosts: [w{i}.example]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  \
             ports: [{{number: 80, name: http, protocol: HTTP}}]\n  endpoints: [{{address: {}, ports: {{http: {}}}}}]",
            w.at.ip(),
            w.at.port()
        );
    }
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: site}}\nspec:\n  \
         selector: {{istio: ingressgateway}}\n  servers:\n  - port: {{number: 8080, name: http, protocol: HTTP}}\n    \
         hosts: [\"*\"]\n---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: routes}}\n\
         spec:\n  hosts: [\"*\"]\n  gateways: [site]\n  http:\n{rules}{entries}"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_responses_hurt_nobody_but_their_own_client() -> Result<()> {
    let (net, folder) = (Net::reserve()?, tempfile::tempdir()?);
    let (mut tasks, mut workloads) = (JoinSet::new(), Vec::new());
    for (_, text, _) in cases() {
        let at = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
        workloads.push(Workload::start(at, text, &mut tasks).await?);
    }
    std::fs::write(folder.path().join("all.yaml"), config(&workloads))?;
    let mut gateway = Start::with(folder.path()).access_log("off").start(&net).await?;
    let mut plays = JoinSet::new();
    for (index, ((name, _, seen), workload)) in cases().into_iter().zip(workloads).enumerate() {
        let at = gateway.at(8080);
        plays.spawn(async move { (name, play(at, workload, index, seen).await) });
    }
    let wrong: Vec<_> = plays
        .join_all()
        .await
        .into_iter()
        .filter_map(|(name, r)| Some(format!("{name}: {:#}", r.err()?)))
        .collect();
    ensure!(gateway.ended().is_none(), "the gateway ended: {}", gateway.said());
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases().len(), wrong.join("\n"));
    Ok(())
}
