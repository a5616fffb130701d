//! Which server and which route a connection gets, by listener, SNI and ALPN.

use std::sync::Arc;
use tidegate_engine::{ConnectionDecision, ConnectionView, Refusal, Table};
use tidegate_model::*;

const KEY: ListenerKey = ListenerKey { bind: Bind::Default, port: 443 };

fn owner() -> ObjectRef {
    ObjectRef::new("Gateway", "test", "gateway")
}

fn listener(key: ListenerKey, protocol: ListenerProtocol) -> Listener {
    Listener { key, protocol, owners: Vec::new(), index: 0, origin: Origin::default() }
}

fn route(index: usize, destinations: &[(&str, u32)]) -> Arc<TcpRoute> {
    let destination = |(host, weight): &(&str, u32)| TcpDestination {
        cluster: ClusterName::outbound(1, "", host),
        weight: *weight,
        idle_timeout: None,
    };
    Arc::new(TcpRoute {
        rule: RuleRef {
            object: ObjectRef::new("VirtualService", "test", "tls"),
            index,
            match_index: Some(0),
            root: None,
        },
        section: TcpSection::Tls,
        origin: Origin::default(),
        destinations: destinations.iter().map(destination).collect(),
    })
}

fn names(hosts: &[&str]) -> Vec<Arc<str>> {
    hosts.iter().map(|h| (*h).into()).collect()
}

fn sni(hosts: &[&str], route: Arc<TcpRoute>) -> SniRoute {
    SniRoute { hosts: names(hosts), route }
}

fn server(table: &str, hosts: &[&str], action: TlsAction) -> TlsServer {
    TlsServer {
        table: table.into(),
        hosts: names(hosts),
        action,
        owner: owner(),
        index: 0,
        origin: Origin::default(),
    }
}

fn table(protocol: ListenerProtocol) -> Table {
    Table::compile(&Model {
        listeners: [(KEY, Arc::new(listener(KEY, protocol)))].into(),
        ..Model::default()
    })
    .table
}

fn servers() -> ListenerProtocol {
    let passthrough = |routes, protocols| TlsAction::Passthrough { routes, protocols };
    ListenerProtocol::Tls(vec![
        server("any", &["*"], TlsAction::Http(TlsTermination::default())),
        server(
            "through",
            &["*.example.com"],
            passthrough(
                vec![
                    sni(&["*.example.com"], route(0, &[("wide", 1)])),
                    sni(&["a.example.com"], route(1, &[("exact", 1)])),
                    sni(&["a.example.com"], route(2, &[("late", 1)])),
                    sni(&["none.example.com"], route(3, &[("zero", 0)])),
                ],
                Vec::new(),
            ),
        ),
        server(
            "tcp",
            &["tcp.example.com"],
            TlsAction::Tcp(TlsTermination::default(), route(4, &[("tcp", 1)])),
        ),
        server("mesh", &["closed.example.com"], TlsAction::Refuse("ISTIO_MUTUAL".into())),
        server(
            "auto",
            &["*.local"],
            passthrough(
                vec![sni(&["outbound_.80_._.a.local"], route(5, &[("mesh", 1)]))],
                names(&["istio", "istio-h2"]),
            ),
        ),
    ])
}

fn shown(decision: ConnectionDecision<'_>) -> String {
    match decision {
        ConnectionDecision::Http(table) => format!("http {}", table.name()),
        ConnectionDecision::Https(server) => format!("https {}", server.table),
        ConnectionDecision::TlsToTcp(server, to) => format!("{} to {}", server.table, to.destination.cluster),
        ConnectionDecision::Tcp(to) => format!("tcp {}", to.destination.cluster),
        ConnectionDecision::Refuse(Refusal::Protocol(..)) => "refuse: protocol".into(),
        ConnectionDecision::Refuse(Refusal::Server(_, why)) => format!("refuse: {why}"),
        ConnectionDecision::Refuse(why) => format!("refuse: {why:?}"),
    }
}

#[test]
fn sni_chooses_server_and_route() {
    let table = table(servers());
    let listener = table.listener(&KEY).unwrap();
    assert!(listener.is_tls());
    let long = format!("{}.example.com", "x".repeat(300));
    for (sni, protocols, expected) in [
        (Some("other.org"), "", "https any"),
        (None, "", "https any"),
        (Some("example.com"), "", "https any"),
        (Some("A.Example.com"), "", "tcp outbound|1||exact"),
        (Some("b.example.com"), "", "tcp outbound|1||wide"),
        (Some("c.b.example.com"), "h2", "tcp outbound|1||wide"),
        (Some("tcp.example.com"), "", "tcp to outbound|1||tcp"),
        (Some("closed.example.com"), "", "refuse: ISTIO_MUTUAL"),
        (Some("none.example.com"), "", "refuse: NoDestination"),
        (Some("outbound_.80_._.a.local"), "istio-h2", "tcp outbound|1||mesh"),
        (Some("outbound_.80_._.a.local"), "h2", "refuse: protocol"),
        (Some("outbound_.80_._.a.local"), "", "refuse: protocol"),
        // A passthrough server without a route for a name leaves it to wider ones.
        (Some("x.local"), "istio", "https any"),
        (Some(&*long), "", "https any"),
        (Some(""), "", "https any"),
    ] {
        let protocols: Vec<Vec<u8>> =
            protocols.split(' ').filter(|p| !p.is_empty()).map(|p| p.as_bytes().to_vec()).collect();
        let view = ConnectionView { sni, protocols: &protocols };
        assert_eq!(shown(listener.decide(&view, 0)), expected, "{sni:?}");
        assert_eq!(shown(listener.explain(&view, 0).decision), expected, "explain {sni:?}");
    }
}

#[test]
fn an_explanation_says_why_each_rule_lost() {
    let table = table(servers());
    let listener = table.listener(&KEY).unwrap();
    let view = ConnectionView { sni: Some("a.example.com"), protocols: &[] };
    let considered = listener.explain(&view, 0).considered;
    let reasons: Vec<_> =
        considered.iter().map(|(route, lost)| (route.rule.index, lost.as_deref())).collect();
    assert_eq!(reasons.len(), 5);
    assert_eq!(reasons[0], (0, Some("sniHosts: through has a more specific one")));
    assert_eq!(reasons[1], (1, None));
    assert!(reasons[2].1.is_some());
    assert_eq!(reasons[3], (3, Some("sniHosts: none of none.example.com is \"a.example.com\"")));
}

#[test]
fn weights_are_shares_of_the_dice() {
    let to = route(0, &[("a", 80), ("b", 0), ("c", 20)]);
    let table = table(ListenerProtocol::Tcp(to));
    let listener = table.listener(&KEY).unwrap();
    assert!(!listener.is_tls());
    let fifth = u64::MAX / 5;
    for (dice, expected) in [(0, "a"), (fifth * 4 - 10, "a"), (fifth * 4 + 10, "c"), (u64::MAX, "c")] {
        let got = shown(listener.decide(&ConnectionView::default(), dice));
        assert_eq!(got, format!("tcp outbound|1||{expected}"), "{dice}");
    }
}

#[test]
fn a_listener_that_did_not_change_keeps_its_names_and_a_changed_one_does_not() {
    let before = Model { listeners: [(KEY, Arc::new(listener(KEY, servers())))].into(), ..Model::default() };
    let old = Table::compile(&before).table;
    let same = old.apply(&before, &before.diff(&before)).table;
    let only = vec![server("one", &["one.example.com"], TlsAction::Http(TlsTermination::default()))];
    let changed = listener(KEY, ListenerProtocol::Tls(only));
    let after = Model { listeners: [(KEY, Arc::new(changed))].into(), ..Model::default() };
    let new = old.apply(&after, &after.diff(&before)).table;
    for (table, one, other) in
        [(&same, "tcp outbound|1||wide", "https any"), (&new, "https one", "refuse: NoServer")]
    {
        let listener = table.listener(&KEY).unwrap();
        let decided = |sni| shown(listener.decide(&ConnectionView { sni: Some(sni), protocols: &[] }, 0));
        assert_eq!((decided("one.example.com").as_str(), decided("x.org").as_str()), (one, other));
        assert_eq!(listener.tls_server(Some("other")).is_some(), other != "refuse: NoServer");
    }
}
