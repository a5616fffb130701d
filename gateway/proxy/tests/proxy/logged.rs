use crate::support::*;
use serde_json::Value;
use std::time::Duration;
use tempfile::TempDir;
use tidegate_model::{AccessLog, AccessLogFormat};
use tidegate_proxy::{Options, Proxy};

/// What a head may take.
pub(crate) const HEAD_TIME: Duration = Duration::from_millis(500);
/// What a stop waits.
pub(crate) const DRAIN_TIME: Duration = Duration::from_millis(400);

/// The access log of a data plane.
pub(crate) struct Log(TempDir);

/// A data plane whose access log is read.
pub(crate) fn start_logged() -> (Proxy, Log) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log").to_str().unwrap().into();
    let log = AccessLog { file, format: AccessLogFormat::DefaultJson, filter: None };
    let mut options = Options { access_log: Some(log), ..options() };
    options.limits.head_time = HEAD_TIME;
    options.limits.drain = DRAIN_TIME;
    (Proxy::start(options).unwrap(), Log(folder))
}

impl Log {
    fn so_far(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.0.path().join("log")).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|l| l.ends_with('\n'));
        whole.map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    /// Its lines, once there are so many.
    pub(crate) async fn lines(&self, many: usize) -> Vec<Value> {
        eventually("all is logged", async || self.so_far().len() >= many).await;
        let lines = self.so_far();
        assert_eq!(lines.len(), many, "{lines:?}");
        lines
    }
}
