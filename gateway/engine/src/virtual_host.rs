use crate::RequestView;
use crate::pattern::Patterns;
use crate::redirect::Origin;
use crate::rule::Rule;
use crate::rule_index::RuleIndex;
use std::sync::Arc;
use tidegate_model::{RuleRef, VirtualHost};

/// A virtual host, compiled: shared by all the tables between which it does not change.
#[derive(Debug)]
pub(crate) struct CompiledHost {
    source: Arc<VirtualHost>,
    rules: Box<[Rule]>,
    index: RuleIndex,
}

impl CompiledHost {
    /// Compiles a virtual host of a table with this origin, and says which rules are refused.
    pub(crate) fn compile(
        source: &Arc<VirtualHost>,
        origin: Origin,
        patterns: &mut Patterns,
    ) -> (Self, Vec<(RuleRef, String)>) {
        let mut refused = Vec::new();
        let compile = |route| {
            let (rule, reasons) = Rule::compile(route, origin, patterns);
            refused.extend(reasons.into_iter().map(|reason| (route.rule.clone(), reason)));
            rule
        };
        let rules: Box<[Rule]> = source.routes.iter().map(compile).collect();
        let index = RuleIndex::build(&rules);
        (CompiledHost { source: source.clone(), rules, index }, refused)
    }

    /// What it was compiled from.
    pub(crate) fn source(&self) -> &Arc<VirtualHost> {
        &self.source
    }

    /// Its rules in rank order.
    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rank of the rule that decides a request.
    pub(crate) fn find<R: RequestView + ?Sized>(&self, request: &R) -> Option<usize> {
        self.index.find(&self.rules, request)
    }
}
