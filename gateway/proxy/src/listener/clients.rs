//! How many connections each client has, by its address. Touched once when a connection begins and once when it ends,
//! where there is a limit at all.

use crate::lock::lock;
use crate::scatter;
use ahash::AHashMap;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Mutex;

/// Tables, so that workers seldom meet.
const SHARDS: usize = 16;

/// The counts. There is an entry for each client that has a connection, so there are no more of them than connections.
pub(super) struct Clients {
    limit: Option<u32>,
    shards: [Mutex<AHashMap<Client, u32>>; SHARDS],
}

/// A client: an IPv4 address, or a /64 network of IPv6, which is what one client may have for itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Client(NonZeroU64);

impl Client {
    /// `None` for a network of multicast addresses, which is nobody's.
    fn at(address: IpAddr) -> Option<Client> {
        // addresses of IPv4 in a network that nobody has: 0000::/8 is reserved (RFC 4291 2.4)
        const IPV4: u64 = 0xffff << 32;
        let network = match address.to_canonical() {
            IpAddr::V4(ip) => IPV4 | u64::from(ip.to_bits()),
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
        };
        NonZeroU64::new(!network).map(Client)
    }
}

impl Clients {
    /// At most so many for each.
    pub(super) fn new(limit: Option<u32>) -> Self {
        Clients { limit, shards: Default::default() }
    }

    fn shard(&self, client: Client) -> &Mutex<AHashMap<Client, u32>> {
        &self.shards[scatter::place(client.0.get(), SHARDS.ilog2())]
    }

    /// Counts one more connection from an address; `Ok(None)` where there is no limit.
    ///
    /// # Errors
    /// When it has as many as it may have.
    pub(super) fn enter(&self, address: IpAddr) -> Result<Option<Client>, TooMany> {
        let (Some(limit), Some(client)) = (self.limit, Client::at(address)) else { return Ok(None) };
        let mut shard = lock(self.shard(client));
        let count = shard.entry(client).or_insert(0);
        if *count >= limit {
            return Err(TooMany);
        }
        *count += 1;
        Ok(Some(client))
    }

    /// One of its connections has ended.
    pub(super) fn leave(&self, client: Client) {
        let mut shard = lock(self.shard(client));
        let Some(count) = shard.get_mut(&client) else { return };
        *count -= 1;
        if *count == 0 {
            shard.remove(&client);
        }
    }
}

/// A client has as many connections as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Client {
        Client::at(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_client_is_an_address_or_a_network() {
        for (a, b, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("0.0.0.1", "::1", false),
        ] {
            assert_eq!(at(a) == at(b), same, "{a} {b}");
        }
    }

    #[test]
    fn each_has_so_many_and_what_ends_is_forgotten() {
        let clients = Clients::new(Some(2));
        let (one, other) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let held: Vec<_> = (0..2).map(|_| clients.enter(one).unwrap().unwrap()).collect();
        assert_eq!(clients.enter(one), Err(TooMany));
        let third = clients.enter(other).unwrap().unwrap();
        clients.leave(held[0]);
        let again = clients.enter(one).unwrap().unwrap();
        assert_eq!(clients.enter(one), Err(TooMany));
        [held[1], again, third].into_iter().for_each(|client| clients.leave(client));
        assert!(clients.shards.iter().all(|shard| lock(shard).is_empty()));
        assert_eq!(Clients::new(None).enter(one), Ok(None));
    }
}
