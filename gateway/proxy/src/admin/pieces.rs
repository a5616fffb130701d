//! The metrics as a body that is made as its client takes it.

use super::metrics;
use crate::server::State;
use crate::telemetry::At;
use bytes::Bytes;
use hyper::body::{Body, Frame};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A piece, and where the next one begins.
type Piece = (Bytes, Option<At>);
type Rendering = Pin<Box<dyn Future<Output = io::Result<Piece>> + Send>>;

/// Renders a piece on another thread, since names are resolved on this one, and after those of others.
///
/// # Errors
/// For a defect of ours.
pub(super) async fn render(state: Arc<State>, at: At) -> io::Result<Piece> {
    // Held by the work and not by the client, who may leave before it is done.
    let turn = state.scrape.clone().lock_owned().await;
    let rendered = tokio::task::spawn_blocking(move || {
        let (text, next) = metrics::piece(&state, at);
        drop(turn);
        (text.into(), next)
    });
    rendered.await.map_err(io::Error::other)
}

/// The pieces: one that is ready, and one that is made.
pub(super) struct Pieces {
    first: Option<Bytes>,
    next: Option<Rendering>,
    state: Arc<State>,
}

impl Pieces {
    pub(super) fn new(first: Bytes, next: At, state: Arc<State>) -> Self {
        Pieces { first: Some(first), next: Some(Box::pin(render(state.clone(), next))), state }
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
        let rendered = ready!(rendering.as_mut().poll(cx));
        let (piece, next) = match rendered {
            Ok((piece, next)) => (Ok(Frame::data(piece)), next),
            Err(e) => (Err(e), None),
        };
        self.next = next.map(|at| -> Rendering { Box::pin(render(self.state.clone(), at)) });
        Poll::Ready(Some(piece))
    }
}
