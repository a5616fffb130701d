//! What an upstream is told about who sent a request, by trust in proxies in front and by certificates of clients.

use crate::forward::buffers::Work;
use crate::forward::edits::{Edits, Ops, Rendered};
use crate::forward::head::{RequestChanges, lines, write_request};
use crate::forward::view::View;
use crate::h1::head::HeadLimits;
use crate::tls::ClientCertificate;
use tidegate_model::{FormatString, ForwardClientCert as Mode, HeaderName, HeaderOp};

/// How a request came.
#[derive(Clone, Copy, Default)]
struct Came {
    tls: bool,
    trusted: u32,
    mode: Mode,
    certificate: bool,
}

/// What our own certificate of the client says.
const OURS: &str = "Hash=00;Subject=\"CN=me\";URI=";

/// The fields that go upstream for `fields`, lower case, without those that are always the same.
fn sent(fields: &str, came: Came, ops: &[HeaderOp]) -> Vec<String> {
    let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let mut w = Work::default();
    w.buf.extend_from_slice(text.as_bytes());
    w.end = text.len();
    let limits = HeadLimits { bytes: 4096, fields: 20, target: 100 };
    assert!(w.request.parse_request(text.as_bytes(), limits).unwrap(), "{fields}");
    let peer = "[::ffff:192.0.2.9]:1234".parse().unwrap();
    w.identity.establish(&w.request, text.as_bytes(), peer, came.tls, came.trusted);
    let certificate = ClientCertificate { chain: [].into(), forwarded: OURS.into(), identities: [].into() };
    w.identity.certify(came.mode, came.certificate.then_some(&certificate));
    let rendered = Rendered::default();
    let changes = RequestChanges {
        http2: false,
        target: None,
        authority: None,
        replaced: false,
        edits: Edits::of_request(Ops { rule: ops, ..Ops::default() }, &rendered),
        attempt: 1,
        expected: None,
        grpc_timeout: None,
    };
    let mut out = Vec::new();
    write_request(&w, &mut out, &changes);
    let field = |(name, value): (&[u8], &[u8])| {
        let (name, value) = (String::from_utf8_lossy(name).to_lowercase(), String::from_utf8_lossy(value));
        // routing, policies and logs see what goes upstream
        if ops.is_empty() && !name.starts_with("x-envoy") && name != "host" {
            let view = View::of(&w).value(name.as_bytes());
            assert_eq!(view.as_deref(), Some(value.as_bytes()), "{name} of {fields}");
        }
        match &*name {
            "host" | "x-envoy-attempt-count" => None,
            "x-request-id" => (value.as_bytes() != w.identity.request_id).then(|| format!("{name}={value}")),
            _ => Some(format!("{name}={value}")),
        }
    };
    let mut fields: Vec<_> = lines(&out).filter_map(field).collect();
    fields.sort();
    fields
}

#[test]
fn who_sent_it_is_said_by_proxies_that_are_trusted_alone() {
    let said = "X-Forwarded-For: 1.1.1.1, 2.2.2.2\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: h\r\n\
        X-Forwarded-Port: 9\r\nX-Real-IP: 3.3.3.3\r\nForwarded: for=4.4.4.4\r\nX-Request-Id: mine\r\n\
        X-Envoy-External-Address: 5.5.5.5\r\nX-Envoy-Retry-On: 5xx\r\nX-Envoy-Original-Path: /x\r\n\
        X-Envoy-Peer-Metadata: m\r\nX-Istio-Attributes: a\r\nX-Forwarded-Client-Cert: Hash=1\r\n";
    let underscores = "X_Forwarded_For: 1.1.1.1\r\nx_forwarded_proto: https\r\nX-Forwarded_Client-Cert: Hash=1\r\n\
        x_real_ip: 1.1.1.1\r\nX_Request_ID: x\r\nx_envoy_external_address: 1.1.1.1\r\nother_name: stays\r\n";
    let nominated = "Connection: x-forwarded-for, x-forwarded-proto, x-request-id, x-envoy-external-address, \
        x-forwarded-client-cert, x-envoy-attempt-count\r\n";
    let (none, one) = (Came::default(), Came { trusted: 1, ..Came::default() });
    let of = |peer: &str, client: &str, scheme: &str| {
        vec![
            format!("x-envoy-external-address={client}"),
            format!("x-forwarded-for={peer}"),
            format!("x-forwarded-proto={scheme}"),
        ]
    };
    let claims = |mut fields: Vec<String>| {
        let others =
            ["forwarded=for=4.4.4.4", "x-forwarded-host=h", "x-forwarded-port=9", "x-real-ip=3.3.3.3"];
        fields.extend(others.map(String::from));
        fields.sort();
        fields
    };
    let list = "1.1.1.1, 2.2.2.2,192.0.2.9";
    let stays = |mut fields: Vec<String>| {
        fields.insert(0, "other_name=stays".into());
        fields
    };
    for (fields, came, expected) in [
        ("", none, of("192.0.2.9", "192.0.2.9", "http")),
        ("", Came { tls: true, ..none }, of("192.0.2.9", "192.0.2.9", "https")),
        ("", one, of("192.0.2.9", "192.0.2.9", "http")),
        (said, none, of(list, "192.0.2.9", "http")),
        (said, Came { tls: true, ..none }, of(list, "192.0.2.9", "https")),
        (said, one, claims(of(list, "2.2.2.2", "https"))),
        (said, Came { trusted: 2, ..none }, claims(of(list, "1.1.1.1", "https"))),
        (said, Came { trusted: 3, ..none }, claims(of(list, "192.0.2.9", "https"))),
        ("X-Forwarded-Proto: http\r\n", Came { tls: true, ..one }, of("192.0.2.9", "192.0.2.9", "http")),
        ("X-Forwarded-Proto: https,http\r\n", one, of("192.0.2.9", "192.0.2.9", "http")),
        // said twice, it is not said: which of them the proxy wrote is not known
        (
            "X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n",
            one,
            of("192.0.2.9", "192.0.2.9", "http"),
        ),
        ("X-Forwarded-For: unknown\r\n", one, of("unknown,192.0.2.9", "192.0.2.9", "http")),
        ("X-Forwarded-For: 2001:db8::1\r\n", one, of("2001:db8::1,192.0.2.9", "2001:db8::1", "http")),
        (underscores, none, stays(of("192.0.2.9", "192.0.2.9", "http"))),
        (underscores, one, stays(of("192.0.2.9", "192.0.2.9", "http"))),
        (nominated, none, of("192.0.2.9", "192.0.2.9", "http")),
        (&format!("{nominated}X-Forwarded-For: 1.1.1.1\r\n"), none, of("192.0.2.9", "192.0.2.9", "http")),
    ] {
        assert_eq!(sent(fields, came, &[]), expected, "{fields} {}", came.trusted);
    }
}

#[test]
fn certificates_of_clients_are_said_as_the_mode_has_it() {
    let theirs = "X-Forwarded-Client-Cert: Hash=1\r\nx-forwarded-client-cert: Hash=2\r\n";
    let nominated = "X-Forwarded-Client-Cert: Hash=1\r\nConnection: x-forwarded-client-cert\r\n";
    let both = &*format!("Hash=1,Hash=2,{OURS}");
    // by mode: what is sent with a certificate for what the client says, for nothing and for what it takes off itself,
    // and without a certificate
    for (mode, with, alone, taken_off, without) in [
        (Mode::Sanitize, vec![], vec![], vec![], vec![]),
        (Mode::ForwardOnly, vec!["Hash=1", "Hash=2"], vec![], vec![], vec![]),
        (Mode::AppendForward, vec![both], vec![OURS], vec![OURS], vec![]),
        (Mode::SanitizeSet, vec![OURS], vec![OURS], vec![OURS], vec![]),
        (Mode::AlwaysForwardOnly, vec!["Hash=1", "Hash=2"], vec![], vec![], vec!["Hash=1", "Hash=2"]),
    ] {
        let came = Came { tls: true, mode, certificate: true, ..Came::default() };
        let said = |fields, came| -> Vec<String> {
            let name = "x-forwarded-client-cert=";
            // the two lines of one field are joined where they are looked at
            let ops = [HeaderOp::Remove(HeaderName::new("x-none"))];
            sent(fields, came, &ops).iter().filter_map(|f| f.strip_prefix(name).map(str::to_owned)).collect()
        };
        assert_eq!(said(theirs, came), with, "{mode:?}");
        assert_eq!(said("", came), alone, "{mode:?}");
        assert_eq!(said(nominated, came), taken_off, "{mode:?}");
        assert_eq!(said(theirs, Came { certificate: false, ..came }), without, "{mode:?}");
        assert_eq!(said(theirs, Came { certificate: false, tls: false, ..came }), without, "{mode:?}");
    }
}

#[test]
fn nobody_speaks_for_a_header_that_a_rule_sets_or_removes() {
    let text = |v: &str| FormatString::parse(v).unwrap();
    let came = "X-User: a\r\nX_USER: b\r\nx-Role: c\r\nx_role: d\r\nx_tag: e\r\nx_own: f\r\nx-own: g\r\n\
        Connection: x-user\r\n";
    let ops = [
        HeaderOp::Remove(HeaderName::new("x-role")),
        HeaderOp::Set(HeaderName::new("x-user"), text("ours")),
        HeaderOp::Set(HeaderName::new("x_own"), text("ours")),
        HeaderOp::Append(HeaderName::new("x-tag"), text("ours")),
    ];
    let fields = sent(came, Came::default(), &ops);
    let fields: Vec<_> =
        fields.iter().filter(|f| !f.starts_with("x-forw") && !f.starts_with("x-envoy")).collect();
    assert_eq!(fields, ["x-own=g", "x-tag=ours", "x-user=ours", "x_own=ours", "x_tag=e"]);
}
