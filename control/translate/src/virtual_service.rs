//! The rules of VirtualServices for one host, as routes in rank order.

use crate::action::{PathKind, action};
use crate::clusters::Clusters;
use crate::cors::cors;
use crate::delegate::Rule;
use crate::matches::{Place, applies, conditions, is_catch_all};
use crate::report::Report;
use std::sync::Arc;
use tidegate_model::{Action, Cors, PathMatch, Route, RouteMatch, RuleRef};

/// The routes of one VirtualService's rules at `place`, up to the first that takes every request.
pub(crate) fn routes(
    rules: &[Rule<'_>],
    place: &Place<'_>,
    domain: &str,
    clusters: &mut Clusters<'_, '_>,
    report: &mut Report,
) -> Vec<Arc<Route>> {
    let mut routes = Vec::new();
    for rule in rules {
        let mut actions = Actions { rule, port: place.port, domain, made: [None, None] };
        let cors = rule.route.cors_policy.as_deref().map(cors);
        if rule.blocks.is_empty() {
            let made = shared(actions.get(PathKind::Prefix, clusters, report), &routes);
            routes.push(route(rule, None, None, RouteMatch::default(), cors, made));
            return routes;
        }
        for (index, block) in &rule.blocks {
            if !applies(block, place) {
                continue;
            }
            let matches = conditions(block);
            let kind = match matches.path {
                PathMatch::Exact(_) | PathMatch::Regex(_) => PathKind::Whole,
                PathMatch::Any | PathMatch::Prefix(_) => PathKind::Prefix,
            };
            let last = is_catch_all(&matches);
            let made = shared(actions.get(kind, clusters, report), &routes);
            routes.push(route(rule, *index, block.name.as_deref(), matches, cors.clone(), made));
            if last {
                return routes;
            }
        }
    }
    routes
}

/// The action of the last route, where it is equal: neighbours often differ in their matches alone.
fn shared(action: Arc<Action>, routes: &[Arc<Route>]) -> Arc<Action> {
    routes.last().map(|route| &route.action).filter(|last| **last == action).cloned().unwrap_or(action)
}

/// The actions of a rule, each made once.
struct Actions<'r, 'a> {
    rule: &'r Rule<'a>,
    port: u16,
    domain: &'r str,
    made: [Option<Arc<Action>>; 2],
}

impl Actions<'_, '_> {
    fn get(&mut self, kind: PathKind, clusters: &mut Clusters<'_, '_>, report: &mut Report) -> Arc<Action> {
        let made = &mut self.made[usize::from(kind == PathKind::Whole)];
        made.get_or_insert_with(|| {
            Arc::new(action(self.rule, kind, self.port, self.domain, clusters, report))
        })
        .clone()
    }
}

fn route(
    rule: &Rule<'_>,
    match_index: Option<usize>,
    match_name: Option<&str>,
    matches: RouteMatch,
    cors: Option<Arc<Cors>>,
    action: Arc<Action>,
) -> Arc<Route> {
    let field = match match_index {
        Some(m) => format!("{}.match[{m}]", rule.field()),
        None => rule.field(),
    };
    let name = match (rule.route.name.as_deref().unwrap_or_default(), match_name.unwrap_or_default()) {
        (name, "") => name.to_owned(),
        (name, m) => format!("{name}.{m}"),
    };
    Arc::new(Route {
        name: name.into(),
        rule: RuleRef {
            object: rule.object.reference.clone(),
            index: rule.index,
            match_index,
            root: rule.root.map(|(root, index)| Box::new((root.reference.clone(), index))),
        },
        origin: rule.object.locate(&field),
        matches,
        cors,
        action,
    })
}

/// Moves the routes that take every request behind the others; order is kept otherwise.
pub(crate) fn catch_alls_last(routes: &mut [Arc<Route>]) {
    routes.sort_by_key(|r| is_catch_all(&r.matches));
}
