//! HTTP/2 downstream: `h2::server` driven by us, its flushes coalesced.

use crate::connection::Connection;
use crate::worker::Worker;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use std::rc::Rc;

/// Serves streams on a connection until it ends. `shutdown` turning true sends GOAWAY.
pub(crate) async fn serve(
    _stream: Stream,
    _connection: Rc<Connection>,
    _worker: Rc<Worker>,
    _shutdown: ShutdownWatch,
) {
    unimplemented!()
}
