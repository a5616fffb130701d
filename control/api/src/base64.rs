use crate::decode::{Decode, Decoder};
use crate::value::{Data, Value};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// Bytes that are base64 in YAML. [`Debug`](fmt::Debug) shows how many and no more.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl fmt::Debug for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base64({} bytes)", self.0.len())
    }
}

impl Decode for Base64 {
    fn decode<'a>(value: &'a Value, at: &mut Decoder<'a>) -> Option<Self> {
        let Data::String(text) = &value.data else { return at.wrong_type("a string", value) };
        // Kubernetes takes the line breaks that `base64` makes.
        let packed: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        match STANDARD.decode(packed) {
            Ok(bytes) => Some(Base64(bytes)),
            Err(_) => {
                let advice = "encode it with `base64 -w0`; in a Secret, plain text goes under stringData";
                at.error("invalid-base64", "is not base64".to_owned(), advice.to_owned());
                None
            }
        }
    }
}
