//! What happens to one request between its head and its log line, the same for HTTP/1 and HTTP/2:
//! a stream of HTTP/2 is read into the form of an HTTP/1 head first, so that there is one guard,
//! one view, one place where edits are applied and one list of phases ([`request::serve`]).

pub(crate) mod affinity;
pub(crate) mod answer;
pub(crate) mod attempt;
pub(crate) mod authorize;
pub(crate) mod buffers;
pub(crate) mod check;
pub(crate) mod deadline;
pub(crate) mod downstream;
pub(crate) mod edits;
pub(crate) mod error;
mod fault;
pub(crate) mod glimpse;
pub(crate) mod grpc;
pub(crate) mod head;
pub(crate) mod identity;
pub(crate) mod mirror;
mod misdirected;
pub(crate) mod outgoing;
pub(crate) mod pace;
pub(crate) mod path;
pub(crate) mod plan;
pub(crate) mod record;
pub(crate) mod relay;
pub(crate) mod request;
pub(crate) mod retry;
mod share;
pub(crate) mod side;
pub(crate) mod stall;
pub(crate) mod tunnel;
pub(crate) mod upload;
pub(crate) mod upstream;
pub(crate) mod view;
pub(crate) mod websocket;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
