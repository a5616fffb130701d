//! Where keys may be fetched from.

use http::Uri;

/// A URL of `http` or `https`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) tls: bool,
    /// A name, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Host and port as they stand in the URL.
    pub(super) authority: String,
    /// Path and query.
    pub(super) path: String,
}

/// Why a URL is not gone to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidTarget {
    #[error("is not a URL of http or https without a user in it")]
    Url,
    #[error("leads from https to http")]
    Downgrade,
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self, InvalidTarget> {
        let uri: Uri = url.parse().map_err(|_| InvalidTarget::Url)?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(InvalidTarget::Url),
        };
        let authority = uri.authority().filter(|a| !a.as_str().contains('@')).ok_or(InvalidTarget::Url)?;
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() {
            return Err(InvalidTarget::Url);
        }
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        Ok(Target {
            tls,
            host: bare.to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.as_str().to_owned(),
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        })
    }

    /// Where a `Location` in its answer leads; never from https to http.
    pub(super) fn redirected(&self, location: &str) -> Result<Self, InvalidTarget> {
        if location.starts_with('/') && !location.starts_with("//") {
            let scheme = if self.tls { "https" } else { "http" };
            return Target::parse(&format!("{scheme}://{}{location}", self.authority));
        }
        let target = Target::parse(location)?;
        if self.tls && !target.tls { Err(InvalidTarget::Downgrade) } else { Ok(target) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let t = Target::parse("https://Keys.example.com/a?b=c").unwrap();
        assert_eq!((t.tls, &*t.host, t.port, &*t.path), (true, "Keys.example.com", 443, "/a?b=c"));
        let t = Target::parse("http://[::1]:8080").unwrap();
        assert_eq!(
            (t.tls, &*t.host, t.port, &*t.authority, &*t.path),
            (false, "::1", 8080, "[::1]:8080", "/")
        );
        for url in [
            "",
            "a",
            "/a",
            "ftp://a/",
            "file:///a",
            "http://",
            "http://u@a/",
            "https://u:p@a/",
            "http://a b/",
        ] {
            assert_eq!(Target::parse(url), Err(InvalidTarget::Url), "{url}");
        }
    }

    #[test]
    fn redirects() {
        let from = Target::parse("https://a:8443/x").unwrap();
        assert_eq!(from.redirected("/y?z"), Target::parse("https://a:8443/y?z"));
        assert_eq!(from.redirected("https://b/"), Target::parse("https://b/"));
        assert_eq!(from.redirected("http://a:8443/"), Err(InvalidTarget::Downgrade));
        for location in ["//b/", "y", "", "file:///etc/passwd"] {
            assert_eq!(from.redirected(location), Err(InvalidTarget::Url), "{location}");
        }
        let plain = Target::parse("http://a/").unwrap();
        assert_eq!(plain.redirected("https://a/"), Target::parse("https://a/"));
    }
}
