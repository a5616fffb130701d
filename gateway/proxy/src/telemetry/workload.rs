use std::collections::BTreeMap;
use std::sync::Arc;

/// The workload behind an endpoint as Istio's metrics name it. Made once per endpoint, so that
/// no request looks at labels. Empty parts are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Workload {
    /// `destination_workload`: the Deployment's (or other owner's) name.
    pub(crate) name: Arc<str>,
    /// `destination_app`: the label `app`.
    pub(crate) app: Arc<str>,
    /// `destination_version`: the label `version`.
    pub(crate) version: Arc<str>,
    /// `destination_canonical_service`.
    pub(crate) canonical_service: Arc<str>,
    /// `destination_canonical_revision`.
    pub(crate) canonical_revision: Arc<str>,
}

impl Workload {
    /// From a workload's name and labels, by Istio's order: its own label, Kubernetes' recommended
    /// one, the plain one, and for the service at last the workload's name.
    pub(crate) fn new(name: &Arc<str>, labels: &BTreeMap<String, String>) -> Self {
        let first = |keys: &[&str]| keys.iter().find_map(|k| labels.get(*k)).map(|v| Arc::from(v.as_str()));
        let revision =
            first(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
        Workload {
            name: name.clone(),
            app: first(&["app"]).unwrap_or_default(),
            version: first(&["version"]).unwrap_or_default(),
            canonical_service: first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
                .unwrap_or_else(|| name.clone()),
            canonical_revision: match revision {
                Some(r) => r,
                None if name.is_empty() && labels.is_empty() => Arc::default(),
                None => "latest".into(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_names_follow_istios_order() {
        let labels =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let of = |pairs: &[(&str, &str)]| {
            let w = Workload::new(&"reviews-v1".into(), &labels(pairs));
            [w.app, w.version, w.canonical_service, w.canonical_revision].map(|s| s.to_string())
        };
        let cases = [
            (&[("app", "reviews"), ("version", "v1")][..], ["reviews", "v1", "reviews", "v1"]),
            (&[("app", "a"), ("app.kubernetes.io/name", "b")], ["a", "", "b", "latest"]),
            (&[("service.istio.io/canonical-name", "c"), ("app", "a")], ["a", "", "c", "latest"]),
            (&[("service.istio.io/canonical-revision", "r"), ("version", "v")], ["", "v", "reviews-v1", "r"]),
            (&[], ["", "", "reviews-v1", "latest"]),
        ];
        for (pairs, expected) in cases {
            assert_eq!(of(pairs), expected, "{pairs:?}");
        }
        assert_eq!(Workload::new(&Arc::default(), &BTreeMap::new()), Workload::default());
    }
}
