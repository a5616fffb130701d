//! The record of one request while it grows, and its end in log and metrics.

use super::buffers::Work;
use super::check::OfResponse;
use super::error::Kind;
use super::glimpse::Glimpse;
use super::grpc::is_grpc;
use super::retry::Refusal;
use super::view::View;
use crate::connection::Connection;
use crate::h1::field::{Known, known};
use crate::telemetry::{Flag, Flags, Headers, Record, RetryCount};
use crate::trace::Traced;
use crate::upstream::{self, InUse, Pick, RetryPermit};
use crate::worker::Worker;
use std::borrow::Cow;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tidegate_model::{Action, Fault, HeaderName, HeaderOp, Route, Tracing, UpstreamProtocol};

/// Which connection of which worker a request is on.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) connection: &'a Rc<Connection>,
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
    pub(crate) service_time: Option<Duration>,
    pub(crate) status: u16,
    pub(crate) flags: Flags,
    pub(crate) details: Cow<'t, str>,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) route: Option<&'t Route>,
    /// What CORS does to the response's header, after the rule.
    pub(crate) cors: &'t [HeaderOp],
    /// What a provider does to the response's header that let the request pass, after that.
    pub(crate) granted: Option<Rc<[OfResponse]>>,
    /// How it is traced, if it is.
    pub(crate) tracing: Option<&'t Tracing>,
    pub(crate) cluster_name: &'t str,
    pub(crate) cluster: Option<&'t Arc<upstream::Cluster>>,
    /// The endpoint, counted as busy until the request has ended.
    pub(crate) pick: Option<Pick>,
    /// Counts it among the requests of its cluster, where those are counted.
    pub(crate) admitted: Option<InUse>,
    /// The value of a `Set-Cookie` by which the client comes back to its endpoint.
    pub(crate) affinity_cookie: Option<Box<str>>,
    /// How often the request was tried.
    pub(crate) attempts: u32,
    /// The retry that is under way.
    pub(crate) retry: Option<RetryPermit>,
    /// Why there was no other try.
    refusal: Option<Refusal>,
    /// Until the request was all there.
    pub(crate) request_duration: Option<Duration>,
    /// Why there was no connection.
    pub(crate) transport_failure: Cow<'static, str>,
    pub(crate) upstream_local: Option<SocketAddr>,
    /// When the last of a response had been handed over.
    pub(crate) over: Option<Instant>,
    /// It was held up here before anything was sent: the time for that is not the upstream's.
    pub(crate) delayed: bool,
    /// The time for all of it is what the client gave.
    pub(crate) asked_time: bool,
    /// The response has begun: an error can no longer be answered.
    pub(crate) responded: bool,
    /// What can be told of what was not understood as a request.
    pub(crate) refused: Option<Box<Glimpse>>,
    /// It came to its end, and was not cut.
    ended: bool,
}

impl<'t> Life<'t> {
    #[inline(always)]
    pub(crate) fn begin(now: Instant) -> Self {
        Life {
            start: SystemTime::now(),
            began: now,
            service_time: None,
            status: 0,
            flags: Flags::default(),
            details: Cow::Borrowed(""),
            received: 0,
            sent: 0,
            route: None,
            cors: &[],
            granted: None,
            tracing: None,
            cluster_name: "",
            cluster: None,
            pick: None,
            admitted: None,
            affinity_cookie: None,
            attempts: 0,
            retry: None,
            refusal: None,
            request_duration: None,
            transport_failure: Cow::Borrowed(""),
            over: None,
            upstream_local: None,
            delayed: false,
            asked_time: false,
            responded: false,
            refused: None,
            ended: false,
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
        let details = match (self.responded, kind) {
            (true, Kind::UpstreamClosed) => "upstream_reset_after_response_started{connection_termination}",
            (true, Kind::UpstreamReset) => "upstream_reset_after_response_started{remote_reset}",
            (true, Kind::UpstreamMalformed) => "upstream_reset_after_response_started{protocol_error}",
            _ => row.details,
        };
        self.set_details(details);
    }

    /// Notes why a try that failed is not followed by another.
    pub(crate) fn not_retried(&mut self, refusal: Refusal) {
        self.refusal = Some(refusal);
        match refusal {
            Refusal::Exhausted => self.flags.set(Flag::RetryLimit),
            Refusal::Budget => self.flags.set(Flag::Overflow),
            Refusal::Body => {}
        }
    }

    /// Sets the details, to which a retry that was refused belongs unless its flag says it.
    pub(crate) fn set_details(&mut self, details: &'static str) {
        self.details = match self.refusal {
            None | Some(Refusal::Exhausted) => Cow::Borrowed(details),
            Some(refusal) => {
                Cow::Owned(format!("{details}{{not_retried:{}}}", RetryCount::from(refusal).name()))
            }
        };
    }

    /// Everything known, as telemetry takes it.
    pub(crate) fn record<'a>(
        &'a self,
        w: &'a Work,
        site: Site<'a>,
        now: Instant,
        headers: &'a dyn Headers,
    ) -> Record<'a> {
        let buf = w.head();
        let head = &w.request;
        let is_known = head.len > 0;
        let target = head.target.of_buffer(buf);
        let given = w.granted.as_ref().and_then(|granted| granted.target());
        Record {
            start: self.start,
            duration: now - self.began,
            upstream_service_time: self.service_time,
            protocol: match site.protocol {
                Protocol::Http2 => "HTTP/2",
                Protocol::Http1 if is_known && !head.http11 => "HTTP/1.0",
                Protocol::Http1 => "HTTP/1.1",
            },
            method: head.method.of_buffer(buf),
            path: match (given, &buf[head.path.start()..head.target.end()]) {
                (Some(given), _) => given,
                _ if head.origin_form => target,
                // an absolute target may say none
                (None, []) if is_known => b"/",
                (None, path) => path,
            },
            authority: head.authority.of_buffer(buf),
            upstream_authority: &w.authority,
            request_duration: self.request_duration,
            attempts: self.attempts,
            transport_failure: &self.transport_failure,
            tls: site.connection.tls.as_ref(),
            connection_id: site.connection.id,
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
            upstream_host: self.pick.as_ref().map(|p| p.address),
            upstream_local: self.upstream_local,
            downstream_local: site.connection.local,
            downstream_remote: if is_known { w.identity.client } else { site.connection.peer },
            downstream_direct: site.connection.direct(),
            sni: site.connection.tls.as_ref().and_then(|t| t.sni.as_deref()).unwrap_or_default(),
            grpc: is_grpc(w),
            traced: self.tracing.zip(w.span.as_ref()).map(|(tracing, context)| Traced {
                context,
                tries: &w.tries,
                tracing,
            }),
            headers,
        }
    }
}

/// A request in hand: counted and logged when it ends, also when it is dropped before its end.
pub(crate) struct InHand<'a, 't> {
    pub(crate) life: Life<'t>,
    pub(crate) w: &'a mut Work,
    site: Site<'a>,
}

impl<'a> InHand<'a, '_> {
    /// It begins now.
    #[inline(always)]
    pub(crate) fn begin(now: Instant, w: &'a mut Work, site: Site<'a>) -> Self {
        InHand { life: Life::begin(now), w, site }
    }

    /// It has come to its end, now. By reference, since it is large.
    pub(crate) fn end(&mut self) -> Instant {
        self.life.ended = true;
        *self.life.over.get_or_insert_with(Instant::now)
    }

    fn finish(&self) {
        let headers = Lookup { w: self.w, response: Reply::Sent };
        let now = self.life.over.unwrap_or_else(Instant::now);
        let mut record = self.life.record(self.w, self.site, now, &headers);
        if let Some(glimpse) = &self.life.refused {
            glimpse.tell(&mut record);
        }
        self.site.worker.telemetry.finish(&record);
    }
}

impl Drop for InHand<'_, '_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            if !self.life.ended {
                self.life.note(Kind::Cut);
            }
            return self.finish();
        }
        self.life.note(Kind::Defect);
        tracing::error!("a request ended by a defect of the gateway; the others go on");
        // a second panic, perhaps for the same reason, would end the process
        let _ = catch_unwind(AssertUnwindSafe(|| self.finish()));
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
            ":path" => {
                let given = self.w.granted.as_ref().and_then(|granted| granted.target());
                f(given.unwrap_or_else(|| self.w.request.target.of_buffer(self.w.head())));
            }
            name => {
                let told = self.w.span.filter(|span| span.replaces());
                if let Some(span) = told
                    && matches!(known(name.as_bytes()), Known::TraceParent | Known::B3)
                {
                    span.headers(|n, value| {
                        if n == name {
                            f(value);
                        }
                    });
                } else if let Some(v) = view.value(name.as_bytes()) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testing::{connection, model, worker};
    use crate::limits::Limits;
    use crate::server::Identity;
    use crate::telemetry::Telemetry;
    use std::net::Ipv4Addr;
    use tidegate_model::{AccessLog, AccessLogFormat};

    #[test]
    fn a_request_is_logged_once_however_it_ends() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _context = runtime.enter();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("log");
        let telemetry = Telemetry::new(&Identity { workload: "test".into(), namespace: "test".into() });
        let name = file.to_str().unwrap().into();
        telemetry
            .set_access_log(&AccessLog { file: name, format: AccessLogFormat::DefaultText, filter: None })
            .unwrap();
        let worker = worker(&model((Ipv4Addr::LOCALHOST, 1).into()), Limits::default());
        let worker = Rc::new(Worker { telemetry: telemetry.worker(), ..Rc::into_inner(worker).unwrap() });
        let connection = connection();
        let site = Site { worker: &worker, connection: &connection, protocol: Protocol::Http1 };
        let mut work = Work::take();
        InHand::begin(Instant::now(), &mut work, site).end();
        drop(InHand::begin(Instant::now(), &mut work, site));
        let panics = catch_unwind(AssertUnwindSafe(|| {
            let _in_hand = InHand::begin(Instant::now(), &mut work, site);
            panic!("a defect, on purpose");
        }));
        assert!(panics.is_err());
        telemetry.flush();
        let log = std::fs::read_to_string(&file).unwrap();
        let lines: Vec<_> = log.lines().collect();
        let [ended, dropped, panicked] = lines.as_slice() else { panic!("three lines, not {log}") };
        assert!(!ended.contains(" LR "), "{ended}");
        assert!(dropped.contains(" LR drain_timeout "), "{dropped}");
        assert!(panicked.contains(" LR internal_error "), "{panicked}");
    }

    #[tokio::test]
    async fn the_path_is_that_of_the_target_in_any_form() {
        let worker = worker(&model((Ipv4Addr::LOCALHOST, 1).into()), Limits::default());
        let connection = connection();
        let site = Site { worker: &worker, connection: &connection, protocol: Protocol::Http1 };
        for (line, path) in [
            ("GET /a?b", "/a?b"),
            ("GET /a#c", "/a"),
            ("OPTIONS *", "*"),
            ("GET http://a.b/a?b", "/a?b"),
            ("GET http://a.b/", "/"),
            ("GET http://a.b", "/"),
            ("", ""),
        ] {
            let mut w = Work::take();
            if !line.is_empty() {
                w.push_back(format!("{line} HTTP/1.1\r\nHost: a.b\r\n\r\n").as_bytes());
                let limits = crate::h1::head::HeadLimits { bytes: 4096, fields: 10, target: 100 };
                let Work { request, buf, end, .. } = &mut *w;
                assert_eq!(request.parse_request(&buf[..*end], limits), Ok(true), "{line}");
            }
            let headers = Lookup { w: &w, response: Reply::Sent };
            let life = Life::begin(Instant::now());
            let record = life.record(&w, site, Instant::now(), &headers);
            assert_eq!(record.path, path.as_bytes(), "{line}");
        }
    }
}
