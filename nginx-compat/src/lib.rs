//! Living with nginx.
//!
//! This crate holds the interop suite (`tests/interop.rs`): a real nginx, as Debian packages it, in
//! front of the gateway and behind it. It is also the place of the adapter from `nginx.conf` and
//! annotated Ingresses into the objects of `tidegate-api`; none of that exists yet, so the library is
//! empty.
