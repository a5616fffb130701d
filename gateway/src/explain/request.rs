use http::Uri;
use std::borrow::Cow;
use tidegate_engine::{Claims, HeaderValue, RequestView, Scheme};
use tidegate_model::{HeaderName, PathNormalization};
use tidegate_proxy::{ExplainQuery, ambiguity, canonical_path};

/// What a URL's scheme says of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carries {
    /// `http`: requests.
    Http,
    /// `https` or `tls`: a ClientHello.
    Tls,
    /// `tcp`: anything.
    Tcp,
}

impl Carries {
    /// Its scheme in URLs.
    pub(super) fn scheme(self) -> &'static str {
        match self {
            Carries::Http => "http",
            Carries::Tls => "https",
            Carries::Tcp => "tcp",
        }
    }
}

/// The request that a query describes, as the data plane would see it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    method: String,
    scheme: Scheme,
    pub(super) carries: Carries,
    /// The port of the URL, or its scheme's.
    pub(super) port: u16,
    /// Whether the URL names it.
    pub(super) names_port: bool,
    /// The name that a client would send as SNI: the URL's host, lower case.
    pub(super) host: String,
    authority: String,
    path: Vec<u8>,
    query: Option<String>,
    headers: Vec<(HeaderName, String)>,
    claims: Option<Claims>,
}

impl Request {
    /// Reads method, URL and headers. A `Host` header takes the place of the URL's authority.
    pub(super) fn of(query: &ExplainQuery) -> Result<Request, String> {
        let wrong = |why: &str| {
            format!(
                "{:?} is not a URL that can be asked about: {why}; write it like http://shop.example.com/cart",
                query.url
            )
        };
        let uri: Uri = query.url.parse().map_err(|e: http::uri::InvalidUri| wrong(&e.to_string()))?;
        let (scheme, carries) = match uri.scheme_str() {
            Some("http") => (Scheme::Http, Carries::Http),
            Some("https" | "tls") => (Scheme::Https, Carries::Tls),
            Some("tcp") => (Scheme::Http, Carries::Tcp),
            _ => return Err(wrong("it does not begin with http://, https://, tls:// or tcp://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("it has a user in it"));
        }
        http::Method::from_bytes(query.method.as_bytes())
            .map_err(|_| format!("{:?} is not a method; write one such as GET", query.method))?;
        let headers: Vec<_> =
            query.headers.iter().map(|(name, value)| (HeaderName::new(name), value.clone())).collect();
        let host = headers.iter().find(|(name, _)| name.as_str() == "host").map(|(_, value)| value.clone());
        Ok(Request {
            method: query.method.clone(),
            scheme,
            carries,
            port: authority.port_u16().unwrap_or(scheme.default_port()),
            names_port: authority.port_u16().is_some(),
            host: authority.host().to_ascii_lowercase(),
            authority: host.unwrap_or_else(|| authority.as_str().to_owned()),
            path: uri.path().as_bytes().to_vec(),
            query: uri.query().map(str::to_owned),
            headers,
            claims: query.claims.clone(),
        })
    }

    /// Gives the path the form that the data plane routes by.
    ///
    /// # Errors
    /// Why it is refused, where it has none.
    pub(super) fn canonicalize(&mut self, mode: PathNormalization, strict: bool) -> Result<(), String> {
        if let Some(what) = ambiguity(&self.path).filter(|_| strict) {
            return Err(format!(
                "the path has {what}, which --strict-paths refuses (path_normalization_failed)"
            ));
        }
        let canonical = canonical_path(mode, &self.path).map(Cow::into_owned);
        self.path = canonical
            .ok_or("the path has no canonical form: there is %00 in it (path_normalization_failed)")?;
        Ok(())
    }

    /// Whether it asks for a tunnel.
    pub(super) fn is_connect(&self) -> bool {
        self.method == "CONNECT"
    }

    /// The name that a client would send as SNI; none over plain HTTP, and none for an address.
    pub(super) fn sni(&self) -> Option<&str> {
        let asks = self.carries == Carries::Tls && self.host.parse::<std::net::IpAddr>().is_err();
        asks.then_some(self.host.as_str())
    }

    /// The authority as sent.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }
}

impl RequestView for Request {
    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }

    fn scheme(&self) -> Scheme {
        self.scheme
    }

    fn authority(&self) -> &[u8] {
        self.authority.as_bytes()
    }

    fn path(&self) -> &[u8] {
        &self.path
    }

    fn query(&self) -> Option<&[u8]> {
        self.query.as_deref().map(str::as_bytes)
    }

    fn each_value(&self, name: &HeaderName, value: &mut dyn FnMut(&[u8])) {
        let said = |(n, _): &&(HeaderName, String)| n == name;
        if name.as_str() == "host" && !self.headers.iter().any(|header| said(&header)) {
            return value(self.authority.as_bytes());
        }
        self.headers.iter().filter(said).for_each(|(_, v)| value(v.as_bytes()));
    }

    fn each_alias(&self, name: &HeaderName, value: &mut dyn FnMut(&[u8])) {
        let is_alias = |n: &str| n != name.as_str() && n.replace('_', "-") == name.as_str().replace('_', "-");
        self.headers.iter().filter(|(n, _)| is_alias(n.as_str())).for_each(|(_, v)| value(v.as_bytes()));
    }

    fn claims(&self) -> Option<&Claims> {
        self.claims.as_ref()
    }

    fn header(&self, name: &HeaderName) -> Option<HeaderValue<'_>> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_bytes());
        let first = values.next();
        match (first, values.next()) {
            (None, _) if name.as_str() == "host" => Some(Cow::Borrowed(self.authority.as_bytes())),
            (None, _) => None,
            (Some(only), None) => Some(Cow::Borrowed(only)),
            (Some(first), Some(second)) => {
                let all: Vec<_> = [first, second].into_iter().chain(values).collect();
                Some(Cow::Owned(all.join(&b',')))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(url: &str, headers: &[(&str, &str)]) -> ExplainQuery {
        ExplainQuery {
            method: "GET".to_owned(),
            url: url.to_owned(),
            headers: headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            claims: None,
            client: None,
            gateway: None,
        }
    }

    #[test]
    fn a_url_is_taken_apart() {
        use Carries::{Http, Tcp, Tls};
        for (url, carries, port, authority, path, asked) in [
            ("http://a.b", Http, 80, "a.b", "/", None),
            ("https://A.b/x/y?q=1&q=2", Tls, 443, "A.b", "/x/y", Some("q=1&q=2")),
            ("http://a.b:8080/?", Http, 8080, "a.b:8080", "/", Some("")),
            ("http://[::1]:81/%2F", Http, 81, "[::1]:81", "/%2F", None),
            ("tls://a.b:15443", Tls, 15443, "a.b:15443", "/", None),
            ("tcp://any:31400", Tcp, 31400, "any:31400", "/", None),
        ] {
            let r = Request::of(&query(url, &[])).unwrap();
            assert_eq!((r.carries, r.port, r.authority()), (carries, port, authority), "{url}");
            assert_eq!((r.path(), r.query()), (path.as_bytes(), asked.map(str::as_bytes)), "{url}");
        }
    }

    #[test]
    fn what_of_a_path_is_refused_is_said() {
        for (path, strict, why) in [
            ("/a;b", true, Some("a `;`")),
            ("/a;b", false, None),
            ("/a//b", true, Some("repeated slashes")),
            ("/a%2fb", true, Some("an escape of a slash")),
            ("/a%00", false, Some("%00")),
        ] {
            let mut request = Request::of(&query(&format!("http://a{path}"), &[])).unwrap();
            let said = request.canonicalize(PathNormalization::MergeSlashes, strict).err();
            assert_eq!(said.is_some(), why.is_some(), "{path}: {said:?}");
            assert!(said.unwrap_or_default().contains(why.unwrap_or_default()), "{path}");
        }
    }

    #[test]
    fn what_is_no_url_is_said() {
        for (url, why) in [
            ("/path", "http://"),
            ("ftp://a/", "http://"),
            ("http://", "URL"),
            ("http://u:p@a/", "user"),
            ("a b", "URL"),
        ] {
            let error = Request::of(&query(url, &[])).unwrap_err();
            assert!(error.contains(why), "{url}: {error}");
        }
    }

    #[test]
    fn headers_are_found_in_any_case_and_joined() {
        let headers = [("X-A", "1"), ("x-b", "2"), ("x-a", "3"), ("HOST", "other:1")];
        let r = Request::of(&query("http://a/", &headers)).unwrap();
        assert_eq!(r.header(&HeaderName::new("x-a")).unwrap(), &b"1,3"[..]);
        assert_eq!(r.header(&HeaderName::new("x-b")).unwrap(), &b"2"[..]);
        assert_eq!(r.header(&HeaderName::new("x-c")), None);
        let each = |name: &str| {
            let mut values = Vec::new();
            r.each_value(&HeaderName::new(name), &mut |v| {
                values.push(String::from_utf8_lossy(v).into_owned())
            });
            values
        };
        assert_eq!(
            (each("x-a"), each("host"), each("x-c")),
            (vec!["1".into(), "3".into()], vec!["other:1".into()], vec![])
        );
        assert_eq!(r.authority(), "other:1");
        assert_eq!(r.host, "a");
    }
}
