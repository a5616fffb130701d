use super::request_authentication::selection;
use super::rules::{Check, bracket};
use tidegate_api::istio::{
    CustomTag, MetricsOverrides, ProviderRef, TagOperation, Telemetry, TracingSettings,
};

pub(super) fn validate(check: &mut Check<'_>, telemetry: &Telemetry) {
    selection(check, telemetry.selector.as_ref(), telemetry.target_ref.as_ref(), &telemetry.target_refs);
    for (i, settings) in telemetry.tracing.iter().enumerate() {
        tracing(check, &format!("spec.tracing[{i}]"), settings);
    }
    for (i, settings) in telemetry.access_logging.iter().enumerate() {
        providers(check, &format!("spec.accessLogging[{i}]"), &settings.providers);
    }
    for (i, settings) in telemetry.metrics.iter().enumerate() {
        let field = format!("spec.metrics[{i}]");
        providers(check, &field, &settings.providers);
        for (j, changes) in settings.overrides.iter().enumerate() {
            overrides(check, &format!("{field}.overrides[{j}]"), changes);
        }
    }
}

fn overrides(check: &mut Check<'_>, field: &str, changes: &MetricsOverrides) {
    let custom = changes.matches.as_ref().and_then(|m| m.custom_metric.as_deref());
    if custom == Some("") {
        check.error(&format!("{field}.match.customMetric"), "empty", "must not be empty", "name a metric");
    }
    for (name, tag) in &changes.tag_overrides {
        let field = format!("{field}.tagOverrides{}.value", bracket(name));
        let has_value = tag.value.as_deref().is_some_and(|value| !value.is_empty());
        match tag.operation.unwrap_or(TagOperation::Upsert) {
            TagOperation::Upsert if !has_value => {
                let advice = "write what the label is, or set operation: REMOVE";
                check.error(&field, "missing-field", "is missing", advice);
            }
            TagOperation::Remove if has_value => {
                check.error(&field, "one-of", "cannot be used with operation REMOVE", "remove it");
            }
            _ => {}
        }
    }
}

fn tracing(check: &mut Check<'_>, field: &str, settings: &TracingSettings) {
    providers(check, field, &settings.providers);
    if settings.random_sampling_percentage.is_some_and(|p| !(0.0..=100.0).contains(&p)) {
        let field = format!("{field}.randomSamplingPercentage");
        check.error(&field, "out-of-range", "must be a percentage", "write a number from 0 to 100");
    }
    for (name, tag) in &settings.custom_tags {
        let field = format!("{field}.customTags{}", bracket(name));
        let empty = match tag {
            CustomTag { literal: Some(t), .. } | CustomTag { formatter: Some(t), .. } => t.value.is_empty(),
            CustomTag { environment: Some(t), .. } | CustomTag { header: Some(t), .. } => t.name.is_empty(),
            _ => true,
        };
        if name.is_empty() || empty {
            let text = "a tag must have a name and say something";
            check.error(&field, "invalid-tag", text, "write literal, environment, header or formatter");
        }
    }
}

fn providers(check: &mut Check<'_>, field: &str, providers: &[ProviderRef]) {
    for (i, provider) in providers.iter().enumerate() {
        if provider.name.is_empty() {
            let field = format!("{field}.providers[{i}].name");
            check.error(&field, "missing-field", "must not be empty", "name a provider of the mesh config");
        }
    }
}
