//! The data plane through real sockets: a model made by hand, real clients, real upstreams.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that unwraps says what it expects")]

mod admin;
mod clients;
mod coalescing;
mod drain;
mod listeners;
mod logged;
mod refused;
mod requests;
mod support;
mod tcp;
mod tls;
mod traces;
