mod cgroup;

use std::time::Duration;

/// Limits and deadlines at an edge. [`Limits::default`] is what `--help` and the docs promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time for one whole request head.
    pub head_time: Duration,
    /// Bytes of one head.
    pub head_bytes: usize,
    /// Header fields of one head.
    pub head_fields: usize,
    /// Bytes of a request target.
    pub target_bytes: usize,
    /// Time for a TLS handshake.
    pub handshake_time: Duration,
    /// How long a connection without a request is kept.
    pub keep_alive_idle: Duration,
    /// How long a request may stand still in either direction.
    pub request_idle: Duration,
    /// Bytes a second that a client must send or take while it is waited for; 0 asks for nothing. The streams of a
    /// connection share it.
    pub min_rate: u32,
    /// For how long the body of a request, whose length was announced, may come more slowly.
    pub slow_request: Duration,
    /// For how long a response may be taken more slowly, counted in what the client's system acknowledges.
    pub slow_response: Duration,
    /// How much of a request's body is kept so that it can be sent again.
    pub retry_body: usize,
    /// Bytes of a request's body, without framing; larger ones are answered with 413.
    pub request_body: Option<u64>,
    /// Requests of one connection; it ends with the answer to the last. HTTP/2 clients are told so in
    /// time (GOAWAY), and get what they ask for until they have heard it.
    pub connection_requests: Option<u32>,
    /// Concurrent streams of an HTTP/2 connection.
    pub h2_streams: u32,
    /// Bytes of an HTTP/2 header list, counted as RFC 9113 6.5.2 does.
    pub h2_header_list: u32,
    /// Header fields of an HTTP/2 request.
    pub h2_fields: usize,
    /// Flow-control window of an HTTP/2 stream.
    pub h2_stream_window: u32,
    /// Flow-control window of an HTTP/2 connection.
    pub h2_connection_window: u32,
    /// Downstream connections in all; beyond it new ones are closed at once. By default 80 % of
    /// the file descriptors that the process may open, so that upstream connections, files and
    /// the admin page have the rest.
    pub connections: usize,
    /// Downstream connections of one client's address, or of the /64 network of an IPv6 one; beyond it
    /// new ones are closed at once. The address is that of an accepted PROXY header where there is one.
    pub client_connections: Option<u32>,
    /// Bytes of memory that the process may have in RAM. Near it requests are shed, beyond it connections are refused.
    /// By default nine tenths of what its control group may have.
    pub memory: Option<u64>,
    /// How long a stop goes on accepting once it is not ready any more, so that those who send traffic see it first.
    pub drain_delay: Duration,
    /// How long a stop waits for what is in flight from then on.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head_time: Duration::from_secs(10),
            head_bytes: 60 << 10,
            head_fields: 100,
            target_bytes: 8 << 10,
            handshake_time: Duration::from_secs(5),
            keep_alive_idle: Duration::from_secs(60),
            request_idle: Duration::from_secs(300),
            min_rate: 240,
            slow_request: Duration::from_secs(20),
            slow_response: Duration::from_secs(60),
            retry_body: 64 << 10,
            request_body: None,
            connection_requests: None,
            h2_streams: 100,
            h2_header_list: 32 << 10,
            h2_fields: 128,
            h2_stream_window: 64 << 10,
            h2_connection_window: 1 << 20,
            connections: Limits::connections_of(file_limit()),
            client_connections: None,
            memory: cgroup::memory_limit().map(|bytes| bytes / 10 * 9),
            drain_delay: Duration::ZERO,
            drain: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// How many connections there may be in a process that may open so many files: the rest is for upstreams that are not
    /// reused, files and sockets of our own.
    pub fn connections_of(files: usize) -> usize {
        files / 5 * 4
    }
}

/// The soft limit of open files; 1,024, the traditional one, where `/proc` does not tell.
fn file_limit() -> usize {
    const TRADITIONAL: usize = 1024;
    const UNLIMITED: usize = 1 << 20;
    let Ok(limits) = std::fs::read_to_string("/proc/self/limits") else { return TRADITIONAL };
    let soft = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_ascii_whitespace().next());
    match soft {
        Some("unlimited") => UNLIMITED,
        Some(n) => n.parse().unwrap_or(TRADITIONAL),
        None => TRADITIONAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_a_fifth_of_the_file_limit() {
        // The shell asks the kernel the other way round.
        let out = std::process::Command::new("sh").args(["-c", "ulimit -Sn"]).output().unwrap();
        let soft: usize = String::from_utf8(out.stdout).unwrap().trim().parse().unwrap_or(1 << 20);
        assert_eq!(Limits::default().connections, soft / 5 * 4);
    }
}
