//! wip
mod echo;
fn main() {}
