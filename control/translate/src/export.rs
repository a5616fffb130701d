//! Who sees an object: `exportTo`.

/// How an object came to be visible. The order is that in which gateways merge VirtualServices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// Its own namespace alone.
    Private,
    /// The namespace by name.
    Named,
    /// All.
    Public,
}

/// How an object of namespace `own` is visible to `viewer`, if it is. Without `export_to`, `default` counts.
pub(crate) fn reach(export_to: &[String], default: &[String], own: &str, viewer: &str) -> Option<Reach> {
    let export_to = if export_to.is_empty() { default } else { export_to };
    let names = |s: &str| export_to.iter().any(|e| e == s);
    if export_to.is_empty() || names("*") {
        Some(Reach::Public)
    } else if own == viewer && (names(".") || names(own)) {
        Some(if export_to.len() == 1 { Reach::Private } else { Reach::Named })
    } else {
        names(viewer).then_some(Reach::Named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visibility() {
        for (export_to, default, own, viewer, expected) in [
            (&[][..], &[][..], "a", "b", Some(Reach::Public)),
            (&["*"], &["."], "a", "b", Some(Reach::Public)),
            (&[], &["."], "a", "b", None),
            (&[], &["."], "a", "a", Some(Reach::Private)),
            (&["."], &[], "a", "a", Some(Reach::Private)),
            (&["a"], &[], "a", "a", Some(Reach::Private)),
            (&["b"], &[], "a", "b", Some(Reach::Named)),
            (&["b"], &[], "a", "a", None),
            (&["~"], &[], "a", "a", None),
        ] {
            let strings = |s: &[&str]| s.iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(reach(&strings(export_to), &strings(default), own, viewer), expected, "{export_to:?}");
        }
    }
}
