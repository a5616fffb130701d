//! Where and how requests are logged (Istio 2.17): as Telemetry objects say, else the default providers of the mesh
//! config, else its `accessLogFile`.

use crate::log_filter;
use crate::mesh_config::Mesh;
use crate::report::Report;
use crate::telemetry::{Section, Telemetries};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_api::Object;
use tidegate_api::istio::{AccessLogEncoding, AccessLogging, FileAccessLogProvider, MeshConfig};
use tidegate_model::{AccessLog, AccessLogFormat, FormatString, LogFilter};

/// Where logs go when nothing is said.
const STDOUT: &str = "/dev/stdout";
/// The provider that Istio has unless another one has its name.
const BUILT_IN: &str = "envoy";

/// The access log, if anything is said about it.
pub(crate) fn access_log(
    mesh: &Mesh<'_>,
    telemetries: &Telemetries<'_>,
    report: &mut Report,
) -> Option<AccessLog> {
    let levels = telemetries.sections("accessLogging", |t| &t.access_logging);
    let defaults = mesh.config().and_then(|c| c.default_providers.as_ref());
    let defaults: Vec<&str> =
        defaults.map_or(&[][..], |p| &p.access_logging).iter().map(String::as_str).collect();
    if levels.is_empty() && defaults.is_empty() {
        return mesh.written().and_then(|(object, config)| of_mesh(object, config, report));
    }
    if let Some(object) = mesh.object().filter(|o| o.field("data.mesh.accessLogFile").is_some()) {
        let text = "has no effect: Telemetry objects or defaultProviders.accessLogging say where logs go";
        report.note(object, "data.mesh.accessLogFile", "no-effect", text, "");
    }
    let mut log = None;
    for (name, section) in providers(&levels, defaults, report) {
        let Some(found) = provider(mesh, name, section, report) else { continue };
        if log.is_some() {
            let text = format!(
                "logs to {name:?} are not written: there is one access log, that of another provider"
            );
            blame(mesh, section, name, report, |report, object, field| {
                report.warning(
                    object,
                    field,
                    "not-enforced",
                    text,
                    "name one provider of the kind envoyFileAccessLog",
                );
            });
            continue;
        }
        let filter = section.and_then(|section| filter(section, report));
        log = Some(AccessLog { filter, ..found });
    }
    // nobody is left to log to
    Some(log.unwrap_or(AccessLog { file: "".into(), format: AccessLogFormat::DefaultText, filter: None }))
}

type Logging<'a> = Section<'a, AccessLogging>;

/// The providers that get logs, by name, and the settings by which they do; `None` for the default ones.
fn providers<'s>(
    levels: &'s [Vec<Logging<'_>>],
    defaults: Vec<&'s str>,
    report: &mut Report,
) -> BTreeMap<&'s str, Option<&'s Logging<'s>>> {
    if levels.is_empty() {
        return defaults.into_iter().map(|name| (name, None)).collect();
    }
    let names = |section: &'s Logging<'_>| section.settings.providers.iter().map(|p| p.name.as_str());
    // the closest level that names any decides who counts at all
    let named = levels.iter().rev().map(|level| level.iter().flat_map(names).collect::<BTreeSet<_>>());
    let counting = named.into_iter().find(|named| !named.is_empty());
    let counting = counting.unwrap_or_else(|| defaults.iter().copied().collect());
    let mut found = BTreeMap::new();
    let mut current = defaults;
    for section in levels.iter().flatten() {
        if !section.settings.providers.is_empty() {
            current = names(section).collect();
        }
        if !section.is_for_clients(section.settings.matches.as_ref(), report) {
            continue;
        }
        if current.is_empty() && section.settings.disabled != Some(true) {
            let text = "names no provider, and there is no default one: requests are not logged";
            report.warning(section.object, &section.field, "no-provider", text, "add providers");
        }
        for name in current.iter().filter(|name| counting.contains(*name)) {
            if section.settings.disabled == Some(true) {
                found.remove(name);
            } else {
                found.insert(*name, Some(section));
            }
        }
    }
    found
}

/// Says something at the place where a provider is named.
fn blame(
    mesh: &Mesh<'_>,
    section: Option<&Logging<'_>>,
    name: &str,
    report: &mut Report,
    say: impl FnOnce(&mut Report, &Object, &str),
) {
    match section {
        Some(section) => {
            let at = section.settings.providers.iter().position(|p| p.name == name);
            let field = at
                .map_or_else(|| section.field.clone(), |i| format!("{}.providers[{i}].name", section.field));
            say(report, section.object, &field);
        }
        None => {
            if let Some(object) = mesh.object() {
                say(report, object, "data.mesh.defaultProviders.accessLogging");
            }
        }
    }
}

fn provider(
    mesh: &Mesh<'_>,
    name: &str,
    section: Option<&Logging<'_>>,
    report: &mut Report,
) -> Option<AccessLog> {
    let Some(index) = mesh.provider(name) else {
        if name == BUILT_IN {
            return Some(built_in(mesh, STDOUT, report));
        }
        let text = format!("there is no provider {name:?} among extensionProviders; nothing is logged to it");
        blame(mesh, section, name, report, |report, object, field| {
            report.error(object, field, "no-provider", text, "correct the name, or add it");
        });
        return None;
    };
    let (object, provider) = (mesh.object()?, &mesh.providers()[index]);
    let field = format!("data.mesh.extensionProviders[{index}]");
    let Some(file) = &provider.envoy_file_access_log else {
        let text = format!("{name:?} is none to which logs can be written; nothing is logged to it");
        report.warning(object, &field, "not-enforced", text, "use a provider of the kind envoyFileAccessLog");
        return None;
    };
    let path = file.path.as_deref().filter(|path| !path.is_empty()).unwrap_or(STDOUT);
    if name == BUILT_IN && file.log_format.is_none() {
        return Some(built_in(mesh, path, report));
    }
    let format = of_file(object, &format!("{field}.envoyFileAccessLog.logFormat"), file, report);
    Some(AccessLog { file: path.into(), format, filter: None })
}

/// By the mesh config's format.
fn built_in(mesh: &Mesh<'_>, path: &str, report: &mut Report) -> AccessLog {
    let format =
        mesh.written().map_or(AccessLogFormat::DefaultText, |(o, config)| mesh_format(o, config, report));
    AccessLog { file: path.into(), format, filter: None }
}

fn of_mesh(object: &Object, config: &MeshConfig, report: &mut Report) -> Option<AccessLog> {
    let file = config.access_log_file.as_deref()?;
    Some(AccessLog { file: file.into(), format: mesh_format(object, config, report), filter: None })
}

fn mesh_format(object: &Object, config: &MeshConfig, report: &mut Report) -> AccessLogFormat {
    let json = config.access_log_encoding == Some(AccessLogEncoding::Json);
    let default = if json { AccessLogFormat::DefaultJson } else { AccessLogFormat::DefaultText };
    let Some(written) = config.access_log_format.as_deref().filter(|f| !f.is_empty()) else { return default };
    let field = "data.mesh.accessLogFormat";
    let parsed = if json { parse_json(written) } else { parse_text(written) };
    checked(object, field, parsed, default, report)
}

fn of_file(
    object: &Object,
    field: &str,
    file: &FileAccessLogProvider,
    report: &mut Report,
) -> AccessLogFormat {
    let format = file.log_format.as_ref();
    if let Some(text) = format.and_then(|f| f.text.as_deref()).filter(|text| !text.is_empty()) {
        let field = format!("{field}.text");
        return checked(object, &field, parse_text(text), AccessLogFormat::DefaultText, report);
    }
    let Some(labels) = format.and_then(|f| f.labels.as_ref()) else { return AccessLogFormat::DefaultText };
    if labels.is_empty() {
        return AccessLogFormat::DefaultJson;
    }
    let formats = labels.iter().map(|(key, value)| key_format(key, value.as_str()));
    let parsed = formats.collect::<Result<_, _>>().map(AccessLogFormat::Json);
    checked(object, &format!("{field}.labels"), parsed, AccessLogFormat::DefaultJson, report)
}

/// The format where it is valid; what of it stands for nothing is said.
fn checked(
    object: &Object,
    field: &str,
    parsed: Result<AccessLogFormat, String>,
    default: AccessLogFormat,
    report: &mut Report,
) -> AccessLogFormat {
    match &parsed {
        Ok(AccessLogFormat::Text(format)) => report.absent_operators(object, field, format),
        Ok(AccessLogFormat::Json(keys)) => {
            keys.iter().for_each(|(_, format)| report.absent_operators(object, field, format));
        }
        Ok(_) => {}
        Err(why) => {
            let advice = "correct the format; until then the default one is used";
            report.error(object, field, "invalid-format", why.clone(), advice);
        }
    }
    parsed.unwrap_or(default)
}

fn parse_text(written: &str) -> Result<AccessLogFormat, String> {
    FormatString::parse(written).map(AccessLogFormat::Text).map_err(|e| e.to_string())
}

fn parse_json(written: &str) -> Result<AccessLogFormat, String> {
    let keys: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(written).map_err(|_| "is not a JSON object".to_owned())?;
    let formats = keys.iter().map(|(key, value)| key_format(key, value.as_str()));
    formats.collect::<Result<_, _>>().map(AccessLogFormat::Json)
}

fn key_format(key: &str, value: Option<&str>) -> Result<(std::sync::Arc<str>, FormatString), String> {
    let text = value.ok_or_else(|| format!("{key}: must be a string"))?;
    Ok((key.into(), FormatString::parse(text).map_err(|e| format!("{key}: {e}"))?))
}

/// Which requests are logged.
fn filter(section: &Logging<'_>, report: &mut Report) -> Option<LogFilter> {
    let expression = section.settings.filter.as_ref()?.expression.as_deref().filter(|e| !e.is_empty())?;
    match log_filter::parse(expression) {
        Ok(filter) => Some(filter),
        Err(why) => {
            let text = format!("is not understood, so all requests are logged: {why}");
            let advice = "compare attributes such as response.code and request.path with numbers and texts";
            let field = format!("{}.filter.expression", section.field);
            report.warning(section.object, &field, "not-enforced", text, advice);
            None
        }
    }
}
