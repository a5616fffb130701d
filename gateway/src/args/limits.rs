//! The flags of limits and deadlines.

use anyhow::{Context, bail, ensure};
use clap::Args;
use std::time::Duration;
use tidegate_proxy::Limits;

/// What one client may take of the gateway, and what the gateway takes of the machine.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Connections in all; when they are nearly reached, idle ones are ended, and beyond them new ones are closed at
    /// once [default: 80 % of the files that the process may open]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,
    /// Connections from one client: an IPv4 address or a /64 network of IPv6, as a trusted PROXY header says where
    /// there is one
    #[arg(long, value_name = "N|off", default_value = "off", value_parser = count)]
    max_connections_per_client: OrOff<u32>,
    /// Requests on one connection: the last is answered with `Connection: close`, HTTP/2 gets GOAWAY in time
    #[arg(long, value_name = "N|off", default_value = "off", value_parser = count)]
    max_requests_per_connection: OrOff<u32>,
    /// Memory of the process (RSS), at least 24Mi: near it new requests are answered with 503, beyond it new connections are
    /// closed at once [default: 90 % of what its control group may have, else off]
    #[arg(long, value_name = "SIZE|off", value_parser = memory)]
    memory_limit: Option<OrOff<u64>>,
    /// Header of a request, with its first line: 256 bytes to 1Mi [default: 60Ki; over HTTP/2, by the count of RFC 9113 6.5.2, 32Ki]
    #[arg(long, value_name = "SIZE", value_parser = header_bytes)]
    max_header_bytes: Option<u32>,
    /// Header fields of a request: 1 to 10000 [default: 100; over HTTP/2 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    max_headers: Option<u16>,
    /// Path and query of a request: 256 bytes to 1Mi
    #[arg(long, value_name = "SIZE", default_value = "8Ki", value_parser = header_bytes)]
    max_target_bytes: u32,
    /// Body of a request, also that of a stream of gRPC: larger ones are answered with 413
    #[arg(long, value_name = "SIZE|off", default_value = "off", value_parser = request_body)]
    max_request_body: OrOff<u64>,
    /// How much of a request's body is kept so that it can be sent again, at most 16Mi; a larger one is not retried
    #[arg(long, value_name = "SIZE", default_value = "64Ki", value_parser = retry_body)]
    retry_body: usize,
    /// Time for all of a TLS handshake
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = time)]
    tls_handshake_timeout: Duration,
    /// Time for all of a request's header
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = time)]
    header_timeout: Duration,
    /// How long a connection is kept on which there is no request
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = time)]
    keep_alive_timeout: Duration,
    /// How long a request, or a WebSocket, may stand still in both directions
    #[arg(long, value_name = "DURATION", default_value = "300s", value_parser = time)]
    stream_idle_timeout: Duration,
    /// Bytes a second that a client must send of a body whose length it announced, and take of a response that is there,
    /// while it is waited for
    #[arg(long, value_name = "SIZE|off", default_value = "240", value_parser = rate)]
    min_rate: u32,
    /// How long a body may come more slowly than --min-rate: then the request is answered with 408
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = time)]
    slow_request_timeout: Duration,
    /// How long a response may be taken more slowly than --min-rate: then it is reset
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = time)]
    slow_response_timeout: Duration,
    /// Concurrent streams of an HTTP/2 connection: 1 to 10000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    http2_max_streams: u32,
    /// Flow-control window of an HTTP/2 stream: what a client may send of a body before more is asked for
    #[arg(long, value_name = "SIZE", default_value = "64Ki", value_parser = window)]
    http2_stream_window: u32,
    /// Flow-control window of an HTTP/2 connection
    #[arg(long, value_name = "SIZE", default_value = "1Mi", value_parser = window)]
    http2_connection_window: u32,
    /// How long a stop goes on accepting before it drains: not ready from its beginning, so that load balancers send what
    /// is new elsewhere, and answers of HTTP/1 end their connections
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = super::values::duration)]
    pub(crate) drain_delay: Duration,
    /// How long a stop waits for requests in flight, after --drain-delay
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = super::values::duration)]
    drain_timeout: Duration,
}

/// A limit that was asked for; `None` is none.
#[derive(Clone, Copy, Debug)]
struct OrOff<T>(Option<T>);

/// The process alone takes some 20 MiB; below this it would refuse whatever comes.
const LEAST_MEMORY: u64 = 24 << 20;

impl LimitArgs {
    /// What was asked for, in a process that may open so many files; `None` is without a limit.
    pub(crate) fn limits(&self, files: Option<u64>) -> Limits {
        let default = Limits::default();
        let files = files.map(|files| usize::try_from(files).unwrap_or(usize::MAX));
        Limits {
            connections: match self.max_connections {
                Some(most) => most as usize,
                None => files.map_or(default.connections, Limits::connections_of),
            },
            client_connections: self.max_connections_per_client.0,
            connection_requests: self.max_requests_per_connection.0,
            memory: self.memory_limit.map_or(default.memory, |OrOff(limit)| limit),
            head_bytes: self.max_header_bytes.map_or(default.head_bytes, |n| n as usize),
            h2_header_list: self.max_header_bytes.unwrap_or(default.h2_header_list),
            head_fields: self.max_headers.map_or(default.head_fields, usize::from),
            h2_fields: self.max_headers.map_or(default.h2_fields, usize::from),
            target_bytes: self.max_target_bytes as usize,
            request_body: self.max_request_body.0,
            retry_body: self.retry_body,
            handshake_time: self.tls_handshake_timeout,
            head_time: self.header_timeout,
            keep_alive_idle: self.keep_alive_timeout,
            request_idle: self.stream_idle_timeout,
            min_rate: self.min_rate,
            slow_request: self.slow_request_timeout,
            slow_response: self.slow_response_timeout,
            h2_streams: self.http2_max_streams,
            h2_stream_window: self.http2_stream_window,
            h2_connection_window: self.http2_connection_window,
            drain_delay: self.drain_delay,
            drain: self.drain_timeout,
        }
    }
}

/// A number of bytes, as Kubernetes writes it.
fn size(text: &str) -> anyhow::Result<u64> {
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30)];
    let unit = units.iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, *bits)));
    let (number, bits) = unit.unwrap_or((text, 0));
    let number: u64 = number.parse().ok().context(SIZE)?;
    number.checked_mul(1 << bits).context(SIZE)
}

const SIZE: &str = "write bytes, or Ki, Mi or Gi of them, such as 64Ki";

fn at_most(text: &str, range: std::ops::RangeInclusive<u64>) -> anyhow::Result<u32> {
    let bytes = size(text)?;
    ensure!(range.contains(&bytes), "use {} to {} bytes", range.start(), range.end());
    Ok(u32::try_from(bytes)?)
}

fn header_bytes(text: &str) -> anyhow::Result<u32> {
    at_most(text, 256..=1 << 20)
}

fn retry_body(text: &str) -> anyhow::Result<usize> {
    Ok(at_most(text, 0..=1 << 24)? as usize)
}

fn rate(text: &str) -> anyhow::Result<u32> {
    or_off(text, |text| at_most(text, 0..=1 << 30)).map(|OrOff(rate)| rate.unwrap_or(0))
}

fn window(text: &str) -> anyhow::Result<u32> {
    at_most(text, 1..=(1 << 31) - 1)
}

/// `off`, or what `read` makes of it.
fn or_off<T>(text: &str, read: impl FnOnce(&str) -> anyhow::Result<T>) -> anyhow::Result<OrOff<T>> {
    Ok(OrOff((text != "off").then(|| read(text)).transpose()?))
}

fn count(text: &str) -> anyhow::Result<OrOff<u32>> {
    or_off(text, |text| match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => bail!("write a number from 1 on, or off"),
    })
}

fn request_body(text: &str) -> anyhow::Result<OrOff<u64>> {
    or_off(text, |text| match size(text) {
        // nginx's 0 is no limit, and others' is no body
        Ok(0) => bail!("write off for no limit, or at least 1"),
        Ok(bytes) => Ok(bytes),
        Err(_) => bail!("{SIZE}, or off"),
    })
}

fn memory(text: &str) -> anyhow::Result<OrOff<u64>> {
    or_off(text, |text| match size(text) {
        Ok(bytes) if bytes >= LEAST_MEMORY => Ok(bytes),
        Ok(_) => {
            bail!("use at least {}Mi: with less the gateway would refuse whatever comes", LEAST_MEMORY >> 20)
        }
        Err(_) => bail!("{SIZE}, or off"),
    })
}

fn time(text: &str) -> anyhow::Result<Duration> {
    let time = super::values::duration(text)?;
    ensure!(
        !time.is_zero() && time <= Duration::from_secs(365 * 24 * 3600),
        "use more than nothing, and less than a year"
    );
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        limits: LimitArgs,
    }

    fn limits(line: &str, files: Option<u64>) -> Result<Limits, clap::Error> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        Ok(Flags::try_parse_from(words)?.limits.limits(files))
    }

    #[test]
    fn without_flags_they_are_the_defaults() {
        assert_eq!(limits("", None).unwrap(), Limits::default());
        assert_eq!(limits("", Some(1000)).unwrap().connections, 800);
    }

    #[test]
    fn each_flag_sets_its_limits() {
        let line = "--max-connections 7 --max-connections-per-client 8 --max-requests-per-connection 9 --memory-limit 1Gi \
                    --max-header-bytes 16Ki --max-headers 50 --max-target-bytes 1024 --max-request-body 10Mi --retry-body 0 \
                    --tls-handshake-timeout 1s --header-timeout 2s --keep-alive-timeout 3s --stream-idle-timeout 4s \
                    --min-rate 1Ki --slow-request-timeout 5s --slow-response-timeout 6s --http2-max-streams 10 \
                    --http2-stream-window 128Ki --http2-connection-window 2Mi --drain-delay 8s \
                    --drain-timeout 7s";
        let seconds = Duration::from_secs;
        let expected = Limits {
            connections: 7,
            client_connections: Some(8),
            connection_requests: Some(9),
            memory: Some(1 << 30),
            head_bytes: 16 << 10,
            h2_header_list: 16 << 10,
            head_fields: 50,
            h2_fields: 50,
            target_bytes: 1024,
            request_body: Some(10 << 20),
            retry_body: 0,
            handshake_time: seconds(1),
            head_time: seconds(2),
            keep_alive_idle: seconds(3),
            request_idle: seconds(4),
            min_rate: 1024,
            slow_request: seconds(5),
            slow_response: seconds(6),
            h2_streams: 10,
            h2_stream_window: 128 << 10,
            h2_connection_window: 2 << 20,
            drain_delay: seconds(8),
            drain: seconds(7),
        };
        assert_eq!(limits(line, Some(1000)).unwrap(), expected);
        let off = "--memory-limit off --max-connections-per-client off --max-requests-per-connection off \
                   --max-request-body off --min-rate off";
        let expected = Limits { memory: None, min_rate: 0, ..Limits::default() };
        assert_eq!(limits(off, None).unwrap(), expected);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (line, said) in [
            ("--max-connections 0", "1.."),
            ("--max-request-body 10MB", "64Ki"),
            ("--max-request-body 99999999999Gi", "64Ki"),
            ("--max-header-bytes 2Mi", "1048576"),
            ("--retry-body 17Mi", "16777216"),
            ("--max-request-body 0", "write off for no limit"),
            ("--max-request-body lots", "64Ki, or off"),
            ("--max-connections-per-client 0", "or off"),
            ("--max-requests-per-connection none", "or off"),
            ("--memory-limit 90%", "': write bytes, or Ki, Mi or Gi of them, such as 64Ki, or off"),
            ("--memory-limit 12Mi", "at least 24Mi"),
            ("--memory-limit 0", "at least 24Mi"),
            ("--header-timeout 0s", "more than nothing"),
            ("--header-timeout 10", "30s"),
            ("--http2-stream-window 2Gi", "2147483647"),
        ] {
            let error = limits(line, None).unwrap_err().to_string();
            assert!(error.contains(said), "{line}: {error}");
        }
    }
}
