use crate::matcher::{Matcher, PathKey};

/// A rule's place in its virtual host: the lowest that matches wins.
pub(crate) type Rank = u32;

/// No rule.
pub(crate) const NONE: Rank = Rank::MAX;

/// How many rules with further conditions one path may meet before they are told apart by those.
const CROWD: usize = 8;

/// A rule to be indexed by its path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'m> {
    pub(crate) rank: Rank,
    pub(crate) matcher: &'m Matcher,
    /// How many of its conditions hold for every request that gets here.
    pub(crate) settled: usize,
}

/// Finds the rules whose path matches: radix trees over exact paths, prefixes and the literal
/// beginnings of regexes, one as it stands and one with the case of letters folded.
#[derive(Debug, Default)]
pub(crate) struct PathIndex {
    verbatim: Tree<false>,
    folded: Tree<true>,
}

impl PathIndex {
    /// Indexes rules in rank order. Also returns the ranks of those that share their paths with too
    /// many others.
    pub(crate) fn build(entries: &[Entry<'_>]) -> (Self, Vec<Rank>) {
        let mut index = PathIndex::default();
        for entry in entries {
            if entry.matcher.ignores_path_case() {
                index.folded.insert(entry);
            } else {
                index.verbatim.insert(entry);
            }
        }
        let mut crowded = index.verbatim.link();
        crowded.extend(index.folded.link());
        (index, crowded)
    }

    /// The lowest rank under `bound` whose path matches and that `accepts` does not reject; else
    /// `bound`. Rules without further conditions are not asked for.
    pub(crate) fn find(&self, path: &[u8], bound: Rank, accepts: impl Fn(Rank) -> bool) -> Rank {
        let verbatim = self.verbatim.locate(path);
        let folded = self.folded.locate(path);
        let best = bound.min(verbatim.unconditional()).min(folded.unconditional());
        let best = verbatim.search(best, &accepts);
        folded.search(best, &accepts)
    }
}

/// A radix tree in one vector; its root is the first node, for the empty path.
#[derive(Debug, Default)]
struct Tree<const FOLD: bool> {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    /// What leads here from the parent.
    label: Box<[u8]>,
    /// The first bytes of the children's labels, sorted.
    firsts: Vec<u8>,
    children: Vec<u32>,
    rules: Option<Box<Rules>>,
}

/// The rules that end at a node.
#[derive(Debug)]
struct Rules {
    /// For paths that end here.
    exact: Bucket,
    /// For paths that begin with this.
    prefix: Bucket,
    /// The lowest unconditional prefix here or on the way here.
    best: Rank,
    /// The lowest conditional prefix here or on the way here.
    first: Rank,
    /// The next node on the way back to the root that has conditional prefixes.
    outer: Option<u32>,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { exact: Bucket::default(), prefix: Bucket::default(), best: NONE, first: NONE, outer: None }
    }
}

/// Rules for one path.
#[derive(Debug)]
struct Bucket {
    /// The first that has no further condition.
    unconditional: Rank,
    /// Those before it, in order.
    conditional: Vec<Rank>,
}

impl Default for Bucket {
    fn default() -> Self {
        Bucket { unconditional: NONE, conditional: Vec::new() }
    }
}

impl Bucket {
    fn push(&mut self, rank: Rank, conditional: bool) {
        match conditional {
            true => self.conditional.push(rank),
            false => self.unconditional = self.unconditional.min(rank),
        }
    }

    /// Drops what a better unconditional rule hides.
    fn prune(&mut self, best: Rank) {
        let best = best.min(self.unconditional);
        self.conditional.retain(|rank| *rank < best);
        self.conditional.shrink_to_fit();
    }

    fn search(&self, bound: Rank, accepts: &impl Fn(Rank) -> bool) -> Rank {
        let mut under = self.conditional.iter().copied().take_while(|rank| *rank < bound);
        under.find(|rank| accepts(*rank)).unwrap_or(bound)
    }
}

impl<const FOLD: bool> Tree<FOLD> {
    fn insert(&mut self, entry: &Entry<'_>) {
        let (key, exact, within) = match entry.matcher.path_key() {
            PathKey::Exact(key) => (key, true, false),
            PathKey::Prefix(key) => (key, false, false),
            PathKey::Within(key) => (key, false, true),
        };
        let conditional = within || entry.matcher.conditions() > entry.settled;
        let at = if FOLD { self.node(&key.to_ascii_lowercase()) } else { self.node(key) };
        let rules = self.nodes[at].rules.get_or_insert_default();
        let bucket = if exact { &mut rules.exact } else { &mut rules.prefix };
        bucket.push(entry.rank, conditional);
    }

    /// The node of a path, made where there is none.
    fn node(&mut self, mut rest: &[u8]) -> usize {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let mut at = 0;
        while let Some(first) = rest.first() {
            match self.nodes[at].firsts.binary_search(first) {
                Ok(i) => {
                    let child = self.nodes[at].children[i] as usize;
                    let label = &self.nodes[child].label;
                    let common = label.iter().zip(rest).take_while(|(a, b)| a == b).count();
                    at = if common < label.len() { self.split(at, i, common) } else { child };
                    rest = &rest[common..];
                }
                Err(i) => {
                    let leaf = self.push(Node { label: rest.into(), ..Node::default() });
                    self.nodes[at].firsts.insert(i, *first);
                    self.nodes[at].children.insert(i, leaf);
                    return leaf as usize;
                }
            }
        }
        at
    }

    /// Puts a node between a parent and its child, after `common` bytes of the child's label.
    fn split(&mut self, parent: usize, child_index: usize, common: usize) -> usize {
        let child = self.nodes[parent].children[child_index];
        let label = std::mem::take(&mut self.nodes[child as usize].label);
        let (start, end) = label.split_at(common);
        self.nodes[child as usize].label = end.into();
        let middle =
            self.push(Node { label: start.into(), firsts: vec![end[0]], children: vec![child], rules: None });
        self.nodes[parent].children[child_index] = middle;
        middle as usize
    }

    #[expect(clippy::expect_used, reason = "a process holds no 2^32 paths of one virtual host")]
    fn push(&mut self, node: Node) -> u32 {
        self.nodes.push(node);
        u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 nodes")
    }

    /// Hands down from the root what every node must know of those above it, and returns the
    /// rules in a crowd.
    fn link(&mut self) -> Vec<Rank> {
        let mut crowded = Vec::new();
        let mut todo = Vec::new();
        if !self.nodes.is_empty() {
            todo.push((0, Above { best: NONE, first: NONE, nearest: None, conditional: 0 }));
        }
        while let Some((at, mut above)) = todo.pop() {
            let node = &mut self.nodes[at as usize];
            if let Some(rules) = &mut node.rules {
                rules.link(at, &mut above, &mut crowded);
            }
            todo.extend(node.children.iter().map(|child| (*child, above)));
        }
        crowded
    }

    /// Follows a path as far as the tree goes.
    fn locate(&self, path: &[u8]) -> Located<'_, FOLD> {
        let mut located = Located { tree: self, exact: None, prefix: None };
        let Some(mut node) = self.nodes.first() else { return located };
        let mut rest = path;
        loop {
            if let Some(rules) = &node.rules {
                located.prefix = Some(rules);
            }
            let Some(first) = rest.first() else {
                located.exact = node.rules.as_deref();
                return located;
            };
            let first = if FOLD { first.to_ascii_lowercase() } else { *first };
            let Ok(i) = node.firsts.binary_search(&first) else { return located };
            node = &self.nodes[node.children[i] as usize];
            let Some((start, end)) = rest.split_at_checked(node.label.len()) else { return located };
            // Most labels in a dense tree are one byte, which is known to be equal by now.
            let (start, label) = (&start[1..], &node.label[1..]);
            let same = || if FOLD { start.eq_ignore_ascii_case(label) } else { start == label };
            if !label.is_empty() && !same() {
                return located;
            }
            rest = end;
        }
    }
}

/// What is known of the nodes above a node.
#[derive(Clone, Copy)]
struct Above {
    best: Rank,
    first: Rank,
    nearest: Option<u32>,
    conditional: usize,
}

impl Rules {
    fn link(&mut self, at: u32, above: &mut Above, crowded: &mut Vec<Rank>) {
        above.best = above.best.min(self.prefix.unconditional);
        self.best = above.best;
        self.prefix.prune(above.best);
        self.exact.prune(above.best);
        self.outer = above.nearest;
        above.conditional += self.prefix.conditional.len();
        if above.conditional > CROWD {
            crowded.extend(&self.prefix.conditional);
        }
        if above.conditional + self.exact.conditional.len() > CROWD {
            crowded.extend(&self.exact.conditional);
        }
        if let Some(first) = self.prefix.conditional.first() {
            above.first = above.first.min(*first);
            above.nearest = Some(at);
        }
        self.first = above.first;
    }
}

/// Where a path leads to in a tree.
struct Located<'t, const FOLD: bool> {
    tree: &'t Tree<FOLD>,
    /// The rules of the node that the path ends at.
    exact: Option<&'t Rules>,
    /// The rules of the last node that begins the path.
    prefix: Option<&'t Rules>,
}

impl<const FOLD: bool> Located<'_, FOLD> {
    fn unconditional(&self) -> Rank {
        let exact = self.exact.map_or(NONE, |rules| rules.exact.unconditional);
        self.prefix.map_or(exact, |rules| rules.best.min(exact))
    }

    fn search(&self, bound: Rank, accepts: &impl Fn(Rank) -> bool) -> Rank {
        let mut best = self.exact.map_or(bound, |rules| rules.exact.search(bound, accepts));
        let mut at = self.prefix;
        while let Some(rules) = at
            && rules.first < best
        {
            best = rules.prefix.search(best, accepts);
            at = rules.outer.and_then(|outer| self.tree.nodes[outer as usize].rules.as_deref());
        }
        best
    }
}
