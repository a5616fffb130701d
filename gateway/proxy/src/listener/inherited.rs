use crate::listener::socket;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// Sockets that listen already, by their address: those of the process that this one takes the place of, and those that
/// the service manager made.
///
/// The former are asked for once. The manager keeps its own open whatever we do, so that who connects to one waits for
/// somebody to accept: we keep them too, and accept on one whenever a listener is for its address.
#[derive(Debug, Default)]
pub struct Inherited {
    predecessor: Option<BTreeMap<SocketAddr, Socket>>,
    activated: BTreeMap<SocketAddr, Socket>,
}

/// A socket that listens, for a process to come.
#[derive(Debug)]
pub struct Shared {
    /// The address that it is bound to.
    pub address: SocketAddr,
    /// The service manager made it.
    pub activated: bool,
    /// The socket once more.
    pub socket: OwnedFd,
}

/// Why a descriptor of the service manager's is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// There is nothing a Gateway could have there.
    #[error("it is no TCP socket that listens; a socket unit needs ListenStream= with a port, and Accept=no")]
    NoListener,
    /// An address is one listener's.
    #[error("another one listens on {0}; a socket unit needs ReusePort=no")]
    Twice(SocketAddr),
    /// What the system says.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Inherited {
    /// These sockets of the process before this one, by the addresses that they are bound to.
    pub fn of_predecessor(sockets: impl IntoIterator<Item = (SocketAddr, OwnedFd)>) -> Self {
        let sockets = sockets.into_iter().map(|(address, socket)| (address, socket.into())).collect();
        Inherited { predecessor: Some(sockets), activated: BTreeMap::new() }
    }

    /// Adds a socket that the service manager made, and returns its address.
    ///
    /// # Errors
    /// When no Gateway could use it; then it is closed here.
    pub fn activate(&mut self, descriptor: OwnedFd) -> Result<SocketAddr, Unusable> {
        let socket = Socket::from(descriptor);
        let address = tcp_listener(&socket).ok_or(Unusable::NoListener)?;
        if self.activated.contains_key(&address) {
            return Err(Unusable::Twice(address));
        }
        socket.set_nonblocking(true)?;
        socket::set_options(&socket)?;
        if address.ip() == IpAddr::from([0_u16; 8]) && socket.only_v6()? {
            tracing::warn!(
                "{address} of the service manager takes IPv6 alone; BindIPv6Only=both takes IPv4 too"
            );
        }
        self.activated.insert(address, socket);
        Ok(address)
    }

    /// Whether a process waits for this one to take its place.
    pub(crate) fn has_predecessor(&self) -> bool {
        self.predecessor.is_some()
    }

    /// Closes what the process before this one listened on and nobody asked for until now: it goes with that process.
    pub(crate) fn forget_predecessor(&mut self) {
        self.predecessor = None;
    }

    /// The one that listens on `wanted`, or else a new one; and whether the service manager made it.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open(&mut self, wanted: SocketAddr) -> io::Result<(Socket, bool)> {
        // what a dual stack socket is where IPv6 is off
        let is_any = wanted.is_ipv6() && wanted.ip().is_unspecified();
        let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), wanted.port());
        for address in [Some(wanted), is_any.then_some(v4)].into_iter().flatten() {
            if let Some(socket) = self.activated.get(&address) {
                return Ok((socket.try_clone()?, true));
            }
            if let Some(socket) = self.predecessor.as_mut().and_then(|sockets| sockets.remove(&address)) {
                return Ok((socket, false));
            }
        }
        socket::open(wanted).map(|socket| (socket, false))
    }

    /// The addresses of the service manager's sockets.
    pub(crate) fn activated(&self) -> BTreeSet<SocketAddr> {
        self.activated.keys().copied().collect()
    }

    /// The service manager's sockets, each once more.
    pub(crate) fn share(&self) -> io::Result<Vec<Shared>> {
        let shared = |(&address, socket): (&SocketAddr, &Socket)| {
            Ok(Shared { address, activated: true, socket: socket.try_clone()?.into() })
        };
        self.activated.iter().map(shared).collect()
    }
}

/// The address of a TCP socket that listens; `None` for whatever else a descriptor may be.
fn tcp_listener(socket: &Socket) -> Option<SocketAddr> {
    let domain = socket.domain().ok().filter(|domain| [Domain::IPV4, Domain::IPV6].contains(domain))?;
    let protocols = [Protocol::TCP, Protocol::MPTCP];
    let is_tcp = socket.r#type().ok()? == Type::STREAM && protocols.contains(&socket.protocol().ok()??);
    let listens = is_tcp && socket.is_listener().ok()?;
    let address = socket.local_addr().ok().filter(|_| listens)?.as_socket()?;
    (address.is_ipv6() == (domain == Domain::IPV6)).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening() -> (SocketAddr, Socket) {
        let socket = socket::open("127.0.0.1:0".parse().unwrap()).unwrap();
        (socket.local_addr().unwrap().as_socket().unwrap(), socket)
    }

    #[test]
    fn what_listens_already_is_taken_once_and_the_rest_is_opened() {
        let (address, first) = listening();
        let mut inherited = Inherited::of_predecessor([(address, first.try_clone().unwrap().into())]);
        assert_eq!(socket::open(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let (taken, activated) = inherited.open(address).unwrap();
        assert_eq!((taken.local_addr().unwrap().as_socket(), activated), (Some(address), false));
        assert_eq!(
            inherited.open(address).unwrap_err().kind(),
            io::ErrorKind::AddrInUse,
            "it was given away"
        );
        let (other, _) = inherited.open("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(other.local_addr().unwrap().as_socket(), Some(address));
    }

    #[test]
    fn what_the_service_manager_made_is_there_whenever_it_is_asked_for() {
        let (address, socket) = listening();
        let mut inherited = Inherited::default();
        assert_eq!(inherited.activate(socket.try_clone().unwrap().into()).unwrap(), address);
        for _ in 0..2 {
            let (taken, activated) = inherited.open(address).unwrap();
            assert_eq!((taken.local_addr().unwrap().as_socket(), activated), (Some(address), true));
        }
        let shared: Vec<_> = inherited.share().unwrap().iter().map(|s| (s.address, s.activated)).collect();
        assert_eq!((shared, inherited.has_predecessor()), (vec![(address, true)], false));
        assert!(matches!(inherited.activate(socket.into()), Err(Unusable::Twice(at)) if at == address));
    }

    #[test]
    fn only_tcp_sockets_that_listen_are_of_use() {
        let unused = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let unix = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        let file = tempfile::tempfile().unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (kept, _socket) = listening();
        let stream = std::net::TcpStream::connect(kept).unwrap();
        for (what, descriptor) in [
            ("unconnected", OwnedFd::from(unused)),
            ("connected", stream.into()),
            ("UNIX", unix.into()),
            ("file", file.into()),
            ("UDP", udp.into()),
        ] {
            let said = Inherited::default().activate(descriptor);
            assert!(matches!(said, Err(Unusable::NoListener)), "{what}: {said:?}");
        }
    }

    #[test]
    fn any_address_is_that_of_ipv4_where_that_is_all_there_is() {
        let first = socket::open("0.0.0.0:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap().as_socket().unwrap();
        let mut inherited = Inherited::of_predecessor([(address, first.into())]);
        let any = SocketAddr::new("::".parse().unwrap(), address.port());
        assert_eq!(inherited.open(any).unwrap().0.local_addr().unwrap().as_socket(), Some(address));
    }
}
