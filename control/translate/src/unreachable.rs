//! Rules and match blocks that no request reaches.

use crate::delegate::Rule;
use crate::matches::{conditions, is_catch_all};
use crate::report::Report;
use crate::world::Item;
use std::collections::BTreeSet;
use tidegate_api::istio::{HttpMatchRequest, TcpRoute, VirtualService};
use tidegate_model::{PathMatch, RouteMatch};

/// What earlier blocks of a VirtualService take whole.
#[derive(Default)]
struct Taken {
    /// Field and object of the block that takes everything.
    everything: Option<String>,
    prefixes: BTreeSet<String>,
    exacts: BTreeSet<String>,
}

/// Reports what is unreachable in the rules of one VirtualService.
pub(crate) fn report(rules: &[Rule<'_>], report: &mut Report) {
    const ADVICE: &str = "move it before the wider one, or remove it";
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
            } else if let Some(path) = taken.shadows(&matches) {
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
                taken.add(&matches);
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

impl Taken {
    /// Which earlier path match takes everything that `m` accepts.
    fn shadows(&self, m: &RouteMatch) -> Option<&str> {
        let path = match &m.path {
            PathMatch::Exact(path) | PathMatch::Prefix(path) if !m.ignore_path_case => path,
            _ => return None,
        };
        if matches!(m.path, PathMatch::Exact(_))
            && let Some(same) = self.exacts.get(&**path)
        {
            return Some(same);
        }
        let ends = path.char_indices().map(|(i, c)| i + c.len_utf8());
        ends.map(|end| &path[..end]).find_map(|start| self.prefixes.get(start)).map(String::as_str)
    }

    fn add(&mut self, m: &RouteMatch) {
        let path_alone = RouteMatch { path: m.path.clone(), ..RouteMatch::default() } == *m;
        match &m.path {
            PathMatch::Prefix(path) if path_alone => self.prefixes.insert(path.to_string()),
            PathMatch::Exact(path) if path_alone => self.exacts.insert(path.to_string()),
            _ => false,
        };
    }
}
