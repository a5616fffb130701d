//! Delegates: the rules of a root VirtualService with those of the ones it delegates to, merged.

use crate::export::reach;
use crate::matches::gateway_name;
use crate::report::Report;
use crate::world::{Item, World};
use std::borrow::Cow;
use tidegate_api::istio::{HttpMatchRequest, HttpRoute, StringMatch, VirtualService};
use tidegate_api::{Object, SmallMap};

/// A rule as it counts: one of the VirtualService itself, or of a delegate merged with its root's.
pub(crate) struct Rule<'a> {
    /// What to do; its `match` is replaced by `blocks`.
    pub(crate) route: Cow<'a, HttpRoute>,
    /// The match blocks with their index in `object`; none matches everything.
    pub(crate) blocks: Vec<Block<'a>>,
    /// Whose rule it is: for a delegate, the delegate.
    pub(crate) object: &'a Object,
    /// Its index in `spec.http` there.
    pub(crate) index: usize,
    /// The rule of the root that delegated.
    pub(crate) root: Option<(&'a Object, usize)>,
}

/// A match block and its index, which is missing when the block is the root's.
pub(crate) type Block<'a> = (Option<usize>, Cow<'a, HttpMatchRequest>);

impl Rule<'_> {
    /// The field path of the rule.
    pub(crate) fn field(&self) -> String {
        format!("spec.http[{}]", self.index)
    }
}

/// The rules of a VirtualService.
pub(crate) fn rules<'a>(
    world: &World<'a>,
    item: Item<'a, VirtualService>,
    report: &mut Report,
) -> Vec<Rule<'a>> {
    let (object, vs) = item;
    let mut rules = Vec::new();
    for (index, route) in vs.http.iter().enumerate() {
        if route.delegate.is_some() {
            delegated(world, object, index, route, &mut rules, report);
        } else {
            rules.push(Rule {
                route: Cow::Borrowed(route),
                blocks: own_blocks(route, &object.reference.namespace),
                object,
                index,
                root: None,
            });
        }
    }
    rules
}

fn own_blocks<'a>(route: &'a HttpRoute, namespace: &str) -> Vec<Block<'a>> {
    route.matches.iter().enumerate().map(|(i, m)| (Some(i), named(m, namespace))).collect()
}

/// A block of a VirtualService in `namespace` with its gateways by full name.
fn named<'a>(block: &'a HttpMatchRequest, namespace: &str) -> Cow<'a, HttpMatchRequest> {
    if block.gateways.is_empty() {
        return Cow::Borrowed(block);
    }
    let gateways = block.gateways.iter().map(|g| gateway_name(g, namespace)).collect();
    Cow::Owned(HttpMatchRequest { gateways, ..block.clone() })
}

fn delegated<'a>(
    world: &World<'a>,
    root: &'a Object,
    index: usize,
    route: &'a HttpRoute,
    rules: &mut Vec<Rule<'a>>,
    report: &mut Report,
) {
    let field = format!("spec.http[{index}].delegate");
    let Some((leaf, vs)) = find(world, root, route, &field, report) else { return };
    let of_root: Vec<_> = route.matches.iter().map(|m| named(m, &root.reference.namespace)).collect();
    for (at, own) in vs.http.iter().enumerate() {
        let place = format!("spec.http[{at}]");
        if own.delegate.is_some() {
            let text = "a delegate cannot delegate further, so this rule is left out";
            report.warning(leaf, &place, "nested-delegate", text, "route here");
            continue;
        }
        let Some(blocks) = merge_blocks(&of_root, own_blocks(own, &leaf.reference.namespace)) else {
            let text = format!(
                "no match of rule {index} of {} covers every match here, so this rule is left out",
                root.reference
            );
            let advice =
                "make each match narrower than one of the root's: same exact value, or a longer prefix";
            report.warning(leaf, &place, "delegate-conflict", text, advice);
            continue;
        };
        let route = Cow::Owned(merge_route(route, own));
        rules.push(Rule { route, blocks, object: leaf, index: at, root: Some((root, index)) });
    }
}

/// Why a rule has no delegate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoDelegate {
    Unknown(String),
    HasHosts(String),
    NotExported(String),
}

impl NoDelegate {
    /// What would have to be there.
    pub(crate) fn wanted(&self) -> String {
        match self {
            NoDelegate::Unknown(name) => format!("VirtualService {name}"),
            NoDelegate::HasHosts(name) => format!("VirtualService {name} without hosts"),
            NoDelegate::NotExported(name) => format!("VirtualService {name} exported to it"),
        }
    }
}

/// The VirtualService that a rule of `root` delegates to.
///
/// # Errors
/// When there is none that may be delegated to.
pub(crate) fn target<'a>(
    world: &World<'a>,
    root: &Object,
    route: &HttpRoute,
) -> Result<Item<'a, VirtualService>, NoDelegate> {
    let own = &*root.reference.namespace;
    let delegate = route.delegate.as_ref();
    let namespace = delegate.and_then(|d| d.namespace.as_deref()).filter(|n| !n.is_empty()).unwrap_or(own);
    let name = delegate.and_then(|d| d.name.as_deref()).unwrap_or_default();
    let full = || format!("{namespace}/{name}");
    let item = world.virtual_service(namespace, name).ok_or_else(|| NoDelegate::Unknown(full()))?;
    if !item.1.hosts.is_empty() {
        return Err(NoDelegate::HasHosts(full()));
    }
    if reach(&item.1.export_to, world.mesh.virtual_service_export_to(), namespace, own).is_none() {
        return Err(NoDelegate::NotExported(full()));
    }
    Ok(item)
}

fn find<'a>(
    world: &World<'a>,
    root: &'a Object,
    route: &HttpRoute,
    field: &str,
    report: &mut Report,
) -> Option<Item<'a, VirtualService>> {
    let own = &*root.reference.namespace;
    let (why, advice) = match target(world, root, route) {
        Ok(item) => return Some(item),
        Err(NoDelegate::Unknown(name)) => (
            format!("there is no VirtualService {name}"),
            "create it, or correct the name or namespace".into(),
        ),
        Err(NoDelegate::HasHosts(name)) => {
            (format!("VirtualService {name} has hosts"), "remove hosts and gateways from the delegate".into())
        }
        Err(NoDelegate::NotExported(name)) => (
            format!("VirtualService {name} is not exported to {own}"),
            format!("add {own:?} to its exportTo"),
        ),
    };
    let text = format!("{why}, so this rule is left out and later ones take its requests");
    report.warning(root, field, "unknown-delegate", text, advice);
    None
}

/// A delegate's rule over the root's: each field is taken whole from the one that has it, the delegate first.
fn merge_route(root: &HttpRoute, own: &HttpRoute) -> HttpRoute {
    let mut merged = own.clone();
    merged.matches = Vec::new();
    merged.name = join(root.name.as_deref(), own.name.as_deref());
    macro_rules! inherit {
        ($($field:ident),*) => {
            $( if merged.$field.is_none() { merged.$field.clone_from(&root.$field); } )*
        };
    }
    inherit!(
        rewrite,
        direct_response,
        timeout,
        retries,
        fault,
        mirror,
        mirror_percent,
        mirror_percentage,
        cors_policy,
        headers
    );
    if merged.mirrors.is_empty() {
        merged.mirrors.clone_from(&root.mirrors);
    }
    merged
}

fn join(root: Option<&str>, own: Option<&str>) -> Option<String> {
    match (root.filter(|n| !n.is_empty()), own.filter(|n| !n.is_empty())) {
        (Some(root), Some(own)) => Some(format!("{root}-{own}")),
        (one, other) => one.or(other).map(str::to_owned),
    }
}

/// Every block of the delegate with every block of the root that it is compatible with. `None` when one of the
/// delegate's has no such, which drops the whole rule.
fn merge_blocks<'a>(root: &[Cow<'a, HttpMatchRequest>], own: Vec<Block<'a>>) -> Option<Vec<Block<'a>>> {
    if root.is_empty() {
        return Some(own);
    }
    if own.is_empty() {
        return Some(root.iter().map(|m| (None, m.clone())).collect());
    }
    let mut merged = Vec::new();
    for (i, leaf) in own {
        let fitting: Vec<_> = root.iter().filter(|r| !conflicts(r, &leaf)).collect();
        if fitting.is_empty() {
            return None;
        }
        merged.extend(fitting.into_iter().map(|r| (i, Cow::Owned(merge_block(r, &leaf)))));
    }
    Some(merged)
}

fn merge_block(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> HttpMatchRequest {
    fn union<'m, V, M>(root: &'m M, leaf: &'m M) -> M
    where
        V: Clone + 'm,
        &'m M: IntoIterator<Item = (&'m String, &'m V)>,
        M: FromIterator<(String, V)>,
    {
        root.into_iter().chain(leaf).map(|(k, v)| (k.clone(), v.clone())).collect()
    }
    let text = |leaf: &Option<String>, root: &Option<String>| {
        leaf.clone().filter(|s| !s.is_empty()).or_else(|| root.clone())
    };
    HttpMatchRequest {
        name: join(root.name.as_deref(), leaf.name.as_deref()),
        uri: leaf.uri.clone().or_else(|| root.uri.clone()),
        scheme: leaf.scheme.clone().or_else(|| root.scheme.clone()),
        method: leaf.method.clone().or_else(|| root.method.clone()),
        authority: leaf.authority.clone().or_else(|| root.authority.clone()),
        headers: union(&root.headers, &leaf.headers),
        without_headers: union(&root.without_headers, &leaf.without_headers),
        query_params: union(&root.query_params, &leaf.query_params),
        port: leaf.port.filter(|p| *p != 0).or(root.port),
        source_labels: union(&root.source_labels, &leaf.source_labels),
        source_namespace: text(&leaf.source_namespace, &root.source_namespace),
        gateways: if leaf.gateways.is_empty() { root.gateways.clone() } else { leaf.gateways.clone() },
        ignore_uri_case: leaf.ignore_uri_case,
        stat_prefix: text(&leaf.stat_prefix, &root.stat_prefix),
    }
}

/// Whether a delegate's block asks for requests that the root's does not cover.
fn conflicts(root: &HttpMatchRequest, leaf: &HttpMatchRequest) -> bool {
    let one = |root: &Option<StringMatch>, leaf: &Option<StringMatch>| match (root, leaf) {
        (Some(root), Some(leaf)) => string_conflicts(root, leaf),
        _ => false,
    };
    let map = |root: &SmallMap<StringMatch>, leaf: &SmallMap<StringMatch>| {
        leaf.iter().any(|(key, value)| root.get(key).is_some_and(|root| string_conflicts(root, value)))
    };
    let port = |m: &HttpMatchRequest| m.port.filter(|p| *p != 0);
    let namespace = root.source_namespace.as_deref().filter(|n| !n.is_empty());
    let leaf_namespace = leaf.source_namespace.as_deref().filter(|n| !n.is_empty());
    one(&root.uri, &leaf.uri)
        || one(&root.scheme, &leaf.scheme)
        || one(&root.method, &leaf.method)
        || one(&root.authority, &leaf.authority)
        || map(&root.headers, &leaf.headers)
        || map(&root.without_headers, &leaf.without_headers)
        || map(&root.query_params, &leaf.query_params)
        || root.ignore_uri_case.unwrap_or(false) != leaf.ignore_uri_case.unwrap_or(false)
        || matches!((port(root), port(leaf)), (Some(root), Some(leaf)) if root != leaf)
        || matches!((namespace, leaf_namespace), (Some(root), Some(leaf)) if root != leaf)
        || leaf.source_labels.iter().any(|(k, v)| root.source_labels.get(k).is_some_and(|root| root != v))
        || (!root.gateways.is_empty() && !leaf.gateways.iter().all(|g| root.gateways.contains(g)))
}

fn string_conflicts(root: &StringMatch, leaf: &StringMatch) -> bool {
    use StringMatch::{Exact, Prefix};
    match (root, leaf) {
        (Exact(root), Exact(leaf)) => root != leaf,
        (Prefix(root), Prefix(leaf) | Exact(leaf)) => !leaf.starts_with(root.as_str()),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StringMatch::{Exact, Prefix, Present, Regex};

    #[test]
    fn conflicts_between_strings() {
        let s = |text: &str| text.to_owned();
        for (root, leaf, expected) in [
            (Exact(s("/a")), Exact(s("/a")), false),
            (Exact(s("/a")), Exact(s("/b")), true),
            (Exact(s("/a")), Prefix(s("/a")), true),
            (Prefix(s("/a")), Prefix(s("/a/b")), false),
            (Prefix(s("/a/b")), Prefix(s("/a")), true),
            (Prefix(s("/a")), Exact(s("/ab")), false),
            (Prefix(s("/a")), Exact(s("/b")), true),
            (Regex(s("/a")), Exact(s("/a")), true),
            (Prefix(s("/a")), Regex(s("/a")), true),
            (Present, Present, true),
        ] {
            assert_eq!(string_conflicts(&root, &leaf), expected, "{root:?} {leaf:?}");
        }
    }

    #[test]
    fn conflicts_of_the_other_fields() {
        let block = HttpMatchRequest::default;
        let labels = |v: &str| [("app".to_owned(), v.to_owned())].into();
        for (root, leaf, expected) in [
            (
                HttpMatchRequest { port: Some(80), ..block() },
                HttpMatchRequest { port: Some(81), ..block() },
                true,
            ),
            (HttpMatchRequest { port: Some(80), ..block() }, block(), false),
            (HttpMatchRequest { ignore_uri_case: Some(true), ..block() }, block(), true),
            (
                HttpMatchRequest { source_labels: labels("a"), ..block() },
                HttpMatchRequest { source_labels: labels("b"), ..block() },
                true,
            ),
            (
                HttpMatchRequest { gateways: vec!["a".into(), "b".into()], ..block() },
                HttpMatchRequest { gateways: vec!["a".into()], ..block() },
                false,
            ),
            (
                HttpMatchRequest { gateways: vec!["a".into()], ..block() },
                HttpMatchRequest { gateways: vec!["b".into()], ..block() },
                true,
            ),
        ] {
            assert_eq!(conflicts(&root, &leaf), expected, "{root:?} {leaf:?}");
        }
    }

    #[test]
    fn blocks_multiply_and_one_misfit_drops_the_rule() {
        let uri = |m| HttpMatchRequest { uri: Some(m), ..HttpMatchRequest::default() };
        let root = [Cow::Owned(uri(Prefix("/a".into()))), Cow::Owned(uri(Prefix("/b".into())))];
        let blocks = |own: Vec<HttpMatchRequest>| -> Vec<Block<'_>> {
            own.into_iter().enumerate().map(|(i, m)| (Some(i), Cow::Owned(m))).collect()
        };
        let own = vec![uri(Prefix("/a/1".into())), uri(Exact("/b/2".into()))];
        let merged = merge_blocks(&root, blocks(own)).unwrap();
        assert_eq!(merged.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [Some(0), Some(1)]);
        let with_misfit = vec![uri(Prefix("/a/1".into())), uri(Exact("/c".into()))];
        assert!(merge_blocks(&root, blocks(with_misfit)).is_none());
        assert_eq!(merge_blocks(&root, Vec::new()).unwrap().len(), 2);
        let method = HttpMatchRequest { method: Some(Exact("GET".into())), ..HttpMatchRequest::default() };
        assert_eq!(merge_blocks(&root, blocks(vec![method])).unwrap().len(), 2);
    }
}
