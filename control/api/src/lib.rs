//! What users write: Istio's and Kubernetes' objects, read from YAML and JSON, each field with its place.
//!
//! [`read`] takes the text of a file and returns [`Object`]s and diagnostics. An object that has an error is refused
//! as a whole; the others are not touched by it. Field paths are those of [`field`].

mod base64;
mod decode;
mod duration;
pub mod field;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod inspect;
mod interpret;
pub mod istio;
mod kept;
mod kinds;
pub mod kubernetes;
mod mesh;
mod metadata;
mod object;
mod objects;
mod read;
mod small_map;
mod suggest;
mod value;
mod written;
mod yaml;

pub use crate::base64::Base64;
pub use duration::{InvalidDuration, parse as parse_duration};
pub use kept::restore;
pub use object::{Object, Owner, Spec};
pub use objects::Objects;
pub use read::{MAX_FILE_SIZE, Reading, Refused, read};
pub use small_map::SmallMap;
pub use value::{Data, Entry, Position, Value};
pub use written::Written;
