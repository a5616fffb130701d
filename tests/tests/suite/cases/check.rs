//! What happened in one step against what the case expects.

use super::schema::{Expect, Mirror, Outcome, Place, RequestSpec, ResponseSpec, UpstreamRequest, texts};
use super::world::{Endpoint, World};
use anyhow::{Result, bail, ensure};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use tidegate_tests::{Answer, Backend, Failure, Hit, seconds, values};

/// What happened in one step.
pub(super) struct Seen {
    pub(super) results: Vec<Result<Answer, Failure>>,
    pub(super) hits: Vec<Hit>,
    /// Access log lines, when the case asks for response flags.
    pub(super) flags: Option<Vec<Value>>,
    /// Connection attempts at a workload that refuses them.
    pub(super) refused_attempts: Option<usize>,
}

/// Flags of answers that the gateway gives after it tried a workload.
const AFTER_A_TRY: [&str; 7] = ["UT", "UF", "URX", "UC", "UR", "UPE", "DC"];

/// The comparison of one step.
pub(super) struct Check<'a> {
    world: &'a World,
    request: &'a RequestSpec,
    expect: &'a Expect,
    seen: &'a Seen,
    bad: Vec<String>,
}

/// An answer with the request that a workload saw, if one did.
type Pair<'a> = (&'a Answer, Option<&'a Hit>);

impl<'a> Check<'a> {
    pub(super) fn new(
        world: &'a World,
        request: &'a RequestSpec,
        expect: &'a Expect,
        seen: &'a Seen,
    ) -> Self {
        Check { world, request, expect, seen, bad: Vec::new() }
    }

    /// What does not hold; an error where the expectation cannot be compared.
    pub(super) fn run(mut self) -> Result<Vec<String>> {
        match self.expect.outcome {
            Outcome::NoListener => {
                for result in self.seen.results.iter().filter(|r| !matches!(r, Err(Failure::Refused))) {
                    self.bad.push(format!("no listener expected, got {}", shown(result)));
                }
            }
            Outcome::ConnectionClosed => self.closed(),
            _ => self.answered()?,
        }
        self.bad.truncate(12);
        Ok(self.bad)
    }

    fn eq<T: PartialEq + Debug>(&mut self, what: &str, got: T, want: T) {
        if got != want {
            self.bad.push(format!("{what}: got {got:?}, want {want:?}"));
        }
    }

    fn is_tcp(&self) -> bool {
        matches!(self.request.protocol.as_deref(), Some("tcp" | "tls"))
    }

    fn closed(&mut self) {
        let plain = self.request.scheme.as_deref().unwrap_or("http") == "http" && self.request.sni.is_none();
        for result in &self.seen.results {
            let refused = match result {
                Err(Failure::Refused | Failure::Goodbye | Failure::Closed(_)) => true,
                Err(Failure::Timeout) => false,
                // what a closed connection may look like to a plaintext client
                Ok(answer) => plain && answer.status == 400,
            };
            if !refused {
                self.bad.push(format!("a closed connection expected, got {}", shown(result)));
            }
        }
        if !self.seen.hits.is_empty() {
            self.bad.push("something reached a workload".into());
        }
    }

    fn answered(&mut self) -> Result<()> {
        let seen = self.seen;
        if let Some(Err(e)) = seen.results.iter().find(|r| r.is_err()) {
            self.bad.push(format!("no answer: {e}"));
            return Ok(());
        }
        let answers: Vec<&Answer> = seen.results.iter().flatten().collect();
        let pairs: Vec<Pair<'_>> = if self.is_tcp() {
            self.eq("connections upstream", seen.hits.len(), answers.len());
            answers.into_iter().zip(seen.hits.iter().map(Some)).collect()
        } else {
            let by_id: HashMap<usize, &Hit> = seen.hits.iter().map(|h| (h.id, h)).collect();
            let hit = |a: &Answer| by_id.get(&Backend::id_of(&a.headers)?).copied();
            answers.into_iter().map(|a| (a, hit(a))).collect()
        };
        if !self.outcome(&pairs)? {
            return Ok(());
        }
        for (answer, hit) in &pairs {
            self.answer(answer, *hit)?;
        }
        self.destinations(&pairs)?;
        self.per_destination(&pairs)?;
        self.shares(&pairs);
        self.mirrors(&pairs)?;
        self.log();
        Ok(())
    }

    /// Who answered; false when the rest makes no sense.
    fn outcome(&mut self, pairs: &[Pair<'_>]) -> Result<bool> {
        let local: Vec<&Answer> = pairs.iter().filter(|(_, hit)| hit.is_none()).map(|(a, _)| *a).collect();
        let expect = self.expect;
        match expect.outcome {
            Outcome::Forwarded => {
                if let Some(first) = local.first() {
                    let text: String = first.text().chars().take(60).collect();
                    let n = local.len();
                    self.bad.push(format!(
                        "{n} of {} answered by the gateway ({} {text:?})",
                        pairs.len(),
                        first.status
                    ));
                    return Ok(false);
                }
            }
            Outcome::LocalReply | Outcome::Redirect => {
                ensure!(expect.status.is_some(), "an answer of the gateway without expected status");
                ensure!(
                    expect.outcome != Outcome::Redirect || expect.location.is_some(),
                    "redirect without location"
                );
                if local.len() != pairs.len() {
                    self.bad.push(format!("answered by a workload ({})", pairs[0].0.status));
                    return Ok(false);
                }
                let flags = expect.response_flags.as_deref().unwrap_or_default().split(',');
                let mut flags = flags.chain(expect.response_flags_include.iter().map(String::as_str));
                let tried = expect.upstream_attempts.is_some() || flags.any(|f| AFTER_A_TRY.contains(&f));
                if !self.seen.hits.is_empty() && !tried {
                    self.bad.push("reached a workload".into());
                }
            }
            Outcome::Mixed => ensure!(!expect.statuses.is_empty(), "mixed without statuses"),
            Outcome::ConnectionClosed | Outcome::NoListener => {}
        }
        Ok(true)
    }

    fn answer(&mut self, answer: &Answer, hit: Option<&Hit>) -> Result<()> {
        let expect = self.expect;
        if let Some(status) = expect.status {
            self.eq("status", answer.status, status);
        } else if let (Outcome::Forwarded, Some(hit), false) = (expect.outcome, hit, self.is_tcp()) {
            let upgraded = answer.status == 101 && hit.status == 200;
            self.eq("status", if upgraded { 200 } else { answer.status }, hit.status);
        }
        if let Some(location) = &expect.location {
            self.eq("location", answer.header("location"), Some(location));
        }
        if let Some(echoed) = &answer.after_upgrade {
            self.eq("bytes after the upgrade", echoed.as_slice(), b"\x81\x85\0\0\0\0hello");
        }
        let took = answer.elapsed.as_secs_f64();
        if expect
            .min_latency
            .as_deref()
            .map(seconds)
            .transpose()?
            .is_some_and(|d| took < d.as_secs_f64() - 0.005)
        {
            self.bad.push(format!("too fast: {took:.3} s"));
        }
        if expect.max_latency.as_deref().map(seconds).transpose()?.is_some_and(|d| took > d.as_secs_f64()) {
            self.bad.push(format!("too slow: {took:.3} s"));
        }
        if let Some(response) = &expect.response {
            self.response(answer, response)?;
        }
        if let Some(name) = &expect.served_certificate {
            let served =
                self.world.certificates.iter().find(|(_, der)| Some(*der) == answer.certificate.as_ref());
            self.eq("served certificate", served.map(|(name, _)| name), Some(name));
        }
        if self.is_tcp() {
            let payload = self.request.payload.as_deref().unwrap_or("ping\n");
            self.eq("echoed bytes", answer.body.as_slice(), payload.as_bytes());
        }
        Ok(())
    }

    fn at(&self, hit: &Hit) -> Option<&'a Endpoint> {
        self.world.endpoints.get(&hit.at)
    }

    fn is_at(&self, hit: &Hit, place: &Place) -> bool {
        self.at(hit).is_some_and(|e| e.is(place))
    }

    /// Requests upstream that are copies of others, by the hosts that the case mirrors to.
    fn copies(&self, pairs: &[Pair<'_>]) -> Vec<&'a Hit> {
        if self.expect.mirrors.is_none() {
            return Vec::new();
        }
        let answered: BTreeSet<usize> = pairs.iter().filter_map(|(_, h)| h.map(|h| h.id)).collect();
        let main: BTreeSet<_> =
            pairs.iter().filter_map(|(_, h)| self.at((*h)?)).map(|e| (&e.host, e.port)).collect();
        let copied = |h: &&Hit| {
            !answered.contains(&h.id) && self.at(h).is_none_or(|e| !main.contains(&(&e.host, e.port)))
        };
        self.seen.hits.iter().filter(copied).collect()
    }

    fn destinations(&mut self, pairs: &[Pair<'_>]) -> Result<()> {
        let (expect, seen) = (self.expect, self.seen);
        let copies: BTreeSet<usize> = self.copies(pairs).iter().map(|h| h.id).collect();
        let tries: Vec<&Hit> = seen.hits.iter().filter(|h| h.id == 0 || !copies.contains(&h.id)).collect();
        let answered: Vec<&Hit> = pairs.iter().filter_map(|(_, h)| *h).collect();
        if let Some(place) = &expect.destination {
            let astray = tries.iter().filter(|h| !self.is_at(h, place));
            let astray: Vec<_> =
                astray.map(|h| format!("went to {:?}, want {place:?}", self.at(h))).collect();
            self.bad.extend(astray);
            if tries.is_empty() && seen.refused_attempts.unwrap_or(0) == 0 {
                self.bad.push("nothing reached a workload".into());
            }
        }
        for (label, value) in &expect.endpoint_labels {
            for hit in &tries {
                self.eq(
                    &format!("endpoint label {label}"),
                    self.at(hit).and_then(|e| e.labels.get(label)),
                    Some(value),
                );
            }
        }
        if let Some(wanted) = expect.endpoints_hit {
            let hit: BTreeSet<_> = answered.iter().map(|h| h.at.ip()).collect();
            self.eq("endpoints hit", hit.len(), wanted);
        }
        match expect.upstream_attempts {
            Some(wanted) => {
                ensure!(pairs.len() == 1 || wanted == 0, "upstream_attempts with count");
                self.eq("upstream attempts", seen.refused_attempts.unwrap_or(seen.hits.len()), wanted);
            }
            None if expect.outcome == Outcome::Forwarded
                && expect.split.is_empty()
                && expect.mirrors.is_none()
                && self.request.upstream_response.is_none() =>
            {
                self.eq("requests upstream", tries.len(), pairs.len());
            }
            None => {}
        }
        if let Some(wanted) = &expect.upstream_request {
            if answered.is_empty() {
                self.bad.push("no upstream request to look at".into());
            }
            for hit in answered {
                self.upstream(hit, wanted);
            }
        }
        Ok(())
    }

    fn per_destination(&mut self, pairs: &[Pair<'_>]) -> Result<()> {
        let wanted = &self.expect.per_destination;
        let mut reached = BTreeSet::new();
        for (answer, hit) in pairs {
            let place = |h: &&Hit| wanted.iter().position(|w| self.is_at(h, &w.destination));
            match (hit, hit.as_ref().and_then(place)) {
                (Some(hit), Some(i)) => {
                    reached.insert(i);
                    if let Some(request) = &wanted[i].upstream_request {
                        self.upstream(hit, request);
                    }
                    if let Some(response) = &wanted[i].response {
                        self.response(answer, response)?;
                    }
                }
                (Some(hit), None) if !wanted.is_empty() => {
                    self.bad.push(format!("went to {:?}", self.at(hit)));
                }
                _ => {}
            }
        }
        self.eq("destinations seen", reached.len(), wanted.len());
        Ok(())
    }

    fn share(&mut self, what: &str, got: usize, of: usize, percent: f64, tolerance: f64) {
        #[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
        let share = 100.0 * got as f64 / of as f64;
        if (share - percent).abs() > tolerance {
            self.bad.push(format!("{what}: {share:.1} % of {of}, want {percent} +- {tolerance}"));
        }
    }

    fn shares(&mut self, pairs: &[Pair<'_>]) {
        let (expect, n) = (self.expect, pairs.len());
        let answered: Vec<&Hit> = pairs.iter().filter_map(|(_, h)| *h).collect();
        let mut left = answered.len();
        for share in &expect.split {
            let got = answered.iter().filter(|h| self.is_at(h, &share.place())).count();
            left = left.saturating_sub(got);
            let tolerance = share.tolerance_percent.unwrap_or(expect.tolerance_percent);
            self.share(&format!("{:?}", share.place()), got, n, share.percent, tolerance);
        }
        if !expect.split.is_empty() && left > 0 {
            self.bad.push(format!("{left} went elsewhere"));
        }
        let mut others: BTreeSet<u16> = pairs.iter().map(|(a, _)| a.status).collect();
        for wanted in &expect.statuses {
            others.remove(&wanted.status);
            let got = pairs.iter().filter(|(a, _)| a.status == wanted.status).count();
            self.share(
                &format!("status {}", wanted.status),
                got,
                n,
                wanted.percent,
                expect.tolerance_percent,
            );
        }
        if !expect.statuses.is_empty() && !others.is_empty() {
            self.bad.push(format!("other statuses {others:?}"));
        }
    }

    fn mirrors(&mut self, pairs: &[Pair<'_>]) -> Result<()> {
        let Some(mirrors) = &self.expect.mirrors else { return Ok(()) };
        let copies = self.copies(pairs);
        let wanted = |h: &&Hit| mirrors.iter().any(|m| self.is_at(h, &m.place()));
        let strays = copies.iter().filter(|h| !wanted(h)).count();
        self.eq("copies to hosts that are no mirrors", strays, 0);
        for mirror in mirrors {
            let Mirror { percent, upstream_request, .. } = mirror;
            let got: Vec<&Hit> = copies.iter().copied().filter(|h| self.is_at(h, &mirror.place())).collect();
            let random = *percent > 0.0 && *percent < 100.0;
            let tolerance = if random { self.expect.tolerance_percent } else { 0.0 };
            self.share(&format!("copies to {}", mirror.host), got.len(), pairs.len(), *percent, tolerance);
            if let Some(request) = upstream_request {
                got.iter().for_each(|hit| self.upstream(hit, request));
            }
        }
        Ok(())
    }

    fn log(&mut self) {
        let Some(lines) = &self.seen.flags else { return };
        let n = self.seen.results.len();
        if lines.len() < n {
            self.bad.push(format!("{} access log lines with response_flags for {n} requests", lines.len()));
            return;
        }
        for line in &lines[..n] {
            let got: BTreeSet<&str> = line["response_flags"].as_str().unwrap_or("-").split(',').collect();
            if let Some(wanted) = &self.expect.response_flags {
                self.eq("response flags", &got, &wanted.split(',').collect());
            }
            for flag in self.expect.response_flags_include.iter().filter(|f| !got.contains(f.as_str())) {
                self.bad.push(format!("response flags {got:?}, want {flag} among them"));
            }
        }
    }

    fn upstream(&mut self, hit: &Hit, wanted: &UpstreamRequest) {
        if let Some(path) = &wanted.path {
            self.eq("upstream path", &hit.path, path);
        }
        if !wanted.path_one_of.is_empty() && !wanted.path_one_of.contains(&hit.path) {
            self.bad.push(format!("upstream path {:?}, want one of {:?}", hit.path, wanted.path_one_of));
        }
        if let Some(authority) = &wanted.authority {
            self.eq("upstream authority", hit.authority.as_ref(), Some(authority));
        }
        if let Some(method) = &wanted.method {
            self.eq("upstream method", &hit.method, method);
        }
        if let Some(body) = &wanted.body {
            self.eq("upstream body", &hit.body, body);
        }
        if let Some(version) = &wanted.http_version {
            let plain = |v: &str| v.trim_start_matches("HTTP/").replace("2.0", "2");
            self.eq("upstream version", plain(hit.version), plain(version));
        }
        let lists = (&wanted.headers, wanted.headers_absent.as_slice(), wanted.headers_present.as_slice());
        self.headers("upstream header", &hit.headers, lists);
        let forwarded_for = values(&hit.headers, "x-forwarded-for");
        if let Some(entries) = wanted.xff_entries {
            self.eq("x-forwarded-for entries", forwarded_for.len(), entries);
        }
        if !forwarded_for.starts_with(&wanted.xff_prefix) {
            self.bad.push(format!("x-forwarded-for {forwarded_for:?}, want {:?} first", wanted.xff_prefix));
        }
    }

    fn headers(
        &mut self,
        what: &str,
        got: &[(String, String)],
        (equal, absent, present): (&serde_json::Map<String, Value>, &[String], &[String]),
    ) {
        for (name, value) in equal {
            let wanted = texts(value);
            let wanted = wanted.iter().flat_map(|v| v.split(',')).map(|v| v.trim().to_owned());
            self.eq(&format!("{what} {name}"), values(got, name), wanted.collect());
        }
        for name in absent {
            self.eq(&format!("{what} {name}"), values(got, name), Vec::new());
        }
        for name in present {
            if values(got, name).is_empty() {
                self.bad.push(format!("{what} missing: {name}"));
            }
        }
    }

    fn response(&mut self, answer: &Answer, wanted: &ResponseSpec) -> Result<()> {
        let lists = (&wanted.headers, wanted.headers_absent.as_slice(), wanted.headers_present.as_slice());
        self.headers("response header", &answer.headers, lists);
        if let Some(body) = &wanted.body {
            self.eq("body", &answer.text(), body);
        }
        if let Some(status) = wanted.grpc_status {
            self.eq("grpc-status", values(&answer.headers, "grpc-status"), vec![status.to_string()]);
        }
        if let Some(cookie) = &wanted.set_cookie {
            let prefix = format!("{cookie}=");
            if !answer.headers.iter().any(|(k, v)| k == "set-cookie" && v.starts_with(&prefix)) {
                self.bad.push(format!("no Set-Cookie of {cookie}"));
            }
        }
        match (wanted.connection.as_deref(), answer.closed_after) {
            (None, _) => {}
            (Some("closed after response"), Some(closed)) => {
                self.eq("closed after the response", closed, true)
            }
            (Some(other), _) => bail!("response.connection: {other} was not watched"),
        }
        Ok(())
    }
}

fn shown(result: &Result<Answer, Failure>) -> String {
    match result {
        Ok(answer) => answer.status.to_string(),
        Err(e) => e.to_string(),
    }
}
