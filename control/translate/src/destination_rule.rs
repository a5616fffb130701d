use crate::limits::limits;
use crate::load_balancer::load_balancer;
use crate::outlier;
use crate::protocol::Protocol;
use crate::retries;
use crate::upstream_tls::Tls;
use crate::world::{Item, World, port};
use std::collections::BTreeSet;
use std::time::Duration;
use tidegate_api::Object;
use tidegate_api::istio::{
    self, ClientTlsSettings, ConnectionPoolSettings, DestinationRule, H2UpgradePolicy, HttpSettings,
    LoadBalancerSettings, LocalityLoadBalancerSetting, ProxyProtocolVersion, Subset, TrafficPolicy,
};
use tidegate_model::{
    ConnectionLimits, LoadBalancer, OutlierDetection, ProxyProtocol, RetryBudget, UpstreamProtocol, Warmup,
};

/// How long a connection without a request is kept, and how long a TCP connection may stand still, when nothing is
/// said.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// The subset of that name: of several rules with it, that of the first.
pub(crate) fn subset<'a>(rules: &[Item<'a, DestinationRule>], name: &str) -> Option<Item<'a, Subset>> {
    let mut all = rules.iter().flat_map(|(object, rule)| rule.subsets.iter().map(move |s| (*object, s)));
    all.find(|(_, subset)| subset.name == name)
}

/// What a cluster's DestinationRule says about it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Policy<'a> {
    pub(crate) load_balancer: LoadBalancer,
    pub(crate) outlier_detection: Option<OutlierDetection>,
    pub(crate) warmup: Option<Warmup>,
    /// How localities count, where a rule says that.
    pub(crate) locality: Option<&'a LocalityLoadBalancerSetting>,
    pub(crate) limits: ConnectionLimits,
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) retry_budget: RetryBudget,
    /// How long a TCP connection may stand still; `None` is for ever.
    pub(crate) tcp_idle_timeout: Option<Duration>,
    /// What is spoken.
    pub(crate) protocol: UpstreamProtocol,
    /// How TLS is spoken, and the rule that says it; `None` is plain text.
    pub(crate) tls: Option<(&'a Object, Tls<'a>)>,
    /// What each connection begins with.
    pub(crate) proxy_protocol: Option<ProxyProtocol>,
}

/// The blocks of a policy, as they override each other.
#[derive(Clone, Copy, Default)]
struct Blocks<'a> {
    load_balancer: Option<&'a LoadBalancerSettings>,
    connection_pool: Option<&'a ConnectionPoolSettings>,
    outlier_detection: Option<&'a istio::OutlierDetection>,
    retry_budget: Option<&'a istio::RetryBudget>,
    tls: Option<Item<'a, ClientTlsSettings>>,
    proxy_protocol: Option<&'a istio::ProxyProtocol>,
}

impl<'a> Blocks<'a> {
    /// This policy under that of a more specific level. One for the port replaces everything that it can have, and nothing
    /// else of that level counts.
    fn overridden(self, policy: Option<Item<'a, TrafficPolicy>>, port: u16) -> Self {
        let Some((object, policy)) = policy else { return self };
        let for_port = policy
            .port_level_settings
            .iter()
            .find(|p| p.port.as_ref().and_then(|p| p.number) == Some(u32::from(port)));
        if let Some(p) = for_port {
            return Blocks {
                retry_budget: self.retry_budget,
                proxy_protocol: self.proxy_protocol,
                load_balancer: p.load_balancer.as_ref(),
                connection_pool: p.connection_pool.as_ref(),
                outlier_detection: p.outlier_detection.as_ref(),
                tls: p.tls.as_ref().map(|tls| (object, tls)),
            };
        }
        Blocks {
            load_balancer: policy.load_balancer.as_ref().or(self.load_balancer),
            connection_pool: policy.connection_pool.as_ref().or(self.connection_pool),
            outlier_detection: policy.outlier_detection.as_ref().or(self.outlier_detection),
            retry_budget: policy.retry_budget.as_ref().or(self.retry_budget),
            proxy_protocol: policy.proxy_protocol.as_ref().or(self.proxy_protocol),
            tls: policy.tls.as_ref().map(|tls| (object, tls)).or(self.tls),
        }
    }
}

/// The locality settings of a rule, each with whether there is outlier detection where it counts: for the rule or a
/// subset, on a port that has settings of its own or on any other.
pub(crate) fn locality_settings<'a>(
    (object, rule): Item<'a, DestinationRule>,
) -> Vec<(&'a LocalityLoadBalancerSetting, bool)> {
    let of_rule = rule.traffic_policy.as_ref();
    let subsets = rule.subsets.iter().map(|s| s.traffic_policy.as_ref());
    let policies: Vec<Option<&TrafficPolicy>> = std::iter::once(None).chain(subsets).collect();
    let with_ports = policies.iter().flatten().chain(&of_rule);
    let ports = with_ports.flat_map(|p| &p.port_level_settings).filter_map(|p| p.port.as_ref()?.number);
    let ports: BTreeSet<u16> = ports.filter_map(port).chain([0]).collect();
    let item = |policy: Option<&'a TrafficPolicy>| policy.map(|policy| (object, policy));
    let each = policies.iter().flat_map(|subset| ports.iter().map(move |port| (*subset, *port)));
    let counting = each.filter_map(|(subset, port)| {
        let blocks = Blocks::default().overridden(item(of_rule), port).overridden(item(subset), port);
        Some((blocks.load_balancer?.locality_lb_setting.as_ref()?, blocks.outlier_detection.is_some()))
    });
    counting.collect()
}

/// The policy for `port` of a service that has `rules`, where `declared` is spoken, and for a subset of it: that of the
/// first rule that has one.
pub(crate) fn policy<'a>(
    rules: &[Item<'a, DestinationRule>],
    subset: Option<Item<'a, Subset>>,
    port: u16,
    declared: Protocol,
    world: &World<'a>,
) -> Policy<'a> {
    let rule = rules.iter().find_map(|(object, rule)| Some((*object, rule.traffic_policy.as_ref()?)));
    let of_subset = subset.and_then(|(object, subset)| Some((object, subset.traffic_policy.as_ref()?)));
    let blocks = Blocks::default().overridden(rule, port).overridden(of_subset, port);
    let load_balancer = load_balancer(blocks.load_balancer);
    let pool = blocks.connection_pool;
    let connect = pool.and_then(|p| p.tcp.as_ref()).and_then(|t| t.connect_timeout);
    let tcp_idle = pool.and_then(|p| p.tcp.as_ref()).and_then(|t| t.idle_timeout);
    let idle = pool.and_then(|p| p.http.as_ref()).and_then(|h| h.idle_timeout).or(tcp_idle);
    Policy {
        outlier_detection: outlier::detection(blocks.outlier_detection),
        warmup: outlier::warmup(blocks.load_balancer, &load_balancer),
        locality: blocks.load_balancer.and_then(|l| l.locality_lb_setting.as_ref()),
        load_balancer,
        limits: limits(pool, world.mesh.tcp_keepalive()),
        connect_timeout: connect.unwrap_or(world.mesh.connect_timeout()),
        idle_timeout: idle.map_or(IDLE_TIMEOUT, |t| if t.is_zero() { Duration::MAX } else { t }),
        retry_budget: retries::budget(blocks.retry_budget, pool, world.env),
        tcp_idle_timeout: Some(tcp_idle.unwrap_or(IDLE_TIMEOUT)).filter(|t| !t.is_zero()),
        protocol: protocol(pool.and_then(|p| p.http.as_ref()), declared, world.mesh.upgrades_to_http2()),
        tls: blocks.tls.and_then(|(object, tls)| Some((object, Tls::of(tls)?))),
        proxy_protocol: blocks.proxy_protocol.map(|p| match p.version {
            Some(ProxyProtocolVersion::V2) => ProxyProtocol::V2,
            Some(ProxyProtocolVersion::V1) | None => ProxyProtocol::V1,
        }),
    }
}

/// What is spoken to a port that is `declared` as it is, where the mesh upgrades or does not: the client's protocol
/// before an upgrade, and what a rule says before what the mesh does, which is about ports of HTTP alone (Istio's
/// `shouldH2Upgrade`).
fn protocol(http: Option<&HttpSettings>, declared: Protocol, mesh_upgrades: bool) -> UpstreamProtocol {
    if http.is_some_and(|h| h.use_client_protocol == Some(true)) {
        return UpstreamProtocol::Client;
    }
    let upgrades = match http.and_then(|h| h.h2_upgrade_policy) {
        Some(H2UpgradePolicy::Upgrade) => true,
        Some(H2UpgradePolicy::DoNotUpgrade) => false,
        Some(H2UpgradePolicy::Default) | None => mesh_upgrades && declared.is_http(),
    };
    if upgrades { UpstreamProtocol::Http2 } else { declared.upstream() }
}
