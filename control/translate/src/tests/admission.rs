use super::*;
use crate::Admission;
use proptest::prelude::*;
use tidegate_model::{ObjectRef, Severity};

fn vs(destination: &str) -> String {
    format!(
        "VirtualService default/v: {{hosts: [x.com], gateways: [gateway], http: [{{route: [{{destination: {{{destination}}}}}]}}]}}"
    )
}

/// The destination that counts, and the codes of what was said.
fn admit(admission: &mut Admission, lines: &str) -> (Option<String>, Vec<&'static str>) {
    let admitted = admission.admit(objects(&format!("{GATEWAY}\n{lines}")), &env());
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
fn what_was_deleted_stays_for_those_that_wait() {
    let entry = |name: &str| {
        format!(
            "ServiceEntry default/{name}: {{hosts: [{name}.com], ports: [{{number: 80, name: http, protocol: HTTP}}], \
             resolution: STATIC, endpoints: [{{address: 10.0.0.1}}]}}\n\
             DestinationRule default/{name}: {{host: {name}.com, subsets: [{{name: v1, labels: {{}}}}]}}"
        )
    };
    let (old, new) = (vs("host: old.com, subset: v1"), vs("host: new.com, subset: v1"));
    let kinds = |admission: &mut Admission, lines: &str| {
        let admitted = admission.admit(objects(&format!("{GATEWAY}\n{lines}")), &env());
        let kept = admitted.objects.iter().filter(|o| &*o.reference.name == "old").count();
        let held = admitted.diagnostics.iter().filter(|d| d.code == "held").count();
        (kept, held)
    };
    let mut admission = Admission::new();
    assert_eq!(admit(&mut admission, &format!("{}\n{old}", entry("old"))).1, [""; 0]);
    // the route goes to another service, which comes later; the old one is gone by then
    let served = admit(&mut admission, &new);
    assert_eq!(served, (Some("old.com v1".into()), vec!["held"; 3]));
    assert_eq!(kinds(&mut admission, &new), (2, 3), "for as long as that lasts");
    assert_eq!(kinds(&mut admission, &format!("{}\n{new}", entry("new"))), (0, 0));
    // a route that names what was deleted asks for that, whatever else it changes or waits for
    let both =
        new.replace("http: [", "http: [{match: [{uri: {exact: /x}}], route: [{destination: {host: c}}]}, ");
    assert_eq!(kinds(&mut admission, &both), (0, 0));
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

/// The codes of what was said, by object and field.
fn codes(admission: &mut Admission, lines: &str) -> Vec<String> {
    let admitted = admission.admit(objects(lines), &env());
    let said = admitted.diagnostics.iter().filter(|d| d.severity != Severity::Note);
    said.map(|d| format!("{} {} {}", d.object.as_ref().map_or("-", |o| &o.name), d.field, d.code)).collect()
}

#[test]
fn mirrors_delegates_and_gateways_are_waited_for_too() {
    let version = |rest: &str| {
        format!("VirtualService default/v: {{hosts: [x.com], gateways: [gateway], http: [{{{rest}}}]}}")
    };
    let to_a = "route: [{destination: {host: a}}]";
    let leaf = "VirtualService default/leaf: {http: [{route: [{destination: {host: a}}]}]}";
    for (rest, what, field) in [
        (format!("{to_a}, mirror: {{host: b}}"), B, "spec.http[0].mirror.host"),
        (
            format!("{to_a}, mirrors: [{{destination: {{host: b}}}}]"),
            B,
            "spec.http[0].mirrors[0].destination.host",
        ),
        ("delegate: {name: leaf}".to_owned(), leaf, "spec.http[0].delegate"),
    ] {
        let mut admission = Admission::new();
        let around = format!("{GATEWAY}\n{A}");
        assert_eq!(codes(&mut admission, &format!("{around}\n{}", version(to_a))), [""; 0]);
        let held = codes(&mut admission, &format!("{around}\n{}", version(&rest)));
        assert_eq!(held, [format!("v {field} held")]);
        assert_eq!(codes(&mut admission, &format!("{around}\n{what}\n{}", version(&rest))), [""; 0]);
    }
    let mut admission = Admission::new();
    let other = version(to_a).replace("[gateway]", "[mesh, other]");
    assert_eq!(codes(&mut admission, &format!("{GATEWAY}\n{A}\n{}", version(to_a))), [""; 0]);
    assert_eq!(
        codes(&mut admission, &format!("{GATEWAY}\n{A}\n{other}")),
        ["v spec.gateways held"],
        "served by no Gateway at all"
    );
    let gateways = format!("{GATEWAY}\n{}", GATEWAY.replace("default/gateway", "default/other"));
    assert_eq!(codes(&mut admission, &format!("{gateways}\n{A}\n{other}")), [""; 0]);
}

#[test]
fn what_routes_need_stays_until_they_do_not() {
    let rule = |subsets: &str| {
        let subsets: Vec<_> = subsets.chars().map(|s| format!("{{name: {s}, labels: {{}}}}")).collect();
        format!("DestinationRule default/a: {{host: a, subsets: [{}]}}", subsets.join(", "))
    };
    let subsets = |admission: &mut Admission, lines: &str| {
        let admitted = admission.admit(objects(lines), &env());
        let rules = admitted.objects.destination_rules();
        let names = rules.iter().flat_map(|(_, r)| &r.subsets).map(|s| s.name.clone()).collect::<String>();
        let held = admitted.diagnostics.iter().filter(|d| d.code == "held").count();
        (names, held)
    };
    let mut admission = Admission::new();
    let around = format!("{GATEWAY}\n{A}");
    let with = |rule: &str, destination: &str| format!("{around}\n{rule}\n{}", vs(destination));
    let all = rule("pqr");
    assert_eq!(subsets(&mut admission, &with(&all, "host: a, subset: p")), ("pqr".into(), 0));
    // p is needed, q is not
    let lines = with(&rule("r"), "host: a, subset: p");
    assert_eq!(subsets(&mut admission, &lines), ("rp".into(), 1));
    assert_eq!(subsets(&mut admission, &lines), ("rp".into(), 1), "for as long as that lasts");
    // one that waits for what is not there yet goes on with what goes
    assert_eq!(subsets(&mut admission, &with(&rule("r"), "host: a, subset: s")), ("rp".into(), 2));
    assert_eq!(subsets(&mut admission, &with(&rule("s"), "host: a, subset: s")), ("s".into(), 0));
    // a rule that is gone is gone
    assert_eq!(subsets(&mut admission, &format!("{around}\n{}", vs("host: a, subset: s"))), ("".into(), 0));

    let entry = |host: &str, port: u16| {
        format!(
            "ServiceEntry default/e: {{hosts: [{host}], ports: [{{number: {port}, name: http, protocol: HTTP}}], \
             resolution: STATIC, endpoints: [{{address: 10.0.0.1}}]}}"
        )
    };
    let to_entry = vs("host: e.com, port: {number: 80}");
    for changed in [entry("f.com", 80), entry("e.com", 81)] {
        let mut admission = Admission::new();
        let (before, after) = (entry("e.com", 80), &changed);
        assert_eq!(codes(&mut admission, &format!("{GATEWAY}\n{before}\n{to_entry}")), [""; 0]);
        let lines = format!("{GATEWAY}\n{after}\n{to_entry}");
        assert_eq!(codes(&mut admission, &lines), ["e spec held"]);
        assert_eq!(codes(&mut admission, &lines), ["e spec held"], "for as long as that lasts");
        let admitted = admission.admit(objects(&lines), &env());
        let model = translate(&admitted.objects, &env()).model;
        assert!(model.clusters.keys().any(|c| c.as_str() == "outbound|80||e.com"), "{:?}", model.clusters);
        assert_eq!(codes(&mut admission, &format!("{GATEWAY}\n{A}\n{after}\n{}", vs("host: a"))), [""; 0]);
    }
}

/// Two states of a config: each object in its version before, if it had one, and after.
fn changes() -> Vec<(Option<String>, String)> {
    let route = |name: &str, destination: &str| {
        format!(
            "VirtualService default/{name}: {{hosts: [{name}.com], gateways: [gateway], http: [{destination}]}}"
        )
    };
    let to = |destination: &str| format!("{{route: [{{destination: {{{destination}}}}}]}}");
    let subset = |names: &[&str]| {
        let subsets: Vec<_> = names.iter().map(|n| format!("{{name: {n}, labels: {{}}}}")).collect();
        format!("DestinationRule default/a: {{host: a, subsets: [{}]}}", subsets.join(", "))
    };
    let entry = |host: &str| {
        format!(
            "ServiceEntry default/e: {{hosts: [{host}], ports: [{{number: 80, name: http, protocol: HTTP}}], \
             resolution: STATIC, endpoints: [{{address: 10.0.0.1}}]}}"
        )
    };
    vec![
        (Some(subset(&["v1", "v2"])), subset(&["v2", "v3"])),
        (Some(route("one", &to("host: a, subset: v1"))), route("one", &to("host: a, subset: v3"))),
        (Some(route("two", &to("host: a, subset: v2"))), route("two", &to("host: new, port: {number: 80}"))),
        (None, "Service default/new: {ports: [{name: http, port: 80}]}".to_owned()),
        (Some(entry("old.com")), entry("new.com")),
        (
            Some(route("three", &to("host: old.com"))),
            route("three", "{route: [{destination: {host: new.com}}], mirror: {host: a, subset: v3}}"),
        ),
        (Some(route("four", &to("host: a"))), route("four", "{delegate: {name: leaf}}")),
        (None, "VirtualService default/leaf: {http: [{route: [{destination: {host: new.com}}]}]}".to_owned()),
        (Some(route("five", &to("host: a"))), route("five", &to("host: b")).replace("[gateway]", "[other]")),
        (None, GATEWAY.replace("default/gateway", "default/other").replace("80", "81")),
    ]
}

/// Each host that is served, with the clusters that its rules name and that there are not.
fn served(lines: &[String], admission: &mut Admission) -> Vec<(String, Vec<String>)> {
    let admitted = admission.admit(objects(&format!("{GATEWAY}\n{A}\n{B}\n{}", lines.join("\n"))), &env());
    let model = translate(&admitted.objects, &env()).model;
    let absent = |route: &Route| match &*route.action {
        Action::Forward(f) => {
            let all = f.destinations.iter().map(|d| &d.cluster).chain(f.mirrors.iter().map(|m| &m.cluster));
            all.filter(|c| !model.clusters.contains_key(c)).map(ToString::to_string).collect::<Vec<_>>()
        }
        _ => Vec::new(),
    };
    let hosts = model.virtual_hosts.values().filter(|h| !h.routes.is_empty());
    hosts.map(|h| (h.key.domain.to_string(), h.routes.iter().flat_map(|r| absent(r)).collect())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn in_whatever_order_changes_come_every_host_is_served(
        order in Just((0..changes().len()).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let changes = changes();
        let mut now: Vec<Option<String>> = changes.iter().map(|(before, _)| before.clone()).collect();
        let mut admission = Admission::new();
        let lines = |now: &[Option<String>]| now.iter().flatten().cloned().collect::<Vec<_>>();
        let hosts: Vec<_> = served(&lines(&now), &mut admission).into_iter().map(|(host, _)| host).collect();
        prop_assert_eq!(hosts.len(), 5);
        for change in order {
            now[change] = Some(changes[change].1.clone());
            for (host, absent) in served(&lines(&now), &mut admission) {
                prop_assert_eq!(&absent, &[""; 0], "{} after {}", host, changes[change].1);
            }
            let served: std::collections::BTreeSet<_> =
                served(&lines(&now), &mut admission).into_iter().map(|(host, _)| host).collect();
            prop_assert!(hosts.iter().all(|host| served.contains(host)), "{served:?}");
        }
        let end = admission.admit(objects(&format!("{GATEWAY}\n{A}\n{B}\n{}", lines(&now).join("\n"))), &env());
        prop_assert!(end.diagnostics.iter().all(|d| d.code != "held"));
        let versions: Vec<_> = end.objects.destination_rules().iter().map(|(_, r)| r.subsets.len()).collect();
        prop_assert_eq!(versions, [2]);
    }
}
