//! The harness itself: what its workloads record is what its clients sent.

use anyhow::Result;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use tidegate_tests::{
    Backend, Behaviour, Connection, Failure, Net, Request, TokenSigner, Version, exchange, get,
};

async fn workload(net: &Net, backend: &Backend) -> Result<SocketAddr> {
    let at = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
    backend.listen(at).await?;
    Ok(at)
}

#[tokio::test]
async fn records_every_version() -> Result<()> {
    let (net, backend) = (Net::reserve()?, Backend::default());
    let at = workload(&net, &backend).await?;
    for (version, name) in
        [(Version::Http10, "HTTP/1.0"), (Version::Http11, "HTTP/1.1"), (Version::Http2, "HTTP/2")]
    {
        backend.begin(&Behaviour::default(), &BTreeMap::new());
        let mut request = Request::to(at).host("a.example:81").path("//x/%2e?q=1&q").version(version);
        request = request.header("x-twice", "1").header("x-twice", "2").method("PUT");
        request.body = Some(b"body".to_vec());
        let answer = exchange(&request).await?;
        let hits = backend.hits();
        assert_eq!(hits.len(), 1, "{name}");
        let hit = &hits[0];
        assert_eq!((hit.version, answer.status), (name, 200));
        assert_eq!(
            (hit.method.as_str(), hit.path.as_str(), hit.body.as_str()),
            ("PUT", "//x/%2e?q=1&q", "body")
        );
        assert_eq!(hit.authority.as_deref(), Some("a.example:81"), "{name}");
        assert_eq!(tidegate_tests::values(&hit.headers, "X-Twice"), ["1", "2"]);
        assert_eq!(Backend::id_of(&answer.headers), Some(hit.id));
    }
    Ok(())
}

#[tokio::test]
async fn answers_as_told() -> Result<()> {
    let (net, backend) = (Net::reserve()?, Backend::default());
    let at = workload(&net, &backend).await?;
    let behaviour = Behaviour {
        sequence: vec![503, 200],
        headers: BTreeMap::from([("x-a".to_owned(), "b".to_owned())]),
        ..Behaviour::default()
    };
    backend.begin(&behaviour, &BTreeMap::new());
    for status in [503, 200, 200] {
        let answer = get(at, "a", "/").await?;
        assert_eq!((answer.status, answer.header("x-a")), (status, Some("b")));
    }
    backend.begin(&Behaviour::default(), &BTreeMap::from([(at.ip(), 418)]));
    assert_eq!(get(at, "a", "/").await?.status, 418);
    let mut connection = Connection::open(&Request::to(at)).await?;
    assert_eq!(connection.echo(b"\x01ping").await?, b"\x01ping");
    assert_eq!(backend.hits().last().map(|h| h.version), Some("TCP"));
    backend.close(at);
    assert_eq!(get(SocketAddr::new(at.ip(), 1), "a", "/").await.err(), Some(Failure::Refused));
    Ok(())
}

#[tokio::test]
async fn upgrades_and_raw_bytes() -> Result<()> {
    let (net, backend) = (Net::reserve()?, Backend::default());
    let at = workload(&net, &backend).await?;
    let upgrade = Request::to(at).header("connection", "upgrade").header("upgrade", "websocket");
    let answer = exchange(&upgrade).await?;
    assert_eq!(answer.status, 101);
    assert!(answer.after_upgrade.is_some_and(|b| b.ends_with(b"hello")));
    let mut connection = Connection::open(&Request::to(at)).await?;
    let answer = connection.send_raw(b"HEAD / HTTP/1.0\r\nHost: a\r\n\r\n", "HEAD", true).await?;
    assert_eq!((answer.status, answer.closed_after), (200, Some(true)));
    Ok(())
}

#[test]
fn tokens_and_their_keys() -> Result<()> {
    use base64::Engine as _;
    let signer = TokenSigner::new()?;
    let decode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text);
    let set: serde_json::Value = serde_json::from_str(&signer.key_set()?)?;
    let number = |name: &str| decode(set["keys"][0][name].as_str().unwrap_or_default());
    assert_eq!((number("n")?.len(), number("e")?), (256, vec![1, 0, 1]), "{set}");
    let claims = serde_json::Map::from_iter([("sub".to_owned(), "me".into())]);
    let token = signer.sign(&claims, false)?;
    let parts: Vec<&str> = token.split('.').collect();
    let body: serde_json::Value = serde_json::from_slice(&decode(parts[1])?)?;
    assert_eq!((parts.len(), &body["sub"], decode(parts[2])?.len()), (3, &"me".into(), 256), "{body}");
    Ok(())
}
