//! Connection attempts, also those that the kernel refuses.

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Counts the TCP connection attempts to one address. Needs the right to open raw sockets (root).
pub struct SynCounter(Socket);

impl SynCounter {
    /// Starts to count.
    pub fn new(address: Ipv4Addr) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP))
            .context("counting refused connections needs CAP_NET_RAW: run the tests as root")?;
        socket.bind(&SocketAddrV4::new(address, 0).into())?;
        socket.set_nonblocking(true)?;
        Ok(SynCounter(socket))
    }

    /// How many attempts there were since the last call.
    pub fn count(&mut self) -> usize {
        let mut packet = [0; 2048];
        let mut attempts = 0;
        while let Ok(n) = self.0.read(&mut packet) {
            let flags = usize::from(packet[0] & 15) * 4 + 13;
            // SYN without ACK
            attempts += usize::from(flags < n && packet[flags] & 0x12 == 0x02);
        }
        attempts
    }
}
