use crate::decode::{Decode, Decoder};
use crate::value::Value;

/// A node; what is used of it are the object's labels, which say where it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {}

impl Decode for Node {
    fn decode<'a>(_: &'a Value, _: &mut Decoder<'a>) -> Option<Self> {
        Some(Node {})
    }
}
