//! Tables of one route to very many: a file for each host, as repositories of them have it.

use super::site::{PREFIXES, base, virtual_service};
use std::net::SocketAddr;

/// Routes of each host, where there is more than one route.
pub const ROUTES_OF_HOST: usize = 10;

/// How many hosts have so many routes.
pub fn hosts_of(routes: usize) -> usize {
    routes.div_ceil(ROUTES_OF_HOST)
}

/// The prefixes of each of these hosts; [`PREFIXES`] is `/`, and the last.
pub fn prefixes_of(routes: usize) -> Vec<usize> {
    match routes {
        // what is asked for
        1 => vec![3],
        _ => (0..PREFIXES).chain([PREFIXES + 1, PREFIXES]).collect(),
    }
}

/// The files of a table with so many routes by their names: all but the rules in one, and one for each host.
pub fn table_of(origins: &[SocketAddr], routes: usize) -> Vec<(String, String)> {
    let hosts = (0..hosts_of(routes)).map(|n| (file(n), virtual_service(n, prefixes_of(routes), "")));
    [("base.yaml".to_owned(), base(origins, None))].into_iter().chain(hosts).collect()
}

/// The file of the last host of that table, with one more rule, which answers this path with 204.
pub fn with_answer(routes: usize, path: &str) -> (String, String) {
    let last = hosts_of(routes) - 1;
    let rules = virtual_service(last, prefixes_of(routes), "");
    let answer =
        format!("  http:\n  - match: [{{uri: {{exact: {path}}}}}]\n    directResponse: {{status: 204}}\n");
    (file(last), rules.replacen("  http:\n", &answer, 1))
}

fn file(host: usize) -> String {
    format!("h{host}.yaml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_as_many_routes_as_they_say() {
        for routes in [1, 10, 1000] {
            let files = table_of(&[], routes);
            let rules: usize = files.iter().map(|(_, text)| text.matches("destination: ").count()).sum();
            assert_eq!((files.len(), rules), (1 + hosts_of(routes), routes));
            let (name, text) = with_answer(routes, "/new");
            let before = &files.iter().find(|(file, _)| *file == name).unwrap().1;
            assert_eq!(text.matches("- match").count(), before.matches("- match").count() + 1);
        }
    }
}
