//! Limits of connections and requests, from a DestinationRule.

use std::time::Duration;
use tidegate_api::istio::{self, ConnectionPoolSettings};
use tidegate_model::{ConnectionLimits, Http2Keepalive, TcpKeepalive};

/// What Linux does where nothing is said.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive { time: Duration::from_secs(7200), interval: Duration::from_secs(75), probes: 9 };

/// The limits of these settings. As in Istio, 0 is as if it was not written.
pub(crate) fn limits(
    pool: Option<&ConnectionPoolSettings>,
    mesh_keepalive: Option<&istio::TcpKeepalive>,
) -> ConnectionLimits {
    let tcp = pool.and_then(|pool| pool.tcp.as_ref());
    let http = pool.and_then(|pool| pool.http.as_ref());
    let written = |value: Option<i32>| value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0);
    ConnectionLimits {
        max_connections: written(tcp.and_then(|tcp| tcp.max_connections)),
        max_pending_requests: written(http.and_then(|http| http.http1_max_pending_requests)),
        max_requests: written(http.and_then(|http| http.http2_max_requests)),
        max_requests_per_connection: written(http.and_then(|http| http.max_requests_per_connection)),
        max_concurrent_streams: written(http.and_then(|http| http.max_concurrent_streams)),
        max_connection_duration: tcp.and_then(|tcp| tcp.max_connection_duration),
        tcp_keepalive: tcp.and_then(|tcp| tcp.tcp_keepalive.as_ref()).or(mesh_keepalive).map(keepalive),
        http2_keepalive: http.and_then(|http| http.http2_keep_alive.as_ref()).and_then(pings),
    }
}

/// Without an interval there are none.
fn pings(written: &istio::Http2KeepAlive) -> Option<Http2Keepalive> {
    let set = |time: Option<Duration>| time.filter(|time| !time.is_zero());
    let interval = set(written.interval)?;
    Some(Http2Keepalive { interval, timeout: set(written.timeout).unwrap_or(interval) })
}

fn keepalive(written: &istio::TcpKeepalive) -> TcpKeepalive {
    let set = |time: Option<Duration>| time.filter(|time| !time.is_zero());
    TcpKeepalive {
        time: set(written.time).unwrap_or(KEEPALIVE.time),
        interval: set(written.interval).unwrap_or(KEEPALIVE.interval),
        probes: written.probes.filter(|n| *n > 0).unwrap_or(KEEPALIVE.probes),
    }
}
