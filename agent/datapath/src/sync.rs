//! The one place that says `std::sync::atomic` or loom.
//!
//! Under `--cfg datapath_loom` atomics are loom's, which explores every interleaving of the threads of a model; a cfg of
//! our own, because other crates react to `cfg(loom)`. `Arc` is always the standard one: nothing here depends on the
//! order of its counts.

#[cfg(datapath_loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
#[cfg(not(datapath_loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
