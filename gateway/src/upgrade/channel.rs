use super::{Failure, Message};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recvmsg, sendmsg, shutdown,
    socketpair,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long it may take until there is room for a message.
const SEND: Duration = Duration::from_secs(10);
/// Longer than any message.
const LARGEST: usize = 4 << 10;

/// One end of what two processes say to each other: whole messages, each with at most one descriptor.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl Channel {
    /// Two ends.
    pub(super) fn pair() -> io::Result<(Channel, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // who does not read must not hold anything up
        set_socket_timeout(&ours, Timeout::Send, Some(SEND))?;
        Ok((Channel(ours), theirs))
    }

    pub(super) fn new(end: OwnedFd) -> Channel {
        Channel(end)
    }

    pub(super) fn try_clone(&self) -> io::Result<Channel> {
        self.0.try_clone().map(Channel)
    }

    /// Ends it for both, whoever waits.
    pub(super) fn end(&self) {
        // the other end may have gone
        let _ = shutdown(&self.0, Shutdown::Both);
    }

    pub(super) fn send(&self, message: &Message) -> Result<(), Failure> {
        self.send_with(message, None)
    }

    pub(super) fn send_with(&self, message: &Message, socket: Option<BorrowedFd<'_>>) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(message).map_err(|e| Failure::Protocol(e.to_string()))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let sockets: Vec<_> = socket.into_iter().collect();
        if !sockets.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&sockets));
        }
        match sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Err(Failure::Ended(String::new())),
            Err(rustix::io::Errno::AGAIN) => Err(Failure::Late),
            Err(e) => Err(Failure::Io(e.into())),
        }
    }

    /// The next message; `deadline` is the end of the wait for it.
    pub(super) fn receive(&self, deadline: Instant) -> Result<(Message, Option<OwnedFd>), Failure> {
        // zero is no limit to the system
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        set_socket_timeout(&self.0, Timeout::Recv, Some(left)).map_err(io::Error::from)?;
        let mut bytes = [0; LARGEST];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut into = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.0, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Err(Failure::Late),
                Err(rustix::io::Errno::CONNRESET) => return Err(Failure::Ended(String::new())),
                Err(e) => return Err(Failure::Io(e.into())),
                Ok(received) => break received.bytes,
            }
        };
        if received == 0 {
            return Err(Failure::Ended(String::new()));
        }
        let socket = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        });
        let message =
            serde_json::from_slice(&bytes[..received]).map_err(|e| Failure::Protocol(e.to_string()))?;
        Ok((message, socket))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn messages_and_sockets_pass_whole_and_an_end_is_told_from_silence() {
        let (one, other) = Channel::pair().unwrap();
        let other = Channel::new(other);
        let soon = || Instant::now() + Duration::from_millis(20);
        assert!(matches!(other.receive(soon()), Err(Failure::Late)));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        one.send_with(&Message::Socket(address), Some(listener.as_fd())).unwrap();
        one.send(&Message::Whole).unwrap();
        let (message, socket) = other.receive(soon()).unwrap();
        assert_eq!(message, Message::Socket(address));
        assert_eq!(TcpListener::from(socket.unwrap()).local_addr().unwrap(), address);
        let (message, socket) = other.receive(soon()).unwrap();
        assert_eq!((message, socket.is_none()), (Message::Whole, true));
        one.end();
        assert!(matches!(other.receive(soon()), Err(Failure::Ended(_))));
        assert!(matches!(other.send(&Message::Go), Err(Failure::Ended(_))));
    }
}
