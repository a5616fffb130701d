//! The routing engine: a [`tidegate_model::Model`] compiled to an immutable [`Table`], and pure
//! functions from a table and a request to a [`Decision`], with the reason for it.
//!
//! No I/O, no clock, no async, no randomness: the caller passes the dice.
//!
//! From the outside in: `connection` decides what happens to a connection by its listener and, with
//! TLS, by the name in `sni_index`; `table` finds the route table of a listener, `host_index` the virtual host
//! of an authority, `rule_index` and `path_index` the first rule of that virtual host whose
//! `matcher` accepts the request (`claim` where it asks for one of a token); `rule` turns it into a decision, which
//! `rewrite` and `redirect` write out, `cors` adding what pages of other origins may do. `pattern` shares the compiled
//! regexes.
//!
//! Beside that, `authorization` says whether a connection or a request is let through at all.

mod authorization;
mod claim;
mod connection;
mod cors;
mod decision;
mod host_index;
mod matcher;
mod path_index;
mod pattern;
mod redirect;
mod request;
mod rewrite;
mod rule;
mod rule_index;
mod sni_index;
mod table;
mod view;
mod virtual_host;

pub use authorization::{Authorizer, Check, ConsideredPolicy, Ends, Forbidden, MatchedRule, Notes, Subject};
pub use connection::{
    ConnectionDecision, ConnectionExplanation, ConnectionView, ListenerView, Refusal, TcpDecision,
};
pub use decision::{Considered, Decision, Explanation, ForwardDecision, NoRoute};
pub use request::{Claims, HeaderValue, RequestView, Scheme};
pub use table::{Compiled, Table};
pub use view::RouteTableView;
