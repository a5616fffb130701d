//! HTTP/1. `head` and `body` are the whole codec and the guard at once; nothing else sees bytes on the wire.

use crate::connection::Connection;
use crate::worker::Worker;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use std::rc::Rc;

/// Serves requests on a connection until it ends. `shutdown` turning true ends it after the
/// request in flight, at once when idle.
pub(crate) async fn serve(
    _stream: Stream,
    _connection: Rc<Connection>,
    _worker: Rc<Worker>,
    _shutdown: ShutdownWatch,
) {
    unimplemented!()
}
