use pingora::protocols::l4::stream::Stream as L4Stream;
use rustix::io::{FdFlags, fcntl_setfd};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// More than any `net.core.somaxconn`, to which the kernel cuts it.
const BACKLOG: i32 = 65_535;
const KEEPALIVE_IDLE: Duration = Duration::from_secs(120);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Opens a listening socket, non-blocking. `[::]` is dual stack, or IPv4 alone where IPv6 is off.
///
/// # Errors
/// What the system says, such as that the address is in use.
pub(crate) fn open(address: SocketAddr) -> io::Result<Socket> {
    match bind(address) {
        Err(e) if address.ip().is_unspecified() && address.is_ipv6() && lacks_ipv6(&e) => {
            bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()))
        }
        result => result,
    }
}

fn lacks_ipv6(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // A socket in TIME_WAIT must not keep a restart from listening.
    socket.set_reuse_address(true)?;
    set_options(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Sets what accepted sockets are to have.
///
/// # Errors
/// What the system says.
pub(crate) fn set_options(socket: &Socket) -> io::Result<()> {
    // Linux hands these on to accepted sockets, which saves two system calls a connection.
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)
}

/// Makes a descriptor that came with the start of this process ours, and ours alone: programs that are started from here
/// do not get it.
///
/// # Errors
/// When there is none.
#[expect(unsafe_code, reason = "what a process is started with is known by its number alone")]
pub(super) fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: it is not -1, and lives as long as this call where it is open; else the call says so.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
    // SAFETY: it is open, and the one caller, who asks once and before anything is opened, gets it from who started this
    // process for it: so nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Lets a listening socket take no new connection, while those that have begun come about: a client
/// that tries meanwhile tries again, and finds the port closed or listened on by another socket.
///
/// # Errors
/// What the system says.
pub(crate) fn refuse_new(socket: &Socket) -> io::Result<()> {
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    // classic BPF: load the byte of the TCP flags, and drop a SYN without ACK (RFC 9293 3.1)
    socket.attach_filter(&[
        SockFilter::new(0x30, 0, 0, FLAGS),
        SockFilter::new(0x54, 0, 0, SYN | ACK),
        SockFilter::new(0x15, 0, 1, SYN),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ])
}

/// Has the peer see a reset instead of an end when the stream is dropped.
///
/// # Errors
/// What the system says.
#[expect(unsafe_code, reason = "Pingora's stream says its descriptor only as a number")]
pub(crate) fn reset_on_close(stream: &L4Stream) -> io::Result<()> {
    // SAFETY: the stream owns the descriptor and outlives the borrow.
    let fd = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    SockRef::from(&fd).set_linger(Some(Duration::ZERO))
}

/// The address with an IPv4 one that came by a dual stack socket written as IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    #[test]
    fn dual_stack_serves_both_families_and_accepted_sockets_inherit_options() {
        let socket = open("[::]:0".parse().unwrap()).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        for (client, family) in [("127.0.0.1", "IPv4"), ("::1", "IPv6")] {
            let Ok(_client) = TcpStream::connect((client.parse::<IpAddr>().unwrap(), port)) else {
                assert_eq!(family, "IPv6", "IPv4 must always work");
                continue;
            };
            let (accepted, peer) = loop {
                match socket.accept() {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                    other => break other.unwrap(),
                }
            };
            assert!(accepted.tcp_nodelay().unwrap(), "{family}: TCP_NODELAY");
            assert!(accepted.keepalive().unwrap(), "{family}: SO_KEEPALIVE");
            assert_eq!(accepted.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
            assert_eq!(canonical(peer.as_socket().unwrap()).ip().to_string(), client);
        }
    }

    #[test]
    fn a_socket_that_refuses_new_connections_keeps_those_that_wait() {
        let socket = open("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut waiting = TcpStream::connect(address).unwrap();
        refuse_new(&socket).unwrap();
        let patience = Duration::from_millis(200);
        let late = TcpStream::connect_timeout(&address, patience).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut, "neither taken nor reset");
        // what is established is not hindered by the filter that it inherits
        let mut accepted = TcpStream::from(socket.accept().unwrap().0);
        accepted.set_nonblocking(false).unwrap();
        waiting.write_all(b"x").unwrap();
        let mut read = [0];
        accepted.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"x");
        assert!(socket.accept().is_err(), "the queue is empty");
    }

    #[test]
    fn a_taken_port_is_said_so() {
        let first = open("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(open(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let other = SocketAddr::new("[::]:0".parse::<SocketAddr>().unwrap().ip(), address.port());
        assert_eq!(open(other).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        open(address).unwrap();
    }
}
