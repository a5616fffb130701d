use crate::RequestView;
use crate::claim::find;
use crate::pattern::Patterns;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use tidegate_model::{
    Anchoring, ClaimPath, HIDDEN, HeaderName, InvalidPattern, PathMatch, Pattern, RouteMatch, StringMatch,
    ValueMatch, is_secret,
};

/// Hears why a rule does not match. [`Silent`] makes it free for requests that are only decided.
pub(crate) trait Recorder {
    /// The first condition that failed, in words.
    fn lost(&mut self, reason: impl FnOnce() -> String);
}

/// Records nothing.
pub(crate) struct Silent;

impl Recorder for Silent {
    #[inline]
    fn lost(&mut self, _reason: impl FnOnce() -> String) {}
}

/// Keeps the reason.
#[derive(Default)]
pub(crate) struct Reason(pub(crate) Option<String>);

impl Recorder for Reason {
    fn lost(&mut self, reason: impl FnOnce() -> String) {
        self.0 = Some(reason());
    }
}

/// What a condition looks at.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Subject {
    Method,
    Scheme,
    Authority,
    /// Path and query, as the pseudo header `:path` has them.
    Target,
    Header(HeaderName),
    /// The first value of a query parameter.
    Query(Arc<str>),
    /// A claim of a verified token, which may have many values.
    Claim(ClaimPath),
}

impl Subject {
    fn of_header(name: &HeaderName) -> Self {
        match name.as_str() {
            ":method" => Subject::Method,
            ":scheme" => Subject::Scheme,
            ":authority" => Subject::Authority,
            ":path" => Subject::Target,
            _ => Subject::Header(name.clone()),
        }
    }

    /// Its values in a request, in order: each line of a header is one by itself (Envoy since 1.39). Of a claim none.
    #[inline]
    pub(crate) fn each_value<R: RequestView + ?Sized>(&self, request: &R, mut value: impl FnMut(&[u8])) {
        match self {
            Subject::Method => value(request.method()),
            Subject::Scheme => value(request.scheme().as_str().as_bytes()),
            Subject::Authority => value(request.authority()),
            Subject::Target => match request.query() {
                None => value(request.path()),
                Some(query) => value(&[request.path(), b"?", query].concat()),
            },
            Subject::Header(name) => request.each_value(name, &mut value),
            Subject::Query(name) => {
                request
                    .query()
                    .and_then(|query| query_value(query, name.as_bytes()))
                    .into_iter()
                    .for_each(value);
            }
            Subject::Claim(_) => {}
        }
    }
}

/// The first value of `name` in a query, as it stands there; `name` alone has the empty value.
fn query_value<'q>(query: &'q [u8], name: &[u8]) -> Option<&'q [u8]> {
    query.split(|b| *b == b'&').find_map(|pair| match pair.strip_prefix(name)? {
        [] => Some(&[][..]),
        [b'=', value @ ..] => Some(value),
        _ => None,
    })
}

/// What a value must look like.
#[derive(Clone, Debug)]
pub(crate) enum Test {
    Present,
    Exact(Arc<str>),
    Prefix(Arc<str>),
    Regex(Arc<str>, Arc<Pattern>),
    /// A regex that does not compile. It holds, so that its rule answers for the requests that it
    /// may have been meant for and none falls through to a wider rule.
    Broken,
}

impl Test {
    pub(crate) fn text(m: &StringMatch, patterns: &mut Patterns, refused: &mut Vec<InvalidPattern>) -> Self {
        match m {
            StringMatch::Exact(s) => Test::Exact(s.clone()),
            StringMatch::Prefix(s) => Test::Prefix(s.clone()),
            StringMatch::Regex(s) => Test::regex(s, patterns, refused),
        }
    }

    fn regex(s: &Arc<str>, patterns: &mut Patterns, refused: &mut Vec<InvalidPattern>) -> Self {
        match patterns.get(s, Anchoring::Whole) {
            Ok(pattern) => Test::Regex(s.clone(), pattern),
            Err(e) => {
                refused.push(e);
                Test::Broken
            }
        }
    }

    pub(crate) fn holds(&self, value: &[u8]) -> bool {
        match self {
            Test::Present | Test::Broken => true,
            Test::Exact(s) => value == s.as_bytes(),
            Test::Prefix(s) => value.starts_with(s.as_bytes()),
            Test::Regex(_, pattern) => pattern.is_match(value),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Test::Present => f.write_str("any value"),
            Test::Exact(s) => write!(f, "exact {s:?}"),
            Test::Prefix(s) => write!(f, "prefix {s:?}"),
            Test::Regex(s, _) => write!(f, "regex {s:?}"),
            Test::Broken => f.write_str("an invalid regex"),
        }
    }
}

/// One condition on anything but the path.
#[derive(Clone, Debug)]
struct Condition {
    subject: Subject,
    /// The header's name as it was written, where it was written as a header.
    header: Option<HeaderName>,
    test: Test,
    invert: bool,
}

impl Condition {
    fn field(subject: Subject, test: Test) -> Self {
        Condition { subject, header: None, test, invert: false }
    }

    fn accepts<R: RequestView + ?Sized>(&self, request: &R) -> bool {
        if matches!(self.test, Test::Broken) {
            return true;
        }
        let mut found = None;
        self.subject.each_value(request, |v| found = Some(found == Some(true) || self.test.holds(v)));
        found.unwrap_or_else(|| self.holds_without_value(request)) != self.invert
    }

    fn holds_without_value<R: RequestView + ?Sized>(&self, request: &R) -> bool {
        match &self.subject {
            Subject::Claim(path) => find(request.claims(), path).is_some_and(|claim| self.holds_for(claim)),
            // Istio 2.3: for withoutHeaders an absent header is the empty string, except for presence.
            _ => self.invert && !matches!(self.test, Test::Present) && self.test.holds(b""),
        }
    }

    /// Whether a claim is such a text, or a list with one in it.
    fn holds_for(&self, claim: &Value) -> bool {
        let is = |value: &Value| value.as_str().is_some_and(|text| self.test.holds(text.as_bytes()));
        match claim {
            _ if matches!(self.test, Test::Present) => true,
            Value::Array(items) => items.iter().any(is),
            value => is(value),
        }
    }

    /// The test in words, without what may be a credential.
    fn wanted(&self) -> String {
        let name = match &self.subject {
            Subject::Header(name) => name.as_str(),
            Subject::Query(name) => name,
            Subject::Claim(path) => path.names().last().map_or("", |name| name),
            _ => "",
        };
        match &self.test {
            Test::Exact(_) if is_secret(name) => format!("exact {HIDDEN}"),
            Test::Prefix(_) if is_secret(name) => format!("prefix {HIDDEN}"),
            Test::Regex(..) if is_secret(name) => format!("regex {HIDDEN}"),
            test => test.to_string(),
        }
    }

    fn reason<R: RequestView + ?Sized>(&self, request: &R) -> String {
        let (test, invert) = (self.wanted(), &self.invert);
        if let Subject::Claim(path) = &self.subject {
            return match find(request.claims(), path) {
                None if request.claims().is_none() => format!("{self}: no verified token, wants {test}"),
                None => format!("{self}: absent, wants {test}"),
                Some(_) if *invert && matches!(self.test, Test::Present) => format!("{self}: present"),
                Some(claim) if *invert => format!("{self}: {test} matches {claim}"),
                Some(claim) => format!("{self}: {test} does not match {claim}"),
            };
        }
        let mut there = false;
        let mut values = Vec::new();
        self.subject.each_value(request, |v| {
            there = true;
            // Of an inverted condition, those that it failed by.
            if self.test.holds(v) == *invert {
                values.push(quoted(v));
            }
        });
        let values = values.join(", ");
        match there {
            false if *invert => format!("{self}: absent counts as \"\", which {test} matches"),
            false => format!("{self}: absent, wants {test}"),
            true if *invert && matches!(self.test, Test::Present) => format!("{self}: present"),
            true if *invert => format!("{self}: {test} matches {values}"),
            true => format!("{self}: {test} does not match {values}"),
        }
    }
}

/// The field that a user wrote the condition in.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.header, &self.subject) {
            (Some(name), _) if self.invert => write!(f, "withoutHeaders[{name}]"),
            (Some(name), _) | (None, Subject::Header(name)) => write!(f, "headers[{name}]"),
            (None, Subject::Method) => f.write_str("method"),
            (None, Subject::Scheme) => f.write_str("scheme"),
            (None, Subject::Authority) => f.write_str("authority"),
            (None, Subject::Target) => f.write_str("headers[:path]"),
            (None, Subject::Query(name)) => write!(f, "queryParams[{name}]"),
            (None, Subject::Claim(path)) if self.invert => write!(f, "withoutHeaders[{path}]"),
            (None, Subject::Claim(path)) => write!(f, "headers[{path}]"),
        }
    }
}

fn quoted(value: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(value))
}

/// What the index of paths may rely on: every path that a rule accepts equals or begins with this.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PathKey<'m> {
    /// The path is this.
    Exact(&'m [u8]),
    /// The path begins with this, and nothing else is asked of it.
    Prefix(&'m [u8]),
    /// The path begins with this, and must be looked at again.
    Within(&'m [u8]),
}

/// The conditions of one rule, compiled.
#[derive(Clone, Debug)]
pub(crate) struct Matcher {
    /// `Test::Present` is every path.
    path: Test,
    ignore_path_case: bool,
    conditions: Box<[Condition]>,
}

impl Matcher {
    /// Compiles the conditions of a rule; those that are refused hold for every request.
    pub(crate) fn compile(
        matches: &RouteMatch,
        patterns: &mut Patterns,
        refused: &mut Vec<InvalidPattern>,
    ) -> Self {
        let path = match &matches.path {
            PathMatch::Any => Test::Present,
            PathMatch::Exact(s) => Test::Exact(s.clone()),
            PathMatch::Prefix(s) => Test::Prefix(s.clone()),
            PathMatch::Regex(s) => Test::regex(s, patterns, refused),
        };
        let fields = [
            (Subject::Method, &matches.method),
            (Subject::Scheme, &matches.scheme),
            (Subject::Authority, &matches.authority),
        ];
        let mut conditions = Vec::new();
        for (subject, test) in fields {
            if let Some(test) = test {
                conditions.push(Condition::field(subject, Test::text(test, patterns, refused)));
            }
        }
        let mut value = |m: &ValueMatch| match m {
            ValueMatch::Present => Test::Present,
            ValueMatch::Value(m) => Test::text(m, patterns, refused),
        };
        conditions.extend(matches.headers.iter().map(|h| Condition {
            subject: Subject::of_header(&h.name),
            header: Some(h.name.clone()),
            test: value(&h.value),
            invert: h.invert,
        }));
        let query =
            matches.query.iter().map(|q| Condition::field(Subject::Query(q.name.clone()), value(&q.value)));
        conditions.extend(query);
        conditions.extend(matches.claims.iter().map(|c| Condition {
            subject: Subject::Claim(c.path.clone()),
            header: None,
            test: value(&c.value),
            invert: c.invert,
        }));
        Matcher { path, ignore_path_case: matches.ignore_path_case, conditions: conditions.into() }
    }

    /// Whether a request meets every condition; the recorder hears of the first that it does not.
    pub(crate) fn accepts<R: RequestView + ?Sized, E: Recorder>(
        &self,
        request: &R,
        recorder: &mut E,
    ) -> bool {
        if !self.accepts_path(request.path()) {
            recorder.lost(|| self.path_reason(request.path()));
            return false;
        }
        match self.conditions.iter().find(|c| !c.accepts(request)) {
            Some(failed) => {
                recorder.lost(|| failed.reason(request));
                false
            }
            None => true,
        }
    }

    fn accepts_path(&self, path: &[u8]) -> bool {
        match &self.path {
            Test::Exact(s) if self.ignore_path_case => path.eq_ignore_ascii_case(s.as_bytes()),
            Test::Prefix(s) if self.ignore_path_case => {
                path.get(..s.len()).is_some_and(|start| start.eq_ignore_ascii_case(s.as_bytes()))
            }
            test => test.holds(path),
        }
    }

    fn path_reason(&self, path: &[u8]) -> String {
        let case = if self.ignore_path_case { " (ignoring case)" } else { "" };
        format!("uri: {}{case} does not match {}", self.path, quoted(path))
    }

    /// Where the index of paths files this rule.
    pub(crate) fn path_key(&self) -> PathKey<'_> {
        match &self.path {
            Test::Present | Test::Broken => PathKey::Prefix(b""),
            Test::Exact(s) => PathKey::Exact(s.as_bytes()),
            Test::Prefix(s) => PathKey::Prefix(s.as_bytes()),
            Test::Regex(_, pattern) => PathKey::Within(pattern.literal_prefix()),
        }
    }

    /// Whether that index must fold the case of ASCII letters.
    pub(crate) fn ignores_path_case(&self) -> bool {
        self.ignore_path_case && matches!(self.path, Test::Exact(_) | Test::Prefix(_))
    }

    /// The number of conditions beside the path.
    pub(crate) fn conditions(&self) -> usize {
        self.conditions.len()
    }

    /// The conditions that ask for one exact value, by which rules can be told apart without a scan.
    pub(crate) fn exact_values(&self) -> impl Iterator<Item = (&Subject, &Arc<str>)> {
        self.conditions.iter().filter_map(|c| match &c.test {
            // A claim may have many values, so that rules with different ones may all match.
            Test::Exact(value) if !c.invert && !matches!(c.subject, Subject::Claim(_)) => {
                Some((&c.subject, value))
            }
            _ => None,
        })
    }

    /// The value that [`Matcher::exact_values`] has first for a subject.
    pub(crate) fn exact_value(&self, subject: &Subject) -> Option<&Arc<str>> {
        self.exact_values().find(|(s, _)| *s == subject).map(|(_, value)| value)
    }
}
