//! A network namespace of the bench's own, in which the machine's firewall, connection tracking and congestion control play
//! no part. BBR above all is no measure for loopback: it paces by timers, whose interrupts are counted as the sender's.

use crate::table;
use anyhow::Result;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// Reno is the one that every kernel has and allows; loopback loses nothing, so Cubic would do the same.
const PREPARE: &str =
    "ip link set lo up && echo reno > /proc/sys/net/ipv4/tcp_congestion_control && exec \"$@\"";

/// Becomes this program in a namespace, or says why not and goes on.
///
/// # Errors
/// When this program cannot be started again.
pub(crate) fn enter() -> Result<()> {
    for options in [&["--net"][..], &["--map-root-user", "--net"]] {
        let within = |program: &std::ffi::OsStr| {
            let mut command = Command::new("unshare");
            command.args(options).args(["--", "sh", "-c", PREPARE, "sh"]).arg(program);
            command
        };
        let tried = within("true".as_ref()).stderr(Stdio::null()).status();
        if tried.is_ok_and(|status| status.success()) {
            let mut again = within(std::env::current_exe()?.as_os_str());
            return Err(again.arg("--host-network").args(std::env::args_os().skip(1)).exec().into());
        }
    }
    table::say("no network namespace is to be had (unshare, ip): measured in the machine's own network\n");
    Ok(())
}
