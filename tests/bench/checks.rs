//! What must be true of a proxy before it is measured: that it does what all do, and not less.

use crate::proxies::Started;
use anyhow::{Context, Result, ensure};
use tidegate_tests::load::{CLOSED, GRPC_HOST, METHOD, Shape, host, message};
use tidegate_tests::{Answer, Request, Version, exchange};

/// Headers are edited, policies hold, and calls end with their trailers.
///
/// # Errors
/// Says what the proxy did instead.
pub(crate) async fn does_the_same(proxy: &Started) -> Result<()> {
    let name = proxy.proxy.name();
    let request = |path: &str| Request::to(proxy.at(Shape::Get)).host(&host(0)).path(path);
    let admin = format!("{CLOSED}/users");
    for (request, status) in [
        (request("/svc3/items"), 200),
        (request("/svc3/items").method("DELETE"), 403),
        (request(&admin), 403),
        (request("/elsewhere"), 403),
    ] {
        let answer = ask(&request).await?;
        let asked = format!("{} {}", request.method, request.path);
        ensure!(answer.status == status, "{name} answers {} to {asked}, not {status}", answer.status);
        let edited = answer.header("x-served-by") == Some("edge");
        ensure!(status != 200 || edited, "{name} sets no response header: {:?}", answer.headers);
    }
    let mut call = Request::to(proxy.at(Shape::Grpc)).host(GRPC_HOST).path(METHOD).method("POST");
    call = call.version(Version::Http2).tls(&host(0));
    call = call.header("content-type", "application/grpc").header("te", "trailers");
    call.body = Some(message());
    let answer = ask(&call).await?;
    let ends = answer.header("grpc-status") == Some("0") && answer.body == message();
    ensure!(answer.status == 200 && ends, "{name} answers a call with {answer:?}");
    Ok(())
}

async fn ask(request: &Request) -> Result<Answer> {
    exchange(request).await.with_context(|| format!("{} {}", request.method, request.path))
}
