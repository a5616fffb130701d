use crate::Operator;
use serde::{Serialize, Serializer};
use std::cmp::Ordering;
use std::sync::Arc;

/// Which requests are logged: what Istio's `filter.expression` says in CEL.
///
/// A comparison with a value that is absent is neither true nor false, and a request is logged where the whole is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter {
    /// As it was written.
    pub source: Arc<str>,
    /// What it means.
    pub condition: LogCondition,
}

/// A condition on what is known of a request when it has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogCondition {
    /// Each of them holds.
    All(Vec<LogCondition>),
    /// One of them holds.
    Any(Vec<LogCondition>),
    /// It does not hold.
    Not(Box<LogCondition>),
    /// There is such a value.
    Present(Operator),
    /// A number compares like this.
    Number(Operator, Comparison, i64),
    /// A text passes this test.
    Text(Operator, TextTest),
}

/// How numbers compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
}

/// What is asked of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextTest {
    /// It is this.
    Equals(Arc<str>),
    /// It has this in it.
    Contains(Arc<str>),
    /// It begins with this.
    StartsWith(Arc<str>),
    /// It ends with this.
    EndsWith(Arc<str>),
    /// This RE2 pattern is found in it.
    Matches(Arc<str>),
}

impl Comparison {
    /// Whether `a` compares like this to `b`.
    pub fn holds(self, a: i64, b: i64) -> bool {
        let order = a.cmp(&b);
        match self {
            Comparison::Equal => order == Ordering::Equal,
            Comparison::NotEqual => order != Ordering::Equal,
            Comparison::Less => order == Ordering::Less,
            Comparison::AtMost => order != Ordering::Greater,
            Comparison::Greater => order == Ordering::Greater,
            Comparison::AtLeast => order != Ordering::Less,
        }
    }
}

impl Serialize for LogFilter {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.source.serialize(s)
    }
}
