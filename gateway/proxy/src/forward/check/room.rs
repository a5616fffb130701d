use super::CheckError;
use crate::worker::Worker;
use std::cell::Cell;
use std::rc::Rc;

/// How many checks of one worker may be under way.
const AT_ONCE: usize = 1024;
/// Bytes of questions that they may hold, and bytes of bodies that requests may hold for them. These are counted apart,
/// so that clients that upload slowly keep no request without a body from being asked about.
const BYTES: usize = 64 << 20;

/// What the checks of one worker hold.
#[derive(Default)]
pub(crate) struct Checks {
    under_way: Cell<usize>,
    /// Of questions.
    asked: Cell<usize>,
    /// Of bodies.
    kept: Cell<usize>,
}

/// Takes as many bytes more, if there is room.
fn grow(total: &Cell<usize>, own: &mut usize, more: usize) -> Result<(), CheckError> {
    if total.get() + more > BYTES {
        return Err(CheckError::Busy);
    }
    total.set(total.get() + more);
    *own += more;
    Ok(())
}

/// Bytes of a body that are held for as long as its request.
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
        grow(&self.worker.checks.kept, &mut self.bytes, more)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = &self.worker.checks.kept;
        bytes.set(bytes.get() - self.bytes);
    }
}

/// The room of one check.
pub(super) struct Room {
    worker: Rc<Worker>,
    bytes: usize,
}

impl Room {
    pub(super) fn take(worker: &Rc<Worker>) -> Result<Room, CheckError> {
        let under_way = &worker.checks.under_way;
        if under_way.get() >= AT_ONCE {
            return Err(CheckError::Busy);
        }
        under_way.set(under_way.get() + 1);
        Ok(Room { worker: worker.clone(), bytes: 0 })
    }

    pub(super) fn grow(&mut self, more: usize) -> Result<(), CheckError> {
        grow(&self.worker.checks.asked, &mut self.bytes, more)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let Checks { under_way, asked, .. } = &self.worker.checks;
        under_way.set(under_way.get() - 1);
        asked.set(asked.get() - self.bytes);
    }
}

/// Takes every place.
#[cfg(test)]
pub(crate) fn fill(worker: &Rc<Worker>) -> Vec<impl Sized + use<>> {
    std::iter::from_fn(|| Room::take(worker).ok()).collect()
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
        let mut held = Held::by(&worker);
        assert!(held.grow(BYTES).is_ok() && held.grow(1).is_err());
        // bodies take no room from questions
        assert!(rooms[0].grow(BYTES).is_ok() && rooms[1].grow(1).is_err());
        rooms.clear();
        drop(held);
        let Checks { under_way, asked, kept } = &worker.checks;
        assert_eq!((under_way.get(), asked.get(), kept.get()), (0, 0, 0));
    }
}
