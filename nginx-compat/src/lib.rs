//! Living with nginx.
//!
//! This crate holds the interop suite (`tests/interop`): a real nginx, as Debian packages it, in
//! front of the gateway and behind it; README.md says how to set it up. It is also the place of the adapter from `nginx.conf` and
//! annotated Ingresses into the objects of `tidegate-api`; none of that exists yet, so the library is
//! empty.
