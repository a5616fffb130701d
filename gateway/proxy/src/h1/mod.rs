//! HTTP/1. `lines`, `head` and `body` are the whole codec and the guard at once; nothing else sees bytes on the wire.

pub(crate) mod authority;
pub(crate) mod body;
mod client;
mod connection;
pub(crate) mod field;
pub(crate) mod head;
pub(crate) mod lines;

pub(crate) use connection::serve;
