//! Rules that several kinds share.

use crate::report::Report;
use std::net::IpAddr;
use std::time::Duration;
use tidegate_api::Object;
use tidegate_api::istio::StringMatch;
use tidegate_model::{Anchoring, ClaimPath, FormatString, Pattern};

/// The longest regex, in bytes.
const LONGEST_REGEX: usize = 1024;
/// Headers of one connection or of a message's framing, which the proxy writes by itself.
const FRAMING: &[&str] = &[
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];
/// The longest name of a host.
const LONGEST_HOST: usize = 255;

/// An object under validation.
pub(super) struct Check<'a> {
    pub(super) object: &'a Object,
    pub(super) report: Report,
}

/// Where header operations stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Request,
    Response,
}

impl Check<'_> {
    pub(super) fn error(&mut self, field: &str, code: &'static str, text: impl Into<String>, advice: &str) {
        self.report.error(self.object, field, code, text, advice);
    }

    pub(super) fn warning(&mut self, field: &str, code: &'static str, text: impl Into<String>, advice: &str) {
        self.report.warning(self.object, field, code, text, advice);
    }

    /// A host: a name, one that starts with a wildcard, or an IP address.
    pub(super) fn host(&mut self, field: &str, host: &str) {
        if host.parse::<IpAddr>().is_err() {
            self.wildcard_name(field, host);
        }
    }

    /// A DNS name whose first label may be a wildcard.
    pub(super) fn wildcard_name(&mut self, field: &str, host: &str) {
        if let Err(why) = host_syntax(host) {
            self.error(field, "invalid-host", format!("{host:?} is not a host name: {why}"), HOST_ADVICE);
        }
    }

    /// A DNS name.
    pub(super) fn name(&mut self, field: &str, host: &str) {
        let syntax = if host.contains('*') { Err("it has a wildcard") } else { host_syntax(host) };
        if let Err(why) = syntax {
            self.error(field, "invalid-host", format!("{host:?} is not a host name: {why}"), HOST_ADVICE);
        }
    }

    pub(super) fn port(&mut self, field: &str, number: u32) {
        if !(1..=65535).contains(&number) {
            let text = format!("port number {number} is out of range");
            self.error(field, "invalid-port", text, "use 1 to 65535");
        }
    }

    /// At least a millisecond, and in whole ones.
    pub(super) fn duration(&mut self, field: &str, duration: Option<Duration>) {
        let Some(duration) = duration else { return };
        if duration < Duration::from_millis(1) {
            self.error(
                field,
                "invalid-duration",
                "must be at least 1ms",
                "write 1ms or more, or leave it out",
            );
        } else if duration.subsec_nanos() % 1_000_000 != 0 {
            let text = "only durations to ms precision are supported";
            self.error(field, "invalid-duration", text, "round it to whole milliseconds");
        }
    }

    pub(super) fn percent(&mut self, field: &str, value: Option<f64>) {
        if value.is_some_and(|v| !(0.0..=100.0).contains(&v)) {
            self.error(field, "invalid-percent", "is not a percentage", "use 0 to 100");
        }
    }

    pub(super) fn not_negative(&mut self, field: &str, value: Option<i32>) {
        if value.is_some_and(|v| v < 0) {
            self.error(field, "out-of-range", "must not be negative", "use 0 or more");
        }
    }

    pub(super) fn regex(&mut self, field: &str, pattern: &str) -> Option<Pattern> {
        if pattern.len() > LONGEST_REGEX {
            let text = format!("the regex is longer than {LONGEST_REGEX} characters");
            self.error(field, "invalid-regex", text, "split the match");
            return None;
        }
        match Pattern::compile(&pattern.into(), Anchoring::Whole) {
            Ok(pattern) => Some(pattern),
            Err(e) => {
                self.error(field, "invalid-regex", e.to_string(), "use RE2 syntax");
                None
            }
        }
    }

    /// A path may be asked for the empty prefix, which each has.
    pub(super) fn path_match(&mut self, field: &str, m: &StringMatch) {
        if let StringMatch::Regex(pattern) = m {
            let field = format!("{field}.regex");
            if pattern.is_empty() {
                let advice = "remove it, or write .* for anything";
                self.error(&field, "invalid-match", "a regex must not be empty", advice);
            } else {
                self.regex(&field, pattern);
            }
        }
    }

    pub(super) fn string_match(&mut self, field: &str, m: &StringMatch) {
        if matches!(m, StringMatch::Prefix(prefix) if prefix.is_empty()) {
            let advice = "write {} for whatever value";
            self.error(&format!("{field}.prefix"), "invalid-match", "a prefix must not be empty", advice);
        }
        self.path_match(field, m);
    }

    /// A header of a match: a field name, a pseudo header, or a claim.
    pub(super) fn match_header(&mut self, field: &str, name: &str) {
        let plain = name.strip_prefix(':').unwrap_or(name);
        if !is_token(plain) && ClaimPath::parse(name).is_none() {
            self.error(field, "invalid-header", format!("{name:?} is not a header name"), HEADER_ADVICE);
        }
        if name.starts_with(':') && !matches!(name, ":authority" | ":method" | ":path" | ":scheme") {
            let text = format!("no request has a pseudo header {name:?}");
            self.warning(field, "never-matches", text, "use :authority, :method, :path or :scheme");
        }
    }

    /// A header that is written.
    pub(super) fn header_name(&mut self, field: &str, name: &str, direction: Direction) {
        let authority = crate::headers::is_authority(name);
        if authority && direction == Direction::Response {
            let text = "responses have no host";
            self.error(field, "invalid-header", text, "remove it, or move it to the request");
        } else if !authority && !is_token(name) {
            let text = match name {
                "" => "a header name must not be empty".to_owned(),
                _ if name.starts_with(':') => format!("{name:?} cannot be written"),
                _ => format!("{name:?} is not a header name"),
            };
            self.error(field, "invalid-header", text, HEADER_ADVICE);
        } else if !authority && is_framing(name) {
            let text =
                format!("{name} says how a message is delimited and connected, so it is never changed");
            self.warning(field, "not-enforced", text, "remove it");
        }
    }

    /// The value of a header that is written; of the host, which is text, it is no format.
    pub(super) fn header_value(&mut self, field: &str, name: &str, value: &str) {
        if value.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
            let text = "a header value cannot have control characters";
            self.error(field, "invalid-header", text, "remove line breaks");
        } else if crate::headers::is_authority(name) {
            if value.contains('%') {
                let text = format!(
                    "the host becomes {value:?} as it stands, in Istio too: operators have no effect in it"
                );
                self.warning(field, "no-effect", text, "write the host that the upstream is to see");
            }
        } else {
            match FormatString::parse(value) {
                Ok(format) => self.report.absent_operators(self.object, field, &format),
                Err(e) => self.error(field, "invalid-header", e.to_string(), "write %% for a percent sign"),
            }
        }
    }

    /// A label of a DNS name, such as the name of a namespace or a subset.
    pub(super) fn label(&mut self, field: &str, text: &str, what: &str) {
        if !is_label(text) {
            let text = format!("{text:?} is not the name of a {what}");
            self.error(field, "invalid-name", text, "use letters, digits and '-', at most 63");
        }
    }

    pub(super) fn export_to(&mut self, export_to: &[String]) {
        for (i, entry) in export_to.iter().enumerate() {
            let field = format!("spec.exportTo[{i}]");
            if !matches!(entry.as_str(), "*" | "." | "~") {
                self.label(&field, entry, "namespace");
            }
            if export_to[..i].contains(entry) {
                self.error(&field, "duplicate", format!("{entry:?} is there twice"), "remove one");
            }
        }
        if export_to.len() > 1 && export_to.iter().any(|e| e == "*" || e == "~") {
            let text = "\"*\" and \"~\" must stand alone";
            self.error("spec.exportTo", "invalid-export", text, "keep \"*\", or the namespaces");
        }
    }

    pub(super) fn labels<'l>(
        &mut self,
        field: &str,
        labels: impl IntoIterator<Item = (&'l String, &'l String)>,
    ) {
        for (key, value) in labels {
            let field = format!("{field}{}", bracket(key));
            let (prefix, name) = key.rsplit_once('/').map_or((None, key.as_str()), |(p, n)| (Some(p), n));
            let fits = |s: &str| {
                s.len() <= 63
                    && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
                    && s.bytes().next().is_none_or(|b| b.is_ascii_alphanumeric())
            };
            if name.is_empty() || !fits(name) || prefix.is_some_and(|p| host_syntax(p).is_err()) {
                self.error(&field, "invalid-label", format!("{key:?} is not a label's key"), LABEL_ADVICE);
            }
            if !fits(value) {
                self.error(&field, "invalid-label", "is not a label's value", LABEL_ADVICE);
            }
        }
    }
}

const HOST_ADVICE: &str =
    "use labels of letters, digits and '-' joined by dots; only the first may start with '*'";
const HEADER_ADVICE: &str = "use letters, digits and !#$%&'*+-.^_`|~";
const LABEL_ADVICE: &str = "use letters, digits, '-', '_' and '.', at most 63";

/// A key as a step of a field path.
pub(super) fn bracket(key: &str) -> String {
    tidegate_api::field::key(key)
}

/// RFC 9110 token.
pub(crate) fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Whether a header says how a message is delimited, addressed or connected: the proxy alone writes it.
pub(crate) fn is_framing(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || FRAMING.iter().any(|n| n.eq_ignore_ascii_case(name))
}

pub(super) fn is_label(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.bytes().next())
        && edge(text.bytes().next_back())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// A DNS name; its first label may be `*`, or start with it.
pub(super) fn host_syntax(host: &str) -> Result<(), &'static str> {
    if host.is_empty() {
        return Err("it is empty");
    }
    if host.len() > LONGEST_HOST {
        return Err("it is longer than 255 characters");
    }
    if host == "*" {
        return Ok(());
    }
    for (i, label) in host.strip_suffix('.').unwrap_or(host).split('.').enumerate() {
        let label = match label.strip_prefix('*') {
            Some("") if i == 0 => continue,
            Some(rest) if i == 0 => rest.strip_prefix('-').unwrap_or(rest),
            Some(_) => return Err("only its first label may have a wildcard"),
            None => label,
        };
        if !is_label(label) {
            return Err("a label of it has other characters, or none");
        }
    }
    Ok(())
}
