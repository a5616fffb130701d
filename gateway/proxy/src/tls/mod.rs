//! TLS on the downstream side: rustls configs by listener and SNI, from the pinned snapshot.

/// The TLS configs of one snapshot, by listener.
pub(crate) struct ServerConfigs {}
