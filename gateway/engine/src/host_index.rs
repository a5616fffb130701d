use crate::virtual_host::CompiledHost;
use ahash::AHashMap;
use std::sync::Arc;
use tidegate_model::HostPattern;

/// Longest host that is looked up; DNS ends at 253 bytes.
const MAX_HOST: usize = 255;

/// The virtual hosts of one route table: exact, then the longest wildcard, then `*` (Istio 2.1.5).
#[derive(Clone, Debug, Default)]
pub(crate) struct HostIndex {
    exact: AHashMap<Arc<[u8]>, Arc<CompiledHost>>,
    suffixes: AHashMap<Arc<[u8]>, Arc<CompiledHost>>,
    /// Which lengths `suffixes` has, the longest first.
    lengths: Vec<SuffixLength>,
    any: Option<Arc<CompiledHost>>,
}

#[derive(Clone, Copy, Debug)]
struct SuffixLength {
    length: usize,
    /// How many suffixes have it.
    count: usize,
    /// How many of those begin in the middle of a label.
    partial: usize,
}

impl HostIndex {
    pub(crate) fn insert(&mut self, domain: &HostPattern, host: Arc<CompiledHost>) {
        match domain {
            HostPattern::Exact(name) => {
                self.exact.insert(exact_key(name), host);
            }
            HostPattern::Suffix(suffix) => {
                if self.suffixes.insert(suffix.clone().into(), host).is_none() {
                    self.count(suffix.as_bytes(), true);
                }
            }
            HostPattern::Any => self.any = Some(host),
        }
    }

    pub(crate) fn remove(&mut self, domain: &HostPattern) {
        match domain {
            HostPattern::Exact(name) => {
                self.exact.remove(&exact_key(name));
            }
            HostPattern::Suffix(suffix) => {
                if self.suffixes.remove(suffix.as_bytes()).is_some() {
                    self.count(suffix.as_bytes(), false);
                }
            }
            HostPattern::Any => self.any = None,
        }
    }

    /// Keeps `lengths` true for a suffix that came or went.
    fn count(&mut self, suffix: &[u8], came: bool) {
        let length = suffix.len();
        let partial = usize::from(!suffix.starts_with(b"."));
        match self.lengths.binary_search_by(|l| length.cmp(&l.length)) {
            Err(i) => self.lengths.insert(i, SuffixLength { length, count: 1, partial }),
            Ok(i) if came => {
                self.lengths[i].count += 1;
                self.lengths[i].partial += partial;
            }
            Ok(i) => {
                self.lengths[i].count -= 1;
                self.lengths[i].partial -= partial;
                if self.lengths[i].count == 0 {
                    self.lengths.remove(i);
                }
            }
        }
    }

    /// The virtual host that serves an authority as it was sent.
    pub(crate) fn find(&self, authority: &[u8]) -> Option<&Arc<CompiledHost>> {
        let host = host_of(authority);
        let mut lower = [0; MAX_HOST];
        let Some(lower) = lower.get_mut(..host.len()) else { return self.any.as_ref() };
        lower.copy_from_slice(host);
        lower.make_ascii_lowercase();
        let host = &*lower;
        self.exact.get(host).or_else(|| self.find_suffix(host)).or(self.any.as_ref())
    }

    fn find_suffix(&self, host: &[u8]) -> Option<&Arc<CompiledHost>> {
        self.lengths.iter().filter(|l| l.length < host.len()).find_map(|l| {
            let suffix = &host[host.len() - l.length..];
            (l.partial > 0 || suffix.first() == Some(&b'.')).then(|| self.suffixes.get(suffix))?
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.suffixes.is_empty() && self.any.is_none()
    }

    /// All virtual hosts, in no order.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &Arc<CompiledHost>> {
        self.exact.values().chain(self.suffixes.values()).chain(&self.any)
    }
}

/// An IPv6 address stands in brackets in an authority.
fn exact_key(name: &Arc<str>) -> Arc<[u8]> {
    match name.parse::<std::net::Ipv6Addr>() {
        Ok(_) => format!("[{name}]").into_bytes().into(),
        Err(_) => name.clone().into(),
    }
}

/// Host and port of an authority, without the colon between them.
pub(crate) fn split_port(authority: &[u8]) -> (&[u8], Option<&[u8]>) {
    let digits = authority.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    match authority.split_at(authority.len() - digits) {
        ([host @ .., b':'], port) if host.ends_with(b"]") || !host.contains(&b':') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// The host of an authority, without port and without the dot of an absolute name.
pub(crate) fn host_of(authority: &[u8]) -> &[u8] {
    let (host, _) = split_port(authority);
    match host {
        [host @ .., b'.'] if !host.is_empty() => host,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_of_authority() {
        for (authority, host) in [
            ("a.b", "a.b"),
            ("a.b:80", "a.b"),
            ("a.b:", "a.b"),
            ("a.b.", "a.b"),
            ("a.b.:8080", "a.b"),
            ("a.b..", "a.b."),
            (".", "."),
            ("", ""),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]"),
            ("::1", "::1"),
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("a:b", "a:b"),
        ] {
            assert_eq!(host_of(authority.as_bytes()), host.as_bytes(), "{authority}");
        }
    }
}
