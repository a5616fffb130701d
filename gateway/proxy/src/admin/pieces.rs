//! The metrics as a body that is made as its client takes it.

use super::metrics;
use crate::server::State;
use crate::telemetry::At;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http::header::ACCEPT_ENCODING;
use hyper::body::{Body, Frame};
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A piece, and what comes after it.
type Piece = (Bytes, Option<Rest>);
type Rendering = Pin<Box<dyn Future<Output = io::Result<Piece>> + Send>>;

/// What is still to come.
pub(super) struct Rest {
    at: At,
    /// What compresses it, where it is to be.
    gzip: Option<GzEncoder<Vec<u8>>>,
}

impl Rest {
    /// All of it. Labels are much the same in each line, so even what takes the least time makes little of them.
    pub(super) fn all(gzip: bool) -> Rest {
        Rest { at: At::default(), gzip: gzip.then(|| GzEncoder::new(Vec::new(), Compression::fast())) }
    }

    fn render(self, state: &State) -> io::Result<Piece> {
        let Rest { mut at, mut gzip } = self;
        loop {
            let (text, next) = metrics::piece(state, at);
            let piece = match &mut gzip {
                None => text.into_bytes(),
                Some(gzip) => {
                    gzip.write_all(text.as_bytes())?;
                    if next.is_none() {
                        gzip.try_finish()?;
                    }
                    std::mem::take(gzip.get_mut())
                }
            };
            match next {
                Some(next) if piece.is_empty() => at = next,
                next => return Ok((piece.into(), next.map(|at| Rest { at, gzip }))),
            }
        }
    }
}

/// Whether a client takes what is compressed by gzip (RFC 9110 12.5.3).
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse);
        name.trim().eq_ignore_ascii_case("gzip") && weight.is_ok_and(|weight: f32| weight > 0.0)
    })
}

/// Renders a piece on another thread, since names are resolved on this one, and after those of others.
///
/// # Errors
/// For a defect of ours.
pub(super) async fn render(state: Arc<State>, rest: Rest) -> io::Result<Piece> {
    // Held by the work and not by the client, who may leave before it is done.
    let turn = state.scrape.clone().lock_owned().await;
    let rendered = tokio::task::spawn_blocking(move || {
        let piece = rest.render(&state);
        drop(turn);
        piece
    });
    rendered.await.map_err(io::Error::other)?
}

/// The pieces: one that is ready, and one that is made.
pub(super) struct Pieces {
    first: Option<Bytes>,
    next: Option<Rendering>,
    state: Arc<State>,
}

impl Pieces {
    pub(super) fn new(first: Bytes, rest: Rest, state: Arc<State>) -> Self {
        Pieces { first: Some(first), next: Some(Box::pin(render(state.clone(), rest))), state }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let Some(rendering) = &mut self.next else { return Poll::Ready(None) };
        let (piece, rest) = match ready!(rendering.as_mut().poll(cx)) {
            Ok((piece, rest)) => (Ok(Frame::data(piece)), rest),
            Err(e) => (Err(e), None),
        };
        self.next = rest.map(|rest| -> Rendering { Box::pin(render(self.state.clone(), rest)) });
        Poll::Ready(Some(piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_says_what_it_takes() {
        for (accepted, gzip) in [
            (&["gzip"][..], true),
            (&["identity", "br, GZIP;q=0.5"], true),
            (&["gzip;q=0"], false),
            (&["gzip; q=0.0", "br"], false),
            (&["gzip;q=x"], false),
            (&["*"], false),
            (&["identity"], false),
            (&[], false),
        ] {
            let lines = accepted.iter().map(|list| (ACCEPT_ENCODING, list.parse().unwrap()));
            assert_eq!(takes_gzip(&lines.collect()), gzip, "{accepted:?}");
        }
    }
}
