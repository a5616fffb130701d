/// Istio's response flags, several of which may be set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Flags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $letters:literal $words:literal $variant:ident),* $(,)?) => {
        /// One response flag.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Flag { $($(#[$doc])* $variant),* }

        /// Every flag with its letters and its words, in the order in which Envoy prints them.
        const ALL: &[(&str, &str, Flag)] = &[$(($letters, $words, Flag::$variant)),*];
    };
}

flags! {
    /// UH: no healthy endpoint.
    "UH" "NoHealthyUpstream" NoHealthyUpstream,
    /// UT: the request's time was up.
    "UT" "UpstreamRequestTimeout" UpstreamTimeout,
    /// LR: we reset the stream.
    "LR" "LocalReset" LocalReset,
    /// UR: the upstream reset the stream.
    "UR" "UpstreamRemoteReset" UpstreamReset,
    /// UF: connecting failed.
    "UF" "UpstreamConnectionFailure" UpstreamConnectFailure,
    /// UC: the upstream ended the connection.
    "UC" "UpstreamConnectionTermination" UpstreamTermination,
    /// UO: a limit of the cluster was reached.
    "UO" "UpstreamOverflow" Overflow,
    /// NR: no route.
    "NR" "NoRouteFound" NoRoute,
    /// DI: a fault delayed it.
    "DI" "DelayInjected" DelayInjected,
    /// FI: a fault aborted it.
    "FI" "FaultInjected" FaultInjected,
    /// RL: a rate limit refused it.
    "RL" "RateLimited" RateLimited,
    /// UAEX: the external authorization refused it.
    "UAEX" "UnauthorizedExternalService" ExternalAuthorization,
    /// RLSE: the rate limit service failed.
    "RLSE" "RateLimitServiceError" RateLimitServiceError,
    /// DC: the client went away.
    "DC" "DownstreamConnectionTermination" DownstreamTermination,
    /// URX: retries used up.
    "URX" "UpstreamRetryLimitExceeded" RetryLimit,
    /// SI: the stream stood still too long.
    "SI" "StreamIdleTimeout" StreamIdleTimeout,
    /// IH: a header that must be valid is not.
    "IH" "InvalidEnvoyRequestHeaders" InvalidHeader,
    /// DPE: the client broke the protocol.
    "DPE" "DownstreamProtocolError" DownstreamProtocolError,
    /// UMSDR: the upstream stream's longest time was up.
    "UMSDR" "UpstreamMaxStreamDurationReached" MaxStreamDuration,
    /// RFCF: answered from a cache.
    "RFCF" "ResponseFromCacheFilter" ResponseFromCache,
    /// NFCF: a filter's config is missing.
    "NFCF" "NoFilterConfigFound" NoFilterConfig,
    /// DT: the connection's or request's longest time was up.
    "DT" "DurationTimeout" DurationTimeout,
    /// UPE: the upstream broke the protocol.
    "UPE" "UpstreamProtocolError" UpstreamProtocolError,
    /// NC: no such cluster.
    "NC" "NoClusterFound" NoCluster,
    /// OM: shed by overload protection.
    "OM" "OverloadManagerTerminated" OverloadManager,
    /// DF: a name did not resolve.
    "DF" "DnsResolutionFailed" DnsFailure,
    /// DO: dropped by a drop rule.
    "DO" "DropOverload" DropOverload,
}

impl Flags {
    /// Sets a flag.
    pub(crate) fn set(&mut self, flag: Flag) {
        self.0 |= 1 << flag as u8;
    }

    /// Whether a flag is set.
    pub(crate) fn has(self, flag: Flag) -> bool {
        self.0 & 1 << flag as u8 != 0
    }

    /// The letters of all that are set, joined by commas; `-` for none.
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        self.write_all(out, |(letters, ..)| letters);
    }

    /// The words of all that are set, joined by commas; `-` for none.
    pub(crate) fn write_words(self, out: &mut Vec<u8>) {
        self.write_all(out, |(_, words, _)| words);
    }

    #[inline]
    fn write_all(self, out: &mut Vec<u8>, name: fn(&(&'static str, &'static str, Flag)) -> &'static str) {
        if self.0 == 0 {
            return out.push(b'-');
        }
        let mut separator: &[u8] = b"";
        for flag in ALL.iter().filter(|(.., flag)| self.has(*flag)) {
            out.extend_from_slice(separator);
            out.extend_from_slice(name(flag).as_bytes());
            separator = b",";
        }
    }
}

#[cfg(test)]
impl Flags {
    /// Those of the known flags that are set in `bits`.
    pub(super) fn testing(bits: u32) -> Self {
        Flags(bits & ((1 << ALL.len()) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters(set: &[Flag]) -> String {
        let mut flags = Flags::default();
        set.iter().for_each(|f| flags.set(*f));
        assert!(set.iter().all(|f| flags.has(*f)));
        let mut out = Vec::new();
        flags.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn letters_in_envoys_order() {
        use Flag::*;
        let cases: &[(&[Flag], &str)] = &[
            (&[], "-"),
            (&[NoRoute], "NR"),
            (&[RetryLimit, UpstreamConnectFailure], "UF,URX"),
            (&[DropOverload, NoHealthyUpstream, UpstreamTimeout], "UH,UT,DO"),
        ];
        for (set, expected) in cases {
            assert_eq!(letters(set), *expected);
        }
    }

    #[test]
    fn every_letter_once() {
        let all: Vec<Flag> = ALL.iter().map(|(.., f)| *f).collect();
        let expected: Vec<&str> = ALL.iter().map(|(l, ..)| *l).collect();
        assert_eq!(letters(&all), expected.join(","));
        let mut words = Vec::new();
        Flags::testing(u32::MAX).write_words(&mut words);
        assert!(words.starts_with(b"NoHealthyUpstream,UpstreamRequestTimeout,"));
        assert_eq!(words.split(|c| *c == b',').count(), all.len());
        let istio =
            "NR NC UH UF UC UR URX UO UT UMSDR LR DC DT DI FI RL UAEX RLSE IH SI DPE UPE OM DF DO NFCF RFCF";
        let mut known: Vec<&str> = istio.split(' ').collect();
        let mut ours = expected;
        known.sort_unstable();
        ours.sort_unstable();
        assert_eq!(ours, known);
    }
}
