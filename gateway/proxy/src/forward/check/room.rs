use super::CheckError;
use crate::worker::Worker;
use std::cell::Cell;
use std::rc::Rc;

/// How many checks of one worker may be under way.
const AT_ONCE: usize = 1024;
/// Bytes of requests that they may hold.
const BYTES: usize = 64 << 20;

/// What the checks of one worker hold.
#[derive(Default)]
pub(crate) struct Checks {
    under_way: Cell<usize>,
    bytes: Cell<usize>,
}

/// Bytes that are held for a request.
pub(crate) struct Held {
    worker: Rc<Worker>,
    bytes: usize,
}

impl Held {
    /// None yet.
    pub(super) fn by(worker: &Rc<Worker>) -> Held {
        Held { worker: worker.clone(), bytes: 0 }
    }

    pub(super) fn grow(&mut self, more: usize) -> Result<(), CheckError> {
        let bytes = &self.worker.checks.bytes;
        if bytes.get() + more > BYTES {
            return Err(CheckError::Busy);
        }
        bytes.set(bytes.get() + more);
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = &self.worker.checks.bytes;
        bytes.set(bytes.get() - self.bytes);
    }
}

/// The room of one check.
pub(super) struct Room(Held);

impl Room {
    pub(super) fn take(worker: &Rc<Worker>) -> Result<Room, CheckError> {
        let under_way = &worker.checks.under_way;
        if under_way.get() >= AT_ONCE {
            return Err(CheckError::Busy);
        }
        under_way.set(under_way.get() + 1);
        Ok(Room(Held::by(worker)))
    }

    pub(super) fn grow(&mut self, more: usize) -> Result<(), CheckError> {
        self.0.grow(more)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let under_way = &self.0.worker.checks.under_way;
        under_way.set(under_way.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testing::{model, worker};
    use crate::limits::Limits;

    #[tokio::test]
    async fn room_is_bounded_and_given_back() {
        let worker = worker(&model("127.0.0.1:1".parse().unwrap()), Limits::default());
        let mut rooms: Vec<_> = (0..AT_ONCE).map(|_| Room::take(&worker).ok().unwrap()).collect();
        assert!(matches!(Room::take(&worker), Err(CheckError::Busy)));
        assert!(rooms[0].grow(BYTES).is_ok() && rooms[1].grow(1).is_err());
        rooms.clear();
        assert_eq!((worker.checks.under_way.get(), worker.checks.bytes.get()), (0, 0));
    }
}
