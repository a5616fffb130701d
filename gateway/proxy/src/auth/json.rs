//! JSON of tokens, strictly: what two readers could read otherwise is none.

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;
use tidegate_engine::Claims;

/// How many objects and arrays may be inside of each other, as in Envoy.
const DEPTH: u32 = 100;

/// Reads an object. No object in it may have two members of one name: which of them counts is everyone's own guess
/// (RFC 7519 4, RFC 8259 4).
///
/// # Errors
/// When that is not what is written.
pub(super) fn object(json: &[u8]) -> Result<Claims, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = Strict { left: DEPTH }.deserialize(&mut reader)?;
    reader.end()?;
    match value {
        Value::Object(members) => Ok(members),
        _ => Err(de::Error::custom("no object")),
    }
}

/// Reads one value in which this many objects and arrays may be inside of each other.
#[derive(Clone, Copy)]
struct Strict {
    left: u32,
}

impl Strict {
    fn inner<E: de::Error>(self) -> Result<Strict, E> {
        let left = self.left.checked_sub(1).ok_or_else(|| E::custom("too deep"))?;
        Ok(Strict { left })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut members = Map::new();
        while let Some(name) = items.next_key::<String>()? {
            let value = items.next_value_seed(inner)?;
            if members.insert(name, value).is_some() {
                return Err(de::Error::custom("a member is there twice"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_member_is_there_twice_and_nothing_is_too_deep() {
        let deep = |arrays: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(arrays), "]".repeat(arrays));
        for (json, ok) in [
            (r#" {"a":1,"b":[1,-2,1.5,"x",null,true,{}]} "#.to_owned(), true),
            (r#"{"iss":"x","iss":"y"}"#.into(), false),
            (r#"{"iss":"x","\u0069ss":"x"}"#.into(), false),
            (r#"{"a":[{"b":1,"b":1}]}"#.into(), false),
            (r#"{"a":{"b":1},"c":{"b":1}}"#.into(), true),
            (deep(99), true),
            (deep(100), false),
            ("[]".into(), false),
            ("{} {}".into(), false),
            (r#"{"a":1e999}"#.into(), false),
        ] {
            assert_eq!(object(json.as_bytes()).is_ok(), ok, "{json}");
        }
    }

    proptest! {
        #[test]
        fn what_is_unambiguous_reads_as_ever(a in any::<i64>(), b in any::<f64>(), c in any::<u64>(), d in ".*") {
            let value = serde_json::json!({"a": a, "b": b, "c": [c, {"d": d}], "e": null, "f": false});
            let text = value.to_string();
            let plain: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(Value::Object(object(text.as_bytes()).unwrap()), plain);
        }
    }
}
