//! The edge gateway: arguments and wiring. What is served is decided in `translate` and `engine`, how in `proxy`.

mod args;
mod check;
mod echo;
mod explain;
mod feed;
mod last_good;
mod notify;
mod policies;
mod report;
mod serve;
mod signals;
mod upgrade;
mod watchdog;

use anyhow::anyhow;
use args::Invocation;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let invocation = args::parse(std::env::args_os()).unwrap_or_else(|error| error.exit());
    match run(invocation) {
        Ok(code) => code,
        Err(error) => {
            // nowhere is left to complain when stderr is gone
            let _ = writeln!(io::stderr(), "tidegate-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut invocation: Invocation) -> anyhow::Result<ExitCode> {
    // before anything of TLS, Pingora's included, chooses one by itself
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow!("another TLS provider is installed"))?;
    let setup = match &mut invocation {
        Invocation::Serve(serve) => &mut serve.setup,
        Invocation::Check(setup) | Invocation::Explain { setup, .. } => setup,
    };
    log(std::mem::take(&mut setup.log));
    match invocation {
        Invocation::Serve(options) => serve::serve(&options).map(|()| ExitCode::SUCCESS),
        Invocation::Check(setup) => {
            check::check(&setup).map(|good| if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Invocation::Explain { setup, query, echo } => {
            explain::print(&setup, &query, echo).map(|()| ExitCode::SUCCESS)
        }
    }
}

fn log(filter: EnvFilter) {
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    // a defect costs what it is found in, and is one line like any other
    std::panic::set_hook(Box::new(|defect| {
        let thread = std::thread::current();
        tracing::error!(thread = thread.name(), "a defect of the gateway: {defect}");
    }));
}
