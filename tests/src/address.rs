//! Loopback addresses that belong to one test.

use anyhow::{Context, Result, bail};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

/// A `127.b.c.0/24` that no other test of this machine uses while it lives.
///
/// The reservation is a listener on its last address, so that processes see each other's too.
pub struct Net {
    prefix: [u8; 2],
    next: AtomicU8,
    _reservation: TcpListener,
}

impl Net {
    /// Reserves the next free network.
    pub fn reserve() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let start = std::process::id().wrapping_mul(61);
        for _ in 0..4096 {
            let n = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
            let prefix = [64 + ((n >> 8) % 128) as u8, (n & 0xff) as u8];
            let last = Ipv4Addr::new(127, prefix[0], prefix[1], 254);
            if let Ok(reservation) = TcpListener::bind((last, 5009)) {
                return Ok(Net { prefix, next: AtomicU8::new(2), _reservation: reservation });
            }
        }
        bail!("no free loopback network; end the tests that hold 127.64.0.0/9")
    }

    /// The address that the gateway of this test listens on.
    pub fn gateway(&self) -> Ipv4Addr {
        self.at(1)
    }

    /// An address that was not given out before.
    pub fn next(&self) -> Result<Ipv4Addr> {
        let n = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < 250).then_some(n + 1));
        Ok(self.at(n.ok().context("all 248 addresses of this network are taken")?))
    }

    fn at(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.prefix[0], self.prefix[1], last)
    }
}
