//! Connections of a worker on which nothing is in hand: those that have rested for longest make room for others.

use crate::connection::Connection;
use crate::worker::Worker;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

/// What is known of a connection's rest.
#[derive(Default)]
pub(crate) struct Rest {
    since: Cell<Option<Instant>>,
    dismissed: Cell<bool>,
}

impl Rest {
    /// Since when it has had nothing in hand; `None` while it has.
    pub(crate) fn set(&self, since: Option<Instant>) {
        self.since.set(since);
    }

    /// Whether it is to end, since others need its place.
    pub(crate) fn is_over(&self) -> bool {
        self.dismissed.get()
    }
}

/// The connections of a worker that have rested, in places that are used again.
#[derive(Default)]
pub(crate) struct Resting {
    places: RefCell<Slab<Entry>>,
}

struct Entry {
    connection: Rc<Connection>,
    waker: Waker,
}

/// A connection's place, until it is dropped.
pub(crate) struct Seat {
    worker: Rc<Worker>,
    index: usize,
}

impl Seat {
    /// For a connection, which its task takes once.
    pub(crate) fn take(worker: &Rc<Worker>, connection: &Rc<Connection>, waker: &Waker) -> Self {
        let entry = Entry { connection: connection.clone(), waker: waker.clone() };
        let index = worker.resting.places.borrow_mut().insert(entry);
        Seat { worker: worker.clone(), index }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // dropped when the places are free to be looked at again
        let entry = self.worker.resting.places.borrow_mut().try_remove(self.index);
        drop(entry);
    }
}

impl Resting {
    /// Ends those that have rested for longest, at most so many; says how many.
    pub(crate) fn dismiss(&self, most: usize) -> usize {
        let places = self.places.borrow();
        let since = |entry: &Entry| {
            let rest = &entry.connection.rest;
            rest.since.get().filter(|_| !rest.dismissed.get())
        };
        let mut resting: Vec<_> =
            places.iter().filter_map(|(_, entry)| Some((since(entry)?, entry))).collect();
        if most < resting.len() {
            resting.select_nth_unstable_by_key(most, |(since, _)| *since);
            resting.truncate(most);
        }
        for (_, entry) in &resting {
            entry.connection.rest.dismissed.set(true);
            entry.waker.wake_by_ref();
        }
        resting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testing::{connection, model, worker};
    use crate::limits::Limits;
    use std::time::Duration;

    #[test]
    fn those_that_have_rested_for_longest_go_first_and_places_are_used_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _context = runtime.enter();
        let worker = worker(&model(([127, 0, 0, 1], 1).into()), Limits::default());
        let now = Instant::now();
        let rested = |seconds: Option<u64>| {
            let connection = connection();
            connection.rest.set(seconds.map(|s| now + Duration::from_secs(s)));
            (Seat::take(&worker, &connection, Waker::noop()), connection)
        };
        let mut all: Vec<_> = [Some(3), None, Some(1), Some(2)].into_iter().map(rested).collect();
        let over = |all: &[(Seat, Rc<Connection>)]| -> Vec<bool> {
            all.iter().map(|(_, connection)| connection.rest.is_over()).collect()
        };
        assert_eq!(worker.resting.dismiss(2), 2);
        assert_eq!(over(&all), [false, false, true, true]);
        assert_eq!(worker.resting.dismiss(2), 1, "one is busy, two were told before");
        assert_eq!(worker.resting.dismiss(2), 0);
        all.pop();
        all.push(rested(Some(4)));
        assert_eq!(worker.resting.places.borrow().len(), 4);
        drop(all);
        assert_eq!(worker.resting.dismiss(9), 0);
    }
}
