//! The command line in two steps: [`Cli`] is what was typed, [`Invocation`] what was meant.

mod limits;
mod values;

use anyhow::{Context, bail, ensure};
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use limits::LimitArgs;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidegate_engine::Claims;
use tidegate_model::{AccessLog, AccessLogFormat};
use tidegate_proxy::ExplainQuery;
use tidegate_translate::Env;
use tracing_subscriber::EnvFilter;
use values::{
    address, claims, duration, filter, gateway, header, ip, label, method, name_server, namespace, network,
    port_pair, url,
};

/// What was asked for.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// Serve until told to stop.
    Serve(Box<Serve>),
    /// Say what is wrong with the config.
    Check(Setup),
    /// Say what would happen to a request.
    Explain {
        /// The config.
        setup: Setup,
        /// The request.
        query: ExplainQuery,
        /// Whether workloads are played.
        echo: bool,
    },
}

/// What every way of running needs.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Files and folders.
    pub(crate) config: Vec<PathBuf>,
    /// Who this gateway is to the config.
    pub(crate) env: Env,
    /// Who the sidecar is that `mesh` means: one in `default` without labels, unless the flags of `explain` say other.
    pub(crate) mesh_env: Env,
    /// How results and diagnostics are printed.
    pub(crate) output: Output,
    /// What is logged.
    pub(crate) log: EnvFilter,
}

/// How to serve.
#[derive(Debug)]
pub(crate) struct Serve {
    /// The config.
    pub(crate) setup: Setup,
    /// The address of listeners that name none; `None` is dual stack.
    pub(crate) bind: Option<IpAddr>,
    /// The admin page.
    pub(crate) admin: SocketAddr,
    /// Readiness and metrics.
    pub(crate) status: SocketAddr,
    /// Workloads are played by listeners of our own.
    pub(crate) echo: bool,
    /// `None` follows MeshConfig.
    pub(crate) access_log: Option<AccessLog>,
    /// Worker threads.
    pub(crate) concurrency: usize,
    /// Limits and deadlines.
    pub(crate) limits: LimitArgs,
    /// Where the accepted objects are kept for the next start.
    pub(crate) state_dir: Option<PathBuf>,
    /// How long a new process may take until it serves in place of this one.
    pub(crate) upgrade_timeout: Duration,
    /// A 404 says why in its body.
    pub(crate) explain_errors: bool,
    /// Peers whose PROXY headers are believed.
    pub(crate) proxy_protocol_from: Vec<IpNet>,
    /// Local networks that token keys may be fetched from.
    pub(crate) jwks_allow: Vec<IpNet>,
    /// Authorities that are trusted for fetching token keys beside those of the system.
    pub(crate) jwks_ca: Option<PathBuf>,
    /// Name servers in place of those of the system.
    pub(crate) dns_server: Vec<SocketAddr>,
    /// Local networks that names of endpoints may lead to.
    pub(crate) allow_dns_answers: Vec<IpNet>,
}

/// An output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Lines to read.
    Text,
    /// JSON to process.
    Json,
}

/// The Istio gateway on a memory-safe data plane: serves a folder of Istio and Kubernetes YAML.
#[derive(Debug, Parser)]
#[command(name = "tidegate-gateway", version, about, subcommand_negates_reqs = true)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    setup: SetupArgs,
    #[command(flatten)]
    serve: ServeArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what would happen to a request, and why.
    Explain(ExplainArgs),
}

#[derive(Debug, Args)]
struct SetupArgs {
    /// Files or folders (recursively) with .yaml, .yml or .json
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    config: Vec<PathBuf>,
    /// Listen on local port M for the server port N of a Gateway; may be repeated
    #[arg(long, value_name = "N=M", value_parser = port_pair)]
    port: Vec<(u16, u16)>,
    /// A label of this gateway, which Gateway selectors are held against; may be repeated
    /// [default: istio=ingressgateway]
    #[arg(long, value_name = "K=V", value_parser = label)]
    label: Vec<(String, String)>,
    /// The namespace of this gateway: where its certificates are [default: istio-system]
    #[arg(long, value_name = "NS", value_parser = namespace)]
    namespace: Option<String>,
    /// Become ready although security policies that select this gateway are not enforced
    #[arg(long)]
    allow_unenforced: bool,
    /// Answer 400 to paths that some server may read otherwise than this gateway: with encoded or repeated slashes,
    /// backslashes, `;`, `#`, control characters, or escapes of escapes
    #[arg(long)]
    strict_paths: bool,
    /// Do not retry where neither the VirtualService nor meshConfig says so; Istio does, twice, what no upstream acted on
    #[arg(long)]
    no_default_retries: bool,
    /// Do not limit retries where no DestinationRule does [default: 20 % of the requests under way, and always 3]
    #[arg(long)]
    no_default_retry_budget: bool,
    /// How results and diagnostics are printed
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = Output::Text)]
    output: Output,
    /// What is logged on stderr: error, warn, info, debug, or directives such as tidegate_proxy=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = filter)]
    log: Filter,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// The address of listeners that name none [default: [::], dual stack]
    #[arg(long, value_name = "IP", value_parser = ip)]
    bind: Option<IpAddr>,
    /// The admin page
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15000", value_parser = address)]
    admin: SocketAddr,
    /// Where /healthz/ready and /stats/prometheus are; without IP on every address
    #[arg(long, value_name = "IP:PORT", default_value = ":15021", value_parser = address)]
    status: SocketAddr,
    /// Play every workload of the config inside this process, in place of the real endpoints
    #[arg(long)]
    echo: bool,
    /// Print what is wrong with the config and exit: 1 if there are errors
    #[arg(long)]
    check: bool,
    /// The access log on stdout [default: as meshConfig says, else text]
    #[arg(long, value_name = "FORMAT", value_enum)]
    access_log: Option<LogFormat>,
    /// Worker threads, 1 to 1024 [default: the cores that this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: Option<u16>,
    /// Keep the last good objects here, with the contents of Secrets, and serve them at a start whose files are missing or
    /// broken [default: $STATE_DIRECTORY, as systemd sets it; else they are not kept]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// How long a new process may take until it could serve, when SIGUSR2 starts one in place of this one
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    upgrade_timeout: Duration,
    /// Fetch token keys (jwksUri) from this network too, although it is loopback, link-local or a cloud's metadata; may be
    /// repeated
    #[arg(long, value_name = "CIDR", value_parser = network)]
    jwks_allow: Vec<IpNet>,
    /// Trust these authorities (PEM) for fetching token keys, beside those of the system
    #[arg(long, value_name = "FILE")]
    jwks_ca: Option<PathBuf>,
    /// Ask this name server instead of those of /etc/resolv.conf; may be repeated
    #[arg(long, value_name = "IP:PORT", value_parser = name_server)]
    dns_server: Vec<SocketAddr>,
    /// Send requests to names that resolve into these networks too, although they are loopback, link-local, multicast or
    /// a cloud's metadata
    #[arg(long, value_name = "CIDR[,CIDR]", value_delimiter = ',', value_parser = network)]
    allow_dns_answers: Vec<IpNet>,
    /// Say in the body of a 404 why nothing matched
    #[arg(long)]
    explain_errors: bool,
    /// Peers whose connections begin with a PROXY header, where gatewayTopology.proxyProtocol asks for it; those of
    /// others never do [default: private, link-local and loopback addresses]
    #[arg(long, value_name = "CIDR", value_parser = network, num_args = 1..)]
    proxy_protocol_from: Vec<IpNet>,
    #[command(flatten)]
    limits: LimitArgs,
}

/// Where load balancers in front of a gateway are, unless it is said.
const NEAR: [&str; 9] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
];

#[derive(Debug, Args)]
struct ExplainArgs {
    /// The request's method
    #[arg(value_parser = method)]
    method: String,
    /// The request's URL, such as http://shop.example.com/cart?id=1; a connection is asked about as tls://NAME:PORT or
    /// tcp://NAME:PORT
    #[arg(value_parser = url)]
    url: String,
    /// A header of the request; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", action = ArgAction::Append, value_parser = header)]
    header: Vec<(String, String)>,
    /// The address that the request would come from, for policies that ask for one
    #[arg(long, value_name = "IP", value_parser = ip)]
    client: Option<IpAddr>,
    /// The claims of a token that the request would bring, as a JSON object, as if it had been verified
    #[arg(long, value_name = "JSON", value_parser = claims)]
    claims: Option<Claims>,
    /// Only the servers of this Gateway, or `mesh` for what a sidecar does
    #[arg(long, value_name = "NS/NAME|mesh", value_parser = gateway)]
    gateway: Option<String>,
    /// As a gateway with --echo would, which plays the workloads
    #[arg(long)]
    echo: bool,
    #[command(flatten)]
    setup: SetupArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Off,
    Text,
    Json,
}

/// A filter as it was typed: [`EnvFilter`] cannot be cloned.
#[derive(Clone, Debug)]
struct Filter(String);

/// Reads the command line.
///
/// # Errors
/// Wrong usage, to be printed and ended with by [`clap::Error::exit`]: `--help` and `--version` too.
pub(crate) fn parse<I, T>(arguments: I) -> Result<Invocation, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let cli = Cli::try_parse_from(arguments)?;
    validate(cli).map_err(|e| Cli::command().error(clap::error::ErrorKind::ValueValidation, format!("{e:#}")))
}

fn validate(cli: Cli) -> anyhow::Result<Invocation> {
    if let Some(Command::Explain(explain)) = cli.command {
        let query = ExplainQuery {
            method: explain.method,
            url: explain.url,
            headers: explain.header,
            claims: explain.claims,
            client: explain.client,
            gateway: explain.gateway,
        };
        return Ok(Invocation::Explain { setup: setup(explain.setup)?, query, echo: explain.echo });
    }
    let (mut setup, serve) = (setup(cli.setup)?, cli.serve);
    // the flags of a running gateway are about itself
    setup.mesh_env = Env { namespace: Arc::from("default"), labels: BTreeMap::new(), ..setup.env.clone() };
    if serve.check {
        return Ok(Invocation::Check(setup));
    }
    ensure!(
        serve.admin != serve.status || serve.admin.port() == 0,
        "--admin and --status are both {}",
        serve.admin
    );
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Invocation::Serve(Box::new(Serve {
        setup,
        bind: serve.bind,
        admin: serve.admin,
        status: serve.status,
        echo: serve.echo,
        access_log: serve.access_log.map(access_log),
        concurrency: serve.concurrency.map_or(cores, usize::from),
        limits: serve.limits,
        state_dir: serve.state_dir.or_else(|| state_directory(std::env::var_os("STATE_DIRECTORY")?)),
        upgrade_timeout: serve.upgrade_timeout,
        explain_errors: serve.explain_errors,
        proxy_protocol_from: match serve.proxy_protocol_from {
            given if given.is_empty() => NEAR.into_iter().map(network).collect::<Result<_, _>>()?,
            given => given,
        },
        jwks_allow: serve.jwks_allow,
        jwks_ca: serve.jwks_ca,
        dns_server: serve.dns_server,
        allow_dns_answers: serve.allow_dns_answers,
    })))
}

fn setup(args: SetupArgs) -> anyhow::Result<Setup> {
    let given = unique(args.label, "--label")?;
    let mesh_env = Env {
        namespace: args.namespace.as_deref().unwrap_or("default").into(),
        labels: given.clone(),
        ports: unique(args.port, "--port")?,
        domain: Arc::from("cluster.local"),
        root_namespace: Arc::from("istio-system"),
        allow_unenforced: args.allow_unenforced,
        broken_policies: Default::default(),
        broken_rules: Default::default(),
        strict_paths: args.strict_paths,
        default_retries: !args.no_default_retries,
        default_retry_budget: !args.no_default_retry_budget,
        now: std::time::SystemTime::now(),
        files: tidegate_translate::Files::new(),
    };
    let default = || BTreeMap::from([("istio".to_owned(), "ingressgateway".to_owned())]);
    let env = Env {
        namespace: args.namespace.as_deref().unwrap_or("istio-system").into(),
        labels: if given.is_empty() { default() } else { given },
        ..mesh_env.clone()
    };
    let log = EnvFilter::try_new(&args.log.0).context("--log")?;
    Ok(Setup { config: args.config, env, mesh_env, output: args.output, log })
}

/// The first of the folders that systemd names.
fn state_directory(names: OsString) -> Option<PathBuf> {
    std::env::split_paths(&names).next().filter(|path| path.is_absolute())
}

fn unique<K: Ord + std::fmt::Display, V: PartialEq>(
    pairs: Vec<(K, V)>,
    flag: &str,
) -> anyhow::Result<BTreeMap<K, V>> {
    let mut map = BTreeMap::new();
    for (key, value) in pairs {
        match map.get(&key) {
            Some(earlier) if *earlier != value => bail!("{flag} {key} was given twice with different values"),
            _ => map.insert(key, value),
        };
    }
    Ok(map)
}

fn access_log(format: LogFormat) -> AccessLog {
    let (file, format) = match format {
        LogFormat::Off => ("", AccessLogFormat::DefaultText),
        LogFormat::Text => ("/dev/stdout", AccessLogFormat::DefaultText),
        LogFormat::Json => ("/dev/stdout", AccessLogFormat::DefaultJson),
    };
    AccessLog { file: file.into(), format, filter: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Invocation, clap::Error> {
        parse(std::iter::once("tidegate-gateway").chain(line.split_whitespace()))
    }

    fn serve(line: &str) -> Serve {
        match read(line).unwrap() {
            Invocation::Serve(serve) => *serve,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let s = serve("--config a b");
        assert_eq!(s.setup.config, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!(s.bind, None);
        assert_eq!(s.admin, "127.0.0.1:15000".parse().unwrap());
        assert_eq!(s.status.port(), 15021);
        assert!(s.status.ip().is_unspecified());
        assert_eq!(s.setup.env.labels, [("istio".to_owned(), "ingressgateway".to_owned())].into());
        assert_eq!(&*s.setup.env.namespace, "istio-system");
        assert_eq!(s.access_log, None);
        assert_eq!(s.upgrade_timeout, Duration::from_secs(60));
        assert!(s.setup.env.default_retries && s.setup.env.default_retry_budget);
        assert_eq!(s.concurrency, std::thread::available_parallelism().unwrap().get());
        assert!(!s.echo && !s.explain_errors && !s.setup.env.allow_unenforced);
        assert_eq!(s.setup.output, Output::Text);
        let near =
            |ip: &str| s.proxy_protocol_from.iter().any(|n| n.contains(&ip.parse::<IpAddr>().unwrap()));
        assert_eq!(["10.1.2.3", "::1", "8.8.8.8", "2001:db8::1"].map(near), [true, true, false, false]);
    }

    #[test]
    fn flags_are_taken() {
        let s = serve(
            "--config a --bind [::1] --port 80=8080 --port 443=8443 --admin [::1]:1 --status 127.0.0.1:2 \
             --label app=edge --label tier=x --namespace edge --echo --access-log off --concurrency 3 \
             --drain-timeout 1m --state-dir state --upgrade-timeout 2m --log debug --allow-unenforced --strict-paths --explain-errors -o json \
             --proxy-protocol-from 192.0.2.0/24 2001:db8::1 --jwks-allow 127.0.0.0/8 --jwks-allow ::1 --jwks-ca ca.pem \
             --no-default-retries --no-default-retry-budget --dns-server 127.0.0.1:5353 \
             --dns-server ::1 --allow-dns-answers 127.0.0.0/8,169.254.169.254",
        );
        assert_eq!(s.dns_server, ["127.0.0.1:5353", "[::1]:53"].map(|a| a.parse().unwrap()));
        let nets = ["127.0.0.0/8", "169.254.169.254/32"].map(|net| net.parse().unwrap());
        assert_eq!(s.allow_dns_answers, nets);
        assert!(!s.setup.env.default_retries && !s.setup.env.default_retry_budget);
        assert_eq!(s.bind, Some("::1".parse().unwrap()));
        assert_eq!(s.setup.env.ports, [(80, 8080), (443, 8443)].into());
        assert_eq!(s.admin, "[::1]:1".parse().unwrap());
        assert_eq!(s.status, "127.0.0.1:2".parse().unwrap());
        let labels = [("app", "edge"), ("tier", "x")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(s.setup.env.labels, labels.into());
        assert_eq!(&*s.setup.env.namespace, "edge");
        assert_eq!(&*s.access_log.unwrap().file, "");
        assert_eq!(s.concurrency, 3);
        assert_eq!(s.limits.limits(None).drain, Duration::from_secs(60));
        assert_eq!(s.upgrade_timeout, Duration::from_secs(120));
        assert_eq!(s.state_dir, Some(PathBuf::from("state")));
        assert!(s.echo && s.explain_errors && s.setup.env.allow_unenforced && s.setup.env.strict_paths);
        assert_eq!(s.jwks_allow, ["127.0.0.0/8", "::1/128"].map(|net| net.parse().unwrap()));
        assert_eq!(s.jwks_ca, Some(PathBuf::from("ca.pem")));
        assert_eq!(s.setup.output, Output::Json);
        assert_eq!(s.proxy_protocol_from.len(), 2);
    }

    #[test]
    fn systemd_may_name_several_folders() {
        let first = |names: &str| state_directory(names.into()).map(|path| path.display().to_string());
        assert_eq!(first("/var/lib/tidegate:/var/lib/other").as_deref(), Some("/var/lib/tidegate"));
        assert_eq!(first(""), None);
    }

    #[test]
    fn check_and_explain_are_chosen() {
        assert!(matches!(read("--check --config a").unwrap(), Invocation::Check(_)));
        let line =
            ["x", "explain", "GET", "http://a/b", "-H", "X-A: 1: 2", "--gateway", "ns/gw", "--config", "a"];
        let Invocation::Explain { setup, query, echo: false } = parse(line).unwrap() else {
            panic!("not explain")
        };
        read("explain GET tls://a:443 --config a").unwrap();
        assert_eq!(setup.config, [PathBuf::from("a")]);
        assert_eq!((query.method.as_str(), query.url.as_str()), ("GET", "http://a/b"));
        assert_eq!(query.headers, [("X-A".to_owned(), "1: 2".to_owned())]);
        assert_eq!(query.gateway.as_deref(), Some("ns/gw"));
        assert_eq!((&*setup.env.namespace, &*setup.mesh_env.namespace), ("istio-system", "default"));
        assert!(setup.mesh_env.labels.is_empty());
    }

    #[test]
    fn wrong_usage_says_what_to_do_and_is_exit_code_2() {
        for (line, said) in [
            ("", "--config"),
            ("--config", "--config"),
            ("--config a --port 80", "SERVER_PORT=LOCAL_PORT"),
            ("--config a --port 80=0", "1 to 65535"),
            ("--config a --port 80=1 --port 80=2", "--port 80 was given twice"),
            ("--config a --label x", "KEY=VALUE"),
            ("--config a --label a=1 --label a=2", "--label a was given twice"),
            ("--config a --namespace A_b", "lower-case"),
            ("--config a --bind host", "IP address"),
            ("--config a --admin 15000", "IP:PORT"),
            ("--config a --status 127.0.0.1:15000", "--admin and --status"),
            ("--config a --concurrency 0", "concurrency"),
            ("--config a --drain-timeout 30", "30s"),
            ("--config a --dns-server dns.example", "IP:PORT"),
            ("--config a --allow-dns-answers here", "127.0.0.0/8"),
            ("--config a --log x=y=z", "level"),
            ("--config a --log wran", "level"),
            ("--config a --log info,tidegate_proxy", "tidegate_proxy=debug"),
            ("--config a --access-log xml", "possible values"),
            ("--config a --nonsense", "--nonsense"),
            ("explain GET --config a", "URL"),
            ("explain G@T http://a/ --config a", "method"),
            ("explain GET http://a/ --gateway name --config a", "NAMESPACE/NAME"),
            ("explain GET http://a/ -H nocolon --config a", "NAME: VALUE"),
            ("explain GET /path --config a", "http://"),
            ("explain GET http://a/", "--config"),
        ] {
            let error = read(line).err().unwrap_or_else(|| panic!("{line} was taken"));
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(said), "{line}: {error}");
        }
    }

    #[test]
    fn help_and_version_are_no_errors() {
        for line in ["--help", "--version", "explain --help"] {
            assert_eq!(read(line).unwrap_err().exit_code(), 0, "{line}");
        }
    }
}
