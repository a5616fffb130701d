//! The name server's client.

use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::read_system_conf;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Asks for the addresses of a name.
#[async_trait]
pub(crate) trait Resolve: Send + Sync {
    /// All addresses and how long they hold.
    async fn resolve(&self, host: &str) -> Result<Answer, String>;
}

/// What a name resolved to.
pub(crate) struct Answer {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ttl: Duration,
}

/// The resolver of the system: `/etc/resolv.conf` and `/etc/hosts`, read at the first lookup.
#[derive(Default)]
pub(crate) struct SystemResolver {
    made: OnceLock<TokioResolver>,
    /// Asked in place of those of `/etc/resolv.conf`, if there are any.
    servers: Vec<SocketAddr>,
}

impl SystemResolver {
    /// One that asks these servers in place of those of the system.
    pub(crate) fn asking(servers: &[SocketAddr]) -> Self {
        SystemResolver { made: OnceLock::new(), servers: servers.to_vec() }
    }

    fn get(&self) -> Result<&TokioResolver, String> {
        if let Some(resolver) = self.made.get() {
            return Ok(resolver);
        }
        let wrong = |e| format!("cannot use /etc/resolv.conf: {e}");
        let provider = TokioRuntimeProvider::default();
        let mut builder = match (read_system_conf(), &*self.servers) {
            (system, []) => {
                let (config, options) = system.map_err(wrong)?;
                TokioResolver::builder_with_config(config, provider).with_options(options)
            }
            // what else the system says stays, such as its search domains
            (Ok((config, options)), servers) => {
                let (domain, search, _) = config.into_parts();
                let config = ResolverConfig::from_parts(domain, search, servers.iter().map(server).collect());
                TokioResolver::builder_with_config(config, provider).with_options(options)
            }
            (Err(_), servers) => {
                let config = ResolverConfig::from_name_servers(servers.iter().map(server).collect());
                TokioResolver::builder_with_config(config, provider)
            }
        };
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // Its answers are kept here by their TTL; failures must be asked for again.
        options.cache_size = 0;
        let resolver = builder.build().map_err(wrong)?;
        Ok(self.made.get_or_init(|| resolver))
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> Result<Answer, String> {
        let found = self.get()?.lookup_ip(host).await.map_err(|e| e.to_string())?;
        let mut addresses: Vec<IpAddr> = found.iter().collect();
        addresses.sort_unstable();
        addresses.dedup();
        let ttl = found.valid_until().saturating_duration_since(Instant::now());
        Ok(Answer { addresses: reachable(addresses), ttl })
    }
}

/// A name server, by UDP and where that does not do by TCP.
fn server(address: &SocketAddr) -> NameServerConfig {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}

/// Without the addresses of a family that this machine has no route for, when there is another:
/// a picked endpoint that cannot be reached would fail every other request.
fn reachable(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let both = addresses.iter().any(IpAddr::is_ipv4) && addresses.iter().any(IpAddr::is_ipv6);
    if !both {
        return addresses;
    }
    let routed: Vec<IpAddr> = addresses.iter().copied().filter(|a| has_route(*a)).collect();
    if routed.is_empty() { addresses } else { routed }
}

/// Whether the kernel knows a way there. Connecting a UDP socket sends nothing.
fn has_route(address: IpAddr) -> bool {
    let any = match address {
        IpAddr::V4(_) => "0.0.0.0:0",
        IpAddr::V6(_) => "[::]:0",
    };
    UdpSocket::bind(any).and_then(|s| s.connect((address, 53))).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn one_family_is_kept_as_it_is_and_loopback_is_routed() {
        let v4: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        assert_eq!(reachable(v4.clone()), v4);
        assert!(has_route(Ipv4Addr::LOCALHOST.into()));
    }

    #[tokio::test]
    async fn what_is_no_name_is_an_error() {
        assert!(SystemResolver::default().resolve("a..b").await.is_err());
    }
}
