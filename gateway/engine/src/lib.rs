//! The routing engine: a [`tidegate_model::Model`] compiled to an immutable [`Table`], and pure
//! functions from a table and a request to a [`Decision`], with the reason for it.
//!
//! No I/O, no clock, no async, no randomness: the caller passes the dice.

mod request;
mod table;

pub use request::{HeaderValue, RequestView, Scheme};
pub use table::{
    Compiled, Considered, Decision, Explanation, ForwardDecision, ListenerRoute, NoRoute, RouteTableView,
    Table,
};
