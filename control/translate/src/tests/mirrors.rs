use super::{env, objects};
use crate::translate;
use tidegate_model::{Action, Share};

const AROUND: &str = "Service default/a: {ports: [{name: http, port: 80}]}
    Service default/b: {ports: [{name: http, port: 8080}]}
    Gateway default/g: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}";

#[test]
fn mirrors_and_their_shares() {
    const A: &str = "outbound|80||a.default.svc.cluster.local";
    const B: &str = "outbound|8080||b.default.svc.cluster.local";
    for (written, expected) in [
        ("mirror: {host: b}", &[(B, 100.0)][..]),
        ("mirror: {host: b}, mirrorPercentage: {value: 0.5}", &[(B, 0.5)]),
        ("mirror: {host: b}, mirrorPercentage: {value: 5}, mirrorPercent: 7", &[(B, 5.0)]),
        ("mirror: {host: b}, mirrorPercent: 7", &[(B, 7.0)]),
        ("mirror: {host: b}, mirror_percent: 7", &[(B, 7.0)]),
        ("mirror: {host: b}, mirrorPercent: 0", &[]),
        ("mirror: {host: b}, mirrorPercentage: {value: 0}", &[]),
        ("mirror: {host: b}, mirrorPercentage: {}", &[]),
        (
            "mirrors: [{destination: {host: b}}, {destination: {host: a}, percentage: {value: 5}}]",
            &[(B, 100.0), (A, 5.0)],
        ),
        ("mirrors: [{destination: {host: b}, percentage: {}}], mirrorPercent: 7", &[]),
        ("mirrorPercent: 7", &[]),
        ("mirror: {host: ghost}", &[("outbound|80||ghost.default.svc.cluster.local", 100.0)]),
    ] {
        let rule = format!(
            "VirtualService default/v: {{hosts: ['*'], gateways: [g], \
             http: [{{route: [{{destination: {{host: a}}}}], {written}}}]}}"
        );
        let t = translate(&objects(&format!("{AROUND}\n{rule}")), &env());
        let host = t.model.virtual_hosts.values().next().unwrap();
        let Action::Forward(forward) = &*host.routes[0].action else { panic!("{host:?}") };
        let found: Vec<_> = forward.mirrors.iter().map(|m| (m.cluster.as_str(), m.share)).collect();
        let expected: Vec<_> = expected.iter().map(|(name, p)| (*name, Share::percent(*p))).collect();
        assert_eq!(found, expected, "{written}");
        assert!(
            forward
                .mirrors
                .iter()
                .all(|m| m.cluster.as_str().contains("ghost") || t.model.clusters.contains_key(&m.cluster))
        );
        let alone = t.diagnostics.iter().find(|d| d.code == "no-effect").map(|d| d.field.as_str());
        let has_none = !written.starts_with("mirror:") && written.contains("mirrorPercent");
        assert_eq!(alone, has_none.then_some("spec.http[0].mirrorPercent"), "{written}");
        let missing = t.diagnostics.iter().find(|d| d.code == "unknown-host");
        let said = missing.map(|d| (d.field.as_str(), d.text.ends_with("; requests are not copied to it")));
        assert_eq!(
            said,
            written.contains("ghost").then_some(("spec.http[0].mirror.host", true)),
            "{written}"
        );
    }
}
