//! The black-box harness: the real `tidegate-gateway` binary, recording workloads and clients that
//! see the bytes.
//!
//! Nothing here links any other part of Tidegate. A test reserves a [`Net`] of loopback addresses of
//! its own, starts [`Backend`] listeners on some of them and a [`Gateway`] on another, and sends
//! [`Request`]s; tests never share a port and run side by side.

mod address;
mod backend;
mod binary;
pub mod churn;
mod client;
mod gateway;
mod http1;
mod http2;
pub mod life;
mod lines;
pub mod load;
mod name_server;
pub mod objects;
mod pki;
pub mod python;
mod recorder;
mod service_manager;
pub mod soak;
mod syn;
mod token;
mod upstream;
mod websocket;

pub use address::Net;
pub use backend::{Backend, Behaviour, Hit, seconds};
pub use binary::{check, gateway_binary, release_gateway_binary, workspace};
pub use client::{Answer, Connection, Failure, Host, Request, Tls, Version, exchange, get, values};
pub use gateway::{Gateway, Start, is_running};
pub use lines::Lines;
pub use name_server::NameServer;
pub use pki::{Authority, Identity};
pub use recorder::Recorder;
pub use service_manager::ServiceManager;
pub use syn::SynCounter;
pub use token::TokenSigner;
pub use upstream::{Seen, Upstream, Wants};
pub use websocket::websocket;
