//! Tokens at the gateway with keys that it fetches: from a URL, by an issuer's discovery, from where it may.

use crate::reload::{Site, forward_to};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tidegate_tests::{Answer, Backend, Gateway, Net, Request, Start, TokenSigner, exchange, values};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// How soon a line must be there.
const SOON: Duration = Duration::from_secs(10);

/// An issuer: serves its keys, and where they are.
struct Issuer {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    task: AbortHandle,
}

impl Issuer {
    async fn start(at: SocketAddr, keys: String) -> Result<Issuer> {
        let listener = TcpListener::bind(at).await?;
        let url = format!("http://{at}");
        let discovery = json!({"issuer": url, "jwks_uri": format!("{url}/keys")}).to_string();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let log = asked.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let body = match path.as_str() {
                    "/.well-known/openid-configuration" => &discovery,
                    _ => &keys,
                };
                log.lock().unwrap_or_else(PoisonError::into_inner).push(path);
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                // the gateway may have seen enough
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Ok(Issuer { url, asked, task: task.abort_handle() })
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn policy(rules: &str) -> String {
    format!(
        "\n---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
         metadata: {{name: tokens, namespace: istio-system}}\nspec:\n  jwtRules: [{rules}]\n"
    )
}

fn claims(claims: Value) -> Map<String, Value> {
    claims.as_object().cloned().unwrap_or_default()
}

async fn with_token(gateway: &Gateway, token: &str) -> Result<Answer> {
    let request = Request::to(gateway.at(8080)).host("www.example.com").path("/a?b=c");
    Ok(exchange(&request.header("authorization", &format!("Bearer {token}"))).await?)
}

#[tokio::test]
async fn keys_are_fetched_once_and_outlive_their_server() -> Result<()> {
    let (net, backend, site) = (Net::reserve()?, Backend::default(), Site::new()?);
    let workload = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
    backend.listen(workload).await?;
    let signer = TokenSigner::new()?;
    let direct = Issuer::start(SocketAddr::new(net.next()?.into(), 8081), signer.key_set()?).await?;
    let discovered = Issuer::start(SocketAddr::new(net.next()?.into(), 8081), signer.key_set()?).await?;
    let rules = format!(
        "{{issuer: direct, jwksUri: '{}/keys', outputClaimToHeaders: [{{header: x-sub, claim: sub}}]}}, {{issuer: '{}'}}",
        direct.url, discovered.url
    );
    site.write("site.yaml", &(forward_to(&[workload]) + &policy(&rules)))?;
    let gateway = Start::with(site.path()).arg("--jwks-allow").arg("127.0.0.0/8").start(&net).await?;
    let tokens = [json!({"iss": "direct", "sub": "me"}), json!({"iss": discovered.url, "sub": "me"})];
    let tokens: Vec<_> = tokens.into_iter().map(|t| signer.sign(&claims(t), false)).collect::<Result<_>>()?;
    for round in 0..6 {
        for token in &tokens {
            let answer = with_token(&gateway, token).await?;
            assert_eq!(answer.status, 200, "round {round}: {}", gateway.said());
        }
    }
    let hits = backend.hits();
    assert_eq!(values(&hits[0].headers, "x-sub"), ["me"]);
    assert!(hits.iter().all(|hit| values(&hit.headers, "authorization").is_empty()));
    assert_eq!(direct.asked(), ["/keys"]);
    assert_eq!(discovered.asked(), ["/.well-known/openid-configuration", "/keys"]);

    // another config, while nobody answers any more
    drop((direct, discovered));
    let generation = gateway.generation().await?;
    let more = rules + ", {issuer: third, jwks: '{\"keys\": []}'}";
    site.write("site.yaml", &(forward_to(&[workload]) + &policy(&more)))?;
    gateway.wait_for_generation_after(generation).await?;
    for token in &tokens {
        assert_eq!(with_token(&gateway, token).await?.status, 200, "{}", gateway.said());
    }
    Ok(())
}

#[tokio::test]
async fn what_is_not_verified_is_refused_and_says_why() -> Result<()> {
    let (net, backend, site) = (Net::reserve()?, Backend::default(), Site::new()?);
    let workload = SocketAddr::new(IpAddr::V4(net.next()?), 8080);
    backend.listen(workload).await?;
    let (signer, other) = (TokenSigner::new()?, TokenSigner::new()?);
    let issuer = Issuer::start(SocketAddr::new(net.next()?.into(), 8081), signer.key_set()?).await?;
    let rules = format!(
        "{{issuer: here, audiences: [us], jwks: '{}'}}, {{issuer: local, jwksUri: '{}/keys'}}",
        signer.key_set()?,
        issuer.url
    );
    site.write("site.yaml", &(forward_to(&[workload]) + &policy(&rules)))?;
    let gateway = Start::with(site.path()).start(&net).await?;
    let sign = |signer: &TokenSigner, of, expired| signer.sign(&claims(of), expired);
    for (token, status, body) in [
        (sign(&signer, json!({"iss": "here", "aud": "us"}), false)?, 200, ""),
        (sign(&signer, json!({"iss": "here", "aud": "us"}), true)?, 401, "Jwt is expired"),
        (
            sign(&signer, json!({"iss": "here", "aud": "them"}), false)?,
            403,
            "Audiences in Jwt are not allowed",
        ),
        (sign(&other, json!({"iss": "here", "aud": "us"}), false)?, 401, "Jwt verification fails"),
        (sign(&signer, json!({"iss": "nobody"}), false)?, 401, "Jwt issuer is not configured"),
        // keys on this machine are not fetched unless that is allowed
        (sign(&signer, json!({"iss": "local"}), false)?, 401, "Jwks remote fetch is failed"),
    ] {
        let answer = with_token(&gateway, &token).await?;
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        if status != 200 {
            assert_eq!(answer.text(), body);
            let realm = "Bearer realm=\"http://www.example.com/a?b=c\", error=\"invalid_token\"";
            assert_eq!(answer.header("www-authenticate"), Some(realm));
            let details = format!("jwt_authn_access_denied{{{}}}", body.replace(' ', "_"));
            let line = gateway.log.find(0, SOON, |l| l.contains(&details)).await.context(details)?;
            let line: Value = serde_json::from_str(&line)?;
            assert_eq!(
                (&line["response_code"], &line["response_flags"]),
                (&status.into(), &"-".into()),
                "{line}"
            );
        }
    }
    assert_eq!(backend.hits().len(), 1);
    assert!(issuer.asked().is_empty(), "{:?}", issuer.asked());
    let said = gateway.messages.find(0, SOON, |l| l.contains("--jwks-allow")).await;
    assert!(said.is_some(), "{}", gateway.said());
    Ok(())
}
