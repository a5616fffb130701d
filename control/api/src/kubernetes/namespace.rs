use crate::decode::{Decode, Decoder};
use crate::value::Value;

/// A namespace; what is used of it are the object's annotations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Namespace {}

impl Decode for Namespace {
    fn decode<'a>(_: &'a Value, _: &mut Decoder<'a>) -> Option<Self> {
        Some(Namespace {})
    }
}
