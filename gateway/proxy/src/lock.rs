//! Mutexes whose holders leave whole data behind at any time, also when they panic.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, whoever panicked while holding it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
