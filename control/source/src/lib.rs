//! Folders of YAML: read into objects, watched, and read again when they change.
//!
//! [`Folder::load`] reads what is new and returns all objects; [`Folder::changed`] waits until there is something new
//! to read. What was good stays good: a file that does not parse, an object that has an error, and a folder that went
//! away leave the last good objects in place, and say so in a diagnostic.

mod activity;
mod file;
mod folder;
mod named;
mod scan;
mod watch;

pub use folder::{Folder, Loaded};
pub use named::{Contents, NamedFiles};
