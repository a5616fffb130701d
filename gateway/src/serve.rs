//! Starts the data plane and feeds it until it is told to stop.

use crate::args::Serve;
use crate::explain::World;
use crate::feed::{Feed, Live};
use crate::last_good::LastGood;
use crate::upgrade::{Inheritance, Predecessor};
use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs;
use std::sync::Arc;
use tidegate_proxy::{Dns, Identity, Inherited, KeyFetching, Options, Passed, Proxy};

/// Serves.
///
/// # Errors
/// When an address of ours is taken, or threads cannot be made.
pub(crate) fn serve(serve: &Serve) -> anyhow::Result<()> {
    let passed = Passed::from_env();
    let found = Predecessor::find().context("cannot take the place of a process")?;
    let (predecessor, mut inherited, last_good) = match found {
        Some(Inheritance { predecessor, sockets, last_good }) => (Some(predecessor), sockets, last_good),
        None => (None, Inherited::default(), None),
    };
    for Passed { name, descriptor } in passed {
        match inherited.activate(descriptor) {
            Ok(address) => tracing::info!("{address} is listened on by the service manager's {name:?}"),
            Err(why) => tracing::warn!("{name:?} of the service manager is closed here: {why}"),
        }
    }
    let last_good = LastGood::open(serve.state_dir.clone(), last_good).context("--state-dir")?;
    let live = Live::default();
    let proxy = Proxy::start(Options { inherited, ..options(serve, live.clone())? })?;
    let (admin, status) = (proxy.admin_address(), proxy.status_address());
    tracing::info!("the admin page is on http://{admin}/, readiness and metrics on http://{status}/");
    let feed = Feed::new(serve, proxy, live, last_good, predecessor)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    runtime.block_on(async { feed.run().await?.drain().await })
}

fn options(serve: &Serve, live: Live) -> anyhow::Result<Options> {
    let env = &serve.setup.env;
    let name =
        ["service.istio.io/canonical-name", "app", "istio"].iter().find_map(|key| env.labels.get(*key));
    let roots = match &serve.jwks_ca {
        Some(path) => fs::read(path).with_context(|| format!("--jwks-ca {}", path.display()))?,
        None => Vec::new(),
    };
    Ok(Options {
        bind: serve.bind,
        concurrency: serve.concurrency,
        limits: serve.limits.limits(open_files()),
        admin: serve.admin,
        status: serve.status,
        access_log: serve.access_log.clone(),
        explain_errors: serve.explain_errors,
        proxy_protocol_from: serve.proxy_protocol_from.clone(),
        identity: Identity {
            workload: name.map_or_else(|| "tidegate-gateway".to_owned(), String::clone),
            namespace: env.namespace.to_string(),
        },
        keys: KeyFetching { allowed: serve.jwks_allow.clone(), roots },
        dns: Dns { servers: serve.dns_server.clone(), allowed: serve.allow_dns_answers.clone() },
        explain: Arc::new(move |query, standings| {
            let world: Option<Arc<World>> = live.load_full();
            let answer = world.ok_or("no config is live yet")?.explain(query, standings)?;
            serde_json::to_value(answer).map_err(|e| e.to_string())
        }),
        inherited: Inherited::default(),
    })
}

/// Raises the limit of open files as far as the process may, and returns it; `None` is no limit.
fn open_files() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!("the limit of open files stays at {current:?}: {error}");
            current
        }
    }
}
