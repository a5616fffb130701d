use super::*;
use std::time::Duration;
use tidegate_model::{RetryBudget, RetryPolicy};

const SERVICES: &str = "
    Service default/a: {ports: [{name: http, port: 80}]}
    Gateway default/g: {selector: {}, servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*']}]}
    ";

/// The retries of a rule with this in it.
fn policy(rule: &str, config: &str, env: &Env) -> Option<RetryPolicy> {
    let service = format!(
        "{SERVICES}\n{config}\nVirtualService default/v: {{hosts: ['*'], gateways: [g], http: [{{route: [{{destination: {{host: a}}}}]{rule}}}]}}"
    );
    let t = translate(&objects(&service), env);
    let host = t.model.virtual_hosts.values().next().unwrap();
    match &*host.routes[0].action {
        Action::Forward(forward) => forward.retries.clone(),
        other => panic!("{other:?}"),
    }
}

/// Shown as attempts, conditions and statuses, per-try timeout and waits in milliseconds, whether the endpoints before are avoided.
fn shown(policy: Option<RetryPolicy>) -> String {
    let Some(p) = policy else { return "none".to_owned() };
    let on: Vec<_> = p.on.iter().map(tidegate_model::RetryCondition::name).collect();
    let [per_try, backoff, max] =
        [p.per_try_timeout.unwrap_or_default(), p.backoff, p.max_backoff].map(|d| d.as_millis());
    format!(
        "{} {} {:?} {per_try} {backoff}..{max} {}",
        p.attempts,
        on.join(","),
        p.statuses,
        p.avoid_previous_hosts.map_or("unsaid".to_owned(), |avoid| avoid.to_string())
    )
}

#[test]
fn retries_of_rules() {
    const DEFAULT: &str = "connect-failure,refused-stream,retriable-status-codes,cancelled,unavailable []";
    let mesh =
        "ConfigMap istio-system/istio: {mesh: 'defaultHttpRetryPolicy: {attempts: 7, retryOn: \"502\"}'}";
    let off = "ConfigMap istio-system/istio: {mesh: 'defaultHttpRetryPolicy: {attempts: 0}'}";
    let of_mesh = "7 retriable-status-codes [502] 0 25..250 unsaid";
    let quiet = Env { default_retries: false, ..env() };
    for (rule, config, env, expected) in [
        ("", "", env(), format!("2 {DEFAULT} 0 25..250 unsaid")),
        ("", "", quiet.clone(), "none".to_owned()),
        ("", mesh, quiet.clone(), of_mesh.to_owned()),
        ("", mesh, env(), of_mesh.to_owned()),
        ("", off, env(), "none".to_owned()),
        (", retries: {}", mesh, env(), "none".to_owned()),
        (", retries: {attempts: 0}", "", env(), "none".to_owned()),
        (", retries: {attempts: 3}", mesh, quiet, format!("3 {DEFAULT} 0 25..250 unsaid")),
        (
            ", retries: {attempts: 1, perTryTimeout: 2s, backoff: 10ms, retryIgnorePreviousHosts: false, retryOn: 'gateway-error, 503,409'}",
            "",
            env(),
            "1 gateway-error,retriable-status-codes [503, 409] 2000 10..100 false".to_owned(),
        ),
        (
            ", retries: {attempts: 1, retryIgnorePreviousHosts: true}",
            "",
            env(),
            format!("1 {DEFAULT} 0 25..250 true"),
        ),
    ] {
        assert_eq!(shown(policy(rule, config, &env)), expected, "{rule} {config}");
    }
}

#[test]
fn budgets_of_clusters() {
    let share = |millionths, min_concurrency, interval| RetryBudget::Share {
        millionths,
        min_concurrency,
        interval: Duration::from_millis(interval),
    };
    let unlimited = Env { default_retry_budget: false, ..env() };
    for (traffic, env, expected) in [
        ("", env(), share(200_000, 3, 0)),
        ("", unlimited.clone(), RetryBudget::Unlimited),
        ("connectionPool: {http: {maxRetries: 7}}", env(), RetryBudget::Concurrent(7)),
        ("connectionPool: {http: {maxRetries: 0}}", env(), share(200_000, 3, 0)),
        ("retryBudget: {}, connectionPool: {http: {maxRetries: 7}}", unlimited, share(200_000, 3, 0)),
        (
            "retryBudget: {percent: 12.5, minRetryConcurrency: 1, budgetInterval: 10s}",
            env(),
            share(125_000, 1, 10_000),
        ),
        (
            "retryBudget: {percent: 0}, portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]",
            env(),
            share(200_000, 3, 0),
        ),
        ("retryBudget: {percent: 0}", env(), share(0, 3, 0)),
    ] {
        let all = format!(
            "{SERVICES}
            DestinationRule default/d: {{host: a, trafficPolicy: {{{traffic}}}}}
            VirtualService default/v: {{hosts: ['*'], gateways: [g], http: [{{route: [{{destination: {{host: a}}}}]}}]}}"
        );
        let t = translate(&objects(&all), &env);
        assert_eq!(t.model.clusters.values().next().unwrap().retry_budget, expected, "{traffic}");
    }
}
