//! Tracing (Istio 2.19): by the provider that Telemetry objects name, or MeshConfig's `defaultProviders.tracing`.

use crate::clusters::Clusters;
use crate::hosts::canonical;
use crate::report::Report;
use crate::telemetry::{Section, Telemetries};
use crate::validate::{is_framing, is_token};
use crate::world::World;
use std::collections::BTreeMap;
use std::time::Duration;
use tidegate_api::Object;
use tidegate_api::istio::{CustomTag, OpenTelemetryProvider, ProviderHeader, ProxyTracing, TracingSettings};
use tidegate_model::{FormatString, HeaderName, OtlpTransport, Share, SpanTag, Tracing};

/// Percentage of the requests that are sampled when nothing is said.
const SAMPLING: f64 = 1.0;
/// Bytes of a path that a span keeps when nothing is said.
const MAX_PATH: u32 = 256;
/// How long a collector may take when nothing is said.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Where collectors take spans by HTTP when nothing is said (OTLP 1.0).
const PATH: &str = "/v1/traces";

const DEFAULT: &str = "data.mesh.defaultProviders.tracing";

/// An object, and the path of a field of it.
type Place<'a> = (&'a Object, String);

/// How requests are traced, if they are.
pub(crate) fn tracing(
    world: &World<'_>,
    telemetries: &Telemetries<'_>,
    clusters: &mut Clusters<'_, '_>,
    report: &mut Report,
) -> Option<Tracing> {
    let wanted = Wanted::new(world, telemetries, report);
    let providers = world.mesh.providers();
    let index = wanted.provider.as_ref().and_then(|(_, name)| world.mesh.provider(name));
    for (i, provider) in providers.iter().enumerate() {
        if let Some((object, _)) = world.mesh.object().zip(provider.opentelemetry.as_ref())
            && index != Some(i)
        {
            let field = format!("data.mesh.extensionProviders[{i}].opentelemetry");
            let text =
                "has no effect as long as neither defaultProviders.tracing nor a Telemetry names it first";
            report.note(object, &field, "no-effect", text, "");
        }
    }
    let ((object, field), name) = wanted.provider.as_ref().filter(|_| !wanted.disabled)?;
    let Some((index, mesh)) = index.zip(world.mesh.object()) else {
        let text = format!("there is no provider {name:?} among extensionProviders; requests are not traced");
        report.error(object, field, "no-provider", text, "correct the name, or add it");
        return None;
    };
    let Some(otel) = &providers[index].opentelemetry else {
        let text = format!("{name:?} is none to which spans can be sent; requests are not traced");
        let advice = "use a provider of the kind opentelemetry: collectors of OpenTelemetry pass spans on to Zipkin, \
                      Datadog and others";
        let field = format!("data.mesh.extensionProviders[{index}]");
        report.warning(mesh, &field, "not-enforced", text, advice);
        return None;
    };
    let field = format!("data.mesh.extensionProviders[{index}].opentelemetry");
    wanted.open_telemetry((mesh, field), otel, clusters, report)
}

/// What is said about traces, the last word of each kind.
struct Wanted<'a> {
    provider: Option<(Place<'a>, &'a str)>,
    disabled: bool,
    propagates: bool,
    sampling: f64,
    istio_tags: bool,
    tags: Option<(Place<'a>, &'a BTreeMap<String, CustomTag>)>,
    max_path: Option<u32>,
}

impl<'a> Wanted<'a> {
    fn new(world: &'a World<'_>, telemetries: &Telemetries<'a>, report: &mut Report) -> Self {
        let mesh = world.mesh.object();
        let proxy: Option<&ProxyTracing> =
            world.mesh.config().and_then(|c| c.default_config.as_ref()).and_then(|c| c.tracing.as_ref());
        let names =
            world.mesh.config().and_then(|c| c.default_providers.as_ref()).map_or(&[][..], |p| &p.tracing);
        for (i, name) in names.iter().enumerate().skip(1) {
            let text = format!("{name} has no effect: traces go to the first provider alone");
            mesh.iter()
                .for_each(|o| report.note(o, &format!("{DEFAULT}[{i}]"), "no-effect", text.clone(), ""));
        }
        let tags = proxy.map(|p| &p.custom_tags).filter(|tags| !tags.is_empty());
        let mut wanted = Wanted {
            provider: mesh.zip(names.first()).map(|(o, name)| ((o, format!("{DEFAULT}[0]")), name.as_str())),
            disabled: false,
            propagates: true,
            sampling: proxy.and_then(|p| p.sampling).unwrap_or(SAMPLING),
            istio_tags: proxy.and_then(|p| p.enable_istio_tags).unwrap_or(true),
            tags: mesh
                .zip(tags)
                .map(|(o, tags)| ((o, "data.mesh.defaultConfig.tracing.customTags".into()), tags)),
            max_path: proxy.and_then(|p| p.max_path_tag_length),
        };
        let sections = telemetries.sections("tracing", |t| &t.tracing);
        for section in sections.into_iter().flatten() {
            if section.is_for_clients(section.settings.matches.as_ref(), report) {
                wanted.take(&section, report);
            }
        }
        wanted
    }

    fn take(&mut self, section: &Section<'a, TracingSettings>, report: &mut Report) {
        let Section { object, field, settings } = section;
        if let Some(first) = settings.providers.first() {
            self.provider = Some(((object, format!("{field}.providers[0].name")), &first.name));
        } else if self.provider.is_none() && settings.disable_span_reporting != Some(true) {
            let text = "names no provider, and there is no default one: requests are not traced";
            report.warning(object, field, "no-provider", text, "add providers, or defaultProviders.tracing");
        }
        for i in 1..settings.providers.len() {
            let text = "has no effect: traces go to the first provider alone";
            report.note(object, &format!("{field}.providers[{i}]"), "no-effect", text, "");
        }
        self.disabled = settings.disable_span_reporting.unwrap_or(self.disabled);
        self.propagates = settings.disable_context_propagation.map_or(self.propagates, |disabled| !disabled);
        self.sampling = settings.random_sampling_percentage.unwrap_or(self.sampling);
        self.istio_tags = settings.enable_istio_tags.unwrap_or(self.istio_tags);
        if !settings.custom_tags.is_empty() {
            self.tags = Some(((object, format!("{field}.customTags")), &settings.custom_tags));
        }
    }

    fn open_telemetry(
        &self,
        (object, field): Place<'_>,
        otel: &OpenTelemetryProvider,
        clusters: &mut Clusters<'_, '_>,
        report: &mut Report,
    ) -> Option<Tracing> {
        let service = otel.service.as_deref().unwrap_or_default();
        let host = canonical(service.split_once('/').map_or(service, |(_, host)| host));
        let (collector, found) = clusters.resolve(&host, "", Some(otel.port.unwrap_or(0)), 0);
        if let Err(absent) = found {
            let text = format!("{}; requests are not traced", absent.text(&host, ""));
            let advice = "name the full host of a Service or ServiceEntry, and a port of it";
            report.error(object, &format!("{field}.service"), "unknown-host", text, advice);
            return None;
        }
        let (transport, timeout, (name, written)) = match &otel.http {
            Some(http) => {
                let path = http.path.as_deref().filter(|p| !p.is_empty()).unwrap_or(PATH);
                (OtlpTransport::Http(path.into()), http.timeout, ("http.headers", &http.headers[..]))
            }
            None => {
                let grpc = otel.grpc.as_ref();
                let metadata = grpc.map_or(&[][..], |g| &g.initial_metadata);
                (OtlpTransport::Grpc, grpc.and_then(|g| g.timeout), ("grpc.initialMetadata", metadata))
            }
        };
        let max_path = otel.max_tag_length.or(self.max_path).filter(|n| *n > 0).unwrap_or(MAX_PATH);
        Some(Tracing {
            collector,
            transport,
            headers: headers(object, &format!("{field}.{name}"), written, report),
            timeout: timeout.filter(|t| !t.is_zero()).unwrap_or(TIMEOUT),
            sampling: Share::percent(self.sampling),
            propagates: self.propagates,
            max_path: max_path as usize,
            istio_tags: self.istio_tags,
            tags: self.tags.as_ref().map_or_else(Vec::new, |(place, tags)| span_tags(place, tags, report)),
        })
    }
}

/// What a collector gets beside the spans.
fn headers(
    object: &Object,
    field: &str,
    written: &[ProviderHeader],
    report: &mut Report,
) -> Vec<(HeaderName, FormatString)> {
    let mut all = Vec::new();
    for (i, header) in written.iter().enumerate() {
        let value = match &header.env_name {
            Some(name) => environment(name),
            None => header.value.as_deref().map(FormatString::of_text),
        };
        let value = value.filter(|v| v.as_str().bytes().all(|b| (0x20..0x7f).contains(&b)));
        match value.filter(|_| is_token(&header.name) && !is_framing(&header.name)) {
            Some(value) => all.push((HeaderName::new(&header.name), value)),
            None => {
                let text = format!("{:?} cannot be sent as a header, and is left out", header.name);
                let advice = "write the name of a header, and a value or the name of a variable";
                report.error(object, &format!("{field}[{i}]"), "invalid-header", text, advice);
            }
        }
    }
    all
}

/// The value of a variable of the process.
fn environment(name: &str) -> Option<FormatString> {
    FormatString::parse(&format!("%ENVIRONMENT({name})%")).ok().filter(|f| f.parts().len() == 1)
}

fn span_tags(
    (object, field): &Place<'_>,
    tags: &BTreeMap<String, CustomTag>,
    report: &mut Report,
) -> Vec<SpanTag> {
    let mut all = Vec::new();
    for (name, tag) in tags {
        let field = format!("{field}{}", tidegate_api::field::key(name));
        let (value, default) = match tag {
            CustomTag { literal: Some(tag), .. } => (Ok(FormatString::of_text(&tag.value)), None),
            CustomTag { environment: Some(tag), .. } => {
                let why = format!("{:?} is not the name of a variable", tag.name);
                (environment(&tag.name).ok_or(why), tag.default_value.as_deref())
            }
            CustomTag { header: Some(tag), .. } => {
                let header = Some(&tag.name).filter(|n| is_token(n.strip_prefix(':').unwrap_or(n)));
                let value = header.and_then(|name| FormatString::parse(&format!("%REQ({name})%")).ok());
                (value.ok_or(format!("{:?} is not a header name", tag.name)), tag.default_value.as_deref())
            }
            CustomTag { formatter: Some(tag), .. } => {
                (FormatString::parse(&tag.value).map_err(|e| e.to_string()), None)
            }
            _ => (Err("says nothing".to_owned()), None),
        };
        match value {
            Ok(value) => {
                report.absent_operators(object, &field, &value);
                let default = default.unwrap_or_default().into();
                all.push(SpanTag { name: name.as_str().into(), value, default });
            }
            Err(why) => {
                let advice =
                    "write literal, environment, header or formatter; until then the tag is left out";
                report.error(object, &field, "invalid-tag", why, advice);
            }
        }
    }
    all
}
