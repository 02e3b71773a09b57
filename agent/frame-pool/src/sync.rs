//! The one place that says `std::sync` or loom.
//!
//! Under `--cfg frame_pool_loom` atomics and locks are loom's, which explores every interleaving of the
//! threads of a test. Under `cfg(test)` they count what they cost. Our cfg has a name of its own because other
//! crates react to `cfg(loom)`. `Arc` and `OnceLock` are always the standard ones: nothing here depends on the
//! order in which their words move.

pub(crate) use std::sync::{Arc, OnceLock};

/// A number that is looked at and that nothing rests on: not loom's, since its orders would only multiply those
/// that matter.
pub(crate) type Tally = std::sync::atomic::AtomicU64;

#[cfg(all(test, not(frame_pool_loom)))]
pub(crate) use crate::counted::{AtomicU32, AtomicU64};
#[cfg(frame_pool_loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering},
};
#[cfg(not(any(frame_pool_loom, test)))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64};
#[cfg(not(frame_pool_loom))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic::Ordering};

/// Lets another thread run while this one waits for it.
pub(crate) fn yield_now() {
    #[cfg(frame_pool_loom)]
    loom::thread::yield_now();
    #[cfg(not(frame_pool_loom))]
    std::thread::yield_now();
}

/// Locks, also after a holder panicked: what our locks guard is valid after every single statement.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(all(test, not(frame_pool_loom)))]
    crate::counted::note();
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A value on cache lines of its own, so that its writers do not slow down its neighbours' readers.
///
/// 128 bytes because current processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct OwnLine<T>(pub(crate) T);

impl<T> std::ops::Deref for OwnLine<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
