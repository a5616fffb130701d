//! Host names: short names, `namespace/host`, wildcards and their intersection (Istio's `pkg/config/host`).

/// `name` in full: a name without a dot is a service in `namespace`; any other is taken as it is. Lower case, without
/// a final dot.
pub(crate) fn resolve(name: &str, namespace: &str, domain: &str) -> String {
    if name.contains('.') || name.contains('*') {
        canonical(name)
    } else {
        service_host(&name.to_ascii_lowercase(), namespace, domain)
    }
}

/// A full name in lower case and without the dot that may end it.
pub(crate) fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// The host of a Kubernetes Service.
pub(crate) fn service_host(name: &str, namespace: &str, domain: &str) -> String {
    format!("{name}.{namespace}.svc.{domain}")
}

/// A host of a Gateway's server: `host`, `namespace/host`, `./host` or `*/host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerHost {
    /// The namespace that VirtualServices must be in; `None` for any.
    pub(crate) namespace: Option<String>,
    /// The host in lower case.
    pub(crate) host: String,
}

impl ServerHost {
    /// Reads a host of a server of a Gateway in `own` namespace.
    pub(crate) fn parse(text: &str, own: &str) -> Self {
        let (namespace, host) = match text.split_once('/') {
            None | Some(("*", _)) => (None, text.rsplit('/').next().unwrap_or(text)),
            Some((".", host)) => (Some(own.to_owned()), host),
            Some((namespace, host)) => (Some(namespace.to_owned()), host),
        };
        ServerHost { namespace, host: canonical(host) }
    }

    /// Whether a VirtualService in `namespace` may attach.
    pub(crate) fn admits(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|n| n == namespace)
    }
}

/// Whether every name that `a` stands for is one that `b` stands for.
pub(crate) fn is_subset(a: &str, b: &str) -> bool {
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (_, Some("")) => true,
        (None, None) => a == b,
        (None, Some(suffix)) => a.len() > suffix.len() && a.ends_with(suffix),
        (Some(a), Some(b)) => a.ends_with(b),
        (Some(_), None) => false,
    }
}

/// The more specific of two hosts that have names in common.
pub(crate) fn intersect<'a>(a: &'a str, b: &'a str) -> Option<&'a str> {
    if is_subset(a, b) {
        Some(a)
    } else if is_subset(b, a) {
        Some(b)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_services_of_the_namespace() {
        for (name, expected) in [
            ("reviews", "reviews.shop.svc.cluster.local"),
            ("Reviews", "reviews.shop.svc.cluster.local"),
            ("foo.bar", "foo.bar"),
            ("*", "*"),
            ("*.Example.com", "*.example.com"),
            ("Example.com.", "example.com"),
            ("*.", "*"),
        ] {
            assert_eq!(resolve(name, "shop", "cluster.local"), expected, "{name}");
        }
    }

    #[test]
    fn server_hosts() {
        for (text, namespace, host) in [
            ("a.b", None, "a.b"),
            ("*/A.b", None, "a.b"),
            ("A.b.", None, "a.b"),
            ("./a.b", Some("own"), "a.b"),
            ("ns/*.b", Some("ns"), "*.b"),
            ("*", None, "*"),
            ("*/*", None, "*"),
        ] {
            let parsed = ServerHost::parse(text, "own");
            assert_eq!((parsed.namespace.as_deref(), parsed.host.as_str()), (namespace, host), "{text}");
        }
    }

    #[test]
    fn the_more_specific_host_is_the_intersection() {
        for (a, b, expected) in [
            ("*.org", "example.org", Some("example.org")),
            ("example.org", "*.org", Some("example.org")),
            ("*", "foo.bar", Some("foo.bar")),
            ("*", "*", Some("*")),
            ("*.b.org", "*.org", Some("*.b.org")),
            ("*.example.com", "example.com", None),
            ("x-example.com", "*.example.com", None),
            ("a.org", "b.org", None),
            ("*.a.org", "*.b.org", None),
            ("*bar.com", "foobar.com", Some("foobar.com")),
            ("*bar.com", "bar.com", None),
        ] {
            assert_eq!(intersect(a, b), expected, "{a} {b}");
        }
    }
}
