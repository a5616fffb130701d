//! HTTP/1. `head` and `body` are the whole codec and the guard at once; nothing else sees bytes on the wire.

pub(crate) mod authority;
pub(crate) mod body;
mod client;
mod connection;
pub(crate) mod field;
pub(crate) mod head;
mod tunnel;

pub(crate) use connection::serve;
pub(crate) use tunnel::Way;
