//! Requests that wait for room on the HTTP/2 connections of a worker to an endpoint.

use std::cell::Cell;
use std::rc::Rc;
use tokio::sync::Notify;

/// Where they wait, the one that came first at the front.
#[derive(Default)]
pub(crate) struct Room {
    made: Notify,
    waiting: Cell<usize>,
}

impl Room {
    /// Whether somebody waits.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.get() > 0
    }

    /// Tells the one at the front that it may look: a request has ended. Where that one is gone, the next is told.
    pub(crate) fn tell_one(&self) {
        if self.is_awaited() {
            self.made.notify_one();
        }
    }

    /// Tells all: there is another connection, or it is known how much one takes.
    pub(crate) fn tell_all(&self) {
        self.made.notify_waiters();
    }
}

/// One who waits, from when it found no room until it has a place or gives up.
pub(super) struct Waiter(Rc<Room>);

impl Waiter {
    pub(super) fn begin(room: Rc<Room>) -> Self {
        room.waiting.set(room.waiting.get() + 1);
        Waiter(room)
    }

    /// Until it may look again.
    pub(super) async fn told(&self) {
        self.0.made.notified().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}
