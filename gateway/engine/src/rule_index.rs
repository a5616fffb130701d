use crate::RequestView;
use crate::matcher::{Silent, Subject};
use crate::path_index::{Entry, NONE, PathIndex, Rank};
use crate::rule::Rule;
use ahash::{AHashMap, AHashSet};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Up to this many rules are looked at one after the other.
const FEW: usize = 4;
/// From this many rules that share their paths on, they are told apart by a value.
const GROUP: usize = 8;
/// By how many values, one after the other, rules are told apart.
const DEPTH: usize = 4;

/// Finds the first rule of a virtual host that accepts a request, without looking at the others.
///
/// Rules are found by their path. Where many of them share their paths and ask for an exact value
/// of the same header, method, authority or query parameter, they are found by that value first.
#[derive(Debug)]
pub(crate) struct RuleIndex(Node);

#[derive(Debug)]
enum Node {
    Few(Box<[Rank]>),
    Many(Box<Branch>),
}

#[derive(Debug)]
struct Branch {
    paths: PathIndex,
    /// By the lowest rank in it.
    keyed: Box<[Keyed]>,
}

/// Rules that ask for an exact value of one subject.
#[derive(Debug)]
struct Keyed {
    subject: Subject,
    first: Rank,
    values: AHashMap<Arc<[u8]>, Node>,
}

impl RuleIndex {
    /// Indexes the rules of a virtual host, given in rank order.
    pub(crate) fn build(rules: &[Rule]) -> Self {
        let entries =
            (0..).zip(rules).map(|(rank, rule)| Entry { rank, matcher: rule.matcher(), settled: 0 });
        RuleIndex(Node::build(entries.collect(), &mut Vec::new()))
    }

    /// The first rule that accepts the request.
    pub(crate) fn find<R: RequestView + ?Sized>(&self, rules: &[Rule], request: &R) -> Option<usize> {
        let rank = self.0.find(rules, request, NONE);
        (rank != NONE).then_some(rank as usize)
    }
}

impl Node {
    fn build(entries: Vec<Entry<'_>>, settled: &mut Vec<Subject>) -> Self {
        if entries.len() <= FEW {
            return Node::Few(entries.iter().map(|e| e.rank).collect());
        }
        let (paths, crowded) = PathIndex::build(&entries);
        if crowded.len() < GROUP || settled.len() == DEPTH {
            return Node::Many(Box::new(Branch { paths, keyed: [].into() }));
        }
        let crowded: AHashSet<Rank> = crowded.into_iter().collect();
        let (mut crowd, mut rest): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|e| crowded.contains(&e.rank));
        let mut keyed = Vec::new();
        while let Some(subject) = telling(&crowd, settled) {
            let (with, without) = crowd.into_iter().partition(|e| e.matcher.exact_value(&subject).is_some());
            crowd = without;
            keyed.push(Keyed::build(subject, with, settled));
        }
        if keyed.is_empty() {
            return Node::Many(Box::new(Branch { paths, keyed: [].into() }));
        }
        keyed.sort_by_key(|k| k.first);
        rest.append(&mut crowd);
        rest.sort_by_key(|e| e.rank);
        Node::Many(Box::new(Branch { paths: PathIndex::build(&rest).0, keyed: keyed.into() }))
    }

    /// The lowest rank under `bound` that accepts the request, else `bound`.
    fn find<R: RequestView + ?Sized>(&self, rules: &[Rule], request: &R, bound: Rank) -> Rank {
        let accepts = |rank: Rank| rules[rank as usize].matcher().accepts(request, &mut Silent);
        match self {
            Node::Few(ranks) => {
                let mut under = ranks.iter().copied().take_while(|rank| *rank < bound);
                under.find(|rank| accepts(*rank)).unwrap_or(bound)
            }
            Node::Many(branch) => {
                let mut best = branch.paths.find(request.path(), bound, accepts);
                for keyed in &branch.keyed {
                    if keyed.first >= best {
                        break;
                    }
                    let mut place = 0;
                    keyed.subject.each_value(request, |value| {
                        if let Some(node) = keyed.values.get(value)
                            && !keyed.repeats(request, value, place)
                        {
                            best = node.find(rules, request, best);
                        }
                        place += 1;
                    });
                }
                best
            }
        }
    }
}

impl Keyed {
    fn build(subject: Subject, entries: Vec<Entry<'_>>, settled: &mut Vec<Subject>) -> Self {
        let first = entries.iter().map(|e| e.rank).min().unwrap_or(NONE);
        let mut groups: BTreeMap<Arc<str>, Vec<Entry<'_>>> = BTreeMap::new();
        for entry in entries {
            if let Some(value) = entry.matcher.exact_value(&subject) {
                let settled = Entry { settled: entry.settled + 1, ..entry };
                groups.entry(value.clone()).or_default().push(settled);
            }
        }
        settled.push(subject.clone());
        let values = groups.into_iter().map(|(value, group)| (value.into(), Node::build(group, settled)));
        let values = values.collect();
        settled.pop();
        Keyed { subject, first, values }
    }

    /// Whether the value at `place` was there before, so that no node is searched twice: nodes below repeat it.
    fn repeats<R: RequestView + ?Sized>(&self, request: &R, value: &[u8], place: usize) -> bool {
        if place == 0 {
            return false;
        }
        let (mut at, mut found) = (0, false);
        self.subject.each_value(request, |earlier| {
            found |= at < place && earlier == value;
            at += 1;
        });
        found
    }
}

/// The subject whose exact values tell most of the entries apart, beside those already used.
fn telling(entries: &[Entry<'_>], settled: &[Subject]) -> Option<Subject> {
    let mut seen: BTreeMap<&Subject, (AHashSet<&str>, usize)> = BTreeMap::new();
    for entry in entries {
        for (subject, value) in entry.matcher.exact_values() {
            // `:path` has to be put together for every request.
            if *subject == Subject::Target || settled.contains(subject) {
                continue;
            }
            let (values, count) = seen.entry(subject).or_default();
            values.insert(value);
            *count += 1;
        }
    }
    let useful = seen.into_iter().filter(|(_, (values, count))| *count >= GROUP && values.len() > 1);
    useful.max_by_key(|(_, (values, count))| (values.len(), *count)).map(|(subject, _)| subject.clone())
}
