//! The request on its way upstream: read once, kept as far as that is allowed, sent once for each try.

use super::buffers::{Bulk, Work};
use super::downstream::Downstream;
use super::error::{Kind, Limit};
use super::mirror;
use super::upstream::Upstream;
use crate::limits::Limits;
use std::cell::Cell;
use std::collections::VecDeque;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// How much one worker keeps in all, by the size of the buffers.
const IN_ALL: usize = 64 << 20;
/// A body that takes longer is slow: what waits for more of it holds no buffers that it does not fill.
const SLOW: Duration = Duration::from_secs(1);

thread_local! {
    static KEPT: Cell<usize> = const { Cell::new(0) };
}

/// What of a request's body was read behind `w.out`, where the head and the first of it stand.
#[derive(Default)]
pub(crate) struct Upload {
    /// In order; what will not be sent again is dropped once it is sent.
    parts: VecDeque<Bulk>,
    /// Bytes in `parts`.
    bytes: usize,
    /// How many may be in `parts`.
    limit: usize,
    /// How large the body may be.
    most: u64,
    keeping: bool,
    /// Something was dropped, so it cannot be sent again.
    lost: bool,
}

impl Upload {
    /// Keeps as much as the limits allow, where `keep`, and what is not longer than that by its own account.
    pub(crate) fn new(limits: &Limits, length: Option<u64>, keep: bool) -> Self {
        let limit = limits.retry_body;
        let fits = length.is_none_or(|n| n <= limit as u64);
        let most = limits.request_body.unwrap_or(u64::MAX);
        Upload { parts: VecDeque::new(), bytes: 0, limit, most, keeping: keep && fits, lost: false }
    }

    /// There is nothing to do until more of it comes.
    fn rest(&mut self, w: &mut Work) {
        w.lend();
        if w.began.is_none_or(|began| began.elapsed() < SLOW) {
            return;
        }
        w.shrink();
        if let Some(last) = self.parts.back_mut() {
            let before = last.memory();
            last.fit();
            KEPT.set(KEPT.get() - (before - last.memory()));
        }
    }

    /// Whether all that was sent of it can be sent again.
    pub(crate) fn is_whole(&self) -> bool {
        !self.lost
    }

    /// There will be no other try: nothing that was sent is kept any more.
    pub(crate) fn release(&mut self, sender: &Sender) {
        self.keeping = false;
        if sender.done {
            while !self.parts.is_empty() {
                self.drop_first();
            }
        }
    }

    /// Reads on while nothing can be sent, as far as that is kept: it may be the end, from which
    /// time counts.
    pub(crate) fn read_ahead<D: Downstream>(
        &mut self,
        down: &mut D,
        w: &mut Work,
        cx: &mut Context<'_>,
    ) -> Result<(), Kind> {
        while !down.uploaded() && self.bytes < self.limit {
            match self.poll_read(down, w, cx) {
                Poll::Ready(read) => read?,
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn poll_read<D: Downstream>(
        &mut self,
        down: &mut D,
        w: &mut Work,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Kind>> {
        let piece = ready!(down.poll_upload(w, cx))?;
        if down.received() > self.most {
            return Poll::Ready(Err(Kind::Limit(Limit::Body)));
        }
        if w.copying.is_some() {
            mirror::go_on(down, w, piece.bytes());
        }
        down.deadline().touch();
        if down.uploaded() {
            down.deadline().start_limits(Instant::now());
        }
        self.push(piece);
        Poll::Ready(Ok(()))
    }

    fn push(&mut self, piece: Bulk) {
        if piece.is_empty() {
            return;
        }
        let more = piece.bytes().len();
        self.bytes += more;
        let room = self.parts.back_mut().is_some_and(|last| grow(last, more));
        match self.parts.back_mut().filter(|_| room) {
            Some(last) => last.push(piece.bytes()),
            None => {
                let piece = piece.lend();
                KEPT.set(KEPT.get() + piece.memory());
                self.parts.push_back(piece);
            }
        }
        self.keeping &= self.bytes <= self.limit && KEPT.get() <= IN_ALL;
    }

    fn drop_first(&mut self) {
        if let Some(part) = self.parts.pop_front() {
            self.bytes -= part.bytes().len();
            self.lost = true;
            KEPT.set(KEPT.get() - part.memory());
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let held: usize = self.parts.iter().map(Bulk::memory).sum();
        KEPT.set(KEPT.get() - held);
    }
}

/// Makes room in a part that gave up memory; whether there is room.
fn grow(part: &mut Bulk, more: usize) -> bool {
    if part.room() >= more {
        return true;
    }
    let before = part.memory();
    let fits = part.make_room(more);
    KEPT.set(KEPT.get() + part.memory() - before);
    fits
}

/// Sends a request for one try: `w.out`, then the parts of the upload as they come.
#[derive(Default)]
pub(crate) struct Sender {
    /// The part that is being sent, counted from `w.out`, and how much of it was sent.
    part: usize,
    sent: usize,
    /// Written, not flushed.
    dirty: bool,
    /// The upstream takes no more. It may have answered nevertheless.
    refused: bool,
    done: bool,
}

impl Sender {
    /// Whether all was sent and taken.
    pub(crate) fn complete(&self) -> bool {
        self.done && !self.refused
    }

    /// Whether anything was sent.
    pub(crate) fn started(&self) -> bool {
        self.part > 0 || self.sent > 0
    }

    /// Sends as much as can be sent now; only errors of the client's matter.
    #[inline]
    pub(crate) fn go_on<D: Downstream>(
        &mut self,
        upload: &mut Upload,
        upstream: &mut Upstream,
        down: &mut D,
        w: &mut Work,
        cx: &mut Context<'_>,
    ) -> Result<(), Kind> {
        if self.done {
            return Ok(());
        }
        match self.poll(upload, upstream, down, w, cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    #[inline(never)]
    fn poll<D: Downstream>(
        &mut self,
        upload: &mut Upload,
        upstream: &mut Upstream,
        down: &mut D,
        w: &mut Work,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Kind>> {
        while !self.done {
            let trailers = down.upload_trailers();
            let end = down.uploaded() && !(upstream.is_http2() && trailers.is_some());
            let mut sent = ready!(self.poll_parts(upload, upstream, w, end, cx));
            if sent.is_ok() && down.uploaded() {
                sent = ready!(upstream.poll_finish(trailers, cx));
            }
            if sent.is_err() || down.uploaded() {
                self.refused = sent.is_err();
                self.done = true;
                break;
            }
            match upload.poll_read(down, w, cx) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    if self.dirty && ready!(upstream.poll_flush(cx)).is_ok() {
                        self.dirty = false;
                    }
                    upload.rest(w);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what is at hand; `end` when nothing follows it.
    fn poll_parts(
        &mut self,
        upload: &mut Upload,
        upstream: &mut Upstream,
        w: &Work,
        end: bool,
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.part == 0 && self.sent == 0 {
            let only = upload.parts.is_empty() && w.out.len() == w.body_at;
            self.sent = upstream.open(w, end && only)?;
        }
        loop {
            let last = self.part == upload.parts.len();
            let part = match self.part.checked_sub(1) {
                None => &w.out[..],
                Some(i) => upload.parts[i].bytes(),
            };
            let mut rest = &part[self.sent..];
            self.dirty |= !rest.is_empty();
            let written = upstream.poll_send(&mut rest, end && last, cx);
            self.sent = part.len() - rest.len();
            ready!(written)?;
            if !upload.keeping {
                self.forget(upload, w);
            }
            if self.part == upload.parts.len() {
                return Poll::Ready(Ok(()));
            }
            (self.part, self.sent) = (self.part + 1, 0);
        }
    }

    /// Drops the parts that were sent.
    fn forget(&mut self, upload: &mut Upload, w: &Work) {
        if self.part > 0 {
            (0..self.part).for_each(|_| upload.drop_first());
            (self.part, self.sent) = (0, w.out.len());
        }
    }
}
