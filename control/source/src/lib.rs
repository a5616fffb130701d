//! Folders of YAML: read into objects, watched, and read again when they change.
//!
//! [`Folder::load`] reads what is new and returns all objects; [`Folder::changed`] waits until there is something new
//! to read. What was good stays good: a file that does not parse, an object that has an error, and a folder that went
//! away leave the last good objects in place, and say so in a diagnostic.
//! [`StateFolder`] keeps them for a start at which their source is missing or broken.

mod activity;
mod file;
mod folder;
mod named;
mod scan;
mod state;
mod watch;

pub use folder::{Folder, Loaded};
pub use named::{Contents, NamedFiles};
pub use state::{Kept, StateError, StateFolder};
