use h2::{Ping, PingPong};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tidegate_model::Http2Keepalive;
use tokio::time::{Instant, Sleep};

/// Asks a peer again and again whether it is there.
pub(super) struct Keepalive {
    pings: PingPong,
    rule: Http2Keepalive,
    /// When the next one is sent, or else the answer must be there.
    due: Pin<Box<Sleep>>,
    asked: bool,
}

impl Keepalive {
    pub(super) fn new(pings: PingPong, rule: Http2Keepalive) -> Self {
        Keepalive { pings, rule, due: Box::pin(tokio::time::sleep(rule.interval)), asked: false }
    }

    /// Ready when an answer did not come in time.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.asked && self.pings.poll_pong(cx).is_ready() {
                self.turn(self.rule.interval);
            }
            ready!(self.due.as_mut().poll(cx));
            if self.asked {
                return Poll::Ready(());
            }
            // an error is the connection's end, which is seen where it is driven
            let _ = self.pings.send_ping(Ping::opaque());
            self.turn(self.rule.timeout);
        }
    }

    fn turn(&mut self, time: Duration) {
        self.asked = !self.asked;
        self.due.as_mut().reset(Instant::now() + time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::DuplexStream;

    const RULE: Http2Keepalive =
        Http2Keepalive { interval: Duration::from_secs(3), timeout: Duration::from_secs(1) };

    /// How long a peer is taken to be there, of at most a minute.
    async fn there(peer: impl AsyncFnOnce(DuplexStream)) -> Duration {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let begun = Instant::now();
        let client = async {
            let (_send, mut connection) = h2::client::handshake(ours).await.unwrap();
            let mut keepalive = Keepalive::new(connection.ping_pong().unwrap(), RULE);
            let gone = poll_fn(|cx| {
                let _ = Pin::new(&mut connection).poll(cx);
                keepalive.poll_gone(cx)
            });
            let _ = tokio::time::timeout(Duration::from_secs(60), gone).await;
        };
        tokio::select! {
            () = client => {}
            () = peer(theirs) => {}
        }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_gone() {
        let answers = there(async |io| {
            let mut server = h2::server::handshake(io).await.unwrap();
            while server.accept().await.is_some() {}
        });
        assert_eq!(answers.await.as_secs(), 60);
        let silent = there(async |io| {
            let _held = io;
            std::future::pending().await
        });
        assert_eq!(silent.await.as_secs(), 4);
    }
}
