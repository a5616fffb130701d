//! Looks up random requests in a table of a given shape and size, for counting instructions.
//!
//! `lookups SHAPE ROUTES LOOKUPS`, where SHAPE is
//! - `prefixes`: one host, a prefix for each route,
//! - `hosts`: a host for each route,
//! - `headers`: one host, one path, an exact value of the same header for each route,
//! - `paths`: one host, an exact path for each route.

#[path = "../tests/build/mod.rs"]
mod build;
#[path = "../tests/request/mod.rs"]
mod request;

use anyhow::{Context, Result, bail};
use build::{forward, header, model, route, virtual_host};
use request::Request;
use tidegate_engine::{Decision, Table};
use tidegate_model::{PathMatch, RouteMatch, VirtualHost};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [shape, routes, lookups] = &*arguments else { bail!("usage: lookups SHAPE ROUTES LOOKUPS") };
    let routes: usize = routes.parse().context("ROUTES is no number")?;
    let lookups: usize = lookups.parse().context("LOOKUPS is no number")?;
    let shape = match shape.as_str() {
        "prefixes" => Shape::Prefixes,
        "hosts" => Shape::Hosts,
        "headers" => Shape::Headers,
        "paths" => Shape::Paths,
        other => bail!("unknown shape {other}"),
    };
    let table = Table::compile(&model(shape.hosts(routes))).table;
    let view = table.route_table(&build::TABLE.into()).context("the table is missing")?;
    let mut random = fastrand::Rng::with_seed(routes as u64);
    // The same number of requests for every size, so that what they cost is the same.
    let requests: Vec<_> = (0..1000)
        .map(|_| random.usize(..routes))
        .map(|expected| (expected, shape.request(expected)))
        .collect();
    for (expected, request) in requests.iter().cycle().take(lookups) {
        match view.decide(request, 0) {
            Decision::Forward(chosen) if chosen.route.rule.index == *expected => {}
            other => bail!("route {expected} expected, but {other:?} was found"),
        }
    }
    Ok(())
}

enum Shape {
    Prefixes,
    Hosts,
    Headers,
    Paths,
}

impl Shape {
    fn hosts(&self, routes: usize) -> Vec<VirtualHost> {
        let routes = (0..routes).map(|i| route(i, self.matches(i), forward(None)));
        match self {
            Shape::Hosts => {
                routes.map(|r| virtual_host(build::TABLE, &host(r.rule.index), vec![r])).collect()
            }
            _ => vec![virtual_host(build::TABLE, &host(0), routes.collect())],
        }
    }

    fn matches(&self, i: usize) -> RouteMatch {
        match self {
            Shape::Prefixes => {
                RouteMatch { path: PathMatch::Prefix(path(i).into()), ..RouteMatch::default() }
            }
            Shape::Hosts => RouteMatch { path: PathMatch::Prefix("/".into()), ..RouteMatch::default() },
            Shape::Headers => RouteMatch {
                path: PathMatch::Prefix("/".into()),
                headers: vec![header("x-tenant", &tenant(i))],
                ..RouteMatch::default()
            },
            Shape::Paths => RouteMatch { path: PathMatch::Exact(path(i).into()), ..RouteMatch::default() },
        }
    }

    /// A request for one of the routes, with the headers that a browser sends.
    fn request(&self, i: usize) -> Request {
        let request = match self {
            Shape::Prefixes => Request::get(&host(0), &format!("{}/details?id=7", path(i))),
            Shape::Hosts => Request::get(&host(i), "/details?id=7"),
            Shape::Headers => Request::get(&host(0), "/details?id=7"),
            Shape::Paths => Request::get(&host(0), &path(i)),
        };
        let request = request
            .with("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
            .with("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
            .with("accept-encoding", "gzip, deflate, br")
            .with("cookie", "session=0123456789abcdef");
        match self {
            Shape::Headers => request.with("x-tenant", &tenant(i)),
            _ => request,
        }
    }
}

fn host(i: usize) -> String {
    format!("service-{i:05}.example.com")
}

fn path(i: usize) -> String {
    format!("/api/v1/resources-{i:05}")
}

fn tenant(i: usize) -> String {
    format!("tenant-{i:05}")
}
