use crate::listener::socket;
use socket2::Socket;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// Sockets that listen already, by their address: those of the process that this one takes the place of.
#[derive(Debug, Default)]
pub struct Inherited(BTreeMap<SocketAddr, Socket>);

impl Inherited {
    /// These sockets, by the addresses that they are bound to.
    pub fn new(sockets: impl IntoIterator<Item = (SocketAddr, OwnedFd)>) -> Self {
        Inherited(sockets.into_iter().map(|(address, socket)| (address, socket.into())).collect())
    }

    /// The one that listens on `wanted`, or else a new one.
    ///
    /// # Errors
    /// What the system says of a new one.
    pub(crate) fn open(&mut self, wanted: SocketAddr) -> io::Result<Socket> {
        // what a dual stack socket is where IPv6 is off
        let is_any = wanted.is_ipv6() && wanted.ip().is_unspecified();
        let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), wanted.port());
        let found = self.0.remove(&wanted).or_else(|| is_any.then(|| self.0.remove(&v4)).flatten());
        found.map_or_else(|| socket::open(wanted), Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_already_is_taken_once_and_the_rest_is_opened() {
        let first = socket::open("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap().as_socket().unwrap();
        let mut inherited = Inherited::new([(address, first.try_clone().unwrap().into())]);
        assert_eq!(socket::open(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let taken = inherited.open(address).unwrap();
        assert_eq!(taken.local_addr().unwrap().as_socket(), Some(address));
        assert_eq!(
            inherited.open(address).unwrap_err().kind(),
            io::ErrorKind::AddrInUse,
            "it was given away"
        );
        let other = inherited.open("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(other.local_addr().unwrap().as_socket(), Some(address));
    }

    #[test]
    fn any_address_is_that_of_ipv4_where_that_is_all_there_is() {
        let first = socket::open("0.0.0.0:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap().as_socket().unwrap();
        let mut inherited = Inherited::new([(address, first.into())]);
        let any = SocketAddr::new("::".parse().unwrap(), address.port());
        assert_eq!(inherited.open(any).unwrap().local_addr().unwrap().as_socket(), Some(address));
    }
}
