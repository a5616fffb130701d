//! The allocator, and what it keeps.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives back to the system what this thread has let go of. By itself the allocator keeps that for the next allocations,
/// which after a change of the config may not come for hours.
#[expect(unsafe_code, reason = "the allocator's own function has no safe name")]
pub(crate) fn give_back() {
    // SAFETY: it takes no pointer, frees nothing that is in use, and may be called by any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
