//! What is refused before it is a request: by `h2`, or by those who watch the frames. It is counted, and logged
//! as a line without a request; where `h2` answers it, as a request of which nothing is known.

use super::coalesce::Flusher;
use super::frames::Forbidden;
use super::sent::End;
use super::{Connection, Streams, Worker};
use crate::forward::error::Kind;
use crate::l4;
use crate::telemetry::{Flag, Record, Refused};
use h2::Reason;
use pingora::protocols::Stream;
use std::time::{Duration, SystemTime};

/// Counts and logs it. `why` is what is known besides the code.
fn refuse(what: Refused, reason: Reason, why: &str, connection: &Connection, worker: &Worker) {
    worker.telemetry.refused(what, reason.into());
    let code = format!("{reason:?}").to_ascii_lowercase();
    let details = if why.is_empty() { format!("http2.{code}") } else { format!("http2.{code}{{{why}}}") };
    l4::refused(Some(Flag::DownstreamProtocolError), details, connection, worker);
}

/// Counts and logs a request whose header list was too large: `h2` has answered it.
fn too_large(connection: &Connection, worker: &Worker) {
    let kind = Kind::BadRequest(431, "header_list_too_large");
    let mut record = Record { protocol: "HTTP/2", status: kind.row().status, ..connection.record() };
    record.details = kind.row().details;
    kind.row().flag.into_iter().for_each(|flag| record.flags.set(flag));
    // it ended as it came
    (record.start, record.duration) = (SystemTime::now(), Duration::ZERO);
    worker.telemetry.finish(&record);
}

/// A connection that did not begin as HTTP/2 does.
pub(super) fn preface(e: &h2::Error, connection: &Connection, worker: &Worker) {
    if !e.is_io() && !e.is_remote() {
        refuse(Refused::Connection, Reason::PROTOCOL_ERROR, "preface", connection, worker);
    }
}

impl Streams {
    /// Whether the connection has to end for what the client does, which it is told then.
    pub(super) fn refuses(&mut self, flusher: &Flusher<Stream>) -> bool {
        if self.refused {
            return false;
        }
        // h2 has looked at all that has come
        if flusher.waits() {
            self.accepted(u32::MAX, flusher);
        }
        let (reason, why) = match flusher.forbidden() {
            Some(Forbidden::NoSettings) => (Reason::PROTOCOL_ERROR, "no_settings"),
            Some(Forbidden::PseudoTrailer) => (Reason::PROTOCOL_ERROR, "pseudo_field_in_trailers"),
            None if self.open.are_abuse() => (Reason::ENHANCE_YOUR_CALM, "rapid_reset"),
            None if flusher.flooded() => (Reason::ENHANCE_YOUR_CALM, "flood"),
            None => return false,
        };
        self.end_for(reason, why);
        self.h2.abrupt_shutdown(reason);
        true
    }

    /// The connection has ended with an error.
    pub(super) fn ended_by(&mut self, e: &h2::Error) {
        if let Some(reason) = e.reason().filter(|_| !self.refused && e.is_library()) {
            self.end_for(reason, "");
        }
    }

    /// A header block was open for too long.
    pub(super) fn endless_block(&mut self) {
        self.end_for(Reason::PROTOCOL_ERROR, "header_timeout");
    }

    fn end_for(&mut self, reason: Reason, why: &str) {
        self.refused = true;
        if reason == Reason::ENHANCE_YOUR_CALM {
            self.worker.telemetry.calmed();
        }
        refuse(Refused::Connection, reason, why, &self.connection, &self.worker);
    }

    /// `h2` hands a stream over. Those that were opened before it never will be: it has answered them itself.
    pub(super) fn accepted(&self, stream: u32, flusher: &Flusher<Stream>) {
        while let Some(before) = flusher.opened_before(stream) {
            match flusher.end_of(before) {
                Some(End::Reset(reason)) => {
                    refuse(Refused::Stream, reason, "", &self.connection, &self.worker);
                }
                // what comes after GOAWAY is not answered; else the answer is still to be written
                None if self.leaving => {}
                Some(End::Answer) | None => too_large(&self.connection, &self.worker),
            }
        }
    }
}
