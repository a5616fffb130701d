//! nginx that passes connections on as they are, and says whose they are.

use crate::nginx::{self, Config};
use crate::origin::{Echo, Origin};
use crate::site::{HOST, Objects};
use anyhow::{Context, Result, ensure};
use tidegate_tests::{Authority, Net, Request, exchange};

const PLAIN: u16 = 8080;
const TLS: u16 = 8443;

#[tokio::test]
async fn the_proxy_protocol_says_who_the_client_is() -> Result<()> {
    if !nginx::has_stream() {
        return Ok(());
    }
    let net = Net::reserve()?;
    let origin = Origin::start(&net).await?;
    let identity = Authority::new("edge")?.issue("edge", &[HOST.to_owned()])?;
    let mut objects = Objects::default();
    objects.gateway("plain", PLAIN, "HTTP", "*", "");
    objects.gateway("tls", TLS, "HTTPS", "*", ", tls: {mode: SIMPLE, credentialName: edge}");
    objects.secret("edge", &identity);
    objects.site(HOST, "plain, tls", origin.at, "HTTP");
    objects.proxy_protocol();
    let (gateway, _folder) = objects.start(&net).await?;

    let mut config = Config::new(&net)?;
    // from an address that is not the client's
    let passes =
        |port| format!("proxy_pass {}; proxy_protocol on; proxy_bind {};", gateway.at(port), net.gateway());
    let (plain, tls) = (config.stream_server(&passes(PLAIN)), config.stream_server(&passes(TLS)));
    let _nginx = config.start().await?;
    for request in [Request::to(plain), Request::to(tls).tls(HOST)] {
        let answer = exchange(&request.host(HOST).path("/echo")).await?;
        let echo = Echo::of(&answer.body).with_context(|| format!("no echo: {}", answer.text()))?;
        ensure!(echo.header("x-forwarded-for") == Some("127.0.0.1"), "{:?}", echo.headers);
    }
    let without = exchange(&Request::to(gateway.at(PLAIN)).host(HOST).path("/echo")).await;
    ensure!(without.is_err(), "a connection without the header is not believed");
    Ok(())
}
