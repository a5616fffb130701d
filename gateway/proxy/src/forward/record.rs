//! The record of one request while it grows, and its end in log and metrics.

use super::buffers::Work;
use super::error::Kind;
use super::grpc::is_grpc;
use super::view::View;
use crate::connection::Connection;
use crate::h1::field::Known;
use crate::telemetry::{Flags, Headers, Record};
use crate::upstream::{self, Pick};
use crate::worker::Worker;
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tidegate_model::{Action, Fault, HeaderName, HeaderOp, Route, UpstreamProtocol};

/// Which connection of which worker a request is on.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) connection: &'a Connection,
    /// `HTTP/1.1` and the like; for HTTP/1 the head knows better which.
    pub(crate) protocol: Protocol,
}

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    /// What is spoken upstream for a client that speaks this.
    pub(crate) fn upstream(self, cluster: UpstreamProtocol) -> Protocol {
        match cluster {
            UpstreamProtocol::Http1 => Protocol::Http1,
            UpstreamProtocol::Http2 => Protocol::Http2,
            UpstreamProtocol::Client => self,
        }
    }
}

/// What is known about a request so far.
pub(crate) struct Life<'t> {
    pub(crate) start: SystemTime,
    pub(crate) began: Instant,
    /// When the response was sent, once it is.
    pub(crate) ended: Option<Instant>,
    pub(crate) service_time: Option<Duration>,
    pub(crate) status: u16,
    pub(crate) flags: Flags,
    pub(crate) details: Cow<'t, str>,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) route: Option<&'t Route>,
    /// What CORS does to the response's header, after the rule.
    pub(crate) cors: &'t [HeaderOp],
    pub(crate) cluster_name: &'t str,
    pub(crate) cluster: Option<&'t Arc<upstream::Cluster>>,
    /// The endpoint, counted as busy until the request has ended.
    pub(crate) pick: Option<Pick>,
    /// How often the request was sent.
    pub(crate) attempts: u32,
    /// Until the request was all there.
    pub(crate) request_duration: Option<Duration>,
    /// Why there was no connection.
    pub(crate) transport_failure: Cow<'static, str>,
    pub(crate) upstream_local: Option<SocketAddr>,
    /// The response has begun: an error can no longer be answered.
    pub(crate) responded: bool,
    /// What was not understood was a HEAD: its answer has no body either.
    pub(crate) refused_head: bool,
}

impl<'t> Life<'t> {
    pub(crate) fn begin(now: Instant) -> Self {
        Life {
            start: SystemTime::now(),
            began: now,
            ended: None,
            service_time: None,
            status: 0,
            flags: Flags::default(),
            details: Cow::Borrowed(""),
            received: 0,
            sent: 0,
            route: None,
            cors: &[],
            cluster_name: "",
            cluster: None,
            pick: None,
            attempts: 0,
            request_duration: None,
            transport_failure: Cow::Borrowed(""),
            upstream_local: None,
            responded: false,
            refused_head: false,
        }
    }

    /// The faults that the rule injects.
    pub(crate) fn faults(&self) -> Option<&'t Fault> {
        match self.route.map(|route| &*route.action) {
            Some(Action::Forward(forward)) if forward.fault != Fault::default() => Some(&forward.fault),
            _ => None,
        }
    }

    /// Notes an error: its flag, and its details unless something better is known.
    pub(crate) fn note(&mut self, kind: Kind) {
        let row = kind.row();
        if let Some(flag) = row.flag {
            self.flags.set(flag);
        }
        self.details = Cow::Borrowed(match (self.responded, kind) {
            (true, Kind::UpstreamClosed) => "upstream_reset_after_response_started{connection_termination}",
            (true, Kind::UpstreamReset) => "upstream_reset_after_response_started{remote_reset}",
            (true, Kind::UpstreamMalformed) => "upstream_reset_after_response_started{protocol_error}",
            _ => row.details,
        });
    }

    /// Everything known, as telemetry takes it.
    pub(crate) fn record<'a>(&'a self, w: &'a Work, site: Site<'a>, headers: &'a dyn Headers) -> Record<'a> {
        let buf = w.head();
        let head = &w.request;
        let known = head.len > 0;
        let target = head.target.of_buffer(buf);
        Record {
            start: self.start,
            duration: self.ended.unwrap_or_else(Instant::now) - self.began,
            upstream_service_time: self.service_time,
            protocol: match site.protocol {
                Protocol::Http2 => "HTTP/2",
                Protocol::Http1 if known && !head.http11 => "HTTP/1.0",
                Protocol::Http1 => "HTTP/1.1",
            },
            method: head.method.of_buffer(buf),
            path: if head.origin_form { target } else { &buf[head.path.start()..head.target.end()] },
            authority: head.authority.of_buffer(buf),
            upstream_authority: &w.authority,
            request_duration: self.request_duration,
            attempts: self.attempts,
            transport_failure: &self.transport_failure,
            tls_version: site.connection.tls.as_ref().map_or("", |t| t.version),
            status: self.status,
            flags: self.flags,
            details: &self.details,
            bytes_received: self.received,
            bytes_sent: self.sent,
            forwarded_for: &w.identity.forwarded_for,
            user_agent: head.known(buf, Known::UserAgent).next().unwrap_or_default(),
            request_id: &w.identity.request_id,
            route: self.route,
            cluster: self.cluster.map(|c| &**c.config()),
            cluster_name: self.cluster_name,
            workload: self.pick.as_ref().map(|p| &**p.workload()),
            upstream_host: self.pick.as_ref().map(Pick::address),
            upstream_local: self.upstream_local,
            downstream_local: site.connection.local,
            downstream_remote: if known { w.identity.client } else { site.connection.peer },
            downstream_direct: site.connection.peer,
            sni: site.connection.tls.as_ref().and_then(|t| t.sni.as_deref()).unwrap_or_default(),
            grpc: is_grpc(w),
            headers,
        }
    }

    /// Counts and logs the request.
    pub(crate) fn finish(&self, w: &Work, site: Site<'_>) {
        let headers = Lookup { w, response: Reply::Sent };
        site.worker.telemetry.finish(&self.record(w, site, &headers));
    }
}

/// Which response the formats see.
#[derive(Clone, Copy)]
pub(crate) enum Reply<'a> {
    /// The head that went to the client.
    Sent,
    /// The head that came from the upstream: bytes of `w.response`.
    Upstream(&'a [u8]),
}

/// Header lookups while the buffers live.
pub(crate) struct Lookup<'a> {
    pub(crate) w: &'a Work,
    pub(crate) response: Reply<'a>,
}

impl Headers for Lookup<'_> {
    fn request(&self, name: &HeaderName, f: &mut dyn FnMut(&[u8])) {
        use tidegate_engine::RequestView;
        if self.w.request.len == 0 {
            return;
        }
        let view = View::of(self.w);
        match name.as_str() {
            ":method" => f(view.method()),
            ":authority" | "host" => f(view.authority()),
            ":scheme" => f(view.scheme().as_str().as_bytes()),
            ":path" => f(self.w.request.target.of_buffer(self.w.head())),
            name => {
                if let Some(v) = view.value(name.as_bytes()) {
                    f(&v);
                }
            }
        }
    }

    fn response(&self, name: &HeaderName, f: &mut dyn FnMut(&[u8])) {
        let name = name.as_str().as_bytes();
        let mut all: Option<Cow<'_, [u8]>> = None;
        let mut add = |v: &'_ [u8]| match &mut all {
            None => all = Some(Cow::Owned(v.to_vec())),
            Some(a) => {
                a.to_mut().push(b',');
                a.to_mut().extend_from_slice(v);
            }
        };
        match self.response {
            Reply::Upstream(buf) => self.w.response.values(buf, name).for_each(&mut add),
            Reply::Sent => {
                for (n, v) in super::head::lines(&self.w.reply) {
                    if n.eq_ignore_ascii_case(name) {
                        add(v);
                    }
                }
            }
        }
        if let Some(v) = all {
            f(&v);
        }
    }

    fn trailer(&self, name: &HeaderName, f: &mut dyn FnMut(&[u8])) {
        let name = name.as_str().as_bytes();
        super::head::fields(&self.w.trailers)
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .for_each(|(_, v)| f(v));
    }
}
