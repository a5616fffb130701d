use crate::decode::fields;

fields! {
    /// A namespace; what is used of it are its labels.
    pub struct Namespace {}
}
