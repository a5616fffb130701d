//! What becomes of requests that cannot be asked about.

use super::*;
use crate::forward::check::fill;
use std::sync::Arc;
use tidegate_model::{
    Authorization, CheckProtocol, CheckedBody, ClusterName, ExternalAuthorizer, ObjectRef, Origin, Policy,
    PolicyAction, PolicyRule,
};

/// A provider, that may fail open, is asked about everything.
fn asking(body: Option<CheckedBody>) -> impl Fn(&mut Model) {
    move |model| {
        let by = ExternalAuthorizer {
            name: "me".into(),
            cluster: ClusterName::outbound(80, "", "nobody"),
            protocol: CheckProtocol::Grpc,
            timeout: Duration::from_secs(600),
            fail_open: true,
            status_on_error: 403,
            clear_route_cache: false,
            body,
        };
        let policy = Policy {
            object: ObjectRef::new("AuthorizationPolicy", "default", "p"),
            origin: Origin::default(),
            action: PolicyAction::Custom(Ok(Arc::new(by))),
            dry_run: false,
            rules: vec![PolicyRule::default()],
        };
        model.authorization = Arc::new(Authorization { policies: vec![Arc::new(policy)] });
    }
}

#[test]
fn a_lack_of_room_never_lets_pass() {
    play(asking(None), false, |mut s| async move {
        let worker = PLAYED.take().unwrap();
        let rooms = fill(&worker);
        s.send(GET).await;
        let answer = s.read_until("checks").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        drop(rooms);
        // that there is no such provider is a failure of its own
        s.send(GET).await;
        s.accept().await;
    });
}

#[test]
fn a_body_that_trickles_in_to_be_checked_has_only_so_long() {
    let body = CheckedBody { most: 1 << 20, partial: true, as_bytes: false };
    play(asking(Some(body)), false, |s| async move {
        let (mut from, mut to) = tokio::io::split(s.client);
        to.write_all(b"POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 1000000\r\n\r\n").await.unwrap();
        let trickle = async {
            while to.write_all(b"x").await.is_ok() {
                tokio::time::sleep(limits().request_idle / 10).await;
            }
            std::future::pending::<()>().await;
        };
        let mut line = [0; 13];
        tokio::select! {
            () = trickle => {}
            read = from.read_exact(&mut line) => drop(read.unwrap()),
        }
        assert_eq!(&line, b"HTTP/1.1 408 ");
    });
}

#[test]
fn the_upstreams_time_begins_when_the_check_is_over() {
    let body = CheckedBody { most: 1 << 20, partial: true, as_bytes: false };
    let longest = limits().request_idle * 4 / 5;
    let timed = move |model: &mut Model| {
        asking(Some(body))(model);
        change(model, "*", |f| f.timeout = Some(longest));
    };
    play(timed, false, move |mut s| async move {
        // a busy machine may need more than one
        for _ in 0..5 {
            s.send("POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 2\r\n\r\n").await;
            for _ in 0..2 {
                tokio::time::sleep(longest / 2).await;
                s.send("x").await;
            }
            let (mut up, _) = s.accept().await;
            up.write_all(OK.as_bytes()).await.unwrap();
            if s.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 200 ") {
                return;
            }
            s.read_until("timeout").await;
        }
        panic!("the time of the check counts as the upstream's");
    });
}
