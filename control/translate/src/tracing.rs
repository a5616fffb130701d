//! Tracing (Istio 2.19): the provider that MeshConfig's `defaultProviders.tracing` names.

use crate::clusters::Clusters;
use crate::hosts::canonical;
use crate::report::Report;
use crate::world::World;
use std::time::Duration;
use tidegate_api::Object;
use tidegate_api::istio::{ExtensionProvider, OpenTelemetryProvider, ProxyTracing};
use tidegate_model::{OtlpTransport, Share, Tracing};

/// Percentage of the requests that are sampled when nothing is said.
const SAMPLING: f64 = 1.0;
/// Bytes of a path that a span keeps when nothing is said.
const MAX_PATH: u32 = 256;
/// How long a collector may take when nothing is said.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Where collectors take spans by HTTP when nothing is said (OTLP 1.0).
const PATH: &str = "/v1/traces";

const DEFAULT: &str = "data.mesh.defaultProviders.tracing";

/// How requests are traced, if they are.
pub(crate) fn tracing(
    world: &World<'_>,
    clusters: &mut Clusters<'_, '_>,
    report: &mut Report,
) -> Option<Tracing> {
    let (object, config) = (world.mesh.object()?, world.mesh.config()?);
    let names = config.default_providers.as_ref().map_or(&[][..], |p| &p.tracing);
    for (i, name) in names.iter().enumerate().skip(1) {
        let text = format!("{name} has no effect: traces go to the first provider alone");
        report.note(object, &format!("{DEFAULT}[{i}]"), "no-effect", text, "");
    }
    let named = names.first();
    let chosen =
        named.and_then(|name| config.extension_providers.iter().position(|p| p.name.as_ref() == Some(name)));
    for (i, provider) in config.extension_providers.iter().enumerate() {
        if provider.opentelemetry.is_some() && chosen != Some(i) {
            let field = format!("data.mesh.extensionProviders[{i}].opentelemetry");
            let text = "has no effect as long as defaultProviders.tracing does not name it first";
            report.note(object, &field, "no-effect", text, "");
        }
    }
    let name = named?;
    let Some(index) = chosen else {
        let text = format!("there is no provider {name:?} among extensionProviders; requests are not traced");
        report.error(object, &format!("{DEFAULT}[0]"), "no-provider", text, "correct the name, or add it");
        return None;
    };
    let provider = &config.extension_providers[index];
    let Some(otel) = &provider.opentelemetry else {
        return not_spoken(object, provider, index, report);
    };
    let proxy = config.default_config.as_ref().and_then(|c| c.tracing.as_ref());
    open_telemetry(object, otel, index, proxy, clusters, report)
}

fn not_spoken(
    object: &Object,
    provider: &ExtensionProvider,
    index: usize,
    report: &mut Report,
) -> Option<Tracing> {
    let name = provider.name.as_deref().unwrap_or_default();
    let text = format!("{name:?} is none to which spans can be sent yet; requests are not traced");
    let advice =
        "use a provider of the kind opentelemetry, which Jaeger, Zipkin and Datadog take too, by an agent";
    report.warning(object, &format!("data.mesh.extensionProviders[{index}]"), "not-enforced", text, advice);
    None
}

fn open_telemetry(
    object: &Object,
    otel: &OpenTelemetryProvider,
    index: usize,
    proxy: Option<&ProxyTracing>,
    clusters: &mut Clusters<'_, '_>,
    report: &mut Report,
) -> Option<Tracing> {
    let service = otel.service.as_deref().unwrap_or_default();
    let host = canonical(service.split_once('/').map_or(service, |(_, host)| host));
    let (collector, found) = clusters.resolve(&host, "", Some(otel.port.unwrap_or(0)), 0);
    if let Err(absent) = found {
        let field = format!("data.mesh.extensionProviders[{index}].opentelemetry.service");
        let text = format!("{}; requests are not traced", absent.text(&host, ""));
        let advice = "name the full host of a Service or ServiceEntry, and a port of it";
        report.error(object, &field, "unknown-host", text, advice);
        return None;
    }
    let (transport, timeout) = match &otel.http {
        Some(http) => {
            let path = http.path.as_deref().filter(|p| !p.is_empty()).unwrap_or(PATH);
            (OtlpTransport::Http(path.into()), http.timeout)
        }
        None => (OtlpTransport::Grpc, otel.grpc.as_ref().and_then(|g| g.timeout)),
    };
    let sampling = proxy.and_then(|p| p.sampling).unwrap_or(SAMPLING);
    let max_path = otel.max_tag_length.or(proxy.and_then(|p| p.max_path_tag_length)).filter(|n| *n > 0);
    Some(Tracing {
        collector,
        transport,
        timeout: timeout.filter(|t| !t.is_zero()).unwrap_or(TIMEOUT),
        sampling: Share::percent(sampling),
        max_path: max_path.unwrap_or(MAX_PATH) as usize,
    })
}
