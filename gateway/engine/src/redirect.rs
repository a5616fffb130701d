use crate::host_index::split_port;
use crate::rewrite::replace_prefix;
use crate::{Decision, RequestView, Scheme};
use std::io::Write as _;
use tidegate_model::{Redirect, RedirectPath, RedirectPort, Route};

impl Decision<'_> {
    /// Appends the value of `Location` of a redirect; nothing for other decisions.
    pub fn write_location<R: RequestView + ?Sized>(&self, request: &R, out: &mut Vec<u8>) {
        match self {
            Decision::Redirect(route, redirect, _) => {
                write_origin(redirect, request, out);
                write_path_and_query(route, redirect, request, out);
            }
            Decision::HttpsRedirect => {
                out.extend_from_slice(b"https://");
                out.extend_from_slice(request.authority());
                out.extend_from_slice(request.path());
                write_query(request, out);
            }
            Decision::Forward(_)
            | Decision::DirectResponse(..)
            | Decision::Preflight(..)
            | Decision::NoRoute(_) => {}
        }
    }
}

/// What redirects take over from the server whose requests they answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) port: u16,
    pub(crate) tls: bool,
}

impl Origin {
    /// The port that is written, whatever `Host` says: none where it is the default of the scheme, as in Istio.
    pub(crate) fn port_of(self, redirect: &Redirect) -> RedirectPort {
        let number = match redirect.port {
            RedirectPort::Keep => return RedirectPort::Keep,
            RedirectPort::Number(number) => number,
            RedirectPort::FromRequestPort => self.port,
        };
        let https = redirect.scheme.as_deref().map_or(self.tls, |scheme| scheme == "https");
        let scheme = if https { Scheme::Https } else { Scheme::Http };
        if number == scheme.default_port() { RedirectPort::Keep } else { RedirectPort::Number(number) }
    }
}

/// Scheme and authority (Istio 2.5).
fn write_origin<R: RequestView + ?Sized>(redirect: &Redirect, request: &R, out: &mut Vec<u8>) {
    let old = request.scheme();
    let new = match redirect.scheme.as_deref() {
        Some("https") => Scheme::Https,
        Some("http") => Scheme::Http,
        _ => old,
    };
    out.extend_from_slice(new.as_str().as_bytes());
    out.extend_from_slice(b"://");
    let authority = redirect.authority.as_ref().map_or(request.authority(), |a| a.as_bytes());
    let (host, port) = split_port(authority);
    // The table's own port was put in, and defaults taken out, when the rule was compiled.
    let number = match redirect.port {
        RedirectPort::Number(number) => Some(number),
        RedirectPort::Keep | RedirectPort::FromRequestPort => None,
    };
    let old_default = || port.is_some_and(|p| is_port(p, old.default_port()));
    let dropped = redirect.authority.is_none() && new != old && old_default();
    out.extend_from_slice(if dropped || number.is_some() { host } else { authority });
    if let Some(number) = number {
        // Writing to a vector does not fail.
        let _ = write!(out, ":{number}");
    }
}

fn is_port(digits: &[u8], port: u16) -> bool {
    std::str::from_utf8(digits).is_ok_and(|d| d.parse() == Ok(port))
}

fn write_path_and_query<R: RequestView + ?Sized>(
    route: &Route,
    redirect: &Redirect,
    request: &R,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    match &redirect.path {
        None => out.extend_from_slice(request.path()),
        Some(RedirectPath::Full(path)) => out.extend_from_slice(path.as_bytes()),
        Some(RedirectPath::Prefix(with)) => replace_prefix(&route.matches.path, request.path(), with, out),
    }
    if !out[start..].contains(&b'?') {
        write_query(request, out);
    }
}

fn write_query<R: RequestView + ?Sized>(request: &R, out: &mut Vec<u8>) {
    if let Some(query) = request.query() {
        out.push(b'?');
        out.extend_from_slice(query);
    }
}
