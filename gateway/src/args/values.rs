//! What the values of flags are read from, and what is said of those that are none.

use super::Filter;
use anyhow::{Context, bail, ensure};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;
use tidegate_engine::Claims;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

fn port_number(text: &str) -> anyhow::Result<u16> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => bail!("{text:?} is not a port; use a number from 1 to 65535"),
    }
}

pub(super) fn port_pair(text: &str) -> anyhow::Result<(u16, u16)> {
    let (server, local) = text.split_once('=').context("write SERVER_PORT=LOCAL_PORT, such as 443=8443")?;
    Ok((port_number(server)?, port_number(local)?))
}

pub(super) fn label(text: &str) -> anyhow::Result<(String, String)> {
    let (key, value) = text.split_once('=').context("write KEY=VALUE, such as istio=ingressgateway")?;
    ensure!(!key.is_empty(), "the key is empty; write KEY=VALUE, such as istio=ingressgateway");
    Ok((key.to_owned(), value.to_owned()))
}

pub(super) fn namespace(text: &str) -> anyhow::Result<String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        !text.is_empty() && text.len() <= 63 && text.chars().all(plain),
        "a namespace has lower-case letters, digits and '-' only"
    );
    Ok(text.to_owned())
}

pub(super) fn ip(text: &str) -> anyhow::Result<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    bare.parse().context("write an IP address, such as 127.0.0.1 or [::1]")
}

pub(super) fn address(text: &str) -> anyhow::Result<SocketAddr> {
    if let Some(port) = text.strip_prefix(':') {
        // 0 has the system choose one, as with an IP in front
        let port = if port == "0" { 0 } else { port_number(port)? };
        return Ok(SocketAddr::new(any_address(), port));
    }
    text.parse().context("write IP:PORT, such as 127.0.0.1:15000 or [::1]:15000, or :PORT for every address")
}

pub(super) fn name_server(text: &str) -> anyhow::Result<SocketAddr> {
    let advice = "write IP:PORT or IP, such as 127.0.0.1:5353";
    ip(text).map(|ip| SocketAddr::new(ip, 53)).or_else(|_| text.parse().context(advice))
}

/// `[::]`, which is dual stack on Linux, or `0.0.0.0` where IPv6 is off.
fn any_address() -> IpAddr {
    match std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    }
}

pub(super) fn network(text: &str) -> anyhow::Result<IpNet> {
    let one = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| one()).context("write a network, such as 127.0.0.0/8 or fd00::/8")
}

pub(super) fn claims(text: &str) -> anyhow::Result<Claims> {
    serde_json::from_str(text).context("write a JSON object, such as {\"sub\": \"me\"}")
}

pub(super) fn duration(text: &str) -> anyhow::Result<Duration> {
    humantime::parse_duration(text).context("write a duration with its unit, such as 30s or 2m")
}

pub(super) fn filter(text: &str) -> anyhow::Result<Filter> {
    const ADVICE: &str = "write a level (off, error, warn, info, debug or trace), or directives such as \
                          info,tidegate_proxy=debug";
    // a word alone would be a target that nobody has, and silence
    let is_known = |word: &str| word.contains('=') || LevelFilter::from_str(word).is_ok();
    ensure!(!text.is_empty() && text.split(',').all(|word| is_known(word.trim())), ADVICE);
    EnvFilter::try_new(text).context(ADVICE)?;
    Ok(Filter(text.to_owned()))
}

pub(super) fn method(text: &str) -> anyhow::Result<String> {
    http::Method::from_bytes(text.as_bytes()).context("write a method, such as GET, and then the URL")?;
    Ok(text.to_owned())
}

pub(super) fn url(text: &str) -> anyhow::Result<String> {
    let example = "write it like http://shop.example.com/cart, or https://, tls:// or tcp://";
    let url: http::Uri = text.parse().context(example)?;
    let is_known = matches!(url.scheme_str(), Some("http" | "https" | "tls" | "tcp"));
    ensure!(is_known && url.host().is_some(), "{example}");
    Ok(text.to_owned())
}

pub(super) fn header(text: &str) -> anyhow::Result<(String, String)> {
    let (name, value) = text.split_once(':').context("write 'NAME: VALUE'")?;
    http::HeaderName::from_bytes(name.as_bytes()).context("the part before ':' is not a header name")?;
    http::HeaderValue::from_str(value.trim()).context("the part after ':' is not a header value")?;
    Ok((name.to_owned(), value.trim().to_owned()))
}

pub(super) fn gateway(text: &str) -> anyhow::Result<String> {
    let named = text.split_once('/').is_some_and(|(ns, name)| !ns.is_empty() && !name.is_empty());
    ensure!(named || text == "mesh", "write NAMESPACE/NAME of a Gateway, or mesh");
    Ok(text.to_owned())
}
