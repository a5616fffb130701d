use crate::decode::{Decode, Decoder, fields, names};
use crate::small_map::SmallMap;
use crate::value::Value;
use std::collections::BTreeMap;
use std::time::Duration;

fields! {
    /// How requests for some hosts are routed.
    pub struct VirtualService {
        /// Hosts that it is for; short names are in its own namespace. Empty: a delegate.
        "hosts" => hosts: Vec<String>,
        /// Gateways and `mesh` that it applies at; empty means `mesh`.
        "gateways" => gateways: Vec<String>,
        /// Rules for HTTP; the first that matches wins.
        "http" => http: Vec<HttpRoute>,
        /// Rules for TLS that is not terminated.
        "tls" => tls: Vec<TlsRoute>,
        /// Rules for opaque TCP.
        "tcp" => tcp: Vec<TcpRoute>,
        /// Namespaces that see it: `*`, `.`, or names.
        "exportTo" => export_to: Vec<String>,
    }

    /// A rule for HTTP.
    pub struct HttpRoute {
        /// A name for access logs.
        "name" => name: Option<String>,
        /// Any of these must match; empty matches everything.
        "match" => matches: Vec<HttpMatchRequest>,
        /// Where to forward to, by weight.
        "route" => route: Vec<HttpRouteDestination>,
        /// Answer with a redirect.
        "redirect" => redirect: Option<Box<HttpRedirect>>,
        /// Answer at once.
        "directResponse" => direct_response: Option<Box<HttpDirectResponse>>,
        /// Go on with the rules of another VirtualService.
        "delegate" => delegate: Option<Box<Delegate>>,
        /// Change path or authority before forwarding.
        "rewrite" => rewrite: Option<Box<HttpRewrite>>,
        /// Time that the whole request may take; absent or 0 is no limit.
        "timeout" => timeout: Option<Duration>,
        /// Retries.
        "retries" => retries: Option<Box<HttpRetry>>,
        /// Faults to inject.
        "fault" => fault: Option<Box<HttpFaultInjection>>,
        /// Where to send a copy of requests.
        "mirror" => mirror: Option<Box<Destination>>,
        /// Where to send copies of requests.
        "mirrors" => mirrors: Vec<HttpMirrorPolicy>,
        /// Percentage of requests to mirror (deprecated).
        "mirrorPercent" | "mirror_percent" => mirror_percent: Option<u32>,
        /// Percentage of requests to mirror.
        "mirrorPercentage" => mirror_percentage: Option<Percent>,
        /// Cross-origin resource sharing.
        "corsPolicy" => cors_policy: Option<Box<CorsPolicy>>,
        /// Header operations.
        "headers" => headers: Option<Box<Headers>>,
    }

    /// Another VirtualService, without hosts, whose rules are used.
    pub struct Delegate {
        /// Its name.
        "name" => name: Option<String>,
        /// Its namespace; that of the root when absent.
        "namespace" => namespace: Option<String>,
    }

    /// Operations on headers.
    pub struct Headers {
        /// On the request, before it is forwarded.
        "request" => request: Option<HeaderOperations>,
        /// On the response, before it is returned.
        "response" => response: Option<HeaderOperations>,
    }

    /// Operations on the headers of one message.
    pub struct HeaderOperations {
        /// Overwrite.
        "set" => set: SmallMap<String>,
        /// Append.
        "add" => add: SmallMap<String>,
        /// Remove.
        "remove" => remove: Vec<String>,
    }

    /// What must all be true of a request.
    pub struct HttpMatchRequest {
        /// A name, appended to the route's.
        "name" => name: Option<String>,
        /// The path, without query.
        "uri" => uri: Option<StringMatch>,
        /// The scheme.
        "scheme" => scheme: Option<StringMatch>,
        /// The method, case-sensitive.
        "method" => method: Option<StringMatch>,
        /// Host or :authority, with its port.
        "authority" => authority: Option<StringMatch>,
        /// Headers, all of them.
        "headers" => headers: SmallMap<StringMatch>,
        /// The port that it came in on, as the Gateway names it.
        "port" => port: Option<u32>,
        /// Labels of the workload that routes.
        "sourceLabels" => source_labels: BTreeMap<String, String>,
        /// Gateways and `mesh`; a subset of those of the VirtualService.
        "gateways" => gateways: Vec<String>,
        /// Query parameters, all of them.
        "queryParams" => query_params: SmallMap<StringMatch>,
        /// Match exact and prefix paths in any case.
        "ignoreUriCase" => ignore_uri_case: Option<bool>,
        /// Headers of which none may match.
        "withoutHeaders" => without_headers: SmallMap<StringMatch>,
        /// Namespace of the workload that routes.
        "sourceNamespace" => source_namespace: Option<String>,
        /// Prefix for statistics.
        "statPrefix" => stat_prefix: Option<String>,
    }

    /// A destination with its share.
    pub struct HttpRouteDestination {
        /// The service.
        "destination" => destination: Destination,
        /// Its share among the destinations of the rule.
        "weight" => weight: Option<i32>,
        /// Header operations for this destination alone.
        "headers" => headers: Option<Box<Headers>>,
    }

    /// A destination with its share, for TCP and TLS.
    pub struct RouteDestination {
        /// The service.
        "destination" => destination: Destination,
        /// Its share among the destinations of the rule.
        "weight" => weight: Option<i32>,
    }

    /// A service, or a subset of it.
    pub struct Destination {
        /// The service's host; short names are in the object's namespace.
        "host" => host: String,
        /// A subset that a DestinationRule defines.
        "subset" => subset: Option<String>,
        /// The service's port; may be left out when it has one only.
        "port" => port: Option<PortSelector>,
    }

    /// A port by its number.
    pub struct PortSelector {
        /// The number.
        "number" => number: Option<u32>,
    }

    /// An answer with a redirect.
    pub struct HttpRedirect one_of ["port", "derivePort"] {
        /// The new path, with its query.
        "uri" => uri: Option<String>,
        /// Replaces the prefix that matched.
        "prefixRewrite" => prefix_rewrite: Option<String>,
        /// The new authority.
        "authority" => authority: Option<String>,
        /// The new port.
        "port" => port: Option<u32>,
        /// How the new port is derived.
        "derivePort" => derive_port: Option<RedirectPort>,
        /// The new scheme.
        "scheme" => scheme: Option<String>,
        /// The status; 301 when absent.
        "redirectCode" => redirect_code: Option<u32>,
    }

    /// An answer of the proxy itself.
    pub struct HttpDirectResponse {
        /// The status.
        "status" => status: u32,
        /// The body.
        "body" => body: Option<HttpBody>,
    }

    /// The body of a direct response: one of the two.
    pub struct HttpBody one_of ["string", "bytes"] {
        /// As text.
        "string" => string: Option<String>,
        /// As bytes, base64 in YAML.
        "bytes" => bytes: Option<crate::Base64>,
    }

    /// Changes before forwarding.
    pub struct HttpRewrite {
        /// Replaces the path, or the prefix that matched.
        "uri" => uri: Option<String>,
        /// Replaces the authority.
        "authority" => authority: Option<String>,
        /// Replaces what a regex matches in the path.
        "uriRegexRewrite" => uri_regex_rewrite: Option<RegexRewrite>,
    }

    /// A replacement by regex.
    pub struct RegexRewrite {
        /// The regex, in RE2 syntax.
        "match" => matches: Option<String>,
        /// The replacement, with `\1` for groups.
        "rewrite" => rewrite: Option<String>,
    }

    /// Retries of a request.
    pub struct HttpRetry {
        /// How many retries; 0 turns them off.
        "attempts" => attempts: Option<i32>,
        /// Time that each try may take.
        "perTryTimeout" => per_try_timeout: Option<Duration>,
        /// Conditions and status codes, separated by commas.
        "retryOn" => retry_on: Option<String>,
        /// Whether to retry in other localities.
        "retryRemoteLocalities" => retry_remote_localities: Option<bool>,
        /// Whether not to try a host twice.
        "retryIgnorePreviousHosts" => retry_ignore_previous_hosts: Option<bool>,
        /// The shortest wait between tries.
        "backoff" => backoff: Option<Duration>,
    }

    /// Cross-origin resource sharing.
    pub struct CorsPolicy {
        /// Origins that are allowed (deprecated form).
        "allowOrigin" => allow_origin: Vec<String>,
        /// Origins that are allowed.
        "allowOrigins" => allow_origins: Vec<StringMatch>,
        /// Methods that are allowed.
        "allowMethods" => allow_methods: Vec<String>,
        /// Headers that are allowed.
        "allowHeaders" => allow_headers: Vec<String>,
        /// Headers that the page may read.
        "exposeHeaders" => expose_headers: Vec<String>,
        /// How long a preflight may be cached.
        "maxAge" => max_age: Option<Duration>,
        /// Whether credentials may be sent.
        "allowCredentials" => allow_credentials: Option<bool>,
        /// What happens to preflights of other origins.
        "unmatchedPreflights" => unmatched_preflights: Option<UnmatchedPreflights>,
    }

    /// Faults to inject.
    pub struct HttpFaultInjection {
        /// Wait before forwarding.
        "delay" => delay: Option<FaultDelay>,
        /// Answer with an error.
        "abort" => abort: Option<FaultAbort>,
    }

    /// A wait before forwarding.
    pub struct FaultDelay one_of ["fixedDelay", "exponentialDelay"] {
        /// Percentage of requests (deprecated).
        "percent" => percent: Option<i32>,
        /// How long.
        "fixedDelay" => fixed_delay: Option<Duration>,
        /// Mean of an exponential distribution; Istio does not implement it.
        "exponentialDelay" => exponential_delay: Option<Duration>,
        /// Percentage of requests; absent is none.
        "percentage" => percentage: Option<Percent>,
    }

    /// An error in place of an answer.
    pub struct FaultAbort one_of ["httpStatus", "grpcStatus", "http2Error"] {
        /// The HTTP status.
        "httpStatus" => http_status: Option<i32>,
        /// The gRPC status by name.
        "grpcStatus" => grpc_status: Option<String>,
        /// The HTTP/2 error; Istio does not implement it.
        "http2Error" => http2_error: Option<String>,
        /// Percentage of requests; absent is none.
        "percentage" => percentage: Option<Percent>,
    }

    /// A copy of requests.
    pub struct HttpMirrorPolicy {
        /// Where to.
        "destination" => destination: Destination,
        /// Of how many requests; absent is all.
        "percentage" => percentage: Option<Percent>,
    }

    /// A percentage.
    pub struct Percent {
        /// From 0 to 100.
        "value" => value: Option<f64>,
    }

    /// A rule for TLS that is not terminated.
    pub struct TlsRoute required ["match"] {
        /// Any of these must match.
        "match" => matches: Vec<TlsMatchAttributes>,
        /// Where to forward to.
        "route" => route: Vec<RouteDestination>,
    }

    /// What must all be true of a TLS connection.
    pub struct TlsMatchAttributes required ["sniHosts"] {
        /// Server names.
        "sniHosts" => sni_hosts: Vec<String>,
        /// Subnets of the original destination.
        "destinationSubnets" => destination_subnets: Vec<String>,
        /// The port.
        "port" => port: Option<u32>,
        /// Labels of the workload that routes.
        "sourceLabels" => source_labels: BTreeMap<String, String>,
        /// Gateways and `mesh`.
        "gateways" => gateways: Vec<String>,
        /// Namespace of the workload that routes.
        "sourceNamespace" => source_namespace: Option<String>,
    }

    /// A rule for opaque TCP.
    pub struct TcpRoute {
        /// Any of these must match; empty matches everything.
        "match" => matches: Vec<L4MatchAttributes>,
        /// Where to forward to.
        "route" => route: Vec<RouteDestination>,
    }

    /// What must all be true of a TCP connection.
    pub struct L4MatchAttributes {
        /// Subnets of the original destination.
        "destinationSubnets" => destination_subnets: Vec<String>,
        /// The port.
        "port" => port: Option<u32>,
        /// Subnet of the client.
        "sourceSubnet" => source_subnet: Option<String>,
        /// Labels of the workload that routes.
        "sourceLabels" => source_labels: BTreeMap<String, String>,
        /// Gateways and `mesh`.
        "gateways" => gateways: Vec<String>,
        /// Namespace of the workload that routes.
        "sourceNamespace" => source_namespace: Option<String>,
    }

    struct StringMatchFields one_of ["exact", "prefix", "regex"] {
        "exact" => exact: Option<String>,
        "prefix" => prefix: Option<String>,
        "regex" => regex: Option<String>,
    }
}

names! {
    /// How the port of a redirect is derived.
    pub enum RedirectPort {
        /// 80 or 443 by the scheme.
        "FROM_PROTOCOL_DEFAULT" => FromProtocolDefault,
        /// That of the request.
        "FROM_REQUEST_PORT" => FromRequestPort,
    }

    /// What happens to preflights whose origin is not allowed.
    pub enum UnmatchedPreflights {
        /// The default: forwarded.
        "UNSPECIFIED" => Unspecified,
        /// Forwarded.
        "FORWARD" => Forward,
        /// Answered with 200 and no CORS headers.
        "IGNORE" => Ignore,
    }
}

/// How a text is matched.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum StringMatch {
    /// `{}`: it is there, whatever it is.
    #[default]
    Present,
    /// The whole text.
    Exact(String),
    /// Its start.
    Prefix(String),
    /// The whole text by a regex in RE2 syntax.
    Regex(String),
}

impl Decode for StringMatch {
    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self> {
        let fields = StringMatchFields::decode(value, at)?;
        Some(match (fields.exact, fields.prefix, fields.regex) {
            (Some(exact), _, _) => StringMatch::Exact(exact),
            (_, Some(prefix), _) => StringMatch::Prefix(prefix),
            (_, _, Some(regex)) => StringMatch::Regex(regex),
            (None, None, None) => StringMatch::Present,
        })
    }
}
