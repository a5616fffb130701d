use super::*;
use crate::Admission;
use tidegate_model::{ObjectRef, Severity};

fn vs(destination: &str) -> String {
    format!(
        "VirtualService default/v: {{hosts: [x.com], gateways: [gateway], http: [{{route: [{{destination: {{{destination}}}}}]}}]}}"
    )
}

/// The destination that counts, and the codes of what was said.
fn admit(admission: &mut Admission, lines: &str) -> (Option<String>, Vec<&'static str>) {
    let admitted = admission.admit(objects(lines), &env());
    let found = admitted.objects.get(&ObjectRef::new("VirtualService", "default", "v"));
    let host =
        found.and_then(|o| match &o.spec {
            tidegate_api::Spec::VirtualService(vs) => vs.http.first()?.route.first().map(|d| {
                format!("{} {}", d.destination.host, d.destination.subset.as_deref().unwrap_or("-"))
            }),
            _ => None,
        });
    (host, admitted.diagnostics.iter().filter(|d| d.severity != Severity::Note).map(|d| d.code).collect())
}

#[test]
fn an_invalid_object_keeps_its_last_good_version() {
    let mut admission = Admission::new();
    let bad = vs("host: 'not a host'");
    assert_eq!(admit(&mut admission, &bad), (None, vec!["invalid-host", "refused"]));
    assert_eq!(admit(&mut admission, &format!("{A}\n{}", vs("host: a"))), (Some("a -".into()), vec![]));
    let again = admit(&mut admission, &format!("{A}\n{bad}"));
    assert_eq!(again, (Some("a -".into()), vec!["invalid-host", "refused"]));
    assert_eq!(admit(&mut admission, A), (None, vec![]));
    assert_eq!(admit(&mut admission, &bad), (None, vec!["invalid-host", "refused"]));
}

#[test]
fn a_change_waits_for_what_it_names() {
    let mut admission = Admission::new();
    // The first version may name anything.
    assert_eq!(admit(&mut admission, &vs("host: b")), (Some("b -".into()), vec![]));
    assert_eq!(admit(&mut admission, &vs("host: a")), (Some("a -".into()), vec![]));
    assert_eq!(admit(&mut admission, &format!("{A}\n{}", vs("host: a"))), (Some("a -".into()), vec![]));
    // Then the last one serves until the new one can.
    assert_eq!(admit(&mut admission, &format!("{A}\n{}", vs("host: b"))), (Some("a -".into()), vec!["held"]));
    assert_eq!(
        admit(&mut admission, &format!("{A}\n{}", vs("host: a, subset: v1"))),
        (Some("a -".into()), vec!["held"])
    );
    assert_eq!(
        admit(&mut admission, &format!("{A}\n{}", vs("host: a, port: {number: 99}"))),
        (Some("a -".into()), vec!["held"])
    );
    let rule = "DestinationRule default/a: {host: a, subsets: [{name: v1, labels: {}}]}";
    let with_rule = format!("{A}\n{rule}\n{}", vs("host: a, subset: v1"));
    assert_eq!(admit(&mut admission, &with_rule), (Some("a v1".into()), vec![]));
    // What the last one needs is gone: there is nothing to hold on to.
    assert_eq!(admit(&mut admission, &vs("host: b")), (Some("b -".into()), vec![]));
}

#[test]
fn rules_for_connections_wait_too() {
    let version = |section: &str, host: &str| {
        let matched = if section == "tls" { "match: [{sniHosts: [x.com]}], " } else { "" };
        format!(
            "VirtualService default/v: {{hosts: [x.com], gateways: [gateway], {section}: [{{{matched}route: \
             [{{destination: {{host: {host}}}}}]}}]}}"
        )
    };
    for section in ["tcp", "tls"] {
        let mut admission = Admission::new();
        assert_eq!(admit(&mut admission, &format!("{A}\n{}", version(section, "a"))).1, [""; 0]);
        assert_eq!(
            admit(&mut admission, &format!("{A}\n{}", version(section, "b"))).1,
            ["held"],
            "{section}"
        );
        assert_eq!(admit(&mut admission, &format!("{A}\n{B}\n{}", version(section, "b"))).1, [""; 0]);
    }
}
