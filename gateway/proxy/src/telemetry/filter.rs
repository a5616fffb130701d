//! Which requests are logged.

use super::Record;
use super::format::{Reader, render_value};
use super::source::{Sources, sources};
use memchr::memmem::Finder;
use std::cell::RefCell;
use std::sync::Arc;
use tidegate_model::{Anchoring, Comparison, LogCondition, LogFilter, Operator, Pattern, TextTest};

/// A condition, ready to be asked.
pub(super) struct Filter(Condition);

enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Present(Value),
    Number(Value, Comparison, i64),
    Text(Value, Test),
}

/// Where a value is found.
struct Value(Operator, Sources);

enum Test {
    Equals(Arc<str>),
    Contains(Box<Finder<'static>>),
    StartsWith(Arc<str>),
    EndsWith(Arc<str>),
    /// `None` for one that does not compile, which matches nothing.
    Matches(Option<Pattern>),
}

impl Filter {
    pub(super) fn compile(filter: &LogFilter) -> Self {
        Filter(Condition::of(&filter.condition))
    }

    /// Whether the request is logged.
    pub(super) fn takes(&self, record: &Record<'_>) -> bool {
        thread_local! {
            static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        TEXT.with_borrow_mut(|text| self.0.holds(record, text)) == Some(true)
    }
}

impl Condition {
    fn of(condition: &LogCondition) -> Self {
        let value = |operator: &Operator| Value(operator.clone(), sources(operator, Reader::Log));
        match condition {
            LogCondition::All(all) => Condition::All(all.iter().map(Condition::of).collect()),
            LogCondition::Any(all) => Condition::Any(all.iter().map(Condition::of).collect()),
            LogCondition::Not(inner) => Condition::Not(Box::new(Condition::of(inner))),
            LogCondition::Present(operator) => Condition::Present(value(operator)),
            LogCondition::Number(operator, comparison, n) => {
                Condition::Number(value(operator), *comparison, *n)
            }
            LogCondition::Text(operator, test) => Condition::Text(value(operator), Test::of(test)),
        }
    }

    /// `None` where it takes a value that is absent to say, as in CEL.
    fn holds(&self, record: &Record<'_>, text: &mut Vec<u8>) -> Option<bool> {
        match self {
            Condition::All(all) => one_of(all, false, |c| c.holds(record, text)),
            Condition::Any(all) => one_of(all, true, |c| c.holds(record, text)),
            Condition::Not(inner) => inner.holds(record, text).map(|holds| !holds),
            Condition::Present(value) => Some(value.read(record, text).is_some()),
            Condition::Number(value, comparison, n) => {
                let read = std::str::from_utf8(value.read(record, text)?).ok()?.parse().ok()?;
                Some(comparison.holds(read, *n))
            }
            Condition::Text(value, test) => value.read(record, text).map(|read| test.passes(read)),
        }
    }
}

/// `decisive` where one of them says so, else the opposite unless one does not know.
fn one_of(
    all: &[Condition],
    decisive: bool,
    mut holds: impl FnMut(&Condition) -> Option<bool>,
) -> Option<bool> {
    let mut known = true;
    for condition in all {
        match holds(condition) {
            Some(found) if found == decisive => return Some(decisive),
            found => known &= found.is_some(),
        }
    }
    known.then_some(!decisive)
}

impl Value {
    fn read<'a>(&self, record: &Record<'_>, text: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        text.clear();
        render_value(&self.0, self.1, record, text).then_some(text)
    }
}

impl Test {
    fn of(test: &TextTest) -> Self {
        match test {
            TextTest::Equals(text) => Test::Equals(text.clone()),
            TextTest::Contains(text) => Test::Contains(Box::new(Finder::new(text.as_bytes()).into_owned())),
            TextTest::StartsWith(text) => Test::StartsWith(text.clone()),
            TextTest::EndsWith(text) => Test::EndsWith(text.clone()),
            TextTest::Matches(pattern) => Test::Matches(Pattern::compile(pattern, Anchoring::Anywhere).ok()),
        }
    }

    fn passes(&self, value: &[u8]) -> bool {
        match self {
            Test::Equals(text) => value == text.as_bytes(),
            Test::Contains(finder) => finder.find(value).is_some(),
            Test::StartsWith(text) => value.starts_with(text.as_bytes()),
            Test::EndsWith(text) => value.ends_with(text.as_bytes()),
            Test::Matches(pattern) => pattern.as_ref().is_some_and(|p| p.is_match(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Lists, cluster, forwarded, unrouted, workload};
    use super::*;
    use tidegate_model::{Field, HeaderName};

    fn takes(condition: LogCondition, record: &Record<'_>) -> bool {
        Filter::compile(&LogFilter { source: "".into(), condition }).takes(record)
    }

    fn not(condition: LogCondition) -> LogCondition {
        LogCondition::Not(Box::new(condition))
    }

    #[test]
    fn conditions() {
        let headers = Lists { request: vec![("x-a", b"one".to_vec())], ..Lists::default() };
        let (cluster, workload) = (cluster(), workload());
        let record = forwarded(&cluster, &workload, &headers);
        let code = |comparison, n| LogCondition::Number(Operator::Field(Field::ResponseCode), comparison, n);
        let header = |name| Operator::Request(HeaderName::new(name), None);
        let text = |name, test| LogCondition::Text(header(name), test);
        let (yes, no) = (code(Comparison::Equal, 200), code(Comparison::AtLeast, 400));
        let unknown = text("x-b", TextTest::Equals("".into()));
        for (condition, expected) in [
            (yes.clone(), true),
            (no.clone(), false),
            (code(Comparison::NotEqual, 200), false),
            (code(Comparison::Less, 201), true),
            (code(Comparison::AtMost, 200), true),
            (code(Comparison::Greater, 200), false),
            (not(no.clone()), true),
            (LogCondition::All(vec![yes.clone(), no.clone()]), false),
            (LogCondition::Any(vec![no.clone(), yes.clone()]), true),
            (unknown.clone(), false),
            (not(unknown.clone()), false),
            (LogCondition::Any(vec![unknown.clone(), yes.clone()]), true),
            (LogCondition::All(vec![unknown.clone(), yes]), false),
            (not(LogCondition::All(vec![unknown, no])), true),
            (LogCondition::Present(header("x-a")), true),
            (not(LogCondition::Present(header("x-b"))), true),
            (text("x-a", TextTest::Contains("n".into())), true),
            (text("x-a", TextTest::StartsWith("on".into())), true),
            (text("x-a", TextTest::EndsWith("on".into())), false),
            (text(":path", TextTest::Matches("^/reviews/[0-9]+".into())), true),
            (text("x-a", TextTest::Matches("(".into())), false),
        ] {
            assert_eq!(takes(condition.clone(), &record), expected, "{condition:?}");
        }
        let nothing = Lists::default();
        assert!(takes(code(Comparison::Equal, 0), &unrouted(&nothing)), "never answered");
    }
}
