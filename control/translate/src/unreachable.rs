//! Rules and match blocks that no request reaches.

use crate::delegate::Rule;
use crate::matches::{conditions, is_catch_all};
use crate::report::Report;
use crate::world::Item;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidegate_api::Object;
use tidegate_api::istio::{HttpMatchRequest, TcpRoute, VirtualService};
use tidegate_model::{HostPattern, ObjectRef, PathMatch, Route, RouteMatch};

/// What to do about it.
const ADVICE: &str = "move it before the wider one, or remove it";

/// What earlier matches take whole, and who does.
struct Taken<By> {
    everything: Option<By>,
    prefixes: BTreeMap<String, By>,
    exacts: BTreeMap<String, By>,
}

impl<By> Default for Taken<By> {
    fn default() -> Self {
        Taken { everything: None, prefixes: BTreeMap::new(), exacts: BTreeMap::new() }
    }
}

/// Reports what is unreachable in the rules of one VirtualService.
pub(crate) fn report(rules: &[Rule<'_>], report: &mut Report) {
    let mut taken = Taken::default();
    for rule in rules {
        if let Some(by) = &taken.everything {
            let text = format!("is never reached: {by} takes every request");
            report.warning(rule.object, &rule.field(), "unreachable-rule", text, ADVICE);
            continue;
        }
        if rule.blocks.is_empty() {
            taken.everything = Some(place(rule, None));
        }
        for (index, block) in &rule.blocks {
            let field = match index {
                Some(i) => format!("{}.match[{i}]", rule.field()),
                None => rule.field(),
            };
            let matches = conditions(block);
            if let Some(by) = &taken.everything {
                let text = format!("is never reached: {by} takes every request");
                report.warning(rule.object, &field, "unreachable-rule", text, ADVICE);
            } else if let Some((path, _)) = taken.shadows(&matches) {
                let text =
                    format!("is never reached: an earlier match takes every path that starts like {path:?}");
                report.warning(rule.object, &field, "shadowed-match", text, ADVICE);
            }
            if depends_on_place(block) {
                continue;
            }
            if is_catch_all(&matches) {
                taken.everything.get_or_insert_with(|| place(rule, *index));
            } else {
                taken.add(&matches, String::new());
            }
        }
    }
}

/// Reports which rules for TCP of a VirtualService no connection reaches: those behind one without conditions.
pub(crate) fn report_tcp((object, vs): Item<'_, VirtualService>, report: &mut Report) {
    let takes_all = |rule: &TcpRoute| {
        rule.matches.is_empty()
            || rule.matches.iter().any(|m| m.port.is_none_or(|p| p == 0) && m.gateways.is_empty())
    };
    let Some(first) = vs.tcp.iter().position(takes_all) else { return };
    // Sidecars look at more than that.
    if vs.gateways.is_empty() || vs.gateways.iter().any(|g| g == "mesh") {
        return;
    }
    for index in first + 1..vs.tcp.len() {
        let text = format!("is never reached: spec.tcp[{first}] takes every connection");
        let advice = "move it before the wider one, or remove it";
        report.warning(object, &format!("spec.tcp[{index}]"), "unreachable-rule", text, advice);
    }
}

fn place(rule: &Rule<'_>, index: Option<usize>) -> String {
    let of = if rule.root.is_some() { format!(" of {}", rule.object.reference) } else { String::new() };
    match index {
        Some(i) => format!("{}.match[{i}]{of}", rule.field()),
        None => format!("{}{of}", rule.field()),
    }
}

/// Whether a block counts in some places and not in others.
fn depends_on_place(block: &HttpMatchRequest) -> bool {
    block.port.is_some_and(|p| p != 0)
        || !block.gateways.is_empty()
        || !block.source_labels.is_empty()
        || block.source_namespace.as_ref().is_some_and(|n| !n.is_empty())
}

/// Reports which routes of a virtual host no request reaches because another VirtualService has the host too, and comes
/// first: the older one does, except that what takes every request comes last.
pub(crate) fn report_merged<'o>(
    domain: &HostPattern,
    routes: &[Arc<Route>],
    object: impl Fn(&ObjectRef) -> Option<&'o Object>,
    report: &mut Report,
) {
    let mut taken: Taken<&ObjectRef> = Taken::default();
    for route in routes {
        let own = route.rule.root.as_deref().map_or(&route.rule.object, |(root, _)| root);
        let everything = taken.everything.map(|by| ("every request".to_owned(), by));
        let path = || {
            taken.shadows(&route.matches).map(|(path, by)| (format!("paths that start like {path:?}"), *by))
        };
        if let Some((what, by)) = everything.or_else(path).filter(|(_, by)| *by != own)
            && let Some(object) = object(&route.rule.object)
        {
            let field = match route.rule.match_index {
                Some(i) => format!("spec.http[{}].match[{i}]", route.rule.index),
                None => format!("spec.http[{}]", route.rule.index),
            };
            let text = format!(
                "is never reached for {domain}: {by} has that host too, comes first, and takes {what}"
            );
            let advice = "keep the host in one VirtualService, or make the matches of the two differ";
            report.warning(object, &field, "conflicting-host", text, advice);
        }
        if is_catch_all(&route.matches) {
            taken.everything.get_or_insert(own);
        } else {
            taken.add(&route.matches, own);
        }
    }
}

impl<By> Taken<By> {
    /// Which earlier path match takes everything that `m` accepts, and whose it is.
    fn shadows(&self, m: &RouteMatch) -> Option<(&str, &By)> {
        let path = match &m.path {
            PathMatch::Exact(path) | PathMatch::Prefix(path) if !m.ignore_path_case => path,
            _ => return None,
        };
        if matches!(m.path, PathMatch::Exact(_))
            && let Some((same, by)) = self.exacts.get_key_value(&**path)
        {
            return Some((same, by));
        }
        let ends = path.char_indices().map(|(i, c)| i + c.len_utf8());
        let mut starts = ends.map(|end| &path[..end]);
        starts.find_map(|start| self.prefixes.get_key_value(start)).map(|(start, by)| (start.as_str(), by))
    }

    fn add(&mut self, m: &RouteMatch, by: By) {
        let path_alone = RouteMatch { path: m.path.clone(), ..RouteMatch::default() } == *m;
        let (paths, path) = match &m.path {
            PathMatch::Prefix(path) if path_alone => (&mut self.prefixes, path),
            PathMatch::Exact(path) if path_alone => (&mut self.exacts, path),
            _ => return,
        };
        paths.entry(path.to_string()).or_insert(by);
    }
}
