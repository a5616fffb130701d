//! Reading what is not looked at.

use rustix::net::{RecvFlags, recv};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, Interest};
use tokio::net::TcpStream;

/// A stream that can pass over what comes.
pub(super) trait Forget: AsyncRead + Unpin {
    /// Passes over at most so many bytes as the buffer has, whose contents mean nothing then; how many they were.
    async fn forget(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(buffer).await
    }
}

impl Forget for TcpStream {
    /// Without a copy, tcp(7): a load that copies large bodies takes as long as the proxy between, and both wait in turn.
    async fn forget(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let socket = &*self;
        let discard = || Ok(recv(socket, &mut *buffer, RecvFlags::TRUNC)?.1);
        socket.async_io(Interest::READABLE, discard).await
    }
}

impl Forget for Box<dyn crate::client::Io> {}
impl<S: AsyncRead + tokio::io::AsyncWrite + Unpin> Forget for tokio_rustls::client::TlsStream<S> {}
impl<S: AsyncRead + tokio::io::AsyncWrite + Unpin> Forget for tokio_rustls::server::TlsStream<S> {}
#[cfg(test)]
impl Forget for tokio::io::DuplexStream {}
