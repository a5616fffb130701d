use super::buffers::Work;
use super::check::Granted;
use super::identity::Identity;
use crate::auth::{Verified, is_same};
use crate::h1::field::{Known, known};
use crate::h1::head::Head;
use std::borrow::Cow;
use tidegate_engine::{Claims, HeaderValue, RequestView, Scheme};
use tidegate_model::HeaderName;

/// A request as routing sees it: with its canonical path, and with what the gateway itself says
/// about the client in place of what the client says about itself.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    head: &'a Head,
    buf: &'a [u8],
    path: &'a [u8],
    identity: &'a Identity,
    verified: Option<&'a Verified>,
    granted: Option<&'a Granted>,
}

impl<'a> View<'a> {
    pub(crate) fn of(w: &'a Work) -> Self {
        let buf = w.head();
        let sent = w.request.path.of_buffer(buf);
        let path = match (w.path.is_empty(), sent.is_empty()) {
            (false, _) => &w.path[..],
            (true, true) => b"/",
            (true, false) => sent,
        };
        let (verified, granted) = (w.verified.as_deref(), w.granted.as_deref());
        View { head: &w.request, buf, path, identity: &w.identity, verified, granted }
    }

    /// The canonical path, living as long as the request.
    pub(crate) fn path(self) -> &'a [u8] {
        self.path
    }

    /// The query, living as long as the request.
    pub(crate) fn raw_query(self) -> Option<&'a [u8]> {
        match self.granted.and_then(Granted::query) {
            Some(query) => Some(query).filter(|query| !query.is_empty()),
            None => self.head.query.map(|q| q.of_buffer(self.buf)),
        }
    }

    /// The values of a header, in order; none where it is for this hop alone.
    pub(crate) fn values<'n>(self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.head
            .fields
            .iter()
            .filter(move |f| {
                f.known != Known::Nominated && f.name.of_buffer(self.buf).eq_ignore_ascii_case(name)
            })
            .map(move |f| f.value.of_buffer(self.buf))
    }

    /// A header's value, joined when it was repeated.
    pub(crate) fn value(self, name: &[u8]) -> Option<HeaderValue<'a>> {
        if self.is_said(name) {
            return joined(self.said(name));
        }
        match known(name) {
            Known::Internal | Known::ServiceTime | Known::RateLimited => return None,
            Known::Claim if !self.identity.trusted => return None,
            Known::RequestId => return Some(Cow::Borrowed(&self.identity.request_id)),
            Known::ForwardedFor => return Some(Cow::Borrowed(&self.identity.forwarded_for)),
            Known::ForwardedProto => return Some(Cow::Borrowed(self.identity.scheme.as_str().as_bytes())),
            Known::ClientCert => return self.client_cert(name),
            _ => {}
        }
        self.joined(name)
    }

    fn client_cert(self, name: &[u8]) -> Option<HeaderValue<'a>> {
        let certificate = &self.identity.client_cert;
        let said = self.joined(name).filter(|_| certificate.keeps);
        let Some(own) = &certificate.adds else { return said };
        Some(match said {
            None => Cow::Borrowed(own.as_bytes()),
            Some(said) => Cow::Owned([&said, &b","[..], own.as_bytes()].concat()),
        })
    }

    /// The values of a header as they came, and as a provider gave them.
    pub(crate) fn brought<'n>(self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.values(name).chain(self.given(name))
    }

    /// The values that a provider gave it.
    fn given<'n>(self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.granted.into_iter().flat_map(move |granted| granted.values(name))
    }

    fn joined(self, name: &[u8]) -> Option<HeaderValue<'a>> {
        joined(self.brought(name))
    }

    /// Whether verified tokens gave it the header.
    fn is_said(self, name: &[u8]) -> bool {
        self.verified.is_some_and(|verified| verified.values(name).next().is_some())
    }

    /// The values that verified tokens gave it; nothing that anybody else says.
    fn said<'n>(self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.verified.into_iter().flat_map(move |verified| verified.values(name))
    }
}

fn joined<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<HeaderValue<'a>> {
    let first = values.next()?;
    let mut joined = Cow::Borrowed(first);
    for value in values {
        let all = joined.to_mut();
        all.push(b',');
        all.extend_from_slice(value);
    }
    Some(joined)
}

impl RequestView for View<'_> {
    fn method(&self) -> &[u8] {
        self.head.method.of_buffer(self.buf)
    }

    fn scheme(&self) -> Scheme {
        self.identity.scheme
    }

    fn authority(&self) -> &[u8] {
        self.head.authority.of_buffer(self.buf)
    }

    fn ignored_host(&self) -> Option<&[u8]> {
        let ignored = self.head.known(self.buf, Known::Host).next();
        ignored.filter(|_| self.head.host_ignored)
    }

    fn path(&self) -> &[u8] {
        self.path
    }

    fn query(&self) -> Option<&[u8]> {
        self.raw_query()
    }

    fn each_value(&self, name: &HeaderName, value: &mut dyn FnMut(&[u8])) {
        let name = name.as_str().as_bytes();
        match known(name) {
            Known::Internal
            | Known::ServiceTime
            | Known::RateLimited
            | Known::Claim
            | Known::RequestId
            | Known::ForwardedFor
            | Known::ForwardedProto
            | Known::ClientCert => self.value(name).iter().for_each(|whole| value(whole)),
            _ if self.is_said(name) => self.said(name).for_each(value),
            _ => self.brought(name).for_each(value),
        }
    }

    fn each_alias(&self, name: &HeaderName, value: &mut dyn FnMut(&[u8])) {
        let name = name.as_str().as_bytes();
        let is_alias = |n: &[u8]| !n.eq_ignore_ascii_case(name) && is_same(n, name);
        let sent = self.head.fields.iter().filter(|f| f.known != Known::Nominated);
        for field in sent.filter(|f| is_alias(f.name.of_buffer(self.buf))) {
            value(field.value.of_buffer(self.buf));
        }
    }

    fn claims(&self) -> Option<&Claims> {
        self.verified?.claims()
    }

    fn header(&self, name: &HeaderName) -> Option<HeaderValue<'_>> {
        self.value(name.as_str().as_bytes())
    }
}
