use crate::Claims;
use serde_json::Value;
use tidegate_model::ClaimPath;

/// The claim that `path` leads to, through objects alone.
pub(crate) fn find<'c>(claims: Option<&'c Claims>, path: &ClaimPath) -> Option<&'c Value> {
    let (first, rest) = path.names().split_first()?;
    let outermost = claims?.get(&**first)?;
    rest.iter().try_fold(outermost, |value, name| value.as_object()?.get(&**name))
}
