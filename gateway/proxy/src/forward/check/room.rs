use super::CheckError;
use crate::forward::share::{Share, Taken};
use crate::worker::Worker;
use std::rc::Rc;

/// How many checks of one worker may be under way.
const AT_ONCE: usize = 1024;
/// Bytes of questions that they may hold, and bytes of bodies that requests may hold for them. These are counted apart,
/// so that clients that upload slowly keep no request without a body from being asked about.
const BYTES: usize = 64 << 20;

/// What the checks of one worker hold.
#[derive(Default)]
pub(crate) struct Checks {
    under_way: Taken,
    /// Of questions.
    asked: Taken,
    /// Of bodies.
    kept: Taken,
}

/// Takes more, or says that there is no room.
fn grow(share: &mut Share, more: usize, most: usize) -> Result<(), CheckError> {
    if share.grow(more, most) { Ok(()) } else { Err(CheckError::Busy) }
}

/// Bytes of a body that are held for as long as its request.
pub(crate) struct Held(Share);

impl Held {
    /// None yet.
    pub(super) fn by(worker: &Rc<Worker>) -> Held {
        Held(Share::of(&worker.checks.kept))
    }

    pub(super) fn grow(&mut self, more: usize) -> Result<(), CheckError> {
        grow(&mut self.0, more, BYTES)
    }
}

/// The room of one check.
pub(super) struct Room {
    _place: Share,
    bytes: Share,
}

impl Room {
    pub(super) fn take(worker: &Rc<Worker>) -> Result<Room, CheckError> {
        let Checks { under_way, asked, .. } = &worker.checks;
        let mut place = Share::of(under_way);
        grow(&mut place, 1, AT_ONCE)?;
        Ok(Room { _place: place, bytes: Share::of(asked) })
    }

    pub(super) fn grow(&mut self, more: usize) -> Result<(), CheckError> {
        grow(&mut self.bytes, more, BYTES)
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
