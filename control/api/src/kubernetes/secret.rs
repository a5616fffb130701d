use crate::decode::{Decode, Decoder, fields};
use crate::value::Value;
use std::collections::BTreeMap;
use std::fmt;

fields! {
    struct SecretFields others ["apiVersion", "kind", "metadata", "immutable"] {
        "type" => secret_type: Option<String>,
        "data" => data: BTreeMap<String, crate::Base64>,
        "stringData" => string_data: BTreeMap<String, String>,
    }
}

/// A Secret. Its contents are never printed: [`Debug`](fmt::Debug) names the keys alone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret {
    /// Its type, such as `kubernetes.io/tls`.
    pub secret_type: Option<String>,
    /// Its contents, decoded; `stringData` overrides `data`, as Kubernetes does.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl Decode for Secret {
    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self> {
        let fields = SecretFields::decode(value, at)?;
        let mut data: BTreeMap<_, _> = fields.data.into_iter().map(|(key, bytes)| (key, bytes.0)).collect();
        data.extend(fields.string_data.into_iter().map(|(key, text)| (key, text.into_bytes())));
        Some(Secret { secret_type: fields.secret_type, data })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("secret_type", &self.secret_type)
            .field("keys", &self.data.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
