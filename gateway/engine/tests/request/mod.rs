//! A request as the engine sees it, out of plain values.

use std::borrow::Cow;
use tidegate_engine::{Claims, HeaderValue, RequestView, Scheme};
use tidegate_model::HeaderName;

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) scheme: Scheme,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Those of a verified token.
    pub(crate) claims: Option<Claims>,
}

impl Request {
    #[allow(dead_code, reason = "properties make theirs field by field")]
    /// A GET without headers; `target` is the path with its query.
    pub(crate) fn get(authority: &str, target: &str) -> Self {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        Request {
            method: "GET".into(),
            scheme: Scheme::Http,
            authority: authority.into(),
            path: path.into(),
            query,
            headers: Vec::new(),
            claims: None,
        }
    }

    #[allow(dead_code, reason = "not every test has headers")]
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
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
        self.path.as_bytes()
    }

    fn query(&self) -> Option<&[u8]> {
        self.query.as_deref().map(str::as_bytes)
    }

    fn each_value(&self, name: &HeaderName, value: &mut dyn FnMut(&[u8])) {
        self.headers.iter().filter(|(n, _)| n == name.as_str()).for_each(|(_, v)| value(v.as_bytes()));
    }

    fn each_alias(&self, name: &HeaderName, value: &mut dyn FnMut(&[u8])) {
        let is_alias = |n: &str| n != name.as_str() && n.replace('_', "-") == name.as_str().replace('_', "-");
        self.headers.iter().filter(|(n, _)| is_alias(n)).for_each(|(_, v)| value(v.as_bytes()));
    }

    fn claims(&self) -> Option<&Claims> {
        self.claims.as_ref()
    }

    fn header(&self, name: &HeaderName) -> Option<HeaderValue<'_>> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name.as_str()).map(|(_, v)| v.as_bytes());
        let first = values.next()?;
        Some(match values.next() {
            None => Cow::Borrowed(first),
            Some(second) => {
                let mut joined = [first, b",", second].concat();
                for value in values {
                    joined.push(b',');
                    joined.extend_from_slice(value);
                }
                Cow::Owned(joined)
            }
        })
    }
}
