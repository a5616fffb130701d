//! Keeps clusters whose endpoints change by themselves, as time goes: those that are left out come
//! back, and new ones come to their full weight.

use super::state::ClusterState;
use std::sync::{Arc, Weak};
use tokio::sync::Notify;

/// Tends a cluster until it is gone: at the times that it asks for, and whenever it is woken.
pub(super) async fn keep(state: Weak<ClusterState>, wake: Arc<Notify>) {
    loop {
        // held no longer than that: what it is the last to hold is gone
        let Some(next) = state.upgrade().map(|state| state.tend()) else { return };
        match next {
            Some(pause) => {
                // late or early, it is looked at the clock
                let _ = tokio::time::timeout(pause, wake.notified()).await;
            }
            None => wake.notified().await,
        }
    }
}
