//! [`FillWakeups`]: how often the kernel was woken to take frames from a fill ring.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts that a port writes, and whoever shows them reads. A driver in zero-copy mode that has run out of frames asks
/// for such a call; in copy mode nobody does.
#[derive(Debug, Default)]
pub(crate) struct FillWakeups {
    done: AtomicU64,
    failed: AtomicU64,
}

impl FillWakeups {
    /// Counts a call, by whether the kernel took it. There is one writer, so that a load and a store will do.
    pub(super) fn count(&self, done: bool) {
        let counter = if done { &self.done } else { &self.failed };
        counter.store(counter.load(Relaxed) + 1, Relaxed);
    }

    /// Those that the kernel took, and those that it refused.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.done.load(Relaxed), self.failed.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_their_answer() {
        let wakeups = FillWakeups::default();
        [true, false, true].into_iter().for_each(|done| wakeups.count(done));
        assert_eq!(wakeups.counts(), (2, 1));
    }
}
