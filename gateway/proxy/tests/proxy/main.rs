//! The data plane through real sockets: a model made by hand, real clients, real upstreams.

mod admin;
mod drain;
mod listeners;
mod support;
mod tls;
