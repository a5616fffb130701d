//! The black-box suites: one binary, so that the gateway is built and the tests are linked once.

mod access_log;
mod activation;
mod admin;
mod authorization;
mod bad_upstream;
mod bookinfo;
mod budgets;
mod cases;
mod cli;
mod connections;
mod diagnostics;
mod dns;
mod edges;
mod egress;
mod grpc;
mod h2spec;
mod harness;
mod hostile;
mod istio_files;
mod limits;
mod mirrors;
mod reload;
mod retries;
mod soak;
mod state;
mod stop;
mod systemd;
mod telemetry;
mod tokens;
mod upgrade;
mod upstream_tls;
mod upstreams;
mod websocket;

use std::io::Write as _;

/// Prints a report that a passing test must not swallow.
fn say(text: &str) {
    let mut out = std::io::stderr().lock();
    // nobody may be reading
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}
