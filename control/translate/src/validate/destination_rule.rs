use super::localities;
use super::rules::{Check, is_token};
use crate::destination_rule::locality_settings;
use crate::report::list;
use crate::{load_balancer, locality};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use tidegate_api::istio::{
    ClientTlsMode, ClientTlsSettings, ConnectionPoolSettings, ConsistentHashLb, DestinationRule,
    H2UpgradePolicy, HttpCookie, LoadBalancerSettings, OutlierDetection, TrafficPolicy,
};
use tidegate_model::{HashTable, LoadBalancer};

pub(super) fn validate(check: &mut Check<'_>, rule: &DestinationRule) {
    check.host("spec.host", &rule.host);
    if let Some(p) = &rule.traffic_policy {
        policy(check, "spec.trafficPolicy", p);
    }
    let mut names = BTreeSet::new();
    for (i, subset) in rule.subsets.iter().enumerate() {
        let field = format!("spec.subsets[{i}]");
        check.label(&format!("{field}.name"), &subset.name, "subset");
        if !names.insert(&subset.name) {
            let text = format!("{:?} is there twice; the first one counts", subset.name);
            check.warning(&format!("{field}.name"), "duplicate", text, "remove one, or rename it");
        }
        check.labels(&format!("{field}.labels"), &subset.labels);
        if let Some(p) = &subset.traffic_policy {
            policy(check, &format!("{field}.trafficPolicy"), p);
        }
    }
    check.export_to(&rule.export_to);
    failover(check, rule);
}

/// Nobody takes the place of another where it is not noticed that one fails.
fn failover(check: &mut Check<'_>, rule: &DestinationRule) {
    let counting = locality_settings((check.object, rule));
    for (field, setting) in locality::settings(rule) {
        let written = !setting.failover.is_empty() || !setting.failover_priority.is_empty();
        let mut detects =
            counting.iter().filter(|(counts, _)| std::ptr::eq(*counts, setting)).map(|(_, d)| *d);
        // the first is where the setting itself stands
        let text = match (detects.next() == Some(true), detects.any(|detects| detects)) {
            (true, _) => continue,
            (false, true) => {
                "failover has an effect only on subsets and ports that have outlierDetection, which notices that endpoints fail"
            }
            (false, false) => {
                "failover has no effect without outlierDetection beside it, which notices that endpoints fail"
            }
        };
        if written {
            check.warning(&field, "no-effect", text, "add outlierDetection");
        }
    }
}

fn policy(check: &mut Check<'_>, field: &str, policy: &TrafficPolicy) {
    let level = (&policy.load_balancer, &policy.connection_pool, &policy.outlier_detection, &policy.tls);
    blocks(check, field, level);
    let others = !policy.port_level_settings.is_empty()
        || policy.tunnel.is_some()
        || policy.proxy_protocol.is_some()
        || policy.retry_budget.is_some();
    if !others && says_nothing(level) {
        check.error(field, "empty", "sets nothing", "set one of its fields, or remove it");
    }
    let mut numbers = BTreeSet::new();
    for (i, port) in policy.port_level_settings.iter().enumerate() {
        let field = format!("{field}.portLevelSettings[{i}]");
        let number = port.port.as_ref().and_then(|p| p.number).unwrap_or(0);
        check.port(&format!("{field}.port.number"), number);
        if !numbers.insert(number) {
            let text = format!("{number} is there twice; the first one counts");
            check.warning(&format!("{field}.port.number"), "duplicate", text, "remove one");
        }
        let level = (&port.load_balancer, &port.connection_pool, &port.outlier_detection, &port.tls);
        if says_nothing(level) {
            check.error(&field, "empty", "sets nothing for its port", "set one of its fields, or remove it");
        }
        blocks(check, &field, level);
    }
    not_of_ports(check, field, policy);
    if let Some(budget) = &policy.retry_budget {
        check.percent(&format!("{field}.retryBudget.percent"), budget.percent);
    }
    if let Some(tunnel) = &policy.tunnel {
        let field = format!("{field}.tunnel");
        if tunnel.target_host.parse::<IpAddr>().is_err() {
            check.name(&format!("{field}.targetHost"), &tunnel.target_host);
        }
        check.port(&format!("{field}.targetPort"), tunnel.target_port);
        let protocol = tunnel.protocol.as_deref().unwrap_or_default();
        if !matches!(protocol, "" | "CONNECT" | "POST") {
            let text = format!("{protocol:?} does not make tunnels");
            check.error(&format!("{field}.protocol"), "invalid-tunnel", text, "use CONNECT or POST");
        }
        if policy.proxy_protocol.is_some() {
            check.error(&field, "one-of", "cannot be used with proxyProtocol", "keep one of them");
        }
    }
}

/// What settings of a port replace and cannot have themselves.
fn not_of_ports(check: &mut Check<'_>, field: &str, policy: &TrafficPolicy) {
    let numbers = policy.port_level_settings.iter().filter_map(|p| p.port.as_ref()?.number);
    let numbers: BTreeSet<u32> = numbers.collect();
    for (name, there) in
        [("proxyProtocol", policy.proxy_protocol.is_some()), ("retryBudget", policy.retry_budget.is_some())]
    {
        if there && !numbers.is_empty() {
            let numbers = list(numbers.iter().map(ToString::to_string));
            let text = format!(
                "has no effect for port {numbers}, in Istio neither: portLevelSettings replace the whole policy there"
            );
            let advice = "move it to a subset, or the settings of the port to the whole policy";
            check.warning(&format!("{field}.{name}"), "no-effect", text, advice);
        }
    }
}

fn says_nothing((balancer, pool, outlier, tls): Blocks<'_>) -> bool {
    balancer.is_none() && pool.is_none() && outlier.is_none() && tls.is_none()
}

type Blocks<'a> = (
    &'a Option<LoadBalancerSettings>,
    &'a Option<ConnectionPoolSettings>,
    &'a Option<OutlierDetection>,
    &'a Option<ClientTlsSettings>,
);

fn blocks(check: &mut Check<'_>, field: &str, (balancer, pool, outlier, tls): Blocks<'_>) {
    if let Some(balancer) = balancer {
        balance(check, &format!("{field}.loadBalancer"), balancer);
    }
    if let Some(pool) = pool {
        connections(check, &format!("{field}.connectionPool"), pool);
    }
    if let Some(outlier) = outlier {
        outliers(check, &format!("{field}.outlierDetection"), outlier);
    }
    if let Some(tls) = tls {
        client_tls(check, &format!("{field}.tls"), tls);
    }
}

fn balance(check: &mut Check<'_>, field: &str, balancer: &LoadBalancerSettings) {
    if let Some(hash) = &balancer.consistent_hash {
        consistent_hash(check, &format!("{field}.consistentHash"), hash);
    }
    check.duration(&format!("{field}.warmupDurationSecs"), balancer.warmup_duration_secs);
    if let Some(warmup) = &balancer.warmup {
        check.duration(&format!("{field}.warmup.duration"), Some(warmup.duration));
        check.percent(&format!("{field}.warmup.minimumPercent"), warmup.minimum_percent);
        if warmup.aggression.is_some_and(|a| !(1.0..=1_000_000.0).contains(&a)) {
            let advice = "use 1, or more for a faster beginning";
            check.error(&format!("{field}.warmup.aggression"), "out-of-range", "is below 1", advice);
        }
    }
    let policy = load_balancer::load_balancer(Some(balancer));
    for (name, written) in [
        ("warmup", balancer.warmup.is_some()),
        ("warmupDurationSecs", balancer.warmup_duration_secs.is_some()),
    ] {
        if written && !matches!(policy, LoadBalancer::LeastRequest | LoadBalancer::RoundRobin) {
            let text = "has no effect with a policy that does not weigh endpoints so, in Istio neither";
            let advice = "use LEAST_REQUEST or ROUND_ROBIN, or remove it";
            check.warning(&format!("{field}.{name}"), "no-effect", text, advice);
        }
    }
    if let Some(setting) = &balancer.locality_lb_setting {
        localities::validate(check, &format!("{field}.localityLbSetting"), setting);
    }
}

fn consistent_hash(check: &mut Check<'_>, field: &str, hash: &ConsistentHashLb) {
    if load_balancer::key(hash).is_none() {
        let text = "says not what is hashed, so requests go to any endpoint";
        let advice = "set httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName";
        check.warning(field, "no-effect", text, advice);
    }
    if let Some(cookie) = &hash.http_cookie {
        affinity_cookie(check, &format!("{field}.httpCookie"), cookie);
    }
    if let Some(name) = hash.http_header_name.as_deref().filter(|name| !is_token(name)) {
        let text = format!("{name:?} is not a header name");
        check.error(&format!("{field}.httpHeaderName"), "invalid-header", text, "name a header");
    }
    let largest = u64::from(HashTable::LARGEST_RING);
    let ring = hash.ring_hash.as_ref().and_then(|ring| ring.minimum_ring_size);
    for (name, size) in [("minimumRingSize", hash.minimum_ring_size), ("ringHash.minimumRingSize", ring)] {
        if size.is_some_and(|size| size > largest) {
            let text = format!("a ring has at most {largest} points");
            check.error(&format!("{field}.{name}"), "out-of-range", text, "use 1024 or some more");
        }
    }
    if hash.minimum_ring_size.is_some_and(|size| size > 0)
        && (hash.ring_hash.is_some() || hash.maglev.is_some())
    {
        let text = "cannot be used with ringHash or maglev";
        check.error(&format!("{field}.minimumRingSize"), "one-of", text, "keep one of them");
    }
    let largest = u64::from(HashTable::LARGEST_MAGLEV);
    let table = hash.maglev.as_ref().map(|maglev| maglev.table_size.unwrap_or(0));
    if table.is_some_and(|size| size >= largest || !is_prime(size)) {
        let text = format!("the size of the table must be a prime number below {largest}");
        check.error(&format!("{field}.maglev.tableSize"), "out-of-range", text, "use 65537");
    }
}

fn affinity_cookie(check: &mut Check<'_>, field: &str, cookie: &HttpCookie) {
    if !is_token(&cookie.name) {
        let text = format!("{:?} is not the name of a cookie", cookie.name);
        check.error(&format!("{field}.name"), "invalid-cookie", text, "name the cookie");
    }
    let part = |check: &mut Check<'_>, field: String, text: &str| {
        if text.chars().any(|c| c == ';' || c.is_control() || !c.is_ascii()) {
            check.error(&field, "invalid-cookie", "would end the attribute of the cookie", "remove it");
        }
    };
    part(check, format!("{field}.path"), cookie.path.as_deref().unwrap_or_default());
    for (i, attribute) in cookie.attributes.iter().enumerate() {
        part(check, format!("{field}.attributes[{i}].value"), attribute.value.as_deref().unwrap_or_default());
        part(check, format!("{field}.attributes[{i}].name"), &attribute.name);
        if attribute.name.is_empty() {
            let field = format!("{field}.attributes[{i}].name");
            check.error(&field, "missing-field", "is empty", "name the attribute");
        }
    }
}

fn is_prime(number: u64) -> bool {
    number > 1 && (2..).take_while(|i| i * i <= number).all(|i| !number.is_multiple_of(i))
}

fn connections(check: &mut Check<'_>, field: &str, pool: &ConnectionPoolSettings) {
    if pool.http.is_none() && pool.tcp.is_none() {
        check.error(field, "empty", "sets nothing", "set http or tcp, or remove it");
    }
    if let Some(http) = &pool.http {
        let field = format!("{field}.http");
        for (name, value) in [
            ("http1MaxPendingRequests", http.http1_max_pending_requests),
            ("http2MaxRequests", http.http2_max_requests),
            ("maxRequestsPerConnection", http.max_requests_per_connection),
            ("maxRetries", http.max_retries),
            ("maxConcurrentStreams", http.max_concurrent_streams),
        ] {
            check.not_negative(&format!("{field}.{name}"), value);
        }
        check.duration(&format!("{field}.idleTimeout"), http.idle_timeout);
        if http.h2_upgrade_policy == Some(H2UpgradePolicy::Upgrade) && http.use_client_protocol == Some(true)
        {
            let text = "cannot be used with h2UpgradePolicy UPGRADE";
            check.error(&format!("{field}.useClientProtocol"), "one-of", text, "keep one of them");
        }
        if let Some(pings) = &http.http2_keep_alive {
            let field = format!("{field}.http2KeepAlive");
            check.duration(&format!("{field}.interval"), pings.interval);
            check.duration(&format!("{field}.timeout"), pings.timeout);
            if pings.interval.is_none() {
                let advice = "set interval and timeout";
                check.warning(&field, "no-effect", "has no interval, so nothing is pinged", advice);
            }
        }
    }
    if let Some(tcp) = &pool.tcp {
        let field = format!("{field}.tcp");
        check.not_negative(&format!("{field}.maxConnections"), tcp.max_connections);
        check.duration(&format!("{field}.connectTimeout"), tcp.connect_timeout);
        check.duration(&format!("{field}.maxConnectionDuration"), tcp.max_connection_duration);
        // Zero switches this one off.
        check.duration(&format!("{field}.idleTimeout"), tcp.idle_timeout.filter(|d| *d != Duration::ZERO));
    }
}

fn outliers(check: &mut Check<'_>, field: &str, outlier: &OutlierDetection) {
    check.duration(&format!("{field}.interval"), outlier.interval);
    check.duration(&format!("{field}.baseEjectionTime"), outlier.base_ejection_time);
    let local = outlier.consecutive_local_origin_failures.is_some_and(|failures| failures > 0);
    if local && outlier.split_external_local_origin_errors != Some(true) {
        let text = "needs splitExternalLocalOriginErrors";
        let advice = "set splitExternalLocalOriginErrors: true, or remove it";
        check.error(&format!("{field}.consecutiveLocalOriginFailures"), "invalid-outlier", text, advice);
    }
    check.percent(&format!("{field}.maxEjectionPercent"), outlier.max_ejection_percent.map(f64::from));
    check.percent(&format!("{field}.minHealthPercent"), outlier.min_health_percent.map(f64::from));
    for (i, status) in outlier.outlier_detection_http_error_codes.iter().enumerate() {
        if !(100..=599).contains(status) {
            let field = format!("{field}.outlierDetectionHttpErrorCodes[{i}]");
            check.error(&field, "invalid-status", format!("{status} is not a status"), "use 100 to 599");
        }
    }
}

/// Settings beside a mode that speaks plain text.
fn plain_text(check: &mut Check<'_>, field: &str, tls: &ClientTlsSettings) {
    let none = ClientTlsSettings { mode: tls.mode, ..ClientTlsSettings::default() };
    if *tls == none {
        return;
    }
    match tls.mode {
        None => {
            let text = "is missing, which means DISABLE: plain text is spoken, whatever else tls says";
            check.warning(&format!("{field}.mode"), "no-effect", text, "set SIMPLE or MUTUAL, or remove tls");
        }
        Some(ClientTlsMode::Disable) => {
            let text = "has no effect but that plain text is spoken, as mode DISABLE says";
            check.report.note(check.object, field, "no-effect", text, "remove all but mode");
        }
        _ => {}
    }
}

fn client_tls(check: &mut Check<'_>, field: &str, tls: &ClientTlsSettings) {
    plain_text(check, field, tls);
    let there = |s: &Option<String>| s.as_deref().is_some_and(|s| !s.is_empty());
    let files = there(&tls.client_certificate) || there(&tls.private_key) || there(&tls.ca_certificates);
    let named = there(&tls.credential_name);
    let sni = tls.sni.as_deref().filter(|sni| !sni.is_empty());
    if let Some(sni) = sni.filter(|sni| rustls::pki_types::ServerName::try_from(*sni).is_err()) {
        let text = format!("{sni:?} is not a host name, so no server can be asked for it");
        check.error(&format!("{field}.sni"), "invalid-tls", text, "name a host, or leave sni out");
    }
    if tls.mode == Some(ClientTlsMode::IstioMutual) && (files || named) {
        let text = "ISTIO_MUTUAL uses the mesh's own certificates; no others can be given";
        check.error(field, "invalid-tls", text, "remove the certificates");
    } else if named && files {
        check.error(field, "one-of", "cannot have credentialName and certificate files", "keep one of them");
    } else if tls.mode == Some(ClientTlsMode::Mutual) && !named {
        for (name, value) in
            [("clientCertificate", &tls.client_certificate), ("privateKey", &tls.private_key)]
        {
            if !there(value) {
                let text = "MUTUAL TLS requires a client certificate and its key";
                check.error(
                    &format!("{field}.{name}"),
                    "invalid-tls",
                    text,
                    "name a Secret with credentialName",
                );
            }
        }
    }
}
